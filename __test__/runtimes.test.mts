// Tests the same addon in every supported runtime.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import { type Runtime, runtimes } from "./services/runtimes.mts";
import { prompt } from "./support/child.mts";
import { runIn } from "./support/runtime.mts";
import { temporaryFile } from "./support/sqlite.mts";

const smoke = join(import.meta.dirname, "support/smoke.mts");

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
        const ran = await runIn(runtime, [smoke, store, words, end], variables);
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
