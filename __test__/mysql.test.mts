// What is special about MysqlKvStore: URLs, options, the format's limits, and
// the table.
import type { Connection } from "mysql2/promise";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import { MysqlKvStore, openKvStore } from "../index.js";
import { MysqlServer } from "./services/mysql.mts";
import { collect, keysOf } from "./support/collect.mts";
import { openStore } from "./support/mysql.mts";
import { expectRejection } from "./support/rejection.mts";

type Key = readonly [string, ...string[]];

let server: MysqlServer;
let root: Connection;

beforeAll(async () => {
  server = await MysqlServer.start({ "innodb-flush-log-at-trx-commit": 0 });
  root = await server.root();
});
afterAll(async () => {
  await root.end();
  await server.stop();
});
beforeEach(async () => {
  await root.query("DROP TABLE IF EXISTS fedify_kv");
});

/** Runs a query as root, and returns its rows. */
async function rows(sql: string, values: unknown[] = []) {
  const [found] = await root.query(sql, values);
  return found as Record<string, unknown>[];
}

describe("URLs", () => {
  test("openKvStore opens them", async () => {
    for (const url of [
      server.url,
      server.url.replace("mysql:", "mariadb:"),
      `${server.url}?socket=${encodeURIComponent(server.socket)}`,
      `${server.url}?ssl-mode=DISABLED`,
    ]) {
      await using store = openKvStore(url);
      expect(store).toBeInstanceOf(MysqlKvStore);
      expect(await store.cas(["k"], undefined, 1)).toBe(true);
      await store.drop();
    }
    await using store = openKvStore(server.url, { tableName: "mine" });
    await store.set(["k"], 1);
    expect(await rows("SELECT * FROM mine")).toEqual([
      { key: '["k"]', value: 1, expires: null },
    ]);
    await store.drop();
  });

  test.each([
    "",
    "mysql:",
    "mysql://",
    "mysql://user:secret@host",
    "mysql://user:secret@host/",
    "mysql://user:secret@host:x/kv",
    "mysql://user:secret@host/kv?tls=1",
    "mysql://user:secret@host/kv?ssl-mode=VERIFY_CA",
    "mysql://user:secret@host/kv#1",
    "http://user:secret@host/kv",
    undefined,
    null,
    7,
  ])("%o is refused", (url) => {
    let thrown: unknown;
    try {
      openStore(url as string);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({ code: "ERR_KV_INVALID_OPTION" });
    expect(String(thrown)).not.toContain("secret");
  });
});

test.each([
  { tableName: "" },
  { tableName: "1a" },
  { tableName: "a`b" },
  { tableName: "a".repeat(51) },
  { tableName: 1 },
  { initialized: 1 },
  { maxConnections: 0 },
  { maxConnections: 1.5 },
  { connectTimeout: 0 },
  { connectTimeout: "1" },
  { queryTimeout: -1 },
  { queryTimeout: NaN },
  { queueLimit: 0 },
  { tls: 1 },
  { tls: { ca: "not PEM" } },
  { tls: { key: "not PEM" } },
  7,
])("invalid options are refused: %o", (options) => {
  const name =
    typeof Object(options).tableName === "string" ? "RangeError" : "TypeError";
  expect(() => openStore(server.url, options as object)).toThrow(
    expect.objectContaining({ code: "ERR_KV_INVALID_OPTION", name }),
  );
});

test("the store connects at its first operation and disconnects at close()", async () => {
  const connections = async () =>
    (
      await rows(
        "SELECT * FROM information_schema.PROCESSLIST WHERE USER = 'fedify'",
      )
    ).length;
  await expect.poll(connections).toBe(0);
  const store = openStore(server.url, { maxConnections: 3 });
  store.list();
  expect(await connections()).toBe(0);
  await Promise.all([
    ...Array.from({ length: 5_000 }, (_, i) => store.set(["k", String(i)], i)),
    ...Array.from({ length: 5_000 }, (_, i) => store.get(["l", String(i)])),
    collect(store.list()),
  ]);
  expect(await connections()).toBeGreaterThan(0);
  expect(await connections()).toBeLessThanOrEqual(3);
  await store.close();
  await expect.poll(connections).toBe(0);
});

describe("the table", () => {
  test("it is the same as the official package's", async () => {
    await openStore(server.url).initialize();
    expect(
      await rows(
        `SELECT COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLLATION_NAME, COLUMN_KEY
         FROM information_schema.COLUMNS WHERE TABLE_NAME = 'fedify_kv'
         ORDER BY ORDINAL_POSITION`,
      ),
    ).toEqual([
      {
        COLUMN_NAME: "key",
        COLUMN_TYPE: "varchar(768)",
        IS_NULLABLE: "NO",
        COLLATION_NAME: "utf8mb4_bin",
        COLUMN_KEY: "PRI",
      },
      {
        COLUMN_NAME: "value",
        COLUMN_TYPE: "longtext",
        IS_NULLABLE: "NO",
        COLLATION_NAME: "utf8mb4_bin",
        COLUMN_KEY: "",
      },
      {
        COLUMN_NAME: "expires",
        COLUMN_TYPE: "datetime(6)",
        IS_NULLABLE: "YES",
        COLLATION_NAME: null,
        COLUMN_KEY: "MUL",
      },
    ]);
    expect(
      await rows("SHOW INDEX FROM fedify_kv WHERE Key_name <> 'PRIMARY'"),
    ).toMatchObject([
      { Key_name: "idx_fedify_kv_expires", Column_name: "expires" },
    ]);
  });

  test("a missing index is created", async () => {
    await openStore(server.url).initialize();
    await root.query("DROP INDEX idx_fedify_kv_expires ON fedify_kv");
    await openStore(server.url).set(["k"], 1);
    expect(await rows("SHOW INDEX FROM fedify_kv")).toHaveLength(2);
  });

  test("twenty stores can create it at once, repeatedly", async () => {
    const stores = Array.from({ length: 20 }, () => openStore(server.url));
    for (let round = 0; round < 5; round += 1) {
      await Promise.all(
        stores.map((store, i) => store.set(["k", String(i)], round)),
      );
      expect(await keysOf(stores[0]!.list())).toHaveLength(20);
      await root.query("DROP TABLE fedify_kv");
    }
  });

  test("stores can create and drop it at once", async () => {
    const stores = Array.from({ length: 6 }, () => openStore(server.url));
    await Promise.all(
      stores.map(async (store, i) => {
        for (let round = 0; round < 10; round += 1) {
          await store.set(["k", String(i)], round);
          if (i < 2) {
            await store.drop();
          }
        }
      }),
    );
  });

  test("with initialized: true it is not created before drop()", async () => {
    const store = openStore(server.url, { initialized: true });
    for (const call of [
      () => store.get(["k"]),
      () => store.set(["k"], 1),
      () => store.cas(["k"], undefined, 1),
      () => store.clear(["k"]),
      () => store.list().next(),
      () => store.initialize(),
    ]) {
      const error = await expectRejection(call, "ERR_KV_BACKEND");
      expect(error.message).toContain("doesn't exist");
    }
    await openStore(server.url).initialize();
    await store.set(["k"], 1);
    await store.drop();
    expect(await store.get(["k"])).toBeUndefined();
  });

  test("a table of another shape is an error with the server's message", async () => {
    await root.query("CREATE TABLE fedify_kv (id INT PRIMARY KEY)");
    const store = openStore(server.url);
    const error = await expectRejection(
      () => store.set(["k"], 1),
      "ERR_KV_BACKEND",
    );
    expect(error.message).toMatch(/column|Key/);
  });
});

describe("the format's limits", () => {
  /** A key whose JSON text has `length` characters. */
  const keyOf = (length: number, character: string): Key => [
    character.repeat(length - 4),
  ];

  test.each(["x", "漢", "é"])(
    "a key may have 768 characters of %s",
    async (c) => {
      const store = openStore(server.url);
      const longest = keyOf(768, c);
      expect(await store.cas(longest, undefined, 1)).toBe(true);
      expect(await store.get(longest)).toBe(1);
      expect(await collect(store.list(longest))).toHaveLength(1);
      for (const call of [
        (key: Key) => store.get(key),
        (key: Key) => store.set(key, 1),
        (key: Key) => store.delete(key),
        (key: Key) => store.cas(key, undefined, 1),
      ]) {
        const error = await expectRejection(
          () => call(keyOf(769, c)),
          "ERR_KV_KEY_TOO_LONG",
        );
        expect(error.message.length).toBeLessThan(300);
      }
      expect(await collect(store.list(keyOf(769, c)))).toEqual([]);
      expect(await store.clear(keyOf(769, c))).toBe(0);
      expect(await collect(store.list())).toHaveLength(1);
    },
  );

  test("an emoji counts as one character", async () => {
    const store = openStore(server.url);
    const longest = keyOf(768, "😀");
    await store.set(longest, 1);
    expect(await store.get(longest)).toBe(1);
    await expectRejection(
      () => store.set(keyOf(769, "😀"), 1),
      "ERR_KV_KEY_TOO_LONG",
    );
  });

  test("only a value beyond max_allowed_packet is refused", async () => {
    const store = openStore(server.url);
    const [{ bytes } = {}] = await rows("SELECT @@max_allowed_packet bytes");
    const large = "x".repeat(Number(bytes));
    await store.set(["k"], "old");
    const settled = await Promise.allSettled([
      store.set(["a"], 1),
      store.set(["k"], large),
      store.cas(["l"], undefined, large),
      store.cas(["m"], undefined, 1),
    ]);
    expect(settled).toMatchObject([
      { status: "fulfilled" },
      { reason: { code: "ERR_KV_VALUE_TOO_LARGE" } },
      { reason: { code: "ERR_KV_VALUE_TOO_LARGE" } },
      { value: true },
    ]);
    const fits = large.slice(10_000);
    await store.set(["k"], fits);
    expect(await store.get(["k"])).toBe(fits);
    expect(await store.cas(["k"], fits, "small")).toBe(true);
    await store.set(["l"], fits);
    expect((await collect(store.list(["l"])))[0]?.value).toBe(fits);
  });

  test("only values that a JSON column can't hold are refused", async () => {
    const store = openStore(server.url);
    await store.set(["k"], "old");
    const deep = JSON.parse("[".repeat(101) + "]".repeat(101)) as unknown;
    for (const value of ["\ud800", deep]) {
      // Other writes in the same statement succeed.
      const [refused, swap, ...others] = await Promise.allSettled([
        store.set(["k"], value),
        store.cas(["l"], undefined, value),
        store.set(["a"], 1),
        store.set(["z"], 1),
        store.cas(["m"], undefined, 1),
      ]);
      expect(refused).toMatchObject({
        reason: { code: "ERR_KV_INVALID_VALUE" },
      });
      expect(swap).toMatchObject({ reason: { code: "ERR_KV_INVALID_VALUE" } });
      expect(others).toMatchObject([
        { status: "fulfilled" },
        { status: "fulfilled" },
        { value: true },
      ]);
      expect(await store.cas(["k"], value, 1)).toBe(false);
      expect(await store.get(["k"])).toBe("old");
      expect(await store.get(["l"])).toBeUndefined();
      expect(await store.clear(["m"])).toBe(1);
    }
  });
});

test("lists are in the order of the keys' JSON text", async () => {
  const store = openStore(server.url);
  const parts = [
    "b",
    "a",
    "B",
    "é",
    "😀",
    "\uffff",
    "",
    " ",
    ",",
    "]",
    "a ",
    "a!",
    "10",
    "9",
    "~",
  ];
  await Promise.all(parts.map((part) => store.set(["k", part], part)));
  await store.set(["k"], "itself");
  await store.set(["k "], "not this");
  await store.set(["k,"], "nor this");
  const listed = await keysOf(store.list(["k"]));
  const texts = listed.map((key) => Buffer.from(JSON.stringify(key)));
  expect(listed).toHaveLength(parts.length + 1);
  expect(texts).toEqual(texts.toSorted((a, b) => a.compare(b)));
});

test("a trailing space is an ordinary character", async () => {
  const store = openStore(server.url);
  for (const part of ["a", "a ", "a  ", " a"]) {
    await store.set([part], part);
  }
  for (const part of ["a", "a ", "a  ", " a"]) {
    expect(await store.get([part])).toBe(part);
    expect(await collect(store.list([part]))).toHaveLength(1);
  }
});

test("rows without a valid key or value are skipped and counted", async () => {
  const store = openStore(server.url);
  await store.set(["k"], 1);
  // A column without the JSON check, as in a dump of an old server.
  await root.query("ALTER TABLE fedify_kv MODIFY value LONGTEXT NOT NULL");
  await root.query(
    `INSERT INTO fedify_kv (\`key\`, value) VALUES
       ('no key', '1'), ('', '1'), ('[1]', '1'), ('["bad"]', '{'), ('漢', '1')`,
  );
  const list = store.list();
  expect(await collect(list)).toEqual([{ key: ["k"], value: 1 }]);
  expect(list.skipped).toBe(5);
  for (const call of [
    () => store.get(["bad"]),
    () => store.cas(["bad"], 1, 2),
  ]) {
    const error = await expectRejection(call, "ERR_KV_CORRUPT");
    expect(error.message).toContain('["bad"]');
  }
  await store.set(["bad"], "good");
  expect(await store.get(["bad"])).toBe("good");
});

test("expired entries are swept in batches, with their index", async () => {
  const store = openStore(server.url);
  await store.initialize();
  await root.query(
    `INSERT INTO fedify_kv (\`key\`, value, expires)
     SELECT CONCAT('["old","', seq, '"]'), '1', NOW(6) - INTERVAL 1 HOUR
     FROM seq_1_to_3000`,
  );
  await store.set(["lives"], 1, { ttl: { hours: 1 } });
  await store.set(["stays"], 1);
  await store.set(["goes"], 1, { ttl: { milliseconds: 1 } });
  const count = async () =>
    Number((await rows("SELECT COUNT(*) n FROM fedify_kv"))[0]?.n);
  await expect.poll(count, { timeout: 20_000 }).toBe(2);
  const [plan] = await rows(
    `EXPLAIN SELECT \`key\` FROM fedify_kv WHERE expires <= NOW(6) ORDER BY expires LIMIT 500`,
  );
  expect(plan).toMatchObject({ key: "idx_fedify_kv_expires" });
});

test("list, get and clear read only an index range of 100,000 rows", async () => {
  const store = openStore(server.url, { maxConnections: 1 });
  await store.initialize();
  await root.query(
    `INSERT INTO fedify_kv (\`key\`, value)
     SELECT CONCAT('["p', seq DIV 50, '","', seq, '"]'), '{"a":1}' FROM seq_0_to_99999`,
  );
  const handlers = async () => {
    const found = await rows(
      "SELECT VARIABLE_NAME name, VARIABLE_VALUE value FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME LIKE 'HANDLER_READ%'",
    );
    return found.reduce((sum, { value }) => sum + Number(value), 0);
  };
  const cost = async (call: () => Promise<unknown>) => {
    const before = await handlers();
    await call();
    return (await handlers()) - before;
  };
  const own = await cost(async () => {});
  expect(
    await cost(async () => {
      expect(await collect(store.list(["p1234"]))).toHaveLength(50);
    }),
  ).toBeLessThan(own + 200);
  expect(
    await cost(async () => {
      const keys = Array.from(
        { length: 64 },
        (_, i) => ["p7", String(350 + i)] as const,
      );
      const got = await Promise.all(keys.map((key) => store.get(key)));
      expect(got.filter((value) => value !== undefined)).toHaveLength(50);
    }),
  ).toBeLessThan(own + 300);
  expect(
    await cost(async () => {
      expect(await store.clear(["p77"])).toBe(50);
    }),
  ).toBeLessThan(own + 400);
});

test("the server's time zone, SQL mode and isolation have no effect", async () => {
  await root.query(
    "SET GLOBAL time_zone = '-11:00', sql_mode = 'ANSI', tx_isolation = 'SERIALIZABLE'",
  );
  try {
    const store = openStore(server.url);
    await store.set(["k"], { a: "\\'\"" }, { ttl: { hours: 1 } });
    expect(await store.get(["k"])).toEqual({ a: "\\'\"" });
    const connection = await server.root();
    const [found] = await connection.query(
      "SELECT expires > NOW(6) + INTERVAL 59 MINUTE AND expires <= NOW(6) + INTERVAL 1 HOUR AS ok FROM fedify_kv",
    );
    await connection.end();
    expect(found).toEqual([{ ok: 1 }]);
  } finally {
    await root.query(
      "SET GLOBAL time_zone = 'SYSTEM', sql_mode = DEFAULT, tx_isolation = 'REPEATABLE-READ'",
    );
  }
});

test("exactly one of four stores' concurrent creates wins for each key", async () => {
  const stores = Array.from({ length: 4 }, () => openStore(server.url));
  for (let round = 0; round < 5; round += 1) {
    const keys = Array.from(
      { length: 50 },
      (_, i) => ["race", String(round), String(i)] as const,
    );
    const wins = await Promise.all(
      stores.map((store, i) =>
        // Each store goes through the keys in another order.
        Promise.all(
          keys
            .map((_, j) => keys[(j * (2 * i + 1)) % keys.length]!)
            .map(async (key) => ({
              key: key.join(),
              won: await store.cas(key, undefined, i),
            })),
        ),
      ),
    );
    const winners = wins.flat().filter(({ won }) => won);
    expect(winners.map(({ key }) => key).toSorted()).toEqual(
      keys.map((key) => key.join()).toSorted(),
    );
  }
});

test("a server with a statement-based log works", async () => {
  const logging = await MysqlServer.start({
    "log-bin": "log",
    "binlog-format": "STATEMENT",
  });
  try {
    const store = openStore(logging.url);
    await Promise.all([
      store.set(["k"], 1),
      store.cas(["l"], undefined, 1),
      store.delete(["m"]),
    ]);
    expect(await store.cas(["k"], 1, 2)).toBe(true);
    expect(await store.clear(["k"])).toBe(1);
    expect(await keysOf(store.list())).toEqual([["l"]]);
  } finally {
    await logging.stop();
  }
});
