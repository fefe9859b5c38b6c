// Which entries list yields, and in which order.
import { expect } from "vitest";
import { collect, inTextOrder, keysOf } from "../support/collect.mts";
import { hostileKeys } from "../support/hostile.mts";
import type { ContractTest, Store } from "./fixture.mts";

type Key = readonly [string, ...string[]];

async function fill(store: Store, keys: readonly Key[]): Promise<void> {
  await Promise.all(keys.map((key) => store.set(key, JSON.stringify(key))));
}

export function describeList(test: ContractTest): void {
  test("an empty store lists nothing", async ({ store }) => {
    expect(await collect(store.list())).toEqual([]);
    expect(await collect(store.list([]))).toEqual([]);
    expect(await collect(store.list(["a"]))).toEqual([]);
  });

  test("an entry has exactly a key and a value", async ({ store }) => {
    await store.set(["a", "b"], { c: 1 });
    const result = await store.list().next();
    expect(Object.keys(result).toSorted()).toEqual(["done", "value"]);
    expect(result.done).toBe(false);
    const [entry] = await collect(store.list());
    expect(Reflect.ownKeys(entry as object)).toEqual(["key", "value"]);
    expect(entry).toStrictEqual({ key: ["a", "b"], value: { c: 1 } });
    expect(Array.isArray(entry?.key)).toBe(true);
  });

  test("a missing, empty or undefined prefix lists all entries", async ({
    store,
  }) => {
    await fill(store, [["a"], ["b", "c"], [""]]);
    const all = await collect(store.list());
    expect(all).toHaveLength(3);
    expect(await collect(store.list([]))).toEqual(all);
    expect(await collect(store.list(undefined))).toEqual(all);
    expect(await collect(store.list({}))).toEqual(all);
    expect(await collect(store.list({ prefix: [] }))).toEqual(all);
    expect(await collect(store.list({ prefix: undefined } as never))).toEqual(
      all,
    );
  });

  test("a prefix may be an argument or an option", async ({ store }) => {
    await fill(store, [["a"], ["a", "b"], ["b"]]);
    const own = await collect(store.list(["a"]));
    expect(own).toHaveLength(2);
    expect(await collect(store.list({ prefix: ["a"] }))).toEqual(own);
  });

  test("a prefix matches itself and keys that extend it by whole parts", async ({
    store,
  }) => {
    const inside: Key[] = [
      ["a", "b"],
      ["a", "b", ""],
      ["a", "b", "c"],
      ["a", "b", "c", "d"],
      ["a", "b", "\u{10ffff}"],
      ["a", "b", "!"],
    ];
    const outside: Key[] = [
      ["a"],
      ["a", ""],
      ["a", "bc"],
      ["a", "b,"],
      ["a", 'b"'],
      ["a", "b]"],
      ["a", "B"],
      ["a", "B", "c"],
      ["A", "b", "c"],
      ["a,b"],
      ["a", "ab"],
      ["b"],
      ["ab"],
      ["x", "a", "b"],
    ];
    await fill(store, [...inside, ...outside]);
    expect(inTextOrder(await keysOf(store.list(["a", "b"])))).toEqual(
      inTextOrder(inside),
    );
  });

  test("every hostile prefix lists exactly its entries", async ({ store }) => {
    await fill(store, hostileKeys);
    const all = await keysOf(store.list());
    for (const prefix of hostileKeys) {
      const expected = all.filter((key) =>
        prefix.every((part, i) => key[i] === part),
      );
      expect(await keysOf(store.list(prefix)), JSON.stringify(prefix)).toEqual(
        expected,
      );
    }
  });

  test("prefixes that the official stores confuse are kept apart", async ({
    store,
  }) => {
    await fill(store, [
      ["alice", "1"],
      ["Alice", "1"],
      ["_fedify", "1"],
      ["Xfedify", "1"],
      ["100%", "1"],
      ["100abc", "1"],
      ['say "hi"', "1"],
      ["back\\slash", "1"],
      ["new\nline", "1"],
      ["a:", "b"],
    ]);
    for (const part of [
      "alice",
      "_fedify",
      "100%",
      'say "hi"',
      "back\\slash",
      "new\nline",
    ]) {
      expect(await keysOf(store.list([part]))).toEqual([[part, "1"]]);
    }
    expect(await keysOf(store.list(["a:"]))).toEqual([["a:", "b"]]);
  });

  test("the order is the same on each run", async ({ store }) => {
    await fill(store, hostileKeys);
    const order = await keysOf(store.list());
    expect(await keysOf(store.list())).toEqual(order);
    expect(await keysOf(store.list({ pageSize: 1 }))).toEqual(order);
    expect(await keysOf(store.list({ pageSize: 1_024 }))).toEqual(order);
  });

  test("the order depends on the keys, not on when they were set", async ({
    store,
  }) => {
    await fill(store, hostileKeys);
    const order = await keysOf(store.list());
    await store.drop();
    for (const key of order.toReversed()) {
      await store.set(key as Key, "again");
    }
    expect(await keysOf(store.list())).toEqual(order);
  });

  test("the order is the same for another handle", async ({
    store,
    another,
  }) => {
    await fill(store, hostileKeys);
    expect(await collect(another.list())).toEqual(await collect(store.list()));
  });

  test("keys that differ in a part of fixed length are listed in its order", async ({
    store,
  }) => {
    const parts = ["00", "01", "10", "19", "9a", "a0", "ab", "b0", "zz"];
    const keys = parts.map((part) => ["x", part, "end"] as const);
    const shuffled = [...keys.slice(4), ...keys.slice(0, 4)].toReversed();
    for (const key of shuffled) await store.set(key, 1);
    for (const pageSize of [1, 2, 64]) {
      const list = store.list({ prefix: ["x"], pageSize });
      expect(await keysOf(list)).toEqual(keys);
    }
  });

  test("timestamps are listed in order, as logs need", async ({ store }) => {
    const stamps = Array.from(
      { length: 200 },
      (_, i) => ["log", new Date(i * 86_400_000).toISOString(), "x"] as const,
    );
    for (const key of stamps.toReversed()) {
      await store.set(key, 1);
    }
    expect(await keysOf(store.list(["log"]))).toEqual(stamps);
  });

  test("a list yields current values and no deleted entries", async ({
    store,
  }) => {
    await fill(store, [["a"], ["b"], ["c"]]);
    await store.delete(["b"]);
    await store.set(["a"], "newer");
    expect(await collect(store.list())).toEqual([
      { key: ["a"], value: "newer" },
      { key: ["c"], value: '["c"]' },
    ]);
  });

  test("skipped is zero if no entry is corrupt", async ({ store }) => {
    await fill(store, hostileKeys);
    const list = store.list();
    expect(list.skipped).toBe(0);
    await collect(list);
    expect(list.skipped).toBe(0);
  });
}
