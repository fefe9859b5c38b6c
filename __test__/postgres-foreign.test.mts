// PostgresKvStore on tables that other programs made.
import type { Sql } from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import { collect } from "./support/collect.mts";
import {
  documented,
  expectRefusal,
  expectToWork,
} from "./support/foreign-tables.mts";
import { openStore, ownTable } from "./support/postgres.mts";

let server: PostgresServer;
let sql: Sql;

beforeAll(async () => {
  server = await PostgresServer.start({
    settings: { log_statement: "all" },
  });
  sql = server.client();
  await sql`
    CREATE COLLATION blind
    (provider = icu, locale = 'und-u-ks-level1', deterministic = false)`;
});
afterAll(() => server.stop());

/** Columns of the table, with others in place of some. */
function columns(others: Record<string, string> = {}): string {
  return Object.entries({
    key: "text[] PRIMARY KEY",
    value: "jsonb NOT NULL",
    created: "timestamptz DEFAULT CURRENT_TIMESTAMP",
    ttl: "interval",
    ...others,
  })
    .filter(([, type]) => type !== "")
    .map(([name, type]) => `${name} ${type}`)
    .join(", ");
}

/** Creates a table; `T` stands for its name. */
async function create(...statements: string[]): Promise<string> {
  const tableName = ownTable();
  for (const statement of statements) {
    await sql.unsafe(statement.replaceAll(/\bT\b/g, `"${tableName}"`));
  }
  return tableName;
}

const id = { id: "bigserial PRIMARY KEY", key: "text[] NOT NULL UNIQUE" };

describe.each([false, true])("with initialized: %s", (initialized) => {
  test.each([
    ["another primary key", [`CREATE TABLE T (${columns(id)})`]],
    [
      "another order, and more columns",
      [
        `CREATE TABLE T (note text, ttl interval, size int NOT NULL DEFAULT 0,
         created timestamptz, value jsonb, key text[] UNIQUE)`,
      ],
    ],
    [
      "a unique index with more columns included",
      [
        `CREATE TABLE T (${columns({ key: "text[] NOT NULL" })})`,
        "CREATE UNIQUE INDEX ON T (key) INCLUDE (created)",
      ],
    ],
    [
      "another collation",
      [
        `CREATE TABLE T (${columns({ key: 'text[] COLLATE "und-x-icu" PRIMARY KEY' })})`,
      ],
    ],
    [
      "milliseconds",
      [
        `CREATE TABLE T (${columns({ created: "timestamptz(3)", ttl: "interval(3)" })})`,
      ],
    ],
    [
      "domains",
      [
        "DROP DOMAIN IF EXISTS document",
        "CREATE DOMAIN document AS jsonb",
        `CREATE TABLE T (${columns({ value: "document" })})`,
      ],
    ],
  ])("a table with %s works", async (_, statements) => {
    const tableName = await create(...statements);
    await expectToWork(openStore(server.url, { tableName, initialized }));
    // Leaves no domain in use.
    await sql`DROP TABLE ${sql(tableName)}`;
  });

  test.each([
    ["json", columns({ value: "json NOT NULL" }), /"value" is json, not jsonb/],
    ["text", columns({ value: "text NOT NULL" }), /"value" is text, not jsonb/],
    [
      "varchar",
      columns({ key: "varchar(100)[] PRIMARY KEY" }),
      /"key" is character varying\(100\)\[\], not text\[\]/,
    ],
    [
      "a collation that ignores case",
      columns({ key: "text[] COLLATE blind PRIMARY KEY" }),
      /the collation of its column "key"/,
    ],
    [
      "varchar in a collation that ignores case",
      columns({ key: "varchar[] COLLATE blind PRIMARY KEY" }),
      /the collation of its column "key"/,
    ],
    [
      "a time without time zone",
      columns({ created: "timestamp DEFAULT CURRENT_TIMESTAMP" }),
      /"created" is timestamp without time zone, not timestamp with time zone/,
    ],
    [
      "whole seconds",
      columns({ created: "timestamptz(0)", ttl: "interval(0)" }),
      /"created" is timestamp\(0\) with time zone.*"ttl" is interval\(0\)/,
    ],
    [
      "ttl NOT NULL",
      columns({ ttl: "interval NOT NULL" }),
      /"ttl" has neither/,
    ],
    [
      "a column that must be given",
      columns({ tenant: "int NOT NULL" }),
      /"tenant" has neither a default nor NULLs/,
    ],
    [
      "neither created nor ttl",
      columns({ created: "", ttl: "" }),
      /no column "created"; it has no column "ttl"/,
    ],
    ["no unique index", columns({ key: "text[]" }), /no unique index/],
    [
      "a deferrable unique constraint",
      columns({ key: "text[] UNIQUE DEFERRABLE" }),
      /unique constraint .* is deferrable.*no unique index/,
    ],
    [
      "a deferrable unique constraint beside a good one",
      `${columns()}, UNIQUE (key) DEFERRABLE`,
      /unique constraint .* is deferrable/,
    ],
    [
      "a unique index on more than the key",
      `${columns({ key: "text[]" })}, UNIQUE (key, ttl)`,
      /no unique index/,
    ],
  ])("%s is refused until it is mended", async (_, columns, words) => {
    const tableName = await create(`CREATE TABLE T (${columns})`);
    const store = openStore(server.url, { tableName, initialized });
    const mend = await expectRefusal(store, words);
    await sql.unsafe(mend ?? "");
    await expectToWork(store);
  });

  test.each([
    ["a partial index", "CREATE UNIQUE INDEX ON T (key) WHERE ttl IS NULL"],
    [
      "an index that ignores case",
      "CREATE UNIQUE INDEX ON T (key COLLATE blind)",
    ],
    [
      "an index that ignores case, and a good one",
      "CREATE UNIQUE INDEX ON T (key COLLATE blind); ALTER TABLE T ADD UNIQUE (key)",
    ],
  ])("%s is refused until it is mended", async (_, index) => {
    const tableName = await create(
      `CREATE TABLE T (${columns({ key: "text[]" })})`,
      index,
    );
    const store = openStore(server.url, { tableName, initialized });
    const mend = await expectRefusal(store, /index/);
    await sql.unsafe(mend ?? "");
    await expectToWork(store);
  });

  test.each([
    [
      "a view",
      [
        "CREATE TABLE IF NOT EXISTS behind (" + columns() + ")",
        "CREATE VIEW T AS SELECT * FROM behind",
      ],
      /not an ordinary table/,
    ],
    [
      "a partitioned table",
      [`CREATE TABLE T (${columns()}) PARTITION BY HASH (key)`],
      /partitioned/,
    ],
    [
      "a table with children",
      [`CREATE TABLE T (${columns()})`, "CREATE TABLE child () INHERITS (T)"],
      /inherit/,
    ],
    [
      "a table of something else",
      ["CREATE TABLE T (id int PRIMARY KEY, key text)"],
      /"key" is text, not text\[\].*no column "value".*Choose another tableName/,
    ],
    [
      "a primary key that must be given",
      [
        `CREATE TABLE T (${columns({ id: "uuid PRIMARY KEY", key: "text[] UNIQUE" })})`,
      ],
      /"id" has neither/,
    ],
  ])("%s is refused", async (_, statements, words) => {
    const tableName = await create(...statements);
    const store = openStore(server.url, { tableName, initialized });
    expect(await expectRefusal(store, words)).toBeUndefined();
    await sql`DROP TABLE IF EXISTS child`;
  });
});

test("a table is taken over as docs/migrate.md says", async () => {
  await sql.unsafe(`
    CREATE TABLE fedify_kv_v2 (id serial PRIMARY KEY, key text, value text,
      created timestamp DEFAULT CURRENT_TIMESTAMP)`);
  await sql.unsafe(`
    INSERT INTO fedify_kv_v2 (key, value) VALUES ('["a","b"]', '1'),
      ('["a","B"]', '[2]'), ('["a","b"]', '3')`);
  const store = openStore(server.url);
  await expectRefusal(store, /"key" is text.*Choose another tableName/);
  for (const statement of documented("A table in PostgreSQL")) {
    await sql.unsafe(statement);
  }
  expect(await store.get(["a", "b"])).toBe(3);
  expect(await store.get(["a", "B"])).toEqual([2]);
  await store.clear(["a"]);
  await expectToWork(store);
});

test("a table that takes another's place is checked", async () => {
  const tableName = await create(`CREATE TABLE T (${columns()})`);
  const store = openStore(server.url, { tableName });
  await store.set(["k"], 1);
  await sql`DROP TABLE ${sql(tableName)}`;
  expect(await collect(store.list())).toEqual([]);
  await sql.unsafe(
    `CREATE TABLE "${tableName}" (${columns({ value: "json" })})`,
  );
  const mend = await expectRefusal(store, /json, not jsonb/);
  await sql.unsafe(mend ?? "");
  await expectToWork(store);
});

test("the first operations wait for one check", async () => {
  const tableName = await create(`CREATE TABLE T (${columns()})`);
  const store = openStore(server.url, { tableName });
  await Promise.all([
    ...Array.from({ length: 300 }, (_, i) => store.set(["k", `${i}`], i)),
    ...Array.from({ length: 300 }, (_, i) => store.get(["k", `${i}`])),
    collect(store.list()),
    store.clear(["l"]),
  ]);
  await store.close();
  const checks = () =>
    server.log.filter(
      (line) => line.includes(tableName) && line.includes("pg_inherits"),
    );
  await expect.poll(checks).toHaveLength(1);
});

test("a user who may not read the catalogue can use the table", async () => {
  const tableName = await create(
    `CREATE TABLE T (${columns()})`,
    "CREATE ROLE other LOGIN PASSWORD 'other'",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON T TO other",
    "REVOKE SELECT ON pg_inherits FROM PUBLIC",
  );
  const url = server.urlOf({ user: "other", password: "other" });
  for (const initialized of [true, false]) {
    const store = openStore(url, { tableName, initialized });
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  }
  await sql`GRANT SELECT ON pg_inherits TO PUBLIC`;
});
