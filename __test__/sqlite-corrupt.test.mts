// Rows that don't follow the format. `get` names them, lists skip them, and
// `set` repairs them.
import { open } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { collect } from "./support/collect.mts";
import { expectRejection, rejection } from "./support/rejection.mts";
import {
  type Statement,
  insertRow,
  insertRows,
  officialTable,
  openStore,
  query,
  sql,
  temporaryFile,
} from "./support/sqlite.mts";

/** Texts that are not a single JSON value. */
const badValues: Record<string, string | { hex: string }> = {
  "text that is not JSON": "not json",
  "an empty text": "",
  blanks: "  ",
  "half an object": '{"a":',
  "two values": "1,2",
  "a value and another text": "1 2",
  "text that would close its entry": '1},"x":2',
  "text that would forge an entry":
    '1},"done":false},{"value":{"key":["forged"],"value":2',
  "text that would forge the end": '1},"done":true}],[{"value":{"key":["a"',
  "text that would change its key": '1,"key":["forged"]',
  "a comment": "/* */ 1",
  "a JavaScript literal": "NaN",
  "single quotes": "'a'",
  "a leading zero": "01",
  "a trailing comma": "[1,]",
  "a raw newline in a string": '"a\nb"',
  "a byte order mark": "\ufeff1",
  "a value and NUL": { hex: "3100" },
  "a BLOB that is not text": { hex: "00ff" },
};

async function corrupted(...statements: Statement[]): Promise<string> {
  const path = await temporaryFile();
  await sql(
    path,
    officialTable,
    insertRow('["a"]', '"before"'),
    insertRow('["z"]', '"after"'),
    ...statements,
  );
  return path;
}

const good = [
  { key: ["a"], value: "before" },
  { key: ["z"], value: "after" },
];

describe("a value that is not JSON", () => {
  for (const [name, bad] of Object.entries(badValues)) {
    test(`${name} is reported by get, skipped by list, and repaired by set`, async () => {
      const path = await corrupted(insertRow('["bad"]', bad));
      const store = openStore(path);
      const error = await expectRejection(
        () => store.get(["bad"]),
        "ERR_KV_CORRUPT",
      );
      expect(error.message).toContain('["bad"]');
      for (const pageSize of [1, 2, 64]) {
        const list = store.list({ pageSize });
        expect(await collect(list)).toEqual(good);
        expect(list.skipped).toBe(1);
      }
      expect(await store.get(["a"])).toBe("before");
      // cas can't compare a value that it can't read, so it must not swap.
      const swapped = await store.cas(["bad"], 1, 2).catch((reason) => reason);
      expect([false, "ERR_KV_CORRUPT"]).toContain(swapped.code ?? swapped);
      const made = await store
        .cas(["bad"], undefined, 2)
        .catch((reason) => reason);
      expect([false, "ERR_KV_CORRUPT"]).toContain(made.code ?? made);
      await store.set(["bad"], "healed");
      expect(await store.get(["bad"])).toBe("healed");
      const list = store.list();
      expect(await collect(list)).toHaveLength(3);
      expect(list.skipped).toBe(0);
    });
  }

  test("it rejects its own get, but no other operation", async () => {
    const path = await corrupted(insertRow('["bad"]', "not json"));
    const store = openStore(path);
    const settled = await Promise.allSettled([
      store.get(["a"]),
      store.get(["bad"]),
      store.get(["z"]),
      store.set(["b"], 1),
    ]);
    expect(settled.map(({ status }) => status)).toEqual([
      "fulfilled",
      "rejected",
      "fulfilled",
      "fulfilled",
    ]);
  });

  test("delete and clear delete it", async () => {
    const path = await corrupted(
      insertRow('["bad"]', "not json"),
      insertRow('["bad","x"]', ""),
    );
    const store = openStore(path);
    await store.delete(["bad"]);
    expect(await store.get(["bad"])).toBeUndefined();
    expect(await store.clear(["bad"])).toBe(1);
    expect(await collect(store.list())).toEqual(good);
  });

  test("it is not reported after it has expired", async () => {
    const path = await corrupted(insertRow('["bad"]', "not json", 1));
    const store = openStore(path);
    expect(await store.get(["bad"])).toBeUndefined();
    const list = store.list();
    expect(await collect(list)).toEqual(good);
    expect(list.skipped).toBe(0);
    expect(await store.cas(["bad"], undefined, 1)).toBe(true);
  });

  test("whole pages of such values hide no other entry", async () => {
    const path = await corrupted(insertRows("bad", 300, "not json"));
    const store = openStore(path);
    for (const pageSize of [1, 7, 64, 1_024]) {
      const list = store.list({ pageSize });
      expect(await collect(list)).toEqual(good);
      expect(list.skipped).toBe(300);
    }
  });

  test("text that is not UTF-8 is corrupt", async () => {
    const path = await corrupted([
      "INSERT INTO fedify_kv VALUES ('[\"bad\"]', CAST(? AS TEXT), 1, NULL)",
      { hex: "22ff6122" },
    ]);
    const store = openStore(path);
    await expectRejection(() => store.get(["bad"]), "ERR_KV_CORRUPT");
    const list = store.list();
    expect(await collect(list)).toEqual(good);
    expect(list.skipped).toBe(1);
  });

  test("NULL is corrupt, in a table that allows it", async () => {
    const path = await temporaryFile();
    await sql(
      path,
      `CREATE TABLE fedify_kv (key TEXT PRIMARY KEY, value TEXT,
         created INTEGER, expires INTEGER)`,
      insertRow('["a"]', '"before"'),
      insertRow('["bad"]', null),
      insertRow('["z"]', '"after"'),
    );
    const store = openStore(path);
    await expectRejection(() => store.get(["bad"]), "ERR_KV_CORRUPT");
    const list = store.list();
    expect(await collect(list)).toEqual(good);
    expect(list.skipped).toBe(1);
    await store.set(["bad"], 1);
    expect(await store.get(["bad"])).toBe(1);
  });
});

describe("a key that is not JSON", () => {
  const badKeys = [
    "",
    "plain",
    "null",
    "[]",
    "[1]",
    "[null]",
    '["b"',
    '["b",',
    '["b",]',
    '["b"]x',
    '["b","c"],["d"]',
    '["b",1]',
    '["b",["c"]]',
    '{"b":1}',
    '"b"',
    '["b","\\ud800x"',
  ];

  test("it is skipped and counted", async () => {
    const path = await corrupted(
      ...badKeys.map((key) => insertRow(key, "1")),
      insertRow('["b","good"]', '"good"'),
      insertRow(null, "1"),
    );
    const store = openStore(path);
    const all = [
      { key: ["a"], value: "before" },
      { key: ["b", "good"], value: "good" },
      { key: ["z"], value: "after" },
    ];
    for (const pageSize of [1, 3, 64]) {
      const list = store.list({ pageSize });
      expect(await collect(list)).toEqual(all);
      // A key of NULL is in no range, so it may not be counted.
      expect([badKeys.length, badKeys.length + 1]).toContain(list.skipped);
    }
    expect(await collect(store.list(["b"]))).toEqual([all[1]]);
  });

  test("it forges no entry", async () => {
    const path = await corrupted(
      insertRow('["b"],"value":1},"done":false},{"value":{"key":["c"]', "1"),
    );
    const list = openStore(path).list();
    expect(await collect(list)).toEqual(good);
    expect(list.skipped).toBe(1);
  });

  test("it is not deleted", async () => {
    const path = await corrupted(insertRow("plain", "1"));
    const store = openStore(path);
    await collect(store.list());
    await store.set(["b"], 1);
    const rows = await query(path, "SELECT key FROM fedify_kv ORDER BY key");
    expect(rows).toContainEqual({ key: "plain" });
  });
});

describe("an invalid expiry time", () => {
  test("it causes no crash, and hides no other entry", async () => {
    const path = await corrupted(
      insertRow('["far"]', '"far"', Number.MAX_SAFE_INTEGER),
      [
        "INSERT INTO fedify_kv VALUES ('[\"fraction\"]', '1', 1, ?)",
        Date.now() + 3_600_000.5,
      ],
      ["INSERT INTO fedify_kv VALUES ('[\"text\"]', '1', 1, 'soon')"],
    );
    const store = openStore(path);
    expect(await store.get(["far"])).toBe("far");
    // The official package writes fractions, because its ttls may have them.
    expect(await store.get(["fraction"])).toBe(1);
    await store.get(["text"]).catch(() => {});
    const entries = await collect(store.list());
    expect(entries).toEqual(expect.arrayContaining(good));
    await store.set(["text"], 2);
    expect(await store.get(["text"])).toBe(2);
  });
});

describe("a damaged file", () => {
  test("a list rejects with an error that names the damage", async () => {
    const path = await corrupted(
      insertRows("k", 2_000, `"${"x".repeat(100)}"`),
    );
    const file = await open(path, "r+");
    const { size } = await file.stat();
    for (let page = 3; page * 4_096 < size; page += 2) {
      await file.write(Buffer.alloc(4_096, 0x5a), 0, 4_096, page * 4_096);
    }
    await file.close();
    const store = openStore(path);
    const error = await rejection(() => collect(store.list()));
    expect(error.code).toMatch(/^ERR_KV_(BACKEND|CORRUPT|CONNECTION)$/);
    expect(error.message).toMatch(/malformed|corrupt/);
    await store.close();
  });
});

describe("keys that are not UTF-8", () => {
  /** Rows under `["p"]`: broken keys among 600 good ones. */
  async function brokenKeys(): Promise<string> {
    const path = await temporaryFile();
    // `["p",` and a byte that starts no character: after all good keys.
    const hexes = ["5b2270222cff", "5b2270222cff00", "5b2270222cfffe"];
    await sql(
      path,
      officialTable,
      insertRows("p", 600, "1"),
      insertRow('["q"]', "2"),
      ...hexes.map((hex): Statement => [
        "INSERT INTO fedify_kv VALUES (CAST(? AS TEXT), '3', 1, NULL)",
        { hex },
      ]),
    );
    return path;
  }

  test("don't end a list early, and are counted", async () => {
    const store = openStore(await brokenKeys());
    for (const pageSize of [1, 2, 64, 600, 601]) {
      const list = store.list({ pageSize });
      const entries = await collect(list);
      expect(entries.length).toBe(601);
      expect(entries.at(-1)).toEqual({ key: ["q"], value: 2 });
      expect(list.skipped).toBe(3);
    }
  });

  test("are deleted and counted by clear", async () => {
    const path = await brokenKeys();
    const store = openStore(path);
    expect(await store.clear(["p"])).toBe(603);
    expect(await collect(store.list())).toEqual([{ key: ["q"], value: 2 }]);
    const [row] = await query(path, "SELECT count(*) AS n FROM fedify_kv");
    expect(row?.n).toBe(1);
  });
});
