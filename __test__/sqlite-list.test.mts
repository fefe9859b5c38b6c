// Long lists: they use little memory, and delay no other operation.
import { stat } from "node:fs/promises";
import { expect, test } from "vitest";
import { ask } from "./support/child.mts";
import { collect } from "./support/collect.mts";
import {
  insertRows,
  officialTable,
  openStore,
  sql,
  temporaryFile,
} from "./support/sqlite.mts";

const megabyte = 2 ** 20;

/** A database of 100 MB: 10,000 entries of 10 KB. */
async function largeFile(): Promise<string> {
  const path = await temporaryFile();
  const value = JSON.stringify("x".repeat(10_000));
  await sql(path, officialTable, insertRows("k", 10_000, value));
  return path;
}

test("memory is bounded by a few pages, for fast and slow readers", async () => {
  const path = await largeFile();
  const grown = await ask<Record<string, number>>(
    `
      const { SqliteKvStore } = require(addon);
      const { readFileSync } = await import("node:fs");
      // Pages that are mapped from the file don't count: the system can free
      // them.
      const used = () => Number(
        /RssAnon:\\s+(\\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1],
      ) * 1024;
      const store = new SqliteKvStore(data);
      await store.get(["k", "1"]);
      gc();
      const before = used();
      const paused = store.list({ pageSize: 1024 });
      await paused.next();
      await new Promise((resolve) => setTimeout(resolve, 300));
      const atPause = used() - before;
      let most = 0;
      let n = 0;
      for await (const _ of store.list()) {
        n += 1;
        if (n % 1_000 === 0) {
          gc();
          most = Math.max(most, used() - before);
        }
      }
      await store.close();
      report({ atPause, most, n });
    `,
    path,
    ["--expose-gc"],
  );
  expect(grown.n).toBe(10_000);
  expect(grown.atPause).toBeLessThan(30 * megabyte);
  expect(grown.most).toBeLessThan(40 * megabyte);
});

test("a paused list does not keep the log from being truncated", async () => {
  const path = await temporaryFile();
  await sql(path, officialTable, insertRows("k", 5_000, '"some text"'));
  const store = openStore(path, { durability: "normal" });
  const list = store.list({ pageSize: 1 });
  await list.next();
  const value = "x".repeat(10_000);
  for (let round = 0; round < 60; round += 1) {
    await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        store.set(["l", String(i)], `${round}${value}`),
      ),
    );
  }
  expect((await stat(`${path}-wal`)).size).toBeLessThan(20 * megabyte);
  expect(await collect(list)).toHaveLength(5_099);
});

test("a long list delays neither reads nor writes", async () => {
  const path = await temporaryFile();
  await sql(path, officialTable, insertRows("k", 100_000, '"some text"'));
  const store = openStore(path);
  for (let i = 0; i < 5; i += 1) {
    const list = store.list();
    const first = await list.next();
    await store.set(["new"], i);
    expect(await store.get(["new"])).toBe(i);
    const rest = await collect(list);
    expect(first.done).toBe(false);
    // The entry that was created later sorts after all others.
    expect(rest.filter(({ key }) => key[0] === "k")).toHaveLength(99_999);
  }
});

test("the cost of a prefix depends only on the number of matches", async () => {
  const path = await temporaryFile();
  await sql(
    path,
    officialTable,
    insertRows("a", 100_000, "1"),
    insertRows("m", 3, "1"),
    insertRows("z", 100_000, "1"),
  );
  const store = openStore(path);
  const timed = async (run: () => Promise<unknown>) => {
    const started = performance.now();
    await run();
    return performance.now() - started;
  };
  const whole = await timed(() => collect(store.list()));
  const few: number[] = [];
  for (let i = 0; i < 10; i += 1) {
    const short = () => collect(store.list(["m"]));
    few.push(await timed(async () => expect(await short()).toHaveLength(3)));
  }
  // A scan would take as long as the list of all entries.
  expect(Math.min(...few)).toBeLessThan(whole / 10);
});
