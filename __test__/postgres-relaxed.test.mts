// Writes under `relaxed` prefixes don't wait for the log, nor for a standby. All
// others do, even in the same moment and on the same connection.
import type { Sql } from "postgres";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import { collect } from "./support/collect.mts";
import { numbers } from "./support/entries.mts";
import { type Options, openStore, ownTable } from "./support/postgres.mts";

let server: PostgresServer;
let sql: Sql;

beforeAll(async () => {
  server = await PostgresServer.start();
  sql = server.client({ connection: { synchronous_commit: "local" } });
});
afterAll(() => server.stop());
// Before the stores are closed, which wait for their operations.
afterEach(() => standbys(""));

/** Names the standbys that commits wait for. There is none of that name. */
async function standbys(names: string): Promise<void> {
  await sql.unsafe(`ALTER SYSTEM SET synchronous_standby_names = '${names}'`);
  await sql`SELECT pg_reload_conf()`;
  // Sessions that wait end their wait when this process has read it too.
  await expect
    .poll(async () => {
      const rows = await sql`SHOW synchronous_standby_names`;
      return rows[0]?.synchronous_standby_names;
    })
    .toBe(names);
}

/** How many sessions wait for the standby. */
const waiting = async () =>
  (await sql`SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'`).length;

async function prepare(options: Options) {
  const store = openStore(server.url, {
    tableName: ownTable(),
    relaxed: [["fast"], ["some", "fast"]],
    queryTimeout: 20_000,
    ...options,
  });
  await store.initialize();
  await store.set(["fast", "old"], 0);
  await store.set(["old"], 0);
  return store;
}

describe.each([
  { preparedStatements: true, maxConnections: 10 },
  { preparedStatements: false, maxConnections: 10 },
  { preparedStatements: true, maxConnections: 2 },
])(
  "preparedStatements: $preparedStatements, $maxConnections connections",
  (options) => {
    test("relaxed writes of all kinds don't wait", async () => {
      const store = await prepare(options);
      await standbys("missing");
      await Promise.all(numbers(50).map((i) => store.set(["fast", `${i}`], i)));
      await store.set(["fast"], "itself");
      await store.set(["some", "fast", "x"], 1, { ttl: { hours: 1 } });
      expect(await store.cas(["fast", "1"], 1, "one")).toBe(true);
      expect(await store.cas(["fast", "new"], undefined, 1)).toBe(true);
      expect(await store.cas(["fast", "2"], 2, undefined)).toBe(true);
      await Promise.all([3, 4].map((i) => store.delete(["fast", `${i}`])));
      expect(await store.get(["fast", "1"])).toBe("one");
      expect(await collect(store.list(["fast"]))).toHaveLength(50);
      expect(await waiting()).toBe(0);
      await standbys("");
    });

    test.each<
      [string, (store: Awaited<ReturnType<typeof prepare>>) => Promise<unknown>]
    >([
      ["set", (store) => store.set(["other"], 1)],
      ["set of a similar key", (store) => store.set(["fastest"], 1)],
      ["set of a shorter key", (store) => store.set(["some"], 1)],
      ["cas", (store) => store.cas(["other"], undefined, 1)],
      ["cas of an entry", (store) => store.cas(["old"], 0, 1)],
      ["delete", (store) => store.delete(["old"])],
      ["clear", (store) => store.clear(["old"])],
    ])(
      "%s of another key waits, before and after relaxed ones",
      async (_, call) => {
        const store = await prepare(options);
        await standbys("missing");
        await store.set(["fast", "before"], 1);
        let isDone = false;
        const other = call(store).then(() => (isDone = true));
        await expect.poll(waiting).toBe(1);
        if (options.maxConnections > 2) {
          await Promise.all(
            numbers(20).map((i) => store.set(["fast", `${i}`], i)),
          );
          expect(await store.get(["fast", "7"])).toBe(7);
        }
        expect(await waiting()).toBe(1);
        expect(isDone).toBe(false);
        await standbys("");
        await other;
      },
    );

    test("a clear of more than a relaxed prefix waits", async () => {
      const store = await prepare(options);
      await store.set(["some", "fast", "x"], 1);
      await store.set(["some", "slow"], 1);
      await standbys("missing");
      let isDone = false;
      const clear = store.clear(["some"]).finally(() => (isDone = true));
      await expect.poll(waiting).toBe(1);
      expect(isDone).toBe(false);
      await standbys("");
      expect(await clear).toBe(2);
    });

    test("calls of the same moment don't share a transaction", async () => {
      const store = await prepare(options);
      await standbys("missing");
      let slow = 0;
      const calls = numbers(100).map((i) => {
        const isFast = i % 2 === 0;
        const call = store.set([isFast ? "fast" : "slow", `${i}`], i);
        return { isFast, call: call.then(() => (slow += Number(!isFast))) };
      });
      await Promise.all(
        calls.filter(({ isFast }) => isFast).map(({ call }) => call),
      );
      await expect.poll(waiting).toBeGreaterThan(0);
      expect(slow).toBe(0);
      await standbys("");
      await Promise.all(calls.map(({ call }) => call));
      expect(slow).toBe(50);
    });
  },
);
