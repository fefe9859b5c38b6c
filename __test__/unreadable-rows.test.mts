// Rows that are not JSON are skipped and counted. They may look like anything,
// and neighbouring ones may look like entries when they are put together.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ListOptions, RedisKvStore, SqliteKvStore } from "../index.js";
import { RedisServer } from "./services/redis.mts";
import { collect } from "./support/collect.mts";
import { expectRejection } from "./support/rejection.mts";
import {
  insertRows,
  officialTable,
  openStore,
  sql,
  temporaryFile,
} from "./support/sqlite.mts";

/** Texts that are no JSON, alone or beside each other. */
const pieces: readonly string[] = [
  "",
  " ",
  ",",
  "1,2",
  "1,[2",
  "3]",
  "3],4",
  "[",
  "]",
  "[[",
  "]]",
  "],[",
  "] , [",
  "{",
  "}",
  '"',
  "\\",
  '"x',
  'x"',
  '1],[["x"],2',
  '1,["x"],2',
  '1,100000000,["x"],2',
  '{"a":1',
  '"b":2}',
  "1}",
  "/*",
  "*/",
  "nul",
  "01",
  "'a'",
  '"\u0001"',
  "[".repeat(50),
  "]".repeat(50),
];

/** Each piece before each other, and then a good row, by pair and place. */
const rows: readonly (readonly [pair: string, place: string, text: string])[] =
  pieces.flatMap((first, i) =>
    pieces.flatMap((second, j) => [
      [`${i}-${j}`, "0", first] as const,
      [`${i}-${j}`, "1", second] as const,
      [`${i}-${j}`, "2", '"good"'] as const,
    ]),
  );
const pairs = new Set(rows.map(([pair]) => pair));

/** JSON that is close to not being any. */
const strange: Record<string, string> = {
  spaces: " \n\t 1 \r\n ",
  "lone surrogates": String.raw`"\ud800\udfff"`,
  "an escaped NUL": String.raw`"\u0000"`,
  "what looks like a page": '[["k"],1,100000000,["l"],2]',
  depth: `${"[".repeat(2_000)}${"]".repeat(2_000)}`,
  "equal names": '{"a":1,"a":2,"__proto__":3}',
  "a number beyond a double": "1e999",
};

/** Lists a prefix that holds so many pairs. */
async function expectOnlyGoodRows(
  store: SqliteKvStore | RedisKvStore,
  options: ListOptions,
  count: number,
): Promise<void> {
  const list = store.list(options);
  const entries = await collect(list);
  const about = JSON.stringify(options);
  expect(entries, about).toHaveLength(count);
  for (const { key, value } of entries) {
    expect([key.length, key[2], value], about).toEqual([3, "2", "good"]);
  }
  expect(list.skipped, about).toBe(2 * count);
}

describe("sqlite", () => {
  test("never combine into entries", async () => {
    const path = await temporaryFile();
    const quoted = (text: string) => `'${text.replaceAll("'", "''")}'`;
    const values = rows.map(
      ([pair, place, text]) =>
        `('["k","${pair}","${place}"]', ${quoted(text)}, 0, NULL)`,
    );
    await sql(path, officialTable);
    // A child process accepts only so much text as an argument.
    for (let i = 0; i < values.length; i += 500) {
      const some = values.slice(i, i + 500).join();
      await sql(path, `INSERT INTO fedify_kv VALUES ${some}`);
    }
    const store = openStore(path);
    for (const pageSize of [1, 2, 3, 5, 64, 1_024]) {
      const options: ListOptions = { prefix: ["k"], pageSize };
      await expectOnlyGoodRows(store, options, pairs.size);
    }
    // A page of its own for each pair.
    for (const pair of pairs) {
      await expectOnlyGoodRows(store, { prefix: ["k", pair] }, 1);
    }
    await expectRejection(() => store.get(["k", "4-6", "0"]), "ERR_KV_CORRUPT");
  });

  test("what get reads, a list yields", async () => {
    const path = await temporaryFile();
    await sql(path, officialTable);
    for (const [name, text] of Object.entries(strange)) {
      await sql(path, insertRows(name, 1, text));
    }
    const store = openStore(path);
    for (const pageSize of [1, 64]) {
      const list = store.list({ pageSize });
      const entries = await collect(list);
      expect(entries).toHaveLength(Object.keys(strange).length);
      for (const { key, value } of entries) {
        const text = JSON.stringify(await store.get(key as [string]));
        expect(JSON.stringify(value), key[0]).toBe(text);
      }
      expect(list.skipped).toBe(0);
    }
  });
});

describe("redis", () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await RedisServer.start();
  });
  afterAll(() => server.stop());

  test("never combine into entries", async () => {
    const client = server.client();
    const commands = client.pipeline();
    for (const [pair, place, text] of rows) {
      commands.set(`fedify::k::${pair}::${place}`, text);
    }
    await commands.exec();
    client.disconnect();
    await using store = new RedisKvStore(server.url);
    for (const pageSize of [2, 64]) {
      const options: ListOptions = { prefix: ["k"], pageSize };
      await expectOnlyGoodRows(store, options, pairs.size);
    }
    // Each of these scans the whole database.
    const combining = `${pieces.indexOf("1,[2")}-${pieces.indexOf("3],4")}`;
    for (const pair of ["0-0", combining, "6-5"]) {
      await expectOnlyGoodRows(store, { prefix: ["k", pair] }, 1);
    }
  });
});
