// PostgresKvStore keeps its entries in a logged table, which a crash of the
// server doesn't empty, unless the user chooses `unlogged: true`.
import type { Sql } from "postgres";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import type { PostgresKvStore } from "../index.js";
import { PgBouncer, PostgresServer } from "./services/postgres.mts";
import { ask } from "./support/child.mts";
import { collect } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { openStore } from "./support/postgres.mts";
import { expectRejection } from "./support/rejection.mts";

let server: PostgresServer;
let sql: Sql;

beforeAll(async () => {
  server = await PostgresServer.start();
  sql = server.client({ max: 4 });
});
afterAll(() => server.stop());
beforeEach(async () => {
  await sql`DROP TABLE IF EXISTS fedify_kv_v2`;
});

const logged = "p";
const unlogged = "u";

/** The table's `relpersistence`. */
async function persistence(table = "fedify_kv_v2"): Promise<string> {
  const [row] = await sql`
    SELECT relpersistence FROM pg_class WHERE oid = to_regclass(${table})`;
  return row?.relpersistence;
}

/** An unlogged table with one entry, as Fedify's own store made it before 2.4. */
async function createUnlogged(table = "fedify_kv_v2"): Promise<void> {
  await sql.unsafe(`
    CREATE UNLOGGED TABLE ${table} (
      key text[] PRIMARY KEY, value jsonb NOT NULL,
      created timestamptz DEFAULT CURRENT_TIMESTAMP, ttl interval);
    INSERT INTO ${table} (key, value) VALUES ('{old}', '1')`);
}

const lockClass = Buffer.from("fdkv").readInt32BE();

/** Holds the lock that conversions take first, so that they wait. */
async function holdConversions(): Promise<{ release(): Promise<void> }> {
  const session = await sql.reserve();
  await session`
    SELECT pg_advisory_lock(${lockClass}, 'fedify_kv_v2'::regclass::oid::int4)`;
  return {
    release: async () => {
      await session`SELECT pg_advisory_unlock_all()`;
      session.release();
    },
  };
}

const waitsForConversion = async () =>
  (
    await sql`
      SELECT pid FROM pg_stat_activity
      WHERE application_name = 'fedify-kv' AND wait_event = 'advisory'`
  ).length;

const operations: [string, (store: PostgresKvStore) => Promise<unknown>][] = [
  ["initialize", (store) => store.initialize()],
  ["get", (store) => store.get(["k"])],
  ["set", (store) => store.set(["k"], 1)],
  ["delete", (store) => store.delete(["k"])],
  ["cas", (store) => store.cas(["k"], undefined, 1)],
  ["list", (store) => store.list().next()],
  ["clear", (store) => store.clear(["k"])],
];

describe("a new table", () => {
  test.each([
    ["is logged", undefined, logged],
    ["is unlogged with unlogged: true", { unlogged: true }, unlogged],
  ])("%s", async (_, options, expected) => {
    const store = openStore(server.url, options);
    await store.set(["k"], 1);
    expect(await persistence()).toBe(expected);
    await store.drop();
    await store.initialize();
    expect(await persistence()).toBe(expected);
  });
});

describe("an unlogged table", () => {
  test.each(operations)("is converted by %s", async (_, call) => {
    await createUnlogged();
    const store = openStore(server.url);
    await call(store);
    expect(await persistence()).toBe(logged);
    expect(await store.get(["old"])).toBe(1);
  });

  test.each([
    ["unlogged: true", { unlogged: true }],
    ["initialized: true", { initialized: true }],
  ])("stays so with %s", async (_, options) => {
    await createUnlogged();
    const store = openStore(server.url, options);
    for (const [, call] of operations) await call(store);
    expect(await persistence()).toBe(unlogged);
  });

  test("a logged table stays so with unlogged: true", async () => {
    await openStore(server.url).initialize();
    const store = openStore(server.url, { unlogged: true });
    for (const [, call] of operations) await call(store);
    expect(await persistence()).toBe(logged);
  });

  test("is converted when another client creates it later", async () => {
    const store = openStore(server.url);
    await store.set(["k"], 1);
    await store.drop();
    await createUnlogged();
    await store.initialize();
    expect(await persistence()).toBe(logged);
  });

  test("is converted in a schema, whatever its name", async () => {
    await sql`DROP SCHEMA IF EXISTS "My App" CASCADE`;
    await sql`CREATE SCHEMA "My App"`;
    await createUnlogged(`"My App"."Kv'""x$$"`);
    await openStore(server.url, {
      tableName: `My App.Kv'"x$$`,
    }).initialize();
    expect(await persistence(`"My App"."Kv'""x$$"`)).toBe(logged);
  });

  test("is converted on the only connection, and behind PgBouncer", async () => {
    const pooler = await PgBouncer.start(server);
    try {
      for (const options of [
        { maxConnections: 1 },
        { maxConnections: 1, preparedStatements: false },
      ]) {
        await createUnlogged();
        const { url } = "preparedStatements" in options ? pooler : server;
        const store = openStore(url, options);
        await store.set(["k"], 1);
        expect(await persistence()).toBe(logged);
        await store.drop();
        await store.close();
      }
    } finally {
      await pooler.stop();
    }
  });

  test("is converted by several processes at once", async () => {
    await createUnlogged();
    await sql`
      INSERT INTO fedify_kv_v2 (key, value)
      SELECT ARRAY['many', i::text], '1' FROM generate_series(1, 20000) AS i`;
    const all = await Promise.all(
      numbers(4).map((i) =>
        ask(
          `const { PostgresKvStore } = require(addon);
           const store = new PostgresKvStore(data.url);
           if (data.i % 2) await store.initialize();
           await store.set(["process", String(data.i)], data.i);
           await store.close();
           report(true);`,
          { url: server.url, i },
        ),
      ),
    );
    expect(all).toEqual([true, true, true, true]);
    expect(await persistence()).toBe(logged);
    expect(await sql`SELECT 1 FROM fedify_kv_v2`).toHaveLength(20_005);
  });
});

describe("a conversion that takes long", () => {
  test("is waited for by initialize(), and by others up to queryTimeout", async () => {
    await createUnlogged();
    const store = openStore(server.url, { queryTimeout: 500 });
    const { release } = await holdConversions();
    let initialized = false;
    const initializing = store.initialize().then(() => {
      initialized = true;
    });
    // `list` and `clear` wait for earlier calls, and so for initialize().
    for (const [name, call] of operations.slice(1, -2)) {
      const error = await expectRejection(() => call(store), "ERR_KV_TIMEOUT");
      expect(error.message, name).toContain("initialize() waits");
    }
    expect(initialized).toBe(false);
    expect(await persistence()).toBe(unlogged);
    await release();
    await initializing;
    expect(await persistence()).toBe(logged);
    expect(await store.cas(["k"], undefined, 1)).toBe(true);
  });

  test("goes on when the operation that started it has timed out", async () => {
    await createUnlogged();
    const store = openStore(server.url, { queryTimeout: 1_000 });
    const { release } = await holdConversions();
    await expectRejection(() => store.set(["k"], 1), "ERR_KV_TIMEOUT");
    expect(await waitsForConversion()).toBe(1);
    await release();
    await expect.poll(() => persistence()).toBe(logged);
    expect(await store.get(["k"])).toBeUndefined();
  });

  test("is repeated if its connection is lost", async () => {
    await createUnlogged();
    const store = openStore(server.url);
    const { release } = await holdConversions();
    const initializing = store.initialize();
    await expect.poll(waitsForConversion).toBe(1);
    await sql`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE application_name = 'fedify-kv' AND wait_event = 'advisory'`;
    await expect.poll(waitsForConversion).toBe(1);
    await release();
    await initializing;
    expect(await persistence()).toBe(logged);
  });

  test("lets other clients in while it can't get its lock", async () => {
    await createUnlogged();
    const store = openStore(server.url, { queryTimeout: 2_000 });
    await sql.begin(async (reader) => {
      await reader`SELECT 1 FROM fedify_kv_v2`;
      const refused = expectRejection(
        () => store.initialize(),
        "ERR_KV_TIMEOUT",
      );
      await expect
        .poll(
          async () =>
            (
              await sql`
              SELECT 1 FROM pg_locks
              WHERE mode = 'AccessExclusiveLock' AND NOT granted`
            ).length,
        )
        .toBe(1);
      // This waits behind the request for the lock.
      expect(await sql`SELECT 1 FROM fedify_kv_v2`).toHaveLength(1);
      expect((await refused).message).toContain("unlogged");
    });
    await store.initialize();
    expect(await persistence()).toBe(logged);
  });
});

test("a user who may not convert the table is told what to do", async () => {
  await createUnlogged();
  await sql`DROP ROLE IF EXISTS writer`;
  await sql.unsafe(`CREATE ROLE writer LOGIN PASSWORD 'w'`);
  await sql`GRANT SELECT, INSERT, UPDATE, DELETE ON fedify_kv_v2 TO writer`;
  const url = server.urlOf({ user: "writer", password: "w" });
  const store = openStore(url);
  for (const [name, call] of operations) {
    const error = await expectRejection(() => call(store), "ERR_KV_BACKEND");
    for (const words of [
      "must be owner",
      `ALTER TABLE "fedify_kv_v2" SET LOGGED`,
      "unlogged: true",
    ]) {
      expect(error.message, name).toContain(words);
    }
  }
  expect(await persistence()).toBe(unlogged);
  const asItIs = openStore(url, { unlogged: true });
  await asItIs.set(["k"], 1);
  // The same store works once the owner has done it.
  await sql`ALTER TABLE fedify_kv_v2 SET LOGGED`;
  expect(await store.get(["k"])).toBe(1);
  await store.initialize();
});

describe("after a crash of the server", () => {
  async function crash(): Promise<void> {
    await server.kill("SIGQUIT");
    await server.start();
  }

  test("awaited writes are there", async () => {
    const store = openStore(server.url);
    await Promise.all(numbers(100).map((i) => store.set(key(i), i)));
    await crash();
    expect(await collect(openStore(server.url).list())).toHaveLength(100);
  });

  test("awaited writes to a table that was unlogged are there", async () => {
    await createUnlogged();
    const store = openStore(server.url);
    await store.set(["new"], 2);
    await crash();
    const after = openStore(server.url);
    expect(await after.get(["old"])).toBe(1);
    expect(await after.get(["new"])).toBe(2);
  });

  test("with unlogged: true, the table is empty", async () => {
    const store = openStore(server.url, { unlogged: true });
    await store.set(["k"], 1);
    await crash();
    const after = openStore(server.url, { unlogged: true });
    expect(await collect(after.list())).toEqual([]);
  });
});
