// What is special about SqliteKvStore: its storage format, its options, and
// files that are open more than once.
import { existsSync } from "node:fs";
import { readFile, readdir, readlink, stat, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Temporal } from "temporal-polyfill";
import { describe, expect, test } from "vitest";
import { SqliteKvStore, openKvStore } from "../index.js";
import { ask } from "./support/child.mts";
import { collect, keysOf } from "./support/collect.mts";
import { hostileKeys, hostileValues } from "./support/hostile.mts";
import { expectRejection } from "./support/rejection.mts";
import {
  insertRow,
  insertRows,
  officialTable,
  openStore,
  query,
  sql,
  temporaryDirectory,
  temporaryFile,
} from "./support/sqlite.mts";

/** Queries whose results are the same in every database of this format. */
const shape = [
  `SELECT type, name, tbl_name FROM sqlite_schema ORDER BY name`,
  `SELECT cid, name, type, "notnull", dflt_value, pk
     FROM pragma_table_info('fedify_kv')`,
  `SELECT l.name, "unique", origin, partial, i.name AS column
     FROM pragma_index_list('fedify_kv') l, pragma_index_info(l.name) i
     ORDER BY l.name`,
  `PRAGMA application_id`,
  `PRAGMA user_version`,
  `PRAGMA encoding`,
];

describe("storage format", () => {
  test("the tables and indexes are the official ones", async () => {
    const official = await temporaryFile();
    await ask(
      `
        const { DatabaseSync } = await import("node:sqlite");
        const { SqliteKvStore } = await import("@fedify/sqlite");
        const database = new DatabaseSync(data);
        await new SqliteKvStore(database).set(["k"], 1);
        database.close();
        report("done");
      `,
      official,
    );
    const ours = await temporaryFile();
    const store = openStore(ours);
    await store.set(["k"], 1);
    await store.close();
    expect(await sql(ours, ...shape)).toEqual(await sql(official, ...shape));
  });

  test("a row is the JSON text of its key and value", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    const expected = new Map<string, string>();
    for (const [i, key] of hostileKeys.entries()) {
      const [, value] = hostileValues[i % hostileValues.length] ?? [];
      await store.set(key, value);
      expected.set(JSON.stringify(key), JSON.stringify(value));
    }
    await store.set(["nul\0"], "nul\0");
    expected.set(JSON.stringify(["nul\0"]), JSON.stringify("nul\0"));
    const rows = await query(
      path,
      `SELECT key, value, typeof(key) || typeof(value) || typeof(created)
         || typeof(expires) AS types FROM fedify_kv`,
    );
    expect(new Map(rows.map(({ key, value }) => [key, value]))).toEqual(
      expected,
    );
    expect(new Set(rows.map(({ types }) => types))).toEqual(
      new Set(["texttextintegernull"]),
    );
  });

  test("times are epoch milliseconds", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    const ttls: Record<string, [ttl: unknown, milliseconds: number]> = {
      hour: [{ hours: 1 }, 3_600_000],
      second: [Temporal.Duration.from({ seconds: 100 }), 100_000],
      fraction: [{ total: () => 5_000_000.001 }, 5_000_001],
      week: [{ weeks: 1 }, 7 * 86_400_000],
    };
    const before = Date.now();
    for (const [key, [ttl]] of Object.entries(ttls)) {
      await store.set([key], 1, { ttl: ttl as never });
      await store.cas([key, "cas"], undefined, 1, { ttl: ttl as never });
    }
    const after = Date.now();
    const rows = await query(
      path,
      `SELECT key, created, expires, typeof(expires) AS type FROM fedify_kv`,
    );
    expect(rows).toHaveLength(8);
    for (const { key, created, expires, type } of rows) {
      const [name = ""] = JSON.parse(String(key)) as string[];
      const milliseconds = ttls[name]?.[1] ?? NaN;
      expect(type).toBe("integer");
      expect(created).toBeGreaterThanOrEqual(before);
      expect(created).toBeLessThanOrEqual(after);
      expect(expires).toBeGreaterThanOrEqual(before + milliseconds);
      expect(expires).toBeLessThanOrEqual(after + milliseconds);
    }
  });

  test("months and years are those of the calendar", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    const now = Temporal.Now.zonedDateTimeISO("UTC");
    const lengths = { month: { months: 1 }, years: { years: 4 } };
    for (const [name, fields] of Object.entries(lengths)) {
      await store.set([name], 1, { ttl: fields as never });
      await store.set([name, "polyfill"], 1, {
        ttl: Temporal.Duration.from(fields) as never,
      });
    }
    const rows = await query(path, "SELECT key, expires FROM fedify_kv");
    expect(rows).toHaveLength(4);
    for (const { key, expires } of rows) {
      const [name] = JSON.parse(String(key)) as ["month" | "years"];
      const then = now.add(lengths[name]).epochMilliseconds;
      // Time zones and a slow machine may cause a difference of hours.
      expect(Math.abs(Number(expires) - then)).toBeLessThan(3 * 3_600_000);
    }
  });

  test("a second write keeps the column created", async () => {
    const path = await temporaryFile();
    await sql(
      path,
      officialTable,
      insertRow('["set"]', "1", 9e12),
      insertRow('["cas"]', "1", 9e12),
    );
    const store = openStore(path);
    await store.set(["set"], 2);
    expect(await store.cas(["cas"], 1, 2)).toBe(true);
    expect(await query(path, "SELECT * FROM fedify_kv ORDER BY key")).toEqual([
      { key: '["cas"]', value: "2", created: 1, expires: null },
      { key: '["set"]', value: "2", created: 1, expires: null },
    ]);
  });

  test("cas ignores how numbers, strings and objects are written", async () => {
    const path = await temporaryFile();
    await sql(
      path,
      officialTable,
      insertRow('["a"]', ' { "n" : 1.0e2 , "s":"\\u00e9\\/" } '),
      insertRow('["b"]', "-0.0"),
      insertRow('["c"]', '{"a":1,"a":2}'),
    );
    const store = openStore(path);
    expect(await store.get(["a"])).toEqual({ n: 100, s: "é/" });
    expect(await store.cas(["a"], { s: "é/", n: 100 }, 1)).toBe(true);
    expect(await store.cas(["b"], 0, 1)).toBe(true);
    expect(await store.cas(["c"], { a: 1 }, 1)).toBe(false);
    expect(await store.cas(["c"], { a: 2 }, 1)).toBe(true);
  });

  test("entries of another program are read, and expire", async () => {
    const path = await temporaryFile();
    await sql(
      path,
      officialTable,
      insertRow('["live"]', '{"a":1}', Date.now() + 3_600_000),
      insertRow('["dead"]', "1", Date.now() - 1),
      insertRow('["forever"]', "null"),
    );
    const store = openStore(path);
    expect(await collect(store.list())).toEqual([
      { key: ["forever"], value: null },
      { key: ["live"], value: { a: 1 } },
    ]);
    expect(await store.get(["dead"])).toBeUndefined();
    expect(await store.cas(["dead"], undefined, 2)).toBe(true);
    expect(await store.get(["dead"])).toBe(2);
  });
});

describe("write-ahead log", () => {
  test("a new database has a write-ahead log", async () => {
    const path = await temporaryFile();
    await openStore(path).set(["k"], 1);
    expect(await query(path, "PRAGMA journal_mode")).toEqual([
      { journal_mode: "wal" },
    ]);
  });

  test("an existing database is switched to it and keeps its entries", async () => {
    const path = await temporaryFile();
    await sql(
      path,
      "PRAGMA journal_mode = DELETE",
      officialTable,
      insertRows("k", 500, "1"),
    );
    const store = openStore(path);
    expect(await keysOf(store.list(["k"]))).toHaveLength(500);
    await store.set(["k"], 1);
    await store.close();
    const [mode, count] = await sql(
      path,
      "PRAGMA journal_mode",
      "SELECT count(*) AS n FROM fedify_kv",
    );
    expect(mode).toEqual([{ journal_mode: "wal" }]);
    expect(count).toEqual([{ n: 501 }]);
  });

  test("writes that come at once share transactions, also where lone ones need no thread", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { durability: "normal" });
    await store.set(["k"], -1);
    const log = async () => (await stat(`${path}-wal`)).size;
    const before = await log();
    // A transaction writes the page of this row once.
    await Promise.all(
      Array.from({ length: 200 }, (_, i) => store.set(["k"], i)),
    );
    const page = 4096 + 24;
    expect((await log()) - before).toBeLessThan(50 * page);
    expect(await store.get(["k"])).toBe(199);
  });

  test("its size is bounded", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { durability: "normal" });
    const value = "x".repeat(10_000);
    for (let round = 0; round < 60; round += 1) {
      await Promise.all(
        Array.from({ length: 100 }, (_, i) =>
          store.set(["k", String(i)], `${round}${value}`),
        ),
      );
    }
    // 60 MB were written to entries of 1 MB in total. Each round writes other
    // values, because unchanged pages are not written.
    const { size } = await stat(`${path}-wal`);
    expect(size).toBeLessThan(20 * 2 ** 20);
  });
});

describe("options", () => {
  const constructed = (path: unknown, options?: unknown) => () =>
    new SqliteKvStore(path as string, options as object);
  const invalidOption = expect.objectContaining({
    code: "ERR_KV_INVALID_OPTION",
    name: "TypeError",
  });

  test("a path must be that of a file, or :memory:", () => {
    const bad = ["", "file:fedify.db", "file:///x?mode=ro", "a\0b", undefined];
    for (const path of [...bad, null, 1, {}, [], Symbol("s")]) {
      expect(constructed(path)).toThrow(invalidOption);
    }
  });

  test("table names are valid as in the official package", async () => {
    const bad = ["", "1a", "a-b", "a b", 'a"b', "a;b", "é", "a".repeat(65)];
    for (const tableName of [...bad, "a\n", "sqlité"]) {
      expect(constructed(":memory:", { tableName })).toThrow(
        expect.objectContaining({
          code: "ERR_KV_INVALID_OPTION",
          name: "RangeError",
        }),
      );
    }
    for (const tableName of [1, null]) {
      expect(constructed(":memory:", { tableName })).toThrow(invalidOption);
    }
    for (const tableName of ["a", "_", "A_1", "a".repeat(64), "select"]) {
      const store = openStore(":memory:", { tableName });
      await store.set(["k"], tableName);
      expect(await store.get(["k"])).toBe(tableName);
    }
  });

  test("other options are checked too", () => {
    for (const options of [
      { durability: "FULL" },
      { durability: "" },
      { durability: 1 },
      { relaxed: "_fedify" },
      { relaxed: ["_fedify"] },
      { relaxed: [[]] },
      { relaxed: [["a"], [1]] },
      { relaxed: {} },
      { busyTimeout: -1 },
      { busyTimeout: NaN },
      { busyTimeout: Infinity },
      { busyTimeout: "1" },
      { initialized: "yes" },
    ]) {
      expect(constructed(":memory:", options)).toThrow(invalidOption);
    }
    for (const options of [
      undefined,
      {},
      { durability: "full" },
      { durability: "normal" },
      { relaxed: [] },
      { relaxed: [["_fedify"], ["a", "b"]] },
      { busyTimeout: 0 },
      { busyTimeout: 60_000 },
      { initialized: false },
      { tableName: undefined },
    ]) {
      expect(constructed(":memory:", options)).not.toThrow();
    }
  });

  test("a constructor does no I/O", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    openStore(join(dirname(path), "no/such/directory.db"));
    expect(await readdir(dirname(path))).toEqual([]);
    await store.close();
    expect(await readdir(dirname(path))).toEqual([]);
  });

  test("stores with different tables share a file", async () => {
    const path = await temporaryFile();
    const one = openStore(path, { tableName: "one" });
    const other = openStore(path, { tableName: "Other_2" });
    await Promise.all([one.set(["k"], 1), other.set(["k"], 2)]);
    expect(await one.get(["k"])).toBe(1);
    expect(await other.get(["k"])).toBe(2);
    await one.drop();
    expect(await collect(one.list())).toEqual([]);
    expect(await collect(other.list())).toEqual([{ key: ["k"], value: 2 }]);
    const indexes = await query(
      path,
      "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE INDEX%'",
    );
    expect(indexes).toContainEqual({ name: "idx_Other_2_expires" });
  });

  test("drop deletes the table and its index", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    await store.set(["k"], 1);
    await store.drop();
    expect(await query(path, "SELECT * FROM sqlite_schema")).toEqual([]);
  });

  test("initialized: true creates no table", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { initialized: true });
    const error = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_BACKEND",
    );
    expect(error.message).toMatch(/no such table/);
    await expectRejection(() => store.set(["k"], 1), "ERR_KV_BACKEND");
    await expectRejection(() => store.list().next(), "ERR_KV_BACKEND");
    expect(await query(path, "SELECT * FROM sqlite_schema")).toEqual([]);
    await sql(path, officialTable);
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  });

  test("initialized: true has no effect after drop", async () => {
    const path = await temporaryFile();
    await sql(path, officialTable, insertRow('["k"]', "1"));
    const store = openStore(path, { initialized: true });
    await store.drop();
    expect(await store.get(["k"])).toBeUndefined();
    await store.set(["k"], 2);
    expect(await store.get(["k"])).toBe(2);
  });

  test("initialized: true uses the existing table", async () => {
    const path = await temporaryFile();
    await sql(path, officialTable, insertRow('["k"]', "1"));
    const store = openStore(path, { initialized: true });
    expect(await store.get(["k"])).toBe(1);
    await store.set(["l"], 2);
    expect(await keysOf(store.list())).toEqual([["k"], ["l"]]);
  });
});

describe("openKvStore", () => {
  test("it opens the store of a URL", async () => {
    const directory = await temporaryDirectory();
    const path = join(directory, "fedify.db");
    const memory = openKvStore("memory:");
    await memory.set(["k"], 1);
    expect(await memory.get(["k"])).toBe(1);
    await memory.close();
    for (const [i, url] of [
      `sqlite:${path}`,
      `sqlite://${path}`,
      "sqlite::memory:",
    ].entries()) {
      const store = openKvStore(url);
      expect(store).toBeInstanceOf(SqliteKvStore);
      await store.set(["k", String(i)], url);
      expect(await store.get(["k", String(i)])).toBe(url);
      await store.close();
    }
    expect(existsSync(":memory:")).toBe(false);
    const store = openStore(path);
    expect(await keysOf(store.list())).toEqual([
      ["k", "0"],
      ["k", "1"],
    ]);
  });

  test("a relative path is relative to the working directory", async () => {
    const directory = await temporaryDirectory();
    await ask(
      `
        process.chdir(data);
        const { openKvStore } = require(addon);
        const store = openKvStore("sqlite:fedify.db");
        await store.set(["k"], 1);
        await store.close();
        report("done");
      `,
      directory,
    );
    expect(existsSync(join(directory, "fedify.db"))).toBe(true);
  });

  test("it passes the options on", async () => {
    const path = await temporaryFile();
    const store = openKvStore(`sqlite:${path}`, {
      tableName: "other",
    } as never);
    await store.set(["k"], 1);
    await store.close();
    expect(await query(path, "SELECT value FROM other")).toEqual([
      { value: "1" },
    ]);
    expect(() =>
      openKvStore(`sqlite:${path}`, { tableName: "not a name" } as never),
    ).toThrow(expect.objectContaining({ code: "ERR_KV_INVALID_OPTION" }));
  });

  test("a path in a URL may be escaped", async () => {
    const directory = await temporaryDirectory();
    const names = { "a%20b": "a b", "c%3Fd%23e": "c?d#e", "%E6%BC%A2": "漢" };
    for (const [escaped, name] of Object.entries(names)) {
      const store = openKvStore(`sqlite://${directory}/${escaped}.db`);
      await store.set(["k"], 1);
      await store.close();
      expect(existsSync(join(directory, `${name}.db`))).toBe(true);
    }
  });

  test("it refuses invalid and unknown URLs", () => {
    for (const url of [
      "",
      "fedify.db",
      "ftp://x",
      "sqlite",
      "sqlite:",
      "sqlite://host/fedify.db",
      "sqlite:fedify.db?mode=ro",
      "sqlite:fedify.db#x",
      "sqlite:a%00b",
      "sqlite:a%ffb",
      "sqlite:file:fedify.db",
      1,
      undefined,
    ]) {
      expect(() => openKvStore(url as string)).toThrow(
        expect.objectContaining({ code: "ERR_KV_INVALID_OPTION" }),
      );
    }
  });
});

describe("a file that is open more than once in a process", () => {
  test("many stores can use it at once", async () => {
    const path = await temporaryFile();
    const patient = { busyTimeout: 60_000, durability: "normal" } as const;
    const handles = Array.from({ length: 50 }, () => openStore(path, patient));
    await Promise.all(
      handles.map((handle, i) => handle.set(["k", String(i)], i)),
    );
    const lists = await Promise.all(
      handles.map((handle) => keysOf(handle.list(["k"]))),
    );
    expect(lists.every((keys) => keys.length === 50)).toBe(true);
    await Promise.all(handles.map((handle) => handle.close()));
  });

  test("two stores can use it by two names", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    await store.set(["k"], 0);
    const other = join(dirname(path), "other.db");
    await symlink(path, other);
    const linked = openStore(other);
    await Promise.all(
      [store, linked].map(async (handle) => {
        for (let done = 0; done < 50;) {
          const value = (await handle.get<number>(["k"])) ?? 0;
          done += Number(await handle.cas(["k"], value, value + 1));
        }
      }),
    );
    expect(await store.get(["k"])).toBe(100);
    await store.close();
    // Closing one store must not release the locks of the other.
    await linked.set(["k"], "still");
    expect(await query(path, "SELECT value FROM fedify_kv")).toEqual([
      { value: '"still"' },
    ]);
  });

  test("it is refused while another SQLite library has it open", async () => {
    const path = await temporaryFile();
    const answer = await ask<Record<string, string>>(
      `
        const { DatabaseSync } = await import("node:sqlite");
        const database = new DatabaseSync(data);
        database.exec("CREATE TABLE theirs (a)");
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data);
        const refused = await store.set(["k"], 1).catch((error) => error);
        const again = await store.list().next().catch((error) => error);
        database.close();
        const fresh = new SqliteKvStore(data);
        await fresh.set(["fresh"], 1);
        await store.set(["same"], 2);
        const entries = await Array.fromAsync(store.list());
        await Promise.all([fresh.close(), store.close()]);
        report({
          code: refused.code,
          message: refused.message,
          again: again.code,
          entries: JSON.stringify(entries),
        });
      `,
      path,
    );
    expect(answer.code).toBe("ERR_KV_CONNECTION");
    expect(answer.message).toMatch(/process/i);
    expect(answer.message).toContain(path);
    expect(answer.again).toBe("ERR_KV_CONNECTION");
    expect(answer.entries).toBe(
      '[{"key":["fresh"],"value":1},{"key":["same"],"value":2}]',
    );
  });

  test("it is refused even if the other library opened another name", async () => {
    const path = await temporaryFile();
    const other = join(dirname(path), "other.db");
    await symlink(path, other);
    const code = await ask(
      `
        const { DatabaseSync } = await import("node:sqlite");
        const database = new DatabaseSync(data.path);
        database.exec("CREATE TABLE theirs (a)");
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data.other);
        report(await store.set(["k"], 1).catch((error) => error.code));
      `,
      { path, other },
    );
    expect(code).toBe("ERR_KV_CONNECTION");
  });

  test("other files of another library have no effect", async () => {
    const path = await temporaryFile();
    const value = await ask(
      `
        const { DatabaseSync } = await import("node:sqlite");
        const database = new DatabaseSync(data + ".theirs");
        database.exec("CREATE TABLE theirs (a)");
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data);
        await store.set(["k"], 1);
        report(await store.get(["k"]));
        await store.close();
      `,
      path,
    );
    expect(value).toBe(1);
  });
});

describe.skipIf(!existsSync("/proc/self/fd"))("close releases files", () => {
  /** The names of this process's open files that start with `path`. */
  async function openFiles(path: string): Promise<string[]> {
    const descriptors = await readdir("/proc/self/fd");
    const names = await Promise.all(
      descriptors.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => "")),
    );
    const mapped = await readFile("/proc/self/maps", "utf8");
    return [...names, ...mapped.split("\n").map((line) => line.slice(73))]
      .filter((name) => name.startsWith(path))
      .toSorted();
  }

  test("after reads, writes and lists", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    await store.set(["k"], "x".repeat(10_000));
    await store.get(["k"]);
    await collect(store.list());
    expect(await openFiles(path)).not.toEqual([]);
    await store.close();
    expect(await openFiles(path)).toEqual([]);
    expect(await readdir(dirname(path))).toEqual(["fedify.db"]);
  });

  test("with unfinished iterators", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    await Promise.all(
      Array.from({ length: 500 }, (_, i) => store.set(["k", String(i)], i)),
    );
    const lists = Array.from({ length: 8 }, () => store.list({ pageSize: 1 }));
    await Promise.all(lists.slice(0, 6).map((list) => list.next()));
    const settled = Promise.allSettled(
      lists.slice(0, 3).map((list) => list.next()),
    );
    await store.close();
    expect(await openFiles(path)).toEqual([]);
    await settled;
  });

  test("and ends the store's threads", async () => {
    const threads = async () => (await readdir("/proc/self/task")).length;
    const path = await temporaryFile();
    const live = async () => {
      const store = openStore(path);
      await store.set(["k"], 1);
      await store.list().next();
      await store.close();
    };
    await live();
    const before = await threads();
    for (let i = 0; i < 20; i += 1) {
      await live();
    }
    // A thread may take a moment to end.
    await expect.poll(threads).toBeLessThan(before + 5);
  });

  test("after a read that was not awaited", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    await store.set(["k"], 1);
    const settled = Promise.allSettled([store.get(["k"])]);
    await store.close();
    expect(await openFiles(path)).toEqual([]);
    await settled;
  });

  test("after a database could not be opened", async () => {
    const path = await temporaryFile();
    await sql(path, "CREATE TABLE fedify_kv (theirs)");
    const store = openStore(path);
    await expectRejection(() => store.set(["k"], 1), "ERR_KV_BACKEND");
    await store.close();
    expect(await openFiles(path)).toEqual([]);
  });

  test("and the file can be opened again", async () => {
    const path = await temporaryFile();
    for (let i = 0; i < 5; i += 1) {
      const store = openStore(path);
      expect(await store.get(["k"])).toBe(i === 0 ? undefined : i - 1);
      await store.set(["k"], i);
      await store.close();
    }
  });
});

describe("lists that the official package gets wrong", () => {
  test("prefixes are not patterns", async () => {
    const store = openStore(await temporaryFile());
    for (const part of ["alice", "Alice", "_fedify", "Xfedify", "100%"]) {
      await store.set([part, "x"], 1);
    }
    await store.set(["100abc", "x"], 1);
    for (const part of ["alice", "_fedify", "100%"]) {
      expect(await keysOf(store.list([part]))).toEqual([[part, "x"]]);
    }
  });

  test("children of parts that JSON escapes are listed", async () => {
    const store = openStore(await temporaryFile());
    for (const part of ['say "hi"', "back\\slash", "new\nline", "\u0001"]) {
      await store.set([part, "x"], part);
      expect(await collect(store.list([part]))).toEqual([
        { key: [part, "x"], value: part },
      ]);
    }
  });
});
