// Values: a store returns what JSON preserves, and never shares objects with
// the caller.
import { expect } from "vitest";
import { collect } from "../support/collect.mts";
import {
  asJson,
  hasLoneSurrogates,
  hasNul,
  hostileValues,
  nested,
} from "../support/hostile.mts";
import { expectRejection, reasonOf } from "../support/rejection.mts";
import type { ContractTest } from "./fixture.mts";

const cycle: Record<string, unknown> = {};
cycle.self = [cycle];

/** Values that JSON can't represent. */
const badValues: Record<string, unknown> = {
  "a BigInt": 1n,
  "a nested BigInt": { a: [1n] },
  "a cycle": cycle,
  "a function": () => 1,
  "a class": class {},
  "a symbol": Symbol("s"),
};

export function describeValues(test: ContractTest): void {
  for (const [name, value] of hostileValues) {
    test(`keeps ${name}`, async ({ store, unless }) => {
      if (hasNul(value)) {
        unless("NUL in values");
      }
      if (hasLoneSurrogates(value)) {
        unless("lone surrogates");
      }
      if (name.endsWith(" levels")) {
        unless("deep values");
      }
      if (JSON.stringify(value).length > 60_000) {
        unless("large values");
      }
      const expected = asJson(value);
      await store.set(["k"], value);
      expect(await store.get(["k"])).toStrictEqual(expected);
      expect(await store.cas(["k"], value, [value])).toBe(true);
      expect(await collect(store.list(["k"]))).toStrictEqual([
        { key: ["k"], value: [expected] },
      ]);
    });
  }

  test("keeps NUL", async ({ store, unless }) => {
    unless("NUL in values");
    const value = { "\0": "a\0b", end: "\0" };
    await store.set(["k"], value);
    expect(await store.get(["k"])).toStrictEqual(value);
    expect(await store.cas(["k"], value, "\0")).toBe(true);
    expect(await store.get(["k"])).toBe("\0");
  });

  test("minus zero becomes zero, as in JSON", async ({ store }) => {
    await store.set(["k"], -0);
    expect(await store.get(["k"])).toBe(0);
  });

  test("distinguishes null from a missing entry", async ({ store }) => {
    expect(await store.get(["k"])).toBeUndefined();
    await store.set(["k"], null);
    expect(await store.get(["k"])).toBeNull();
    expect(await collect(store.list())).toEqual([{ key: ["k"], value: null }]);
  });

  test("keeps __proto__ as an ordinary property", async ({ store }) => {
    const text = '{"__proto__":{"polluted":true},"a":{"__proto__":1}}';
    await store.set(["k"], JSON.parse(text));
    const got = (await store.get<Record<string, unknown>>(["k"])) ?? {};
    const [entry] = await collect(store.list());
    for (const value of [got, entry?.value as Record<string, unknown>]) {
      expect(Object.keys(value).toSorted()).toEqual(["__proto__", "a"]);
      expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
      expect(Object.keys(value.a as object)).toEqual(["__proto__"]);
    }
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
    expect(await store.cas(["k"], { a: {} }, 1)).toBe(false);
    expect(await store.cas(["k"], JSON.parse(text), 1)).toBe(true);
  });

  for (const [name, bad] of Object.entries(badValues)) {
    test(`refuses ${name}`, async ({ store }) => {
      await store.set(["k"], "kept");
      for (const call of [
        () => store.set(["k"], bad),
        () => store.set(["new"], bad),
        () => store.cas(["k"], "kept", bad),
        () => store.cas(["new"], undefined, bad),
        () => store.cas(["k"], bad, 1),
      ]) {
        await expectRejection(call, "ERR_KV_INVALID_VALUE");
      }
      expect(await collect(store.list())).toEqual([
        { key: ["k"], value: "kept" },
      ]);
    });
  }

  test("setting undefined does nothing", async ({ store }) => {
    await store.set(["k"], undefined);
    expect(await collect(store.list())).toEqual([]);
    await store.set(["k"], 1);
    await store.set(["k"], undefined);
    await store.set(["k"], undefined, { ttl: { milliseconds: -1 } });
    expect(await store.get(["k"])).toBe(1);
  });

  test("a call rejects if toJSON throws", async ({ store }) => {
    await store.set(["k"], "kept");
    const value = {
      toJSON() {
        throw new Error("not today");
      },
    };
    await reasonOf(() => store.set(["k"], value));
    await reasonOf(() => store.cas(["k"], "kept", value));
    expect(await store.get(["k"])).toBe("kept");
  });

  test("a value is serialized once, during the call", async ({ store }) => {
    let read = 0;
    const value = {
      get part() {
        read += 1;
        return read;
      },
    };
    await store.set(["k"], value);
    expect(read).toBe(1);
    expect(await store.get(["k"])).toEqual({ part: 1 });
  });

  test("changing a passed value later does not change the entry", async ({
    store,
  }) => {
    const value = { list: [1], deep: { a: 1 } };
    const done = store.set(["k"], value);
    value.list.push(2);
    value.deep.a = 2;
    await done;
    value.list.push(3);
    expect(await store.get(["k"])).toEqual({ list: [1], deep: { a: 1 } });
    const next = { n: 1 };
    const swapped = store.cas(["k"], { list: [1], deep: { a: 1 } }, next);
    next.n = 2;
    expect(await swapped).toBe(true);
    expect(await store.get(["k"])).toEqual({ n: 1 });
  });

  test("changing a returned value or key does not change the entry", async ({
    store,
  }) => {
    await store.set(["k"], { list: [1] });
    const first = await store.get<{ list: number[] }>(["k"]);
    first?.list.push(2);
    for await (const { key, value } of store.list()) {
      (value as { list: number[] }).list.push(3);
      (key as unknown as string[]).push("more");
    }
    expect(await store.get(["k"])).toEqual({ list: [1] });
    expect(await collect(store.list())).toEqual([
      { key: ["k"], value: { list: [1] } },
    ]);
  });

  test("toJSON may call the store", async ({ store }) => {
    let inner: Promise<unknown> = Promise.resolve();
    const value = {
      toJSON() {
        inner = store.set(["inner"], 1).then(() => store.get(["inner"]));
        return "outer";
      },
    };
    await store.set(["outer"], value);
    expect(await inner).toBe(1);
    expect(await store.get(["outer"])).toBe("outer");
  });

  test("deeply nested values can be compared", async ({ store, unless }) => {
    unless("deep values");
    await store.set(["k"], nested(1_000, { a: 1, b: 2 }));
    expect(await store.cas(["k"], nested(1_000, { a: 1, b: 3 }), "wrong")).toBe(
      false,
    );
    expect(await store.cas(["k"], nested(1_000, { b: 2, a: 1 }), "right")).toBe(
      true,
    );
    expect(await store.get(["k"])).toBe("right");
  });
}
