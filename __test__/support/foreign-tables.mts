// Tables that other programs made, for tests of the stores that use them.
import { expect } from "vitest";
import type { KvKey } from "@fedify/fedify";
import type { openKvStore } from "../../index.js";
import { page } from "../docs/markdown.mts";
import { collect } from "./collect.mts";
import { expectRejection } from "./rejection.mts";

/** The SQL in docs/migrate.md that takes over a table. */
export function documented(section: string): string[] {
  const blocks = page("docs/migrate.md").blocks.filter(
    (block) => block.section === section && block.language === "sql",
  );
  expect(blocks).not.toEqual([]);
  return blocks
    .flatMap(({ code }) => code.split(";\n"))
    .filter((statement) => statement.trim() !== "");
}

type Store = ReturnType<typeof openKvStore>;

const upper = ["Ä", "B "] as const satisfies KvKey;
const lower = ["ä", "b "] as const satisfies KvKey;

/** Expects that all operations work, and keep similar keys apart. */
export async function expectToWork(store: Store): Promise<void> {
  await store.initialize();
  await store.set(lower, 1);
  expect(await store.get(upper)).toBeUndefined();
  await store.set(lower, { a: [1.5, "1", null, "😀"] });
  await store.set(upper, "1");
  expect(await store.get(lower)).toEqual({ a: [1.5, "1", null, "😀"] });
  expect(await store.cas(upper, "1", "2")).toBe(true);
  expect(await store.cas(lower, undefined, "2")).toBe(false);
  const many = Array.from({ length: 20 }, (_, i) => ["many", `${i}`] as const);
  await Promise.all(many.map((key, i) => store.set(key, i)));
  await Promise.all(many.map((key, i) => store.set(key, i)));
  expect(await Promise.all(many.map((key) => store.get(key)))).toEqual(
    many.map((_, i) => i),
  );
  expect(await collect(store.list(["many"]))).toHaveLength(20);
  expect(await collect(store.list())).toHaveLength(22);
  await Promise.all(many.slice(10).map((key) => store.delete(key)));
  expect(await store.clear(["many"])).toBe(10);
  const before = Date.now();
  await store.set(["ends"], 1, { ttl: { milliseconds: 200 } });
  await expect.poll(() => store.get(["ends"])).toBeUndefined();
  expect(Date.now() - before).toBeGreaterThan(190);
  await store.delete(upper);
  expect(await store.get(lower)).toEqual({ a: [1.5, "1", null, "😀"] });
}

/**
 * Expects that all operations are refused, with these words. Returns the
 * statement that the message recommends, if there is one.
 */
export async function expectRefusal(
  store: Store,
  words: RegExp,
): Promise<string | undefined> {
  let message = "";
  for (const call of [
    () => store.initialize(),
    () => store.get(lower),
    () => store.set(lower, 1),
    () => store.delete(lower),
    () => store.cas(lower, undefined, 1),
    () => store.clear(lower),
    () => store.list().next(),
    () => store.drop(),
  ]) {
    ({ message } = await expectRejection(call, "ERR_KV_BACKEND"));
    expect(message).toMatch(words);
  }
  const [, statement] = / To mend it, run: (.*)$/s.exec(message) ?? [];
  return statement;
}
