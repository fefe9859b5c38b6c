// How long a ttl is, to the millisecond. Rows of SQLite show it: they have the
// times of their first write and of their expiry.
import { Temporal as JsTemporal } from "@js-temporal/polyfill";
import * as fc from "fast-check";
import { Temporal as TemporalPolyfill } from "temporal-polyfill";
import { describe, expect, test } from "vitest";
import { MemoryKvStore } from "../index.js";
import { runChild } from "./support/child.mts";
import { expectRejection } from "./support/rejection.mts";
import { openStore, query, temporaryFile } from "./support/sqlite.mts";

type Ttl = NonNullable<NonNullable<Parameters<MemoryKvStore["set"]>[2]>["ttl"]>;
type Fields = Record<string, number>;

const hour = 3_600_000;
const tag = Symbol.toStringTag;

/** The stored lengths, in milliseconds, of writes one after another. */
async function storedLengths(ttls: Iterable<object>): Promise<number[]> {
  const path = await temporaryFile();
  const store = openStore(path, { durability: "normal" });
  const writes: Promise<void>[] = [];
  for (const ttl of ttls) {
    const key = String(writes.length);
    writes.push(store.set([key], 1, { ttl: ttl as Ttl }));
  }
  await Promise.all(writes);
  const rows = await query(
    path,
    `SELECT expires - created AS length FROM fedify_kv
       ORDER BY CAST(json_extract(key, '$[0]') AS INTEGER)`,
  );
  expect(rows).toHaveLength(writes.length);
  return rows.map(({ length }) => Number(length));
}

/** Nanoseconds in a unit. */
const units: Record<string, bigint> = {
  weeks: 604_800_000_000_000n,
  days: 86_400_000_000_000n,
  hours: 3_600_000_000_000n,
  minutes: 60_000_000_000n,
  seconds: 1_000_000_000n,
  milliseconds: 1_000_000n,
  microseconds: 1_000n,
  nanoseconds: 1n,
};

function exactLength(fields: Fields): number {
  let nanoseconds = 0n;
  for (const [unit, count] of Object.entries(fields)) {
    nanoseconds += BigInt(count) * (units[unit] ?? 0n);
  }
  return Number((nanoseconds + 999_999n) / 1_000_000n);
}

// Up to 10,000 years a field, beyond the integers that a number holds exactly.
// No less than an hour, so that no row is removed before it is read.
const longest = 10_000n * 365n * 86_400_000_000_000n;
const fields = fc
  .record(
    Object.fromEntries(
      Object.entries(units).map(([unit, length]) => [
        unit,
        fc.oneof(
          fc.nat(2_000),
          fc.bigInt({ min: 0n, max: longest / length }).map(Number),
        ),
      ]),
    ),
    { requiredKeys: [] },
  )
  .map(({ hours = 0, ...others }): Fields => ({ ...others, hours: hours + 1 }));

describe.each([
  ["@js-temporal/polyfill", []],
  ["temporal-polyfill", []],
  ["native Temporal", "Temporal" in globalThis ? [] : ["--harmony-temporal"]],
  ["duration-like objects", []],
])("with %s", (from, flags) => {
  test("a ttl is as long as its fields say, rounded up", async ({ skip }) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fields, { minLength: 1, maxLength: 150 }),
        async (lengths) => {
          const { reports, code, stderr } = await runChild(
            `
              const { SqliteKvStore } = require(addon);
              const durations = {
                "native Temporal": () => Temporal.Duration,
                "duration-like objects": () => ({ from: (fields) => fields }),
              };
              const Duration = (durations[data.from]
                ?? (() => require(data.from).Temporal.Duration))();
              const store = new SqliteKvStore(data.path, { durability: "normal" });
              await Promise.all(data.lengths.map((fields, i) =>
                store.set([String(i)], 1, { ttl: Duration.from(fields) })));
              await store.close();
              const { DatabaseSync } = await import("node:sqlite");
              report(new DatabaseSync(data.path)
                .prepare("SELECT key, expires - created AS length FROM fedify_kv")
                .all()
                .map(({ key, length }) => [JSON.parse(key)[0], length]));
            `,
            { from, lengths, path: await temporaryFile() },
            flags as string[],
          );
          skip(code === 9, "this runtime has no Temporal");
          expect(stderr).toBe("");
          const stored = new Map(reports[0] as [string, number][]);
          expect(lengths.map((_, i) => stored.get(String(i)))).toEqual(
            lengths.map(exactLength),
          );
        },
      ),
      // Shrinking would start a process for each attempt.
      { numRuns: 4, endOnFailure: true },
    );
  });
});

const polyfills = {
  "@js-temporal/polyfill": JsTemporal.Duration,
  "temporal-polyfill": TemporalPolyfill.Duration,
};

describe.each(Object.entries(polyfills))("with %s", (_, Duration) => {
  test("Durations may be used again, in any order", async () => {
    const durations = Array.from({ length: 20 }, (_, hours) =>
      Duration.from({ hours: hours + 1 }),
    );
    await fc.assert(
      fc.asyncProperty(
        // Few at first, so that most are used again soon.
        fc.array(fc.oneof(fc.nat(3), fc.nat(19)), {
          minLength: 1,
          maxLength: 200,
        }),
        async (order) => {
          expect(
            await storedLengths(order.map((i) => durations[i] as object)),
          ).toEqual(order.map((i) => (i + 1) * hour));
        },
      ),
      { numRuns: 5, endOnFailure: true },
    );
  });

  test("total() is asked only if there are years or months, and each time", async () => {
    const store = new MemoryKvStore();
    const asked: object[] = [];
    const watched = (fields: Fields) =>
      Object.defineProperty(Duration.from(fields), "total", {
        value(to: object) {
          asked.push(to);
          return hour;
        },
      }) as Ttl;
    const exact = watched({ weeks: 1, hours: 1 });
    await store.set(["k"], 1, { ttl: exact });
    await store.set(["k"], 1, { ttl: exact });
    expect(asked).toEqual([]);
    for (const fields of [{ months: 1 }, { years: 1, hours: 1 }]) {
      const calendar = watched(fields);
      const before = today();
      await store.set(["k"], 1, { ttl: calendar });
      await store.set(["k"], 1, { ttl: calendar });
      const days = [before, today()];
      for (const to of asked.splice(0, 2)) {
        expect(to).toMatchObject({ unit: "millisecond" });
        expect(days).toContain((to as { relativeTo: unknown }).relativeTo);
      }
    }
    expect(asked).toEqual([]);
    await store.close();
  });

  test("a subclass may be used, and its own total() decides", async () => {
    class Same extends (Duration as typeof JsTemporal.Duration) {}
    class Longer extends Same {
      override total() {
        return super.total("millisecond") + hour;
      }
    }
    const same = new Same(0, 0, 0, 0, 2, 0, 0, 0, 0, 1);
    const longer = new Longer(0, 0, 0, 0, 2);
    expect(await storedLengths([same, longer, same, longer])).toEqual([
      2 * hour + 1,
      3 * hour,
      2 * hour + 1,
      3 * hour,
    ]);
  });

  test("a Proxy counts if it answers like a Duration", async () => {
    const duration = Duration.from({ hours: 1 });
    let hidden: object = duration;
    const proxy = new Proxy(duration, {
      get(_, name) {
        const value: unknown = Reflect.get(hidden, name);
        return typeof value === "function" ? value.bind(hidden) : value;
      },
    });
    function* writes() {
      yield proxy;
      hidden = Duration.from({ hours: 2 });
      yield proxy;
    }
    expect(await storedLengths(writes())).toEqual([hour, 2 * hour]);
    const store = new MemoryKvStore();
    // The methods of a Duration refuse a Proxy.
    await expectRejection(
      () => store.set(["k"], 1, { ttl: new Proxy(duration, {}) as Ttl }),
      "ERR_KV_INVALID_TTL",
    );
    await store.close();
  });
});

test("an object that is no Duration may change between writes", async () => {
  const objects: { hours: number }[] = [
    { hours: 1 },
    {
      hours: 1,
      total() {
        return this.hours * hour;
      },
    } as { hours: number },
    { hours: 1, [tag]: "Temporal.Duration" } as { hours: number },
    {
      hours: 1,
      years: 0,
      months: 0,
      [tag]: "Temporal.Duration",
      total() {
        return this.hours * hour;
      },
    } as { hours: number },
    new Proxy({ hours: 1 }, {}),
  ];
  function* writes() {
    for (const object of objects) {
      yield object;
      object.hours = 2;
      yield object;
    }
  }
  expect(await storedLengths(writes())).toEqual(
    objects.flatMap(() => [hour, 2 * hour]),
  );
});

test("a prototype with a Duration's tag is not enough", async () => {
  const prototype = (years: unknown) =>
    Object.defineProperties(
      {},
      {
        [tag]: { value: "Temporal.Duration" },
        years: { get: () => years },
        months: { value: 0 },
        hours: { value: 5 },
        total: { value: () => hour },
      },
    ) as object;
  for (const years of [0, undefined, "0"]) {
    expect(await storedLengths([Object.create(prototype(years)) as object]))
      // The other fields are missing, so the total decides.
      .toEqual([hour]);
  }
});

test("fields of an object may be fractions", async () => {
  expect(
    await storedLengths([
      { hours: 1.5 },
      { days: 0.5, hours: 12 },
      { hours: 1, milliseconds: 0.5, microseconds: 500 },
      { hours: 1, milliseconds: 0.5, microseconds: 501 },
      { hours: 1, microseconds: 0.001 },
      { hours: 1, nanoseconds: 1_009_000_000 },
      { weeks: 0, hours: 1, years: 0 },
    ]),
  ).toEqual([
    1.5 * hour,
    24 * hour,
    hour + 1,
    hour + 2,
    hour + 1,
    hour + 1_009,
    hour,
  ]);
});

describe("says what is wrong with", () => {
  const thrower = () => {
    throw new Error("not today");
  };
  const wrong: Record<string, [options: object, message: string]> = {
    "a getter of the options": [
      Object.defineProperty({}, "ttl", { get: thrower }),
      "not today",
    ],
    "a getter of the ttl": [
      { ttl: Object.defineProperty({}, "hours", { get: thrower }) },
      "not today",
    ],
    "a Proxy": [
      { ttl: new Proxy({}, { getPrototypeOf: thrower, get: thrower }) },
      "not today",
    ],
    "a number": [
      { ttl: 5 },
      "must be a Temporal.Duration or an object like { hours: 1 }, not a number",
    ],
    null: [{ ttl: null }, "not null"],
    "a field": [{ ttl: { minutes: "5" } }, "minutes must be a finite number"],
    "no field": [{ ttl: { minute: 5 } }, "at least one field"],
    "a tag alone": [
      { ttl: { [tag]: "Temporal.Duration" } },
      "at least one field",
    ],
    signs: [{ ttl: { days: 1, hours: -1 } }, "must all have the same sign"],
    "a fraction of a month": [
      { ttl: { months: 0.5 } },
      "must be whole numbers",
    ],
    "a total": [{ ttl: { total: () => NaN } }, "must return a number"],
  };
  test.each(Object.entries(wrong))("%s", async (_, [options, message]) => {
    const store = new MemoryKvStore();
    const error = await expectRejection(
      () => store.set(["k"], 1, options),
      "ERR_KV_INVALID_TTL",
    );
    expect(error.message).toContain(message);
    expect(await store.get(["k"])).toBeUndefined();
    await store.close();
  });
});

test("replaced globals do not change a length", async () => {
  const path = await temporaryFile();
  const { reports, stderr } = await runChild(
    `
      const { SqliteKvStore } = require(addon);
      const { Temporal } = require("@js-temporal/polyfill");
      const { DatabaseSync } = await import("node:sqlite");
      const duration = Temporal.Duration.from({ hours: 1, nanoseconds: 1 });
      const months = Object.defineProperty(
        Temporal.Duration.from({ months: 1 }), "total",
        { value: ({ relativeTo }) => /^20\\d\\d-\\d\\d-\\d\\d$/.test(relativeTo) ? 3.6e6 : 0 },
      );
      const store = new SqliteKvStore(data);
      await store.initialize();
      const originals = [];
      const replace = (object, name, value) => {
        const property = Object.getOwnPropertyDescriptor(object, name);
        originals.push(() => Object.defineProperty(object, name, property));
        Object.defineProperty(object, name, { ...property, value });
      };
      replace(Math, "ceil", () => 7);
      replace(Math, "round", () => 7);
      replace(Number, "isFinite", () => false);
      replace(Number, "isInteger", () => false);
      replace(Number, "isNaN", () => true);
      replace(Reflect, "apply", () => 7);
      replace(Reflect, "getPrototypeOf", () => null);
      replace(Date.prototype, "toISOString", () => "never");
      replace(String.prototype, "slice", () => "never");
      replace(Array.prototype, Symbol.iterator, () => { throw new Error(); });
      replace(globalThis, "Date", class { toISOString() { return "never"; } });
      const writes = [
        store.set(["0"], 1, { ttl: duration }),
        store.set(["1"], 1, { ttl: { hours: 1, nanoseconds: 1 } }),
        store.set(["2"], 1, { ttl: months }),
      ];
      for (let i = 0; i < originals.length; i += 1) originals[i]();
      await Promise.all(writes);
      await store.close();
      report(new DatabaseSync(data)
        .prepare("SELECT expires - created AS length FROM fedify_kv ORDER BY key")
        .all());
    `,
    path,
  );
  expect(stderr).toBe("");
  expect(reports).toEqual([
    [{ length: hour + 1 }, { length: hour + 1 }, { length: hour }],
  ]);
});

function today(): string {
  return new Date().toISOString().slice(0, 10);
}
