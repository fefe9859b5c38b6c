// What the server takes, by its own redis-benchmark: one connection, and as
// many commands in a pipeline as the stores have calls in flight.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { RedisServer } from "../../__test__/services/redis.mts";
import type { Work } from "../patterns.mts";

const run = promisify(execFile);

/** `__rand_int__` in a command is a number of twelve digits below `random`. */
export function redisBenchmark(
  server: RedisServer,
  depth: number,
  random: number,
  command: readonly string[],
): Work {
  // Enough that the program's start doesn't take most of a round.
  const perStep = Math.max(2000, depth * 10);
  return {
    prepare: async (_, steps) => async () => {
      const options = {
        "-p": server.port,
        "-c": 1,
        "-P": depth,
        "-n": steps * perStep,
        "-r": random,
      };
      const words = Object.entries(options).flat().map(String);
      const { stdout } = await run("redis-benchmark", [
        "--csv",
        ...words,
        ...command,
      ]);
      // The last line is the result: the command, requests in a second, and
      // six latencies. A command may contain quotes.
      const line = stdout.trim().split("\n").at(-1)!;
      return { times: [1 / Number(line.split('","').at(-7))] };
    },
  };
}
