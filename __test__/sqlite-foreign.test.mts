// SqliteKvStore on tables that other programs made.
import { describe, expect, test } from "vitest";
import { collect } from "./support/collect.mts";
import {
  documented,
  expectRefusal,
  expectToWork,
} from "./support/foreign-tables.mts";
import { openStore, query, sql, temporaryFile } from "./support/sqlite.mts";

/** Columns of the table, with others in place of some. */
function columns(others: Record<string, string> = {}): string {
  return Object.entries({
    key: "TEXT PRIMARY KEY",
    value: "TEXT NOT NULL",
    created: "INTEGER NOT NULL",
    expires: "INTEGER",
    ...others,
  })
    .filter(([, type]) => type !== "-")
    .map(([name, type]) => `${name} ${type}`)
    .join(", ");
}

const id = { id: "INTEGER PRIMARY KEY", key: "TEXT NOT NULL UNIQUE" };

/** Runs the statements that a message recommends. */
async function mend(path: string, statements = "") {
  await sql(path, ...statements.split("; "));
}

describe.each([false, true])("with initialized: %s", (initialized) => {
  test.each([
    ["another primary key", `(${columns(id)})`],
    [
      "a text as another primary key",
      `(${columns({ ...id, id: "TEXT PRIMARY KEY" })})`,
    ],
    [
      "another order, and more columns",
      `(note, expires DATETIME, size INT NOT NULL DEFAULT 0, created, value,
        twice AS (size * 2), KEY VARCHAR(10) UNIQUE)`,
    ],
    ["no row ids", `(${columns()}) WITHOUT ROWID`],
    ["strict types", `(${columns({ value: "ANY" })}) STRICT`],
  ])("a table with %s works", async (_, definition) => {
    const path = await temporaryFile();
    await sql(path, `CREATE TABLE fedify_kv ${definition}`);
    await expectToWork(openStore(path, { initialized }));
  });

  test.each([
    [
      "NOCASE",
      columns({ key: "TEXT COLLATE NOCASE PRIMARY KEY" }),
      /NOCASE, not BINARY/,
    ],
    [
      "RTRIM",
      columns({ key: "TEXT COLLATE RTRIM UNIQUE" }),
      /RTRIM, not BINARY/,
    ],
    ["JSON", columns({ value: "JSON" }), /value is JSON, not TEXT/],
    [
      "times as text",
      columns({ expires: "TEXT" }),
      /expires is TEXT, not INTEGER/,
    ],
    [
      "expires NOT NULL",
      columns({ expires: "INTEGER NOT NULL" }),
      /expires has neither/,
    ],
    [
      "a column that must be given",
      columns({ tenant: "TEXT NOT NULL" }),
      /tenant has neither/,
    ],
    [
      "neither created nor expires",
      columns({ created: "-", expires: "-" }),
      /no column created; it has no column expires/,
    ],
    ["no unique index", columns({ key: "TEXT" }), /no unique index/],
    [
      "a unique index on more than the key",
      `${columns({ key: "TEXT" })}, UNIQUE (key, value)`,
      /no unique index/,
    ],
    [
      "all at once",
      "key TEXT, value JSON",
      /value is JSON.*no column created.*no column expires.*no unique index/,
    ],
  ])("%s is refused until it is mended", async (_, columns, words) => {
    const path = await temporaryFile();
    await sql(path, `CREATE TABLE fedify_kv (${columns})`);
    const store = openStore(path, { initialized });
    await mend(path, await expectRefusal(store, words));
    await expectToWork(store);
  });

  test.each([
    [
      "a partial index",
      "CREATE UNIQUE INDEX i ON fedify_kv (key) WHERE expires IS NULL",
    ],
    [
      "an index with NOCASE",
      "CREATE UNIQUE INDEX i ON fedify_kv (key COLLATE NOCASE)",
    ],
    [
      "an index on an expression",
      "CREATE UNIQUE INDEX i ON fedify_kv (lower(key))",
    ],
  ])("%s is refused until it is mended", async (_, index) => {
    const path = await temporaryFile();
    await sql(
      path,
      `CREATE TABLE fedify_kv (${columns({ key: "TEXT" })})`,
      index,
    );
    const store = openStore(path, { initialized });
    await mend(path, await expectRefusal(store, /no unique index/));
    await sql(path, "DROP INDEX i");
    await expectToWork(store);
  });

  test.each([
    [
      "a view",
      `CREATE TABLE t (${columns()})`,
      "CREATE VIEW fedify_kv AS SELECT * FROM t",
      /it is a view/,
    ],
    [
      "a virtual table",
      "",
      "CREATE VIRTUAL TABLE fedify_kv USING fts5(key, value, created, expires)",
      /it is a virtual/,
    ],
    [
      "a table of something else",
      "",
      "CREATE TABLE fedify_kv (id INTEGER PRIMARY KEY, key)",
      /no column value.*Choose another tableName/,
    ],
  ])("%s is refused", async (_, before, statement, words) => {
    const path = await temporaryFile();
    await sql(path, ...(before === "" ? [] : [before]), statement);
    const store = openStore(path, { initialized });
    expect(await expectRefusal(store, words)).toBeUndefined();
  });
});

test("entries survive a rebuild", async () => {
  const path = await temporaryFile();
  await sql(
    path,
    "CREATE TABLE fedify_kv (key TEXT, value JSON, created, expires, note)",
    `INSERT INTO fedify_kv VALUES ('["a"]', '1', NULL, NULL, 'x'),
     ('["b"]', '1.50', 1, NULL, 'x'), ('["b"]', '[2]', 1, NULL, 'y'),
     ('["c"]', NULL, 1, NULL, 'z'), ('["d"]', '4', 1, 1, '')`,
  );
  const store = openStore(path);
  await mend(path, await expectRefusal(store, /JSON/));
  expect(await collect(store.list())).toEqual([
    { key: ["a"], value: 1 },
    { key: ["b"], value: [2] },
  ]);
  expect(await query(path, "SELECT count(*) n FROM fedify_kv_old")).toEqual([
    { n: 5 },
  ]);
});

test("a table is taken over as docs/migrate.md says", async () => {
  const path = await temporaryFile();
  await sql(
    path,
    `CREATE TABLE fedify_kv (key TEXT COLLATE NOCASE, value JSON, created,
       expires, id INTEGER PRIMARY KEY)`,
    `INSERT INTO fedify_kv (key, value) VALUES ('["a","b"]', '1'),
     ('["a","B"]', '[2]'), ('["a","b"]', '3')`,
  );
  const store = openStore(path);
  await expectRefusal(store, /NOCASE/);
  await sql(path, ...documented("A table in SQLite"));
  expect(await store.get(["a", "b"])).toBe(3);
  expect(await store.get(["a", "B"])).toEqual([2]);
  await store.clear(["a"]);
  await expectToWork(store);
});
