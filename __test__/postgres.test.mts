// What is special about PostgresKvStore: options, limits, key order, sweep,
// several processes, and a pooler.
import type { Sql } from "postgres";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import { PostgresKvStore, openKvStore } from "../index.js";
import { PgBouncer, PostgresServer } from "./services/postgres.mts";
import { key, numbers } from "./support/entries.mts";
import { ask } from "./support/child.mts";
import { collect, inTextOrder, keysOf } from "./support/collect.mts";
import { hostileKeys } from "./support/hostile.mts";
import { type Options, openStore } from "./support/postgres.mts";
import { expectRejection } from "./support/rejection.mts";

let server: PostgresServer;
let sql: Sql;

beforeAll(async () => {
  server = await PostgresServer.start();
  sql = server.client();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await sql`DROP TABLE IF EXISTS fedify_kv_v2`;
});

describe("options", () => {
  test.each<[string, Options]>([
    ["an empty name", { tableName: "" }],
    ["a name with two dots", { tableName: "a.b.c" }],
    ["a name that is too long", { tableName: "x".repeat(64) }],
    ["a number as a string", { maxConnections: "1" as never }],
    ["zero connections", { maxConnections: 0 }],
    ["a timeout of zero", { queryTimeout: 0 }],
    ["a limit of zero", { maxAnswerBytes: 0 }],
    ["a number as a boolean", { unlogged: 1 as never }],
    ["a number as a name", { tableName: 1 as never }],
    ["a number as options", 1 as never],
  ])("%s is refused", (_, options) => {
    const name =
      typeof options.tableName === "string" ? "RangeError" : "TypeError";
    expect(() => new PostgresKvStore(server.url, options)).toThrow(
      expect.objectContaining({ code: "ERR_KV_INVALID_OPTION", name }),
    );
  });

  test.each([
    "",
    "http://x:secret@y",
    "postgres:secret",
    "postgres://u:secret@h:x",
  ])("the URL %j is refused", (url) => {
    const open = () => new PostgresKvStore(url);
    expect(open).toThrow(
      expect.objectContaining({ code: "ERR_KV_INVALID_OPTION" }),
    );
    expect(open).not.toThrow("secret");
  });

  test("openKvStore opens a URL, and a URL may name a Unix socket", async () => {
    const store = openKvStore(server.url.replace("postgres:", "postgresql:"), {
      tableName: "other",
    });
    expect(store).toBeInstanceOf(PostgresKvStore);
    await store.set(["k"], 1);
    expect(
      await openStore(server.socketUrl, { tableName: "other" }).get(["k"]),
    ).toBe(1);
    await store.drop();
    await store.close();
  });
});

describe("limits", () => {
  test("NUL and lone surrogates are refused", async () => {
    const store = openStore(server.url);
    await store.set(["k"], "kept");
    for (const bad of [
      "a\0",
      { "\0": 1 },
      ["\ud800"],
      { a: { "\udc00": 1 } },
    ]) {
      for (const call of [
        () => store.set(["k"], bad),
        () => store.cas(["k"], "kept", bad),
      ]) {
        await expectRejection(call, "ERR_KV_INVALID_VALUE");
      }
      // Such a value can't be stored, so nothing is equal to it.
      expect(await store.cas(["k"], bad, 1)).toBe(false);
    }
    expect(await store.get(["k"])).toBe("kept");
    await store.set(["k"], "\\u0000 \\ud800");
    expect(await store.get(["k"])).toBe("\\u0000 \\ud800");
    for (const call of [
      () => store.get(["a\0"]),
      () => store.set(["a", "\0"], 1),
      () => store.delete(["\0"]),
      () => store.cas(["\0"], undefined, 1),
      () => store.list(["\0"]).next(),
      () => store.clear(["\0"]),
    ]) {
      await expectRejection(call, "ERR_KV_INVALID_KEY");
    }
  });

  // The server has one limit for what fits into an index, and a higher one for
  // what it can form an index entry of.
  test.each([400, 1200])(
    "a key that is too long fails only its own operation, %i",
    async (parts) => {
      const store = openStore(server.url);
      // Random text, because the server would compress any other.
      const long = numbers(parts)
        .map(() => Math.random().toString(36))
        .join("");
      const error = await expectRejection(
        () => store.set(["k", long], 1),
        "ERR_KV_KEY_TOO_LONG",
      );
      expect(error.message.length).toBeLessThan(500);
      await expectRejection(
        () => store.cas(["k", long], undefined, 1),
        "ERR_KV_KEY_TOO_LONG",
      );
      expect(await store.get(["k", long])).toBeUndefined();
      await store.delete(["k", long]);
      expect(await store.clear(["k", long])).toBe(0);
      const outcomes = await Promise.allSettled([
        ...numbers(300).map((i) => store.set(key(i), i)),
        store.set(["k", long], 1),
      ]);
      expect(
        outcomes.filter(({ status }) => status === "rejected"),
      ).toHaveLength(1);
      expect(await keysOf(store.list())).toHaveLength(300);
    },
  );

  test("a value that is nested too deeply fails only its own operation", async () => {
    const store = openStore(
      `${server.url}?options=-c%20max_stack_depth%3D100kB`,
    );
    let value: unknown = 0;
    for (let i = 0; i < 2_000; i += 1) value = [value];
    const [deep, flat] = await Promise.allSettled([
      store.set(["deep"], value),
      store.set(["flat"], 1),
    ]);
    expect(deep).toMatchObject({
      status: "rejected",
      reason: { code: "ERR_KV_VALUE_TOO_LARGE" },
    });
    expect(flat).toMatchObject({ status: "fulfilled" });
  });
});

describe("cas compares numbers as JavaScript reads them", () => {
  test.each([
    ["1.0", 1],
    ["1e2", 100],
    ["-0", 0],
    ["9007199254740993", 9007199254740992],
    ["0.1000000000000000055511151231257827", 0.1],
    ['{"a":1.50,"b":[2.0]}', { b: [2], a: 1.5 }],
  ])("%s", async (text, value) => {
    const store = openStore(server.url);
    await store.initialize();
    await sql`INSERT INTO fedify_kv_v2 (key, value) VALUES (${["k"]}, ${text}::text::jsonb)`;
    expect(await store.get(["k"])).toEqual(value);
    expect(await store.cas(["k"], [value], "wrong")).toBe(false);
    expect(await store.cas(["k"], value, "right")).toBe(true);
    expect(await store.get(["k"])).toBe("right");
  });
});

test("lists have the database's order and skip foreign rows", async () => {
  const store = openStore(server.url);
  await Promise.all(hostileKeys.map((key) => store.set(key, 1)));
  const rows = await sql`SELECT key FROM fedify_kv_v2 ORDER BY key`;
  expect(await keysOf(store.list())).toEqual(rows.map((row) => row.key));
  await sql`
    INSERT INTO fedify_kv_v2 (key, value) VALUES
    ('{}', '1'), ('{{a,b},{c,d}}', '1'), ('{parent,NULL}', '1'),
    ('[5:6]={other,base}', '1')`;
  for (const pageSize of [1, 2, 1024]) {
    const list = store.list({ pageSize });
    const keys = await keysOf(list);
    expect(keys).toHaveLength(rows.length + 1);
    expect(keys).toContainEqual(["other", "base"]);
    expect(list.skipped).toBe(3);
  }
  expect(inTextOrder(await keysOf(store.list(["parent"])))).toEqual(
    inTextOrder(
      new Map(
        hostileKeys
          .filter(([part]) => part === "parent")
          .map((key) => [JSON.stringify(key), key]),
      ).values(),
    ),
  );
});

test("expired entries are swept, except locked rows", async () => {
  const store = openStore(server.url);
  await store.set(["stays"], 1);
  await sql`
    INSERT INTO fedify_kv_v2 (key, value, created, ttl)
    SELECT ARRAY['gone', i::text], '1', now() - interval '1 hour', interval '1 minute'
    FROM generate_series(1, 2000) AS i`;
  await sql.begin(async (sql) => {
    // The sweep skips a row that another session has locked.
    await sql`SELECT 1 FROM fedify_kv_v2 WHERE key = ${["gone", "7"]} FOR UPDATE`;
    await store.set(["ends"], 1, { ttl: { milliseconds: 1 } });
    await expect
      .poll(() => sql`SELECT key FROM fedify_kv_v2 ORDER BY key`, {
        timeout: 15_000,
      })
      .toHaveLength(2);
  });
  expect([...(await sql`SELECT key FROM fedify_kv_v2 ORDER BY key`)]).toEqual([
    { key: ["gone", "7"] },
    { key: ["stays"] },
  ]);
});

test("a table without ttl is refused, and a table may gain a column", async () => {
  // The first version of the official package had no column `ttl`.
  await sql`CREATE TABLE fedify_kv_v2 (key text[] PRIMARY KEY, value jsonb NOT NULL)`;
  const store = openStore(server.url);
  const error = await expectRejection(() => store.get(["k"]), "ERR_KV_BACKEND");
  expect(error.message).toContain("ttl");
  await sql`DROP TABLE fedify_kv_v2`;
  await store.set(["k"], 1);
  // A new column invalidates prepared statements.
  await sql`ALTER TABLE fedify_kv_v2 ADD COLUMN note text DEFAULT 'x'`;
  await store.set(["k"], 2);
  expect(await store.get(["k"])).toBe(2);
});

test("a statement is prepared again when the table has changed", async () => {
  const store = openStore(server.url, { maxConnections: 1 });
  await store.set(["k"], 1);
  await sql`ALTER TABLE fedify_kv_v2 ALTER COLUMN key TYPE varchar[]`;
  await expectRejection(() => collect(store.list()), "ERR_KV_BACKEND");
  await sql`ALTER TABLE fedify_kv_v2 ALTER COLUMN key TYPE text[]`;
  expect(await collect(store.list())).toEqual([{ key: ["k"], value: 1 }]);
});

describe("several processes", () => {
  const open = `
    const { PostgresKvStore } = require(addon);
    const store = new PostgresKvStore(data.url);
  `;

  test("they can create the table at once", async () => {
    for (let round = 0; round < 3; round += 1) {
      const all = await Promise.all(
        numbers(4).map((i) =>
          ask(
            `${open}
             await store.initialize();
             await store.set(["process", String(data.i)], data.i);
             await store.close();
             report(true);`,
            { url: server.url, i },
          ),
        ),
      );
      expect(all).toEqual([true, true, true, true]);
      expect(await sql`SELECT 1 FROM fedify_kv_v2`).toHaveLength(4);
      await sql`DROP TABLE fedify_kv_v2`;
    }
  });

  test("exactly one of concurrent creations wins, and none rejects", async () => {
    const all = await Promise.all(
      numbers(4).map((i) =>
        ask<boolean[]>(
          `${open}
           report(await Promise.all(Array.from({ length: 300 },
             (_, k) => store.cas(["race", String(k)], undefined, data.i))));
           await store.close();`,
          { url: server.url, i },
        ),
      ),
    );
    for (const k of numbers(300)) {
      expect(
        all.filter((won) => won[k]),
        String(k),
      ).toHaveLength(1);
    }
  });

  test("an idle store lets the process end", async () => {
    expect(
      await ask(
        `${open}
         globalThis.kept = store;
         await store.set(["k"], 1);
         await store.list().next();
         report("idle");`,
        { url: server.url },
      ),
    ).toBe("idle");
  });
});

describe.each<Options>([{}, { preparedStatements: false }])(
  "behind PgBouncer in transaction mode, %j",
  (options) => {
    let pooler: PgBouncer;
    beforeAll(async () => {
      pooler = await PgBouncer.start(server);
    });
    afterAll(() => pooler.stop());

    test("all operations work", async () => {
      const stores = numbers(3).map(() => openStore(pooler.url, options));
      await Promise.all(
        stores.flatMap((store, n) =>
          numbers(300).map(async (i) => {
            await store.set(["k", String(n), String(i)], i);
            expect(await store.get(["k", String(n), String(i)])).toBe(i);
            expect(await store.cas(["k", String(n), String(i)], i, -i)).toBe(
              true,
            );
          }),
        ),
      );
      const [store] = stores;
      expect(await keysOf(store!.list(["k"]))).toHaveLength(900);
      expect(await store!.clear(["k"])).toBe(900);
      const won = await Promise.all(
        stores.map((each) => each.cas(["one"], undefined, 1)),
      );
      expect(won.filter(Boolean)).toHaveLength(1);
      await store!.drop();
    });

    test("it never splits a statement between two connections", async () => {
      const stores = numbers(3).map(() => openStore(pooler.url, options));
      await stores[0]!.initialize();
      // Several statements at a time are larger than the pooler's buffer.
      const value = "x".repeat(3_000);
      const swaps = stores.flatMap((store, n) =>
        numbers(300).map((i) =>
          store.cas(["k", String(n), String(i)], undefined, value),
        ),
      );
      expect(new Set(await Promise.all(swaps))).toEqual(new Set([true]));
      const values = await collect(stores[0]!.list(["k"]));
      expect(values).toHaveLength(900);
      expect(values.every((entry) => entry.value === value)).toBe(true);
    });

    test("a statement that takes too long is cancelled through it", async () => {
      const store = openStore(pooler.url, {
        ...options,
        queryTimeout: 1_000,
      });
      await store.set(["k"], 1);
      await sql.begin(async (sql) => {
        await sql`LOCK TABLE fedify_kv_v2 IN ACCESS EXCLUSIVE MODE`;
        await expectRejection(() => store.set(["k"], 2), "ERR_KV_TIMEOUT");
      });
      expect(await store.get(["k"])).toBe(1);
    });
  },
);

test("close() ends lists and leaves no connection behind", async () => {
  const store = openStore(server.url);
  await Promise.all(
    numbers(500).map((i) => store.set(key(i), "x".repeat(1000))),
  );
  const list = store.list({ pageSize: 1 });
  await list.next();
  const listed = collect(list).catch((error: { code: string }) => error.code);
  await store.close();
  expect(await listed).toBe("ERR_KV_CLOSED");
  await expect
    .poll(
      () =>
        sql`SELECT 1 FROM pg_stat_activity WHERE application_name = 'fedify-kv'`,
    )
    .toHaveLength(0);
});
