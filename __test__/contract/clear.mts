// clear deletes a prefix and all keys under it, and returns their number.
import { expect } from "vitest";
import { inTextOrder, keysOf } from "../support/collect.mts";
import { hostileKeys } from "../support/hostile.mts";
import { expectRejection } from "../support/rejection.mts";
import type { ContractTest } from "./fixture.mts";

export function describeClear(test: ContractTest): void {
  test("returns zero if nothing matches", async ({ store }) => {
    expect(await store.clear(["a"])).toBe(0);
    await store.set(["b"], 1);
    expect(await store.clear(["a"])).toBe(0);
    expect(await store.get(["b"])).toBe(1);
  });

  test("deletes the prefix and keys that extend it by whole parts", async ({
    store,
  }) => {
    for (const key of [
      ["a", "b"],
      ["a", "b", "c"],
      ["a", "b", ""],
      ["a"],
      ["a", "bc"],
      ["a", "B"],
      ["a", "b,"],
    ]) {
      await store.set(key as [string], 1);
    }
    expect(await store.clear(["a", "b"])).toBe(3);
    expect(inTextOrder(await keysOf(store.list()))).toEqual(
      inTextOrder([["a"], ["a", "bc"], ["a", "B"], ["a", "b,"]]),
    );
  });

  test("works for every hostile prefix", async ({ store }) => {
    let left = [
      ...new Map(hostileKeys.map((key) => [JSON.stringify(key), key])).values(),
    ];
    await Promise.all(left.map((key) => store.set(key, 1)));
    for (const prefix of hostileKeys) {
      const kept = left.filter(
        (key) => !prefix.every((part, i) => key[i] === part),
      );
      expect(await store.clear(prefix), JSON.stringify(prefix)).toBe(
        left.length - kept.length,
      );
      left = kept;
    }
    expect(await keysOf(store.list())).toEqual([]);
  });

  test("counts many entries", async ({ store }) => {
    await Promise.all(
      Array.from({ length: 3_000 }, (_, i) => store.set(["k", String(i)], i)),
    );
    await store.set(["l"], "kept");
    expect(await store.clear(["k"])).toBe(3_000);
    expect(await store.clear(["k"])).toBe(0);
    expect(await keysOf(store.list())).toEqual([["l"]]);
  });

  test("refuses an empty or missing prefix", async ({ store }) => {
    await store.set(["a"], 1);
    await expectRejection(() => store.clear([] as never), "ERR_KV_INVALID_KEY");
    await expectRejection(
      () => store.clear(undefined as never),
      "ERR_KV_INVALID_KEY",
    );
    expect(await store.get(["a"])).toBe(1);
  });

  test("a cleared entry can be created again", async ({ store }) => {
    await store.set(["a", "b"], 1);
    await store.clear(["a"]);
    expect(await store.cas(["a", "b"], undefined, 2)).toBe(true);
    expect(await store.get(["a", "b"])).toBe(2);
  });
}
