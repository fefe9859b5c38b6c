// Runs the examples of the README.
import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import * as addon from "../index.js";
import { temporaryFile } from "./support/sqlite.mts";

const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");

/** The only TypeScript example that contains a piece of code. */
function example(piece: string): string {
  const examples = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(
    ([, code]) => code ?? "",
  );
  const found = examples.filter((code) => code.includes(piece));
  expect(found).toHaveLength(1);
  // The tests pass what is imported as arguments instead.
  return (found[0] ?? "").replaceAll(/^import .*\n/gm, "");
}

const AsyncFunction = (async () => {}).constructor as new (
  ...args: string[]
) => (...args: unknown[]) => Promise<unknown>;

test("the example of all methods runs", async () => {
  const store = new addon.MemoryKvStore();
  const key = ["_fedify", "publicKey", "https://example.com/#key"] as const;
  await store.set(key, {});
  await store.set(["traces", "1", "2"], {});
  const lines: unknown[][] = [];
  const console = { log: (...line: unknown[]) => lines.push(line) };
  const { signal } = new AbortController();
  const run = new AsyncFunction(
    "store",
    "console",
    "signal",
    example("store.cas"),
  );
  await run(store, console, signal);
  expect(lines).toEqual([[key, {}], [["traces", "1", "2"]]]);
  await expect(store.get(key)).rejects.toThrow("closed");
});

test("the examples of options and of openKvStore run", async () => {
  const path = await temporaryFile();
  const options = example("busyTimeout: 5000").replace("fedify.db", path);
  const url = example("KV_URL").replace("fedify.db", path);
  const run = new AsyncFunction(
    "SqliteKvStore",
    "openKvStore",
    `const first = ${options}\n${url}\nreturn [first, kv];`,
  );
  const { SqliteKvStore, openKvStore } = addon;
  const [first, kv] = (await run(SqliteKvStore, openKvStore)) as [
    addon.SqliteKvStore,
    addon.SqliteKvStore,
  ];
  await first.set(["k"], 1);
  expect(await kv.get(["k"])).toBe(1);
  await Promise.all([first.close(), kv.close()]);
});
