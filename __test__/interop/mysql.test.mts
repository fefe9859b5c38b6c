// The official package with mysql2 and our store, on one table of a MariaDB
// server. The package's cast, a syntax error in MariaDB, is removed: see
// support/mysql-official.mts.
import { MysqlKvStore as OfficialStore } from "@fedify/mysql";
import { Temporal } from "@js-temporal/polyfill";
import type { Connection, Pool } from "mysql2/promise";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import { MysqlServer } from "../services/mysql.mts";
import { collect, keysOf } from "../support/collect.mts";
import { asJson, hostileKeys, hostileValues } from "../support/hostile.mts";
import { officialStore } from "../support/mysql-official.mts";
import { openStore } from "../support/mysql.mts";

/** A duration for the official package, whose type is the runtime's class. */
function duration(length: Temporal.DurationLike) {
  type Native = NonNullable<
    NonNullable<Parameters<OfficialStore["set"]>[2]>["ttl"]
  >;
  return Temporal.Duration.from(length) as unknown as Native;
}

let server: MysqlServer;
let root: Connection;
let pool: Pool;
let official: OfficialStore;

beforeAll(async () => {
  server = await MysqlServer.start({ "innodb-flush-log-at-trx-commit": 0 });
  root = await server.root();
  pool = server.pool();
});
afterAll(async () => {
  await root.end();
  await server.stop();
});
beforeEach(async () => {
  await root.query("DROP TABLE IF EXISTS fedify_kv");
  official = officialStore(pool);
});

async function rows(sql: string) {
  const [found] = await root.query(sql);
  return found as Record<string, unknown>[];
}

/** Values that a JSON column can hold. */
const storable = hostileValues.filter(
  ([name, value]) =>
    !/\\ud[89a-f]/.test(JSON.stringify(value)) && !name.endsWith(" levels"),
);

describe("both stores on one table", () => {
  test("each store uses a table that the other created", async () => {
    for (const [maker, user] of [
      [official, openStore(server.url)],
      [openStore(server.url), official],
    ] as const) {
      await root.query("DROP TABLE IF EXISTS fedify_kv");
      await maker.initialize();
      await user.initialize();
      await maker.set(["k"], "made");
      expect(await user.get(["k"])).toBe("made");
      await user.set(["k"], "used");
      expect(await maker.get(["k"])).toBe("used");
    }
  });

  test("both create the same table", async () => {
    await official.initialize();
    const theirs = await rows("SHOW CREATE TABLE fedify_kv");
    await root.query("DROP TABLE fedify_kv");
    await openStore(server.url).initialize();
    expect(await rows("SHOW CREATE TABLE fedify_kv")).toEqual(theirs);
  });

  test("both read and delete each other's keys", async () => {
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
    expect(await rows("SELECT * FROM fedify_kv")).toEqual([]);
  });

  test("both read each other's values", async () => {
    const store = openStore(server.url);
    for (const [name, value] of storable) {
      await official.set(["k"], value);
      expect(await store.get(["k"]), name).toStrictEqual(asJson(value));
      await store.set(["k"], value);
      expect(await official.get(["k"]), name).toStrictEqual(asJson(value));
    }
  });

  test("both write the same rows", async () => {
    const store = openStore(server.url);
    for (const key of hostileKeys) {
      await official.set(key, { key });
    }
    const theirs = await rows("SELECT * FROM fedify_kv ORDER BY `key`");
    await official.drop();
    for (const key of hostileKeys) {
      await store.set(key, { key });
    }
    expect(await rows("SELECT * FROM fedify_kv ORDER BY `key`")).toEqual(
      theirs,
    );
  });

  test("entries of the official store can be listed, swapped and cleared", async () => {
    const store = openStore(server.url);
    const keys = new Map(hostileKeys.map((key) => [JSON.stringify(key), key]));
    for (const key of keys.values()) {
      await official.set(key, { b: 1, a: 2 });
    }
    const listed = await keysOf(store.list());
    expect(listed).toHaveLength(keys.size);
    for (const key of keys.values()) {
      expect(await store.cas(key, { a: 2, b: 1 }, "mine")).toBe(true);
      expect(await official.cas(key, "mine", { c: [1] })).toBe(true);
      expect(await store.get(key)).toEqual({ c: [1] });
    }
    expect(await store.clear(["parent"])).toBe(
      [...keys.values()].filter(([first]) => first === "parent").length,
    );
    expect(await official.get(["parent", ""])).toBeUndefined();
  });

  test("the official list has our entries in our order", async () => {
    const store = openStore(server.url);
    for (const part of ["b", "a", "é", "😀", "10", "9"]) {
      await store.set(["p", part], part);
    }
    expect(await Array.fromAsync(official.list(["p"]))).toEqual(
      await collect(store.list(["p"])),
    );
  });

  test("both stores' ttls follow the server's clock", async () => {
    const store = openStore(server.url);
    const ttl = duration({ hours: 1 });
    await official.set(["theirs"], 1, { ttl });
    await store.set(["ours"], 1, { ttl });
    for (const { left } of await rows(
      "SELECT TIMESTAMPDIFF(MICROSECOND, NOW(6), expires) `left` FROM fedify_kv",
    )) {
      expect(Number(left)).toBeGreaterThan(3_590e6);
      expect(Number(left)).toBeLessThanOrEqual(3_600e6);
    }
    // A set without a ttl clears the ttl that the other store has set.
    await store.set(["theirs"], 2);
    await official.set(["ours"], 2);
    expect(await rows("SELECT DISTINCT expires FROM fedify_kv")).toEqual([
      { expires: null },
    ]);
    for (const writer of [official, store]) {
      const reader = writer === store ? official : store;
      await writer.set(["soon"], 1, { ttl: duration({ milliseconds: 50 }) });
      await expect.poll(() => reader.get(["soon"])).toBeUndefined();
      expect(await reader.cas(["soon"], undefined, 2)).toBe(true);
    }
  });
});

describe("errors of the official package", () => {
  test("its cast keeps it from writing to MariaDB", async () => {
    const plain = new OfficialStore(pool as never);
    await plain.initialize();
    await expect(plain.set(["k"], 1)).rejects.toMatchObject({
      code: "ER_PARSE_ERROR",
    });
  });

  test("our list finds children of keys with quotes and backslashes", async () => {
    const store = openStore(server.url);
    for (const part of ['"', "\\", 'a\\"b', "\n"]) {
      await store.set([part, "child"], part);
      expect(await keysOf(store.list([part]))).toEqual([[part, "child"]]);
    }
  });

  test("our creates that lose a race are false, never a deadlock", async () => {
    const stores = Array.from({ length: 8 }, () => openStore(server.url));
    for (let i = 0; i < 20; i += 1) {
      const key = ["race", String(i)] as const;
      const wins = await Promise.all(
        stores.map((store, n) => store.cas(key, undefined, n)),
      );
      expect(wins.filter((won) => won)).toHaveLength(1);
      const winner = await stores[0]?.get<number>(key);
      expect(wins[winner ?? -1]).toBe(true);
    }
  });
});

test("cas is atomic against plain writes of the official store", async () => {
  const store = openStore(server.url);
  for (let i = 0; i < 100; i += 1) {
    await official.set(["k"], { n: i });
    await Promise.all([
      store.cas(["k"], { n: i }, "ours"),
      official.set(["k"], "theirs"),
    ]);
    // In either order: if the cas is second, it doesn't swap.
    expect(await store.get(["k"])).toBe("theirs");
  }
});
