// What the server takes, by its own pgbench: prepared statements on one
// connection, and as many in a pipeline as the stores have calls in flight.
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { postgresBinary } from "../../__test__/services/postgres-binary.mts";
import type { PostgresServer } from "../../__test__/services/postgres.mts";
import type { Work } from "../patterns.mts";

const run = promisify(execFile);

let scripts = 0;

/** `:i` in the statement is a random number below `random`. */
export async function pgbench(
  server: PostgresServer,
  depth: number,
  random: number,
  statement: string,
): Promise<Work> {
  const one = `\\set i random(0, ${random - 1})\n${statement};\n`;
  const script =
    depth === 1 ? one : `\\startpipeline\n${one.repeat(depth)}\\endpipeline\n`;
  const path = join(server.directory, `${scripts++}.sql`);
  await writeFile(path, script);
  // Enough that the program's start doesn't take most of a round.
  const transactions = Math.max(5, Math.floor(300 / depth));
  return {
    prepare: async (_, steps) => async () => {
      const words = ["--no-vacuum", "--protocol=prepared", "--file", path];
      words.push("--transactions", String(steps * transactions), server.url);
      const { stdout } = await run(postgresBinary("pgbench"), words, {
        cwd: server.directory,
      });
      const perSecond = stdout.match(/tps = ([\d.]+) \(without/);
      return { times: [1 / Number(perSecond![1]) / depth] };
    },
  };
}
