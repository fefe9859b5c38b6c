// Tests the same addon in every supported runtime.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import {
  type Runtime,
  otherNodes,
  runtimes,
  thisNode,
} from "./services/runtimes.mts";
import { prompt } from "./support/child.mts";
import { temporaryDirectory, temporaryFile } from "./support/sqlite.mts";

const root = join(import.meta.dirname, "..");
const smoke = join(import.meta.dirname, "support/smoke.mts");

async function run(
  { command, flags }: Runtime,
  args: readonly string[],
  variables: Record<string, string> = {},
) {
  const child = spawn(command, [...flags, ...args], {
    cwd: root,
    env: { ...process.env, DENO_NO_UPDATE_CHECK: "1", ...variables },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  let last = performance.now();
  child.stdout.setEncoding("utf8").on("data", (text) => {
    stdout += text;
    last = performance.now();
  });
  child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
  const exited = once(child, "exit").then(() => performance.now());
  const [code, signal] = await once(child, "close");
  return { code, signal, stdout, stderr, ending: (await exited) - last };
}

let redis: RedisServer;
let postgres: PostgresServer;
let mysql: MysqlServer;
beforeAll(async () => {
  redis = await RedisServer.start();
  postgres = await PostgresServer.start({ settings: { fsync: "off" } });
  mysql = await MysqlServer.start({ "innodb-flush-log-at-trx-commit": 0 });
});
afterAll(() => Promise.all([redis.stop(), postgres.stop(), mysql.stop()]));

/** The class of each store, and the arguments of its constructor. */
const stores: Record<
  string,
  (unique: string) => unknown[] | Promise<unknown[]>
> = {
  MemoryKvStore: () => [],
  SqliteKvStore: async () => [await temporaryFile()],
  DenoKvStore: async () => [await temporaryFile()],
  RedisKvStore: (unique) => [redis.url, { keyPrefix: `${unique}::` }],
  PostgresKvStore: (unique) => [postgres.url, { tableName: unique }],
  MysqlKvStore: (unique) => [mysql.url, { tableName: unique }],
};

/** Whether a store runs on the event loop unless it is told to use a thread. */
const hasChoice = ({ name }: Runtime, store: string) =>
  name.startsWith("Node.js") && store === "PostgresKvStore";

let count = 0;

for (const runtime of runtimes) {
  describe(`${runtime.name}: a store`, () => {
    for (const [store, argumentsOf] of Object.entries(stores)) {
      const smokes = async (end: string, variables = {}) => {
        count += 1;
        const words = JSON.stringify(await argumentsOf(`smoke_${count}`));
        const ran = await run(runtime, [smoke, store, words, end], variables);
        expect(ran.stderr).toBe("");
        expect(ran).toMatchObject({
          code: end === "exit" ? 3 : 0,
          signal: null,
          stdout: `{"end":"${end}","seen":310}\n`,
        });
        expect(ran.ending).toBeLessThan(prompt);
      };
      for (const end of ["closed", "idle", "exit"]) {
        test(`${store}, ${end}`, { timeout: 60_000 }, () => smokes(end));
        test.runIf(hasChoice(runtime, store))(
          `${store} on a thread, ${end}`,
          { timeout: 60_000 },
          () => smokes(end, { FEDIFY_KV_HOST: "thread" }),
        );
      }
    }
  });
}

/** Runs tests of this project in another runtime. Returns how many passed. */
async function runVitest(
  runtime: Runtime,
  words: readonly string[],
): Promise<number> {
  const report = join(await temporaryDirectory(), "report.json");
  const ran = await run(runtime, [
    "node_modules/vitest/vitest.mjs",
    "run",
    ...words,
    "--reporter=dot",
    "--reporter=json",
    `--outputFile.json=${report}`,
  ]);
  expect(ran.code, ran.stdout + ran.stderr).toBe(0);
  const result = JSON.parse(await readFile(report, "utf8"));
  return result.numPassedTests;
}

describe.each(otherNodes)("$name", (runtime) => {
  test("the contract suite passes", { timeout: 600_000 }, async () => {
    const passed = await runVitest(runtime, [
      "__test__/contract",
      "--project=default",
      "--testNamePattern=^(memory|sqlite|postgres )",
    ]);
    expect(passed).toBeGreaterThan(1_200);
  });

  test("the event loop's tests pass", { timeout: 600_000 }, async () => {
    const passed = await runVitest(runtime, [
      "__test__/event-loop.test.mts",
      "--project=default",
    ]);
    expect(passed).toBeGreaterThan(40);
  });
});

test("tests pass in worker threads", { timeout: 120_000 }, async () => {
  const files = ["sqlite.test", "sqlite-list.test", "temporal.test"];
  const passed = await runVitest(thisNode, [
    ...files.map((name) => `__test__/${name}.mts`),
    "--pool=threads",
  ]);
  expect(passed).toBeGreaterThan(40);
});
