// compact(): the file gets smaller, and no entry changes.
import { stat } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { openKvStore } from "../index.js";
import { collect } from "./support/collect.mts";
import { lockedBy, released } from "./support/lock.mts";
import { expectRejection } from "./support/rejection.mts";
import {
  officialTable,
  openStore,
  query,
  sql,
  temporaryFile,
} from "./support/sqlite.mts";

const size = async (path: string) => (await stat(path)).size;

/** Writes so many entries of 10 KB. */
async function fill(store: ReturnType<typeof openStore>, count: number) {
  const value = "x".repeat(10_000);
  const keys = Array.from({ length: count }, (_, i) => String(i));
  await Promise.all(keys.map((key) => store.set(["large", key], value)));
}

describe("compact", () => {
  test("gives the space of deleted entries back", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    await store.set(["kept"], { a: 1 });
    await fill(store, 1000);
    await store.clear(["large"]);
    await store.compact();
    expect(await size(path)).toBeLessThan(200_000);
    expect(await size(`${path}-wal`)).toBe(0);
    expect(await collect(store.list())).toEqual([
      { key: ["kept"], value: { a: 1 } },
    ]);
    await store.set(["after"], 2);
    expect(await store.get(["after"])).toBe(2);
    const [row] = await query(path, "PRAGMA integrity_check");
    expect(row?.integrity_check).toBe("ok");
  });

  test("in a file with incremental vacuum too", async () => {
    const path = await temporaryFile();
    await sql(path, "PRAGMA auto_vacuum = INCREMENTAL", officialTable);
    const store = openStore(path);
    await fill(store, 1000);
    await store.clear(["large"]);
    await store.compact();
    expect(await size(path)).toBeLessThan(200_000);
    const [row] = await query(path, "PRAGMA auto_vacuum");
    expect(row?.auto_vacuum).toBe(2);
  });

  test("keeps the order of calls, and reads go on", async () => {
    const store = openStore(await temporaryFile());
    await fill(store, 300);
    const list = collect(store.list(["large"]));
    const calls = [
      store.set(["k"], 1),
      store.compact(),
      store.cas(["k"], 1, 2),
      store.get(["k"]),
    ];
    expect(await Promise.all(calls)).toEqual([undefined, undefined, true, 2]);
    expect((await list).length).toBe(300);
  });

  test("works before anything else, and in memory", async () => {
    await openStore(await temporaryFile()).compact();
    const store = openStore(":memory:");
    await fill(store, 100);
    await store.clear(["large"]);
    await store.compact();
    expect(await collect(store.list())).toEqual([]);
    const opened = openKvStore("sqlite::memory:") as typeof store;
    await opened.compact();
    await opened.close();
    await expectRejection(() => opened.compact(), "ERR_KV_CLOSED");
  });

  test("is given up when another process holds the lock", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { busyTimeout: 100 });
    await store.set(["k"], 1);
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    await expectRejection(() => store.compact(), "ERR_KV_TIMEOUT");
    expect(await store.get(["k"])).toBe(1);
    await released(child);
    await store.compact();
  });
});
