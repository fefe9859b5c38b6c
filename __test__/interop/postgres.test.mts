// The official package with postgres.js and our store, on one table.
import { PostgresKvStore as OfficialStore } from "@fedify/postgres";
import { Temporal } from "@js-temporal/polyfill";
import type { Sql } from "postgres";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { PostgresServer } from "../services/postgres.mts";
import { inTextOrder, keysOf } from "../support/collect.mts";
import {
  asJson,
  hasLoneSurrogates,
  hasNul,
  hostileKeys,
  hostileValues,
} from "../support/hostile.mts";
import { openStore } from "../support/postgres.mts";

/** A duration for the official package, whose type is the runtime's class. */
function duration(length: Temporal.DurationLike) {
  type Native = NonNullable<
    NonNullable<Parameters<OfficialStore["set"]>[2]>["ttl"]
  >;
  return Temporal.Duration.from(length) as unknown as Native;
}

let server: PostgresServer;
let sql: Sql;
let official: OfficialStore;

beforeAll(async () => {
  server = await PostgresServer.start();
  sql = server.client();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await sql`DROP TABLE IF EXISTS fedify_kv_v2`;
  official = new OfficialStore(sql);
});

test("both stores create the same table", async () => {
  const describeTable = async () => {
    const columns = await sql`
      SELECT column_name, data_type, udt_name, is_nullable, column_default
      FROM information_schema.columns WHERE table_name = 'fedify_kv_v2'
      ORDER BY ordinal_position`;
    const indexes = await sql`
      SELECT indexdef FROM pg_indexes WHERE tablename = 'fedify_kv_v2'`;
    const [kind] = await sql`
      SELECT relpersistence, relkind FROM pg_class
      WHERE relname = 'fedify_kv_v2'`;
    return { columns: [...columns], indexes: [...indexes], kind };
  };
  await official.initialize();
  const theirs = await describeTable();
  await official.drop();
  // Fedify's tables are unlogged before 2.4, and logged since then.
  const store = openStore(server.url, { unlogged: true });
  await store.initialize();
  expect(await describeTable()).toEqual(theirs);
  await store.drop();
  const logged = openStore(server.url);
  await logged.initialize();
  expect(await describeTable()).toEqual({
    ...theirs,
    kind: { ...theirs.kind, relpersistence: "p" },
  });
  // Each store can use a table that the other created.
  await official.set(["k"], 1);
  expect(await logged.get(["k"])).toBe(1);
});

test("both stores read and delete each other's keys", async () => {
  const store = openStore(server.url);
  for (const [i, key] of hostileKeys.entries()) {
    await official.set(key, i);
    expect(await store.get(key), JSON.stringify(key)).toBe(i);
    await store.set(key, [i]);
    expect(await official.get(key)).toEqual([i]);
    await official.delete(key);
    expect(await store.get(key)).toBeUndefined();
    await store.set(key, i);
    await store.delete(key);
    expect(await official.get(key)).toBeUndefined();
  }
  expect(await sql`SELECT * FROM fedify_kv_v2`).toHaveLength(0);
});

test("both stores read each other's values", async () => {
  const store = openStore(server.url);
  for (const [name, value] of hostileValues) {
    if (hasNul(value) || hasLoneSurrogates(value)) {
      continue;
    }
    const expected = asJson(value);
    await store.set(["k"], value);
    expect(await official.get(["k"]), name).toStrictEqual(expected);
    // The official store can't write null as JSON. It is given the JSON form of
    // the value, because its driver handles toJSON() in its own way.
    if (expected !== null && typeof value !== "function") {
      await official.set(["k"], expected);
      expect(await store.get(["k"]), name).toStrictEqual(expected);
      expect(await store.cas(["k"], expected, [expected]), name).toBe(true);
    }
  }
});

test("the official store reads our null, which it can't write itself", async () => {
  const store = openStore(server.url);
  await store.set(["k"], null);
  expect(await official.get(["k"])).toBeNull();
  expect(
    await sql`SELECT 1 FROM fedify_kv_v2 WHERE value = 'null'`,
  ).toHaveLength(1);
});

test("both stores write the same rows", async () => {
  const store = openStore(server.url);
  const dump = () =>
    sql`SELECT key, value::text, ttl::text, created > now() - interval '1 minute' AS recent
        FROM fedify_kv_v2 ORDER BY key`;
  const ttl = duration({ hours: 1, milliseconds: 1 });
  for (const key of hostileKeys) await official.set(key, { key }, { ttl });
  const theirs = [...(await dump())];
  await official.drop();
  for (const key of hostileKeys) await store.set(key, { key }, { ttl });
  expect([...(await dump())]).toEqual(theirs);
});

test("an entry with a ttl of either store expires for both", async () => {
  const store = openStore(server.url);
  const ttl = duration({ milliseconds: 2_000 });
  await official.set(["theirs"], 1, { ttl });
  await store.set(["ours"], 1, { ttl });
  const keys = [["theirs"], ["ours"]] as const;
  for (const key of keys) {
    expect(await official.get(key)).toBe(1);
    expect(await store.get(key)).toBe(1);
  }
  for (const key of keys) {
    await expect
      .poll(() => store.get(key), { timeout: 10_000 })
      .toBeUndefined();
    expect(await official.get(key)).toBeUndefined();
    expect(await store.cas(key, 1, 2)).toBe(false);
  }
  expect(await keysOf(store.list())).toEqual([]);
  // The official package passes months on to PostgreSQL, which has 30-day
  // months.
  const long = duration({ months: 1, days: 1, hours: 1 });
  await official.set(["long"], 1, { ttl: long });
  expect(await store.get(["long"])).toBe(1);
});

test("a new ttl counts from the write, not from the entry's creation", async () => {
  const store = openStore(server.url);
  await store.set(["k"], 1);
  await sql`UPDATE fedify_kv_v2 SET created = created - interval '1 hour'`;
  await store.set(["k"], 2, { ttl: { minutes: 1 } });
  expect(await store.get(["k"])).toBe(2);
  expect(await official.get(["k"])).toBe(2);
});

test("entries of the official store can be listed, swapped and cleared", async () => {
  const store = openStore(server.url);
  const keys = new Map(hostileKeys.map((key) => [JSON.stringify(key), key]));
  for (const key of keys.values()) {
    await official.set(key, { b: 1, a: 2 });
  }
  expect(inTextOrder(await keysOf(store.list()))).toEqual(
    inTextOrder(keys.values()),
  );
  for (const key of keys.values()) {
    expect(await store.cas(key, { a: 2, b: 1 }, "mine")).toBe(true);
    expect(await official.get(key)).toBe("mine");
  }
  expect(await store.clear(["parent"])).toBe(
    [...keys.values()].filter(([first]) => first === "parent").length,
  );
  expect(await official.get(["parent", ""])).toBeUndefined();
});

test.each(["Mixed Case", "Some.Table", 'with "quotes"'])(
  "both stores use the table name %s",
  async (tableName) => {
    await sql`CREATE SCHEMA IF NOT EXISTS "Some"`;
    const other = new OfficialStore(sql, { tableName });
    const store = openStore(server.url, { tableName });
    await other.set(["a"], 1);
    expect(await store.get(["a"])).toBe(1);
    await store.drop();
    await store.set(["b"], 2);
    expect(await other.get(["b"])).toBe(2);
    await store.drop();
  },
);

test("cas is atomic against plain writes of the official store", async () => {
  const store = openStore(server.url);
  for (let i = 0; i < 200; i += 1) {
    await official.set(["k"], { n: i });
    await Promise.all([
      store.cas(["k"], { n: i }, "ours"),
      official.set(["k"], "theirs"),
    ]);
    // In either order: if the cas is second, it doesn't swap.
    expect(await store.get(["k"])).toBe("theirs");
  }
});

test("many stores of both packages can initialize at once", async () => {
  for (let round = 0; round < 20; round += 1) {
    const stores = Array.from({ length: 4 }, () => openStore(server.url));
    const officials = Array.from({ length: 2 }, () => new OfficialStore(sql));
    const [ours] = await Promise.all([
      Promise.allSettled(stores.map((store) => store.initialize())),
      // The official store may fail here.
      Promise.allSettled(officials.map((store) => store.initialize())),
    ]);
    expect(ours.filter(({ status }) => status === "rejected")).toEqual([]);
    await Promise.all(stores.map((store) => store.close()));
    await sql`DROP TABLE fedify_kv_v2`;
  }
});
