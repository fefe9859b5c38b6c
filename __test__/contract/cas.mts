// Compare-and-swap: which values are equal, and what happens to the entry.
import * as fc from "fast-check";
import { expect } from "vitest";
import { collect } from "../support/collect.mts";
import { asJson, hasNul } from "../support/hostile.mts";
import type { ContractTest, Store } from "./fixture.mts";

/** Pairs of values that are equal as JSON. */
const equal: Record<string, [stored: unknown, expected: unknown]> = {
  "another order of keys": [
    { a: 1, b: { c: [1], d: null } },
    { b: { d: null, c: [1] }, a: 1 },
  ],
  "another order of keys, in an array": [[{ a: 1, b: 2 }], [{ b: 2, a: 1 }]],
  "properties that are undefined": [{ a: 1 }, { b: undefined, a: 1 }],
  "zero and minus zero": [{ n: 0 }, { n: -0 }],
  "a date and its text": [new Date(0), "1970-01-01T00:00:00.000Z"],
  "a hole and null": [[null], [undefined]],
  "NaN and null": [null, NaN],
  "a number and a boxed number": [1, Object(1)],
  "many keys in reverse order": [
    Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`k${i}`, i])),
    Object.fromEntries(
      Array.from({ length: 500 }, (_, i) => [`k${499 - i}`, 499 - i]),
    ),
  ],
};

/** Values that are easily confused with each other. */
const different: readonly unknown[] = [
  null,
  false,
  true,
  0,
  1,
  -1,
  1.5,
  1e21,
  "",
  "0",
  "1",
  "null",
  "false",
  "a",
  "A",
  "é",
  "e\u0301",
  "\ufffd",
  [],
  [[]],
  [{}],
  [null],
  [0],
  [1, 2],
  [2, 1],
  [1, [2]],
  [[1], 2],
  [[1, 2]],
  ["1,2"],
  {},
  { a: null },
  { a: {} },
  { a: [] },
  { a: 1 },
  { A: 1 },
  { a: "1" },
  { a: 1, b: 2 },
  { a: 2, b: 1 },
  { a: { b: 2 } },
  { "": 1 },
  { 0: "a" },
  ["a"],
  JSON.parse('{"__proto__":null}'),
];

export function describeCas(test: ContractTest): void {
  test("creates a missing entry", async ({ store }) => {
    expect(await store.cas(["k"], undefined, { n: 1 })).toBe(true);
    expect(await store.get(["k"])).toEqual({ n: 1 });
    expect(await store.cas(["k"], undefined, { n: 2 })).toBe(false);
    expect(await store.get(["k"])).toEqual({ n: 1 });
  });

  test("replaces only the expected value", async ({ store }) => {
    expect(await store.cas(["k"], 1, 2)).toBe(false);
    expect(await store.get(["k"])).toBeUndefined();
    await store.set(["k"], 1);
    await store.set(["k", "child"], 1);
    expect(await store.cas(["k"], 2, 3)).toBe(false);
    expect(await store.get(["k"])).toBe(1);
    expect(await store.cas(["k"], 1, 3)).toBe(true);
    expect(await store.get(["k"])).toBe(3);
    expect(await store.get(["k", "child"])).toBe(1);
  });

  test("deletes the entry if the new value is undefined", async ({ store }) => {
    expect(await store.cas(["k"], undefined, undefined)).toBe(true);
    expect(await collect(store.list())).toEqual([]);
    await store.set(["k"], 1);
    expect(await store.cas(["k"], undefined, undefined)).toBe(false);
    expect(await store.cas(["k"], 2, undefined)).toBe(false);
    expect(await store.get(["k"])).toBe(1);
    expect(await store.cas(["k"], 1, undefined)).toBe(true);
    expect(await collect(store.list())).toEqual([]);
  });

  test("null is a value, different from a missing entry", async ({ store }) => {
    expect(await store.cas(["k"], null, 1)).toBe(false);
    await store.set(["k"], null);
    expect(await store.cas(["k"], undefined, 1)).toBe(false);
    expect(await store.cas(["k"], null, null)).toBe(true);
    expect(await store.get(["k"])).toBeNull();
  });

  for (const [name, [stored, expected]] of Object.entries(equal)) {
    test(`compares as equal: ${name}`, async ({ store }) => {
      await store.set(["k"], stored);
      expect(await store.cas(["k"], expected, stored)).toBe(true);
      await store.set(["k"], expected);
      expect(await store.cas(["k"], stored, "swapped")).toBe(true);
      expect(await store.get(["k"])).toBe("swapped");
    });
  }

  const expectDistinct = async (store: Store, values: readonly unknown[]) => {
    for (const [i, stored] of values.entries()) {
      await store.set(["k"], stored);
      const swapped = await Promise.all(
        values.map((expected, j) =>
          store.cas(["k"], expected, i === j ? stored : "wrong"),
        ),
      );
      const winners = swapped.flatMap((won, j) => (won ? [j] : []));
      expect(winners, JSON.stringify(stored)).toEqual([i]);
    }
  };

  test("distinguishes different values", async ({ store }) => {
    await expectDistinct(
      store,
      different.filter((value) => !hasNul(value)),
    );
  });

  test("distinguishes values with NUL", async ({ store, unless }) => {
    unless("NUL in values");
    await expectDistinct(store, different);
  });

  test("distinguishes lone surrogates", async ({ store, unless }) => {
    unless("lone surrogates");
    for (const stored of ["\ufffd", "\ud800", "\udfff"]) {
      await store.set(["k"], stored);
      for (const expected of ["\ufffd", "\ud800", "\udfff"]) {
        expect(await store.cas(["k"], expected, stored)).toBe(
          expected === stored,
        );
      }
    }
  });

  test("cas accepts the value that get returned", async ({ store }) => {
    await fc.assert(
      fc.asyncProperty(fc.jsonValue(), fc.jsonValue(), async (one, other) => {
        await store.set(["k"], one);
        const got = await store.get(["k"]);
        expect(got).toStrictEqual(asJson(one));
        expect(await store.cas(["k"], reordered(got), other)).toBe(true);
        expect(await store.get(["k"])).toStrictEqual(asJson(other));
        expect(await store.cas(["k"], [other], "wrong")).toBe(false);
      }),
      { numRuns: 100 },
    );
  });
}

/** The same value with the keys of each object in reverse order. */
function reordered(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(reordered);
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).toReversed();
    // fromEntries defines properties and doesn't assign them, so `__proto__`
    // stays a key.
    return Object.fromEntries(entries.map(([k, v]) => [k, reordered(v)]));
  }
  return value;
}
