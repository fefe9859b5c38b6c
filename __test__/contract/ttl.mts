// Time to live: which durations are valid, and when an entry expires.
import { Temporal as JsTemporal } from "@js-temporal/polyfill";
import { setImmediate } from "node:timers/promises";
import { Temporal as TemporalPolyfill } from "temporal-polyfill";
import { expect } from "vitest";
import { collect, keysOf } from "../support/collect.mts";
import { expectRejection } from "../support/rejection.mts";
import type { ContractTest, Store } from "./fixture.mts";

/** Fedify's type allows only `Temporal.Duration`; the stores accept more. */
type Ttl = NonNullable<NonNullable<Parameters<Store["set"]>[2]>["ttl"]>;

interface Durations {
  from(fields: object): object;
}

const native = (globalThis as { Temporal?: { Duration: Durations } }).Temporal;

/** Functions that make a duration from its fields. */
const makers: Record<string, (fields: object) => object> = {
  "@js-temporal/polyfill": (fields) => JsTemporal.Duration.from(fields),
  "temporal-polyfill": (fields) => TemporalPolyfill.Duration.from(fields),
  ...(native && { "native Temporal": (f) => native.Duration.from(f) }),
  "a duration-like object": (fields) => fields,
  "an object with only total()": (fields) => ({
    total: (to: object) => JsTemporal.Duration.from(fields).total(to as never),
  }),
};

/** The fields of a duration of some milliseconds. */
const length = (milliseconds: number) => ({ milliseconds });

/** Values that are not valid durations. */
const bad: Record<string, unknown> = {
  "a number": 1_000,
  "a string": "PT1H",
  true: true,
  "a symbol": Symbol("s"),
  "a function": () => 1,
  "an empty object": {},
  "an array": [1],
  "a date": new Date(),
  "a misspelt unit": { hour: 1 },
  "a unit that is not a number": { hours: "soon" },
  "a unit that is NaN": { hours: NaN },
  "a unit that is infinite": { hours: Infinity },
  "mixed signs": { hours: 1, minutes: -1 },
  "a getter that throws": {
    get hours() {
      throw new Error("not today");
    },
  },
  "a Proxy of a Duration": new Proxy(
    JsTemporal.Duration.from({ hours: 1 }),
    {},
  ),
  "the tag of a Duration": { [Symbol.toStringTag]: "Temporal.Duration" },
  "a total that is not a function": { total: 5 },
  "a total of NaN": { total: () => NaN },
  "a total that is not a number": { total: () => "1" },
  "a total that is a BigInt": { total: () => 1n },
  "a total that throws": {
    total() {
      throw new Error("not today");
    },
  },
};

export function describeTtl(test: ContractTest): void {
  for (const [name, make] of Object.entries(makers)) {
    const ttl = (fields: object) => make(fields) as Ttl;

    test(`an entry expires, with ${name}`, async ({ store, unless }) => {
      unless("exact expiry");
      await watch({
        milliseconds: 60,
        put: () => store.set(["k"], 1, { ttl: ttl(length(60)) }),
        look: async () => (await store.get(["k"])) !== undefined,
      });
    });

    test(`a ttl may be long, with ${name}`, async ({ store }) => {
      const lengths = [
        { hours: 1 },
        { days: 2 },
        { weeks: 3 },
        { months: 1 },
        { years: 1 },
        { years: 1, months: 2, weeks: 3, days: 4, hours: 5, minutes: 6 },
        { years: 1_000 },
      ];
      for (const [i, fields] of lengths.entries()) {
        await store.set(["k", String(i)], i, { ttl: ttl(fields) });
      }
      expect(await keysOf(store.list(["k"]))).toHaveLength(lengths.length);
    });

    test(`a ttl of zero or less expires at once, with ${name}`, async ({
      store,
    }) => {
      for (const fields of [length(0), length(-1), { years: -1 }]) {
        await store.set(["k"], "old");
        await store.set(["k"], "new", { ttl: ttl(fields) });
        expect(await store.get(["k"])).toBeUndefined();
        expect(await collect(store.list())).toEqual([]);
        expect(
          await store.cas(["k"], undefined, "made", { ttl: ttl(fields) }),
        ).toBe(true);
        expect(await store.get(["k"])).toBeUndefined();
        expect(await store.cas(["k"], undefined, "there")).toBe(true);
      }
    });
  }

  test("total() is called with milliseconds as its unit", async ({ store }) => {
    const asked: { unit?: unknown; relativeTo?: unknown }[] = [];
    const ttl = {
      total(to: object) {
        asked.push(to);
        return 3_600_000;
      },
    };
    await store.set(["k"], 1, { ttl: ttl as never });
    expect(asked).toHaveLength(1);
    expect(asked[0]?.unit).toBe("millisecond");
    expect(asked[0]?.relativeTo).toBeDefined();
    expect(await store.get(["k"])).toBe(1);
  });

  test("fractions of a millisecond round up", async ({ store, unless }) => {
    unless("exact expiry");
    for (const ttl of [
      { total: () => 59.001 },
      { milliseconds: 59, microseconds: 1 },
      TemporalPolyfill.Duration.from({ milliseconds: 59, nanoseconds: 1 }),
    ]) {
      await watch({
        milliseconds: 60,
        put: () => store.set(["k"], 1, { ttl: ttl as never }),
        look: async () => (await store.get(["k"])) !== undefined,
      });
    }
  });

  test("a ttl beyond the last valid date never expires", async ({ store }) => {
    await store.set(["k"], 1, { ttl: { total: () => 1e300 } as never });
    expect(await store.get(["k"])).toBe(1);
    expect(await keysOf(store.list())).toEqual([["k"]]);
  });

  for (const [name, ttl] of Object.entries(bad)) {
    test(`refuses ${name}`, async ({ store }) => {
      await store.set(["k"], "kept");
      const options = { ttl: ttl as never };
      await expectRejection(
        () => store.set(["k"], 1, options),
        "ERR_KV_INVALID_TTL",
      );
      await expectRejection(
        () => store.set(["new"], 1, options),
        "ERR_KV_INVALID_TTL",
      );
      await expectRejection(
        () => store.cas(["k"], "kept", 1, options),
        "ERR_KV_INVALID_TTL",
      );
      expect(await collect(store.list())).toEqual([
        { key: ["k"], value: "kept" },
      ]);
    });
  }

  test("options without a ttl set no expiry", async ({ store }) => {
    await store.set(["a"], 1, {});
    await store.set(["b"], 1, { ttl: undefined } as never);
    await store.cas(["c"], undefined, 1, {});
    expect(await keysOf(store.list())).toHaveLength(3);
  });

  test("an expired entry is not listed", async ({ store, unless }) => {
    unless("exact expiry");
    await store.set(["k", "stays"], 1);
    await watch({
      milliseconds: 60,
      put: () => store.set(["k", "goes"], 1, short(60)),
      look: async () => (await keysOf(store.list(["k"]))).length === 2,
    });
    expect(await keysOf(store.list())).toEqual([["k", "stays"]]);
  });

  test("cas treats an expired entry as missing", async ({ store, unless }) => {
    unless("exact expiry");
    await watch({
      milliseconds: 60,
      put: async () => {
        await store.cas(["k"], undefined, 1, short(60));
      },
      look: async () => !(await store.cas(["k"], undefined, "next")),
    });
    expect(await store.get(["k"])).toBe("next");
  });

  test("cas sets a ttl only if it swaps", async ({ store, unless }) => {
    unless("exact expiry");
    await store.set(["lost"], 1);
    expect(await store.cas(["lost"], 2, 3, short(1))).toBe(false);
    await watch({
      milliseconds: 60,
      put: async () => {
        await store.set(["k"], 1);
        expect(await store.cas(["k"], 1, 2, short(60))).toBe(true);
      },
      look: async () => (await store.get(["k"])) === 2,
    });
    expect(await store.get(["lost"])).toBe(1);
  });

  test("a write without a ttl clears the old one", async ({
    store,
    unless,
  }) => {
    unless("exact expiry");
    for (const key of ["set", "cas", "nothing"]) {
      await store.set([key], 1, short(80));
    }
    await store.set(["set"], 2);
    // On a slow machine the entry may have expired already, or may expire
    // between the two calls.
    await until(async () => store.cas(["cas"], await store.get(["cas"]), 2));
    await until(async () => (await store.get(["nothing"])) === undefined);
    expect(await store.get(["set"])).toBe(2);
    expect(await store.get(["cas"])).toBe(2);
  });

  test("a write with a ttl replaces the old one", async ({ store, unless }) => {
    unless("exact expiry");
    await store.set(["longer"], 1, short(40));
    await store.set(["longer"], 2, { ttl: { hours: 1 } });
    await watch({
      milliseconds: 60,
      put: async () => {
        await store.set(["shorter"], 1, { ttl: { hours: 1 } });
        await store.set(["shorter"], 2, short(60));
      },
      look: async () => (await store.get(["shorter"])) !== undefined,
    });
    expect(await store.get(["longer"])).toBe(2);
  });

  test("many entries expire, each after its own ttl", async ({
    store,
    unless,
  }) => {
    unless("exact expiry");
    await Promise.all(
      Array.from({ length: 300 }, (_, i) =>
        store.set(["k", String(i)], i, i % 3 === 0 ? {} : short(1 + i / 3)),
      ),
    );
    await until(async () => (await keysOf(store.list(["k"]))).length === 100);
    const left = await collect(store.list());
    expect(left.every(({ value }) => Number(value) % 3 === 0)).toBe(true);
  });
}

function short(milliseconds: number) {
  return { ttl: { total: () => milliseconds } as never };
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) {
    await setImmediate();
  }
}

interface Watched {
  milliseconds: number;
  put: () => Promise<void>;
  look: () => Promise<boolean>;
}

/**
 * Puts an entry and looks at it until it is gone. It must not be gone before
 * its time, and a call that starts after its time must not see it.
 */
async function watch({ milliseconds, put, look }: Watched) {
  const putAt = Date.now();
  await put();
  const putBy = Date.now();
  for (;;) {
    const askedAt = Date.now();
    if (!(await look())) {
      expect(Date.now(), "expired too early").toBeGreaterThanOrEqual(
        putAt + milliseconds,
      );
      return;
    }
    expect(askedAt, "expired too late").toBeLessThan(putBy + milliseconds);
    await setImmediate();
  }
}
