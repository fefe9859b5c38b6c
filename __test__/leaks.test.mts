// A process that runs for weeks: what is done with is given back.
import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { ask } from "./support/child.mts";
import { temporaryFile } from "./support/sqlite.mts";

/** What an operation of each kind does, again and again. */
const operations: Record<string, string> = {
  "get and set": `
    await store.set(["k", String(i % 100)], value);
    await store.get(["k", String(i % 100)]);
  `,
  "many in flight": `
    await Promise.all(Array.from({ length: 4 }, (_, n) =>
      n % 2 ? store.get(["k", String(n)]) : store.set(["k", String(n)], value)));
  `,
  "cas and delete": `
    await store.cas(["k"], undefined, value);
    await store.cas(["k"], [value], value);
    await store.cas(["k"], value, undefined);
    await store.delete(["k"]);
  `,
  "a short life": `
    await store.set(["k", String(i)], value, { ttl: { milliseconds: 1 } });
  `,
  "refused calls": `
    await store.get([]).catch(() => {});
    await store.set(["k"], 1n).catch(() => {});
    await store.set(["k"], value, { ttl: 1 }).catch(() => {});
    await store.list([1]).next().catch(() => {});
  `,
  "lists, read and left": `
    if (i < 300) await store.set(["k", String(i)], value);
    if (i % 100 === 0) await Array.fromAsync(store.list());
    for await (const _ of store.list({ pageSize: 5 })) break;
    void store.list().return();
  `,
};

const stores = {
  memory: "new MemoryKvStore()",
  sqlite: 'new SqliteKvStore(data, { durability: "normal" })',
};

const times = 4_000;

/** What each of so many operations may leave: half its value. */
const bound = times * 4_000;

/**
 * Runs one operation many times, again and again: the least that a run added.
 * What leaks adds as much each time; how a heap settles differs.
 */
function growth(path: string, open: string, operation: string, wait: number) {
  return ask<number>(
    `
      const { MemoryKvStore, SqliteKvStore } = require(addon);
      const { readFileSync } = await import("node:fs");
      const store = ${open};
      const value = { text: "é".repeat(4_000) };
      const run = async () => {
        for (let i = 0; i < ${times}; i += 1) {
          ${operation}
          if (i % 100 === 0) await new Promise(setImmediate);
        }
        await new Promise((resolve) => setTimeout(resolve, ${wait}));
        gc();
        const status = readFileSync("/proc/self/status", "utf8");
        return Number(/RssAnon:\\s+(\\d+)/.exec(status)[1]) * 1024;
      };
      let before = await run();
      let least = Infinity;
      for (let i = 0; i < 3 && least > 1e6; i += 1) {
        const after = await run();
        least = Math.min(least, after - before);
        before = after;
      }
      await store.close();
      report(least);
    `,
    path,
    ["--expose-gc"],
  );
}

for (const [name, open] of Object.entries(stores)) {
  for (const [kind, operation] of Object.entries(operations)) {
    test.skipIf(!existsSync("/proc/self/status"))(
      `${name}: ${kind}`,
      async () => {
        const path = await temporaryFile();
        // What expires goes a little later.
        const wait = kind === "a short life" ? 1_100 : 50;
        expect(await growth(path, open, operation, wait)).toBeLessThan(bound);
      },
    );
  }
}
