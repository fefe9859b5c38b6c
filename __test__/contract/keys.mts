// Keys: non-empty arrays of strings. Different keys are different entries.
import { expect } from "vitest";
import { collect, inTextOrder, keysOf } from "../support/collect.mts";
import { hostileKeys, hostileParts } from "../support/hostile.mts";
import { expectRejection, reasonOf } from "../support/rejection.mts";
import type { ContractTest, Store } from "./fixture.mts";

/** Values that are not valid keys, by what is wrong with them. */
const badKeys: Record<string, unknown> = {
  undefined: undefined,
  null: null,
  "a string": "a",
  "a number": 1,
  "an object": {},
  "an array-like": { length: 1, 0: "a" },
  "an iterable": new Set(["a"]),
  "an empty array": [],
  "a number as a part": ["a", 1],
  "null as a part": [null],
  "undefined as a part": ["a", undefined],
  "a hole": Array(1),
  "an array as a part": [["a"]],
  "a boxed string as a part": [Object("a")],
  "a symbol as a part": [Symbol("a")],
  "an object with toString": [{ toString: () => "a" }],
  "a lone high surrogate": ["\ud800"],
  "a lone low surrogate": ["a", "\udc00"],
  "a string cut within a character": ["😀".slice(0, 1)],
};

/** Every operation that takes a key. */
const operations: Record<string, (store: Store, key: never) => unknown> = {
  get: (store, key) => store.get(key),
  set: (store, key) => store.set(key, 1),
  "set undefined": (store, key) => store.set(key, undefined),
  delete: (store, key) => store.delete(key),
  cas: (store, key) => store.cas(key, undefined, 1),
  clear: (store, key) => store.clear(key),
};

export function describeKeys(test: ContractTest): void {
  for (const [name, operate] of Object.entries(operations)) {
    test(`${name} refuses invalid keys`, async ({ store }) => {
      await store.set(["a"], "kept");
      for (const bad of Object.values(badKeys)) {
        await expectRejection(
          () => operate(store, bad as never),
          "ERR_KV_INVALID_KEY",
        );
      }
      expect(await collect(store.list())).toEqual([
        { key: ["a"], value: "kept" },
      ]);
    });
  }

  test("a call rejects if reading the key throws", async ({ store }) => {
    const key = ["a"];
    Object.defineProperty(key, 0, {
      get() {
        throw new Error("not today");
      },
    });
    for (const operate of Object.values(operations)) {
      await reasonOf(() => operate(store, key as never));
    }
    expect(await keysOf(store.list())).toEqual([]);
  });

  test("a key is copied during the call", async ({ store }) => {
    const key: [string] = ["before"];
    const done = store.set(key, 1);
    key[0] = "after";
    await done;
    expect(await keysOf(store.list())).toEqual([["before"]]);
  });

  test("frozen and subclassed arrays are keys", async ({ store }) => {
    await store.set(Object.freeze(["frozen", "key"] as const), 1);
    class Parts extends Array<string> {}
    const key = Parts.of("sub", "class") as unknown as [string];
    await store.set(key, 2);
    expect(await store.get(["frozen", "key"])).toBe(1);
    expect(await store.get(["sub", "class"])).toBe(2);
  });

  test("a proxy of an array is a key, as Array.isArray says", async ({
    store,
  }) => {
    const proxied = <T extends object>(parts: T) => new Proxy(parts, {});
    await store.set(proxied(["a", "b"] as const), 1);
    await store.set(["a"], 2);
    expect(await store.get(["a", "b"])).toBe(1);
    expect(await store.get(proxied(["a"] as const))).toBe(2);
    expect(await store.cas(proxied(["a", "b"] as const), 1, 3)).toBe(true);
    const under = [{ key: ["a", "b"], value: 3 }];
    expect(await collect(store.list(proxied(["a", "b"] as const)))).toEqual(
      under,
    );
    expect(
      await collect(store.list({ prefix: proxied(["a", "b"] as const) })),
    ).toEqual(under);
    expect(await collect(store.list(proxied([] as const)))).toHaveLength(2);
    expect(await store.clear(proxied(["a", "b"] as const))).toBe(1);
    await store.delete(proxied(["a"] as const));
    expect(await keysOf(store.list())).toEqual([]);
  });

  test("a proxied array is a key only if its parts are strings", async ({
    store,
  }) => {
    const revoked = Proxy.revocable(["a"], {});
    revoked.revoke();
    const bad = [
      new Proxy([], {}),
      new Proxy(["a", 1], {}),
      new Proxy(Array(1), {}),
      new Proxy({ length: 1, 0: "a" }, {}),
      new Proxy(["a"], {
        get() {
          throw new Error("not today");
        },
      }),
      revoked.proxy,
    ];
    for (const [name, operate] of Object.entries(operations)) {
      for (const key of bad) {
        const error = await expectRejection(
          () => operate(store, key as never),
          "ERR_KV_INVALID_KEY",
        );
        expect(error, name).toBeInstanceOf(TypeError);
      }
    }
    for (const prefix of bad.slice(1)) {
      // A proxy of an object that is no array may be options.
      if (prefix === bad[3]) continue;
      const list = store.list(prefix as never);
      await expectRejection(() => list.next(), "ERR_KV_INVALID_KEY");
    }
    expect(await keysOf(store.list())).toEqual([]);
  });

  test("different keys are different entries", async ({ store }) => {
    const keys = hostileKeys.map((key, i) => ({ key, value: i }));
    const distinct = new Map(
      keys.map((entry) => [JSON.stringify(entry.key), entry]),
    );
    await Promise.all(keys.map(({ key, value }) => store.set(key, value)));
    for (const { key, value } of distinct.values()) {
      expect(await store.get(key), JSON.stringify(key)).toBe(value);
    }
    expect(inTextOrder(await collect(store.list()))).toEqual(
      inTextOrder(distinct.values()),
    );
  });

  test("delete deletes only its key", async ({ store }) => {
    const keys = new Map(hostileKeys.map((key) => [JSON.stringify(key), key]));
    await Promise.all(hostileKeys.map((key) => store.set(key, 1)));
    for (const [text, key] of keys) {
      await store.delete(key);
      expect(await store.get(key), text).toBeUndefined();
      keys.delete(text);
    }
    expect(await keysOf(store.list())).toEqual([]);
    await Promise.all(hostileKeys.map((key) => store.set(key, 1)));
    await store.delete(["a"]);
    expect(await keysOf(store.list())).toHaveLength(
      new Set(hostileKeys.map((key) => JSON.stringify(key))).size - 1,
    );
  });

  test("every part works as a prefix of its children", async ({ store }) => {
    for (const part of hostileParts) {
      await store.set([part, "x"], part);
      await store.set([`${part}x`, "x"], "not this");
      await store.set([`x${part}`, "x"], "nor this");
    }
    for (const part of hostileParts) {
      const own = await collect(store.list([part]));
      expect(
        own.map(({ key }) => key),
        JSON.stringify(part),
      ).toEqual([[part, "x"]]);
    }
  });

  test("a key is found under each of its prefixes", async ({ store }) => {
    const parts = ["", ":", "%", '"', "\\", "\n", "日本", "😀", "_", "end"];
    const key = parts as unknown as [string, ...string[]];
    await store.set(key, "deep");
    for (let length = 0; length <= parts.length; length += 1) {
      const prefix = parts.slice(0, length) as unknown as [string];
      expect(await collect(store.list(prefix))).toEqual([
        { key, value: "deep" },
      ]);
    }
    expect(await collect(store.list([...key, ""]))).toEqual([]);
  });

  test("NUL is an ordinary character", async ({ store, unless }) => {
    unless("NUL in keys");
    await store.set(["a"], "without");
    await store.set(["a\0"], "at the end");
    await store.set(["a\0b", "c"], "in the middle");
    expect(await store.get(["a"])).toBe("without");
    expect(await store.get(["a\0"])).toBe("at the end");
    expect(await keysOf(store.list(["a\0b"]))).toEqual([["a\0b", "c"]]);
  });

  test("parts of 1 KB and keys of 100 parts are valid", async ({
    store,
    unless,
  }) => {
    unless("long keys");
    const long: [string, ...string[]][] = [
      ["x".repeat(1_024)],
      [`${"x".repeat(1_023)}y`],
      ["漢".repeat(1_024), "é".repeat(1_024)],
      ["prefix", ...Array.from({ length: 99 }, (_, i) => `part ${i}`)],
      ["%_:".repeat(342), '\\"\n'.repeat(342)],
    ];
    for (const [i, key] of long.entries()) {
      await store.set(key, i);
    }
    for (const [i, key] of long.entries()) {
      expect(await store.get(key)).toBe(i);
      expect(await collect(store.list(key))).toEqual([{ key, value: i }]);
    }
    expect(await keysOf(store.list())).toHaveLength(long.length);
  });
}
