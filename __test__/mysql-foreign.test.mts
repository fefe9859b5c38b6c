// MysqlKvStore on tables that other programs made.
import type { Connection } from "mysql2/promise";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MysqlServer, password } from "./services/mysql.mts";
import { collect } from "./support/collect.mts";
import {
  documented,
  expectRefusal,
  expectToWork,
} from "./support/foreign-tables.mts";
import { openStore, ownTable } from "./support/mysql.mts";

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

const utf8 = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/** Columns of the table, with others in place of some. */
function columns(others: Record<string, string> = {}): string {
  return Object.entries({
    key: `VARCHAR(255) ${utf8} PRIMARY KEY`,
    value: `LONGTEXT ${utf8} NOT NULL`,
    expires: "DATETIME(6) NULL",
    ...others,
  })
    .filter(([, type]) => type !== "")
    .map(([name, type]) => `\`${name}\` ${type}`)
    .join(", ");
}

const id = {
  id: "BIGINT AUTO_INCREMENT PRIMARY KEY",
  key: `VARCHAR(768) ${utf8} NOT NULL UNIQUE`,
};

/** Creates a table; `T` stands for its name. */
async function create(...statements: string[]): Promise<string> {
  const tableName = ownTable();
  for (const statement of statements) {
    await root.query(statement.replaceAll(/\bT\b/g, tableName));
  }
  return tableName;
}

describe.each([false, true])("with initialized: %s", (initialized) => {
  test.each([
    ["another primary key", columns(id)],
    [
      "more columns, and another order",
      `expires TIMESTAMP(3) NULL, note TEXT, size INT NOT NULL DEFAULT 0,
       made TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
       twice INT AS (size * 2) VIRTUAL, value MEDIUMBLOB,
       \`key\` VARBINARY(3000), UNIQUE \`a \`\`name\` (\`key\`), INDEX (note(10))`,
    ],
    [
      "NO PAD",
      columns({
        key: "CHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin UNIQUE",
      }),
    ],
    [
      "another unique index that has the whole key",
      `${columns({ ...id, tenant: "INT" })}, UNIQUE (tenant, \`key\`)`,
    ],
  ])("a table with %s works", async (_, columns) => {
    const tableName = await create(`CREATE TABLE T (${columns})`);
    await expectToWork(openStore(server.url, { tableName, initialized }));
  });

  test.each([
    [
      "the database's default collation",
      columns({ ...id, key: "VARCHAR(768) NOT NULL UNIQUE" }),
      /`key` is varchar\(768\) with the collation utf8mb4_general_ci/,
    ],
    [
      "another character set",
      columns({
        key: "VARCHAR(255) CHARACTER SET latin1 COLLATE latin1_bin PRIMARY KEY",
      }),
      /collation latin1_bin/,
    ],
    ["TEXT", columns({ key: `TEXT ${utf8} UNIQUE` }), /`key` is text/],
    [
      "whole seconds",
      columns({ expires: "DATETIME NULL" }),
      /`expires` is datetime, which has no milliseconds/,
    ],
    [
      "expires NOT NULL",
      columns({ expires: "DATETIME(6) NOT NULL" }),
      /`expires` is NOT NULL/,
    ],
    ["no expires", columns({ expires: "" }), /no column `expires`/],
    [
      "values in another character set",
      columns({ value: "TEXT CHARACTER SET latin1" }),
      /`value` is text in latin1, not JSON/,
    ],
    [
      "a column that must be given",
      columns({ tenant: `VARCHAR(20) ${utf8} NOT NULL` }),
      /`tenant` has neither a default nor NULLs/,
    ],
    [
      "an id that must be given",
      columns({ ...id, id: "INT UNSIGNED PRIMARY KEY" }),
      /`id` has neither a default nor NULLs/,
    ],
    [
      "no unique index",
      columns({ ...id, key: `VARCHAR(768) ${utf8} NOT NULL` }),
      /no unique index/,
    ],
    [
      "a unique index on a part of the key",
      `${columns({ ...id, key: `VARCHAR(768) ${utf8} NOT NULL` })}, UNIQUE (\`key\`(2))`,
      /on a part of `key` takes.*no unique index/,
    ],
    [
      "a unique index on a part of the key beside a good one",
      `${columns(id)}, UNIQUE (\`key\`(2))`,
      /on a part of `key` takes/,
    ],
    [
      "an ignored index",
      `${columns({ ...id, key: `VARCHAR(700) ${utf8}` })}, UNIQUE (\`key\`) IGNORED`,
      /no unique index/,
    ],
    [
      "all at once",
      "`key` VARCHAR(700), value TEXT CHARACTER SET latin1, expires DATETIME",
      /`key` is.*`value` is.*`expires` is.*no unique index/,
    ],
  ])("%s is refused until it is mended", async (_, columns, words) => {
    const tableName = await create(
      `CREATE TABLE T (${columns}) DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci`,
    );
    const store = openStore(server.url, { tableName, initialized });
    const mend = await expectRefusal(store, words);
    await root.query(mend ?? "");
    await expectToWork(store);
  });

  test("an engine without transactions is refused until it is mended", async () => {
    const tableName = await create(
      `CREATE TABLE T (${columns({ key: `VARCHAR(200) ${utf8} UNIQUE` })}) ENGINE=MyISAM`,
    );
    const store = openStore(server.url, { tableName, initialized });
    const mend = await expectRefusal(store, /engine MyISAM/);
    await root.query(mend ?? "");
    await expectToWork(store);
  });

  test.each([
    [
      "a view",
      [
        `CREATE TABLE IF NOT EXISTS behind (${columns()})`,
        "CREATE VIEW T AS SELECT * FROM behind",
      ],
      /it is a view/,
    ],
    [
      "a table of something else",
      ["CREATE TABLE T (id INT PRIMARY KEY)"],
      /no column `key`; it has no column `value`.*Choose another tableName/,
    ],
  ])("%s is refused", async (_, statements, words) => {
    const tableName = await create(...statements);
    const store = openStore(server.url, { tableName, initialized });
    expect(await expectRefusal(store, words)).toBeUndefined();
  });
});

test("a table is taken over as docs/migrate.md says", async () => {
  await root.query(`
    CREATE TABLE fedify_kv (id BIGINT AUTO_INCREMENT PRIMARY KEY,
      \`key\` VARCHAR(768) NOT NULL, value JSON NOT NULL, expires DATETIME)
    DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci`);
  await root.query(`
    INSERT INTO fedify_kv (\`key\`, value) VALUES ('["a","b"]', '1'),
      ('["a","B"]', '[2]'), ('["a","b"]', '3')`);
  const store = openStore(server.url);
  await expectRefusal(store, /utf8mb4_general_ci/);
  for (const statement of documented("A table in MySQL or MariaDB")) {
    await root.query(statement);
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
  expect(await collect(store.list())).toHaveLength(1);
  // With another index.
  await root.query(`DROP TABLE ${tableName}`);
  await root.query(`CREATE TABLE ${tableName} (${columns(id)})`);
  expect(await collect(store.list())).toEqual([]);
  await expectToWork(store);
});

test("statements use the index on the key, whatever its name", async () => {
  const tableName = await create(`CREATE TABLE T (${columns(id)})`);
  const store = openStore(server.url, { tableName });
  const keys = Array.from({ length: 2_000 }, (_, i) => ["k", `${i}`] as const);
  await Promise.all(keys.map((key) => store.set(key, 1)));
  const read = async () => {
    const [rows] = await root.query("SHOW GLOBAL STATUS LIKE 'Handler_read_%'");
    return (rows as { Value: string }[]).reduce(
      (sum, row) => sum + Number(row.Value),
      0,
    );
  };
  const before = await read();
  await Promise.all(keys.slice(0, 64).map((key) => store.get(key)));
  await Promise.all(keys.slice(0, 64).map((key) => store.delete(key)));
  const list = store.list({ prefix: ["k"], pageSize: 10 });
  await list.next();
  await list.return?.();
  expect((await read()) - before).toBeLessThan(1_500);
});

test("a user with no more rights than needed can use the table", async () => {
  const tableName = await create(
    `CREATE TABLE T (${columns({ ...id, note: "TEXT" })})`,
    `CREATE USER IF NOT EXISTS other@'%' IDENTIFIED BY '${password}'`,
    "GRANT DELETE ON fedify.T TO other@'%'",
    "GRANT SELECT (`key`, value, expires), INSERT (`key`, value, expires), UPDATE (`key`, value, expires) ON fedify.T TO other@'%'",
  );
  for (const initialized of [true, false]) {
    await expectToWork(
      openStore(server.urlFor("other", password), { tableName, initialized }),
    );
  }
});
