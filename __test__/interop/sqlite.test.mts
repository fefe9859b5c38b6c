// The official package and our store on one file. The official package runs in
// a child process, on node:sqlite, because two SQLite libraries can't share a
// file in one process.
import { describe, expect, test } from "vitest";
import { type Child, startChild } from "../support/child.mts";
import { type Entry, collect, inTextOrder } from "../support/collect.mts";
import { asJson, hostileKeys, hostileValues } from "../support/hostile.mts";
import { openStore, query, temporaryFile } from "../support/sqlite.mts";

/** The official store in a child process. It runs one operation at a time. */
class Official {
  readonly #child: Child;

  constructor(path: string) {
    this.#child = startChild(
      `
        const { DatabaseSync } = await import("node:sqlite");
        const { SqliteKvStore } = await import("@fedify/sqlite");
        const { Temporal } = await import("@js-temporal/polyfill");
        const database = new DatabaseSync(data, { timeout: 30_000 });
        database.exec("PRAGMA synchronous = OFF");
        const store = new SqliteKvStore(database);
        const operations = {
          get: async (key) => {
            const value = await store.get(key);
            return value === undefined ? [] : [value];
          },
          set: (key, value, milliseconds) => store.set(key, value,
            milliseconds && { ttl: Temporal.Duration.from({ milliseconds }) }),
          delete: (key) => store.delete(key),
          cas: (key, expected, value) =>
            store.cas(key, ...[expected, value].map(([value]) => value)),
          list: (prefix) => Array.fromAsync(store.list(prefix)),
          drop: async () => store.drop(),
          journal: async () =>
            database.prepare("PRAGMA journal_mode").get().journal_mode,
          count: async (key, times) => {
            for (let done = 0; done < times; ) {
              const value = await store.get(key);
              const next = { by: "official", n: (value?.n ?? 0) + 1 };
              done += Number(await store.cas(key, value, next));
              await new Promise(setImmediate);
            }
          },
        };
        for (let call; (call = await told()); ) {
          const [name, ...parameters] = call;
          report([await operations[name](...parameters)]);
        }
        database.close();
      `,
      path,
    );
  }

  async call<T>(name: string, ...parameters: unknown[]): Promise<T> {
    this.#child.tell([name, ...parameters]);
    const [answer] = await this.#child.next<[T]>();
    return answer;
  }

  async get(key: readonly string[]): Promise<unknown> {
    const [value] = await this.call<[unknown?]>("get", key);
    return value;
  }

  set(key: readonly string[], value: unknown, milliseconds?: number) {
    return this.call("set", key, value, milliseconds);
  }

  /** `undefined` is not JSON, so it is sent as an empty array. */
  cas(key: readonly string[], expected: unknown, value: unknown) {
    const [from, to] = [expected, value].map((v) =>
      v === undefined ? [] : [v],
    );
    return this.call<boolean>("cas", key, from, to);
  }

  list(prefix?: readonly string[]): Promise<Entry[]> {
    return this.call<Entry[]>("list", prefix);
  }

  async end(): Promise<void> {
    this.#child.end();
    expect(await this.#child.exit).toMatchObject({ code: 0, stderr: "" });
  }
}

const keys = [
  ...new Map(hostileKeys.map((key) => [JSON.stringify(key), key])).values(),
];
const valueOf = (i: number) => hostileValues[i % hostileValues.length]?.[1];

for (const first of ["official", "ours"] as const) {
  describe(`opened first by ${first === "ours" ? "our store" : "the official store"}`, () => {
    /** Opens both stores on one file, one after the other. */
    async function both() {
      const path = await temporaryFile();
      const official = new Official(path);
      const ours = openStore(path, {
        busyTimeout: 30_000,
        durability: "normal",
      });
      if (first === "official") {
        await official.set(["first"], "official");
        expect(await official.call("journal")).toBe("delete");
        expect(await ours.get(["first"])).toBe("official");
      } else {
        await ours.set(["first"], "ours");
        expect(await official.get(["first"])).toBe("ours");
      }
      return { official, ours, path };
    }

    test("each reads what the other wrote", async () => {
      const { official, ours } = await both();
      for (const [i, key] of keys.entries()) {
        const value = valueOf(i);
        if (i % 2 === 0) {
          await official.set(key, value);
          expect(await ours.get(key)).toStrictEqual(asJson(value));
        } else {
          await ours.set(key, value);
          expect(await official.get(key)).toStrictEqual(asJson(value));
        }
      }
      await official.end();
    });

    test("each lists what the other wrote, in the same order", async () => {
      const { official, ours } = await both();
      for (const [i, key] of keys.entries()) {
        await (i % 2 === 0 ? official : ours).set(key, i);
      }
      const all = await collect(ours.list());
      expect(all).toEqual(await official.list());
      expect(all).toHaveLength(keys.length + 1);
      // Only prefixes that the official list gets right. See the last test.
      for (const prefix of [["parent"], ["日本語"], ["::"], [""], ["a", "b"]]) {
        const own = await collect(ours.list(prefix as [string]));
        expect(own).toEqual(await official.list(prefix));
        expect(own.length).toBeGreaterThan(0);
      }
    });

    test("each swaps what the other wrote", async () => {
      const { official, ours } = await both();
      for (const [name, value] of hostileValues) {
        const next = asJson(value);
        await official.set(["k"], value);
        expect(await ours.cas(["k"], next, { next }), name).toBe(true);
        expect(await official.cas(["k"], { next }, value), name).toBe(true);
        expect(await ours.cas(["k"], ["other"], 1), name).toBe(false);
        expect(await official.cas(["k"], ["other"], 1), name).toBe(false);
        expect(await ours.cas(["k"], next, undefined), name).toBe(true);
        expect(await official.cas(["k"], undefined, 1), name).toBe(true);
        expect(await ours.cas(["k"], undefined, 2), name).toBe(false);
      }
    });

    test("each deletes and replaces what the other wrote", async () => {
      const { official, ours } = await both();
      await official.set(["a"], 1);
      await ours.set(["b"], 1);
      await ours.delete(["a"]);
      await official.call("delete", ["b"]);
      expect(await official.get(["a"])).toBeUndefined();
      expect(await ours.get(["b"])).toBeUndefined();
      await official.set(["c"], 1);
      await ours.set(["c"], 2);
      expect(await official.get(["c"])).toBe(2);
      await official.set(["c"], 3);
      expect(await ours.get(["c"])).toBe(3);
      expect(await ours.clear(["c"])).toBe(1);
      expect(await official.list(["c"])).toEqual([]);
    });

    test("each sees the other's entries expire", async () => {
      const { official, ours } = await both();
      await official.set(["theirs"], 1, 150);
      await ours.set(["ours"], 1, { ttl: { milliseconds: 150 } });
      const until = Date.now() + 150;
      while (Date.now() <= until) {
        await new Promise(setImmediate);
      }
      expect(await ours.get(["theirs"])).toBeUndefined();
      expect(await official.get(["ours"])).toBeUndefined();
      expect(await ours.cas(["theirs"], undefined, 2)).toBe(true);
      expect(await official.cas(["ours"], undefined, 2)).toBe(true);
      await official.set(["kept"], 1, 3_600_000);
      expect(await ours.get(["kept"])).toBe(1);
      await ours.set(["kept"], 2, { ttl: { hours: 1 } });
      expect(await official.get(["kept"])).toBe(2);
    });

    test("concurrent increments by both are all counted", async () => {
      const { official, ours } = await both();
      const times = 300;
      const theirs = official.call("count", ["counter"], times);
      for (let done = 0; done < times;) {
        const value = await ours.get<{ n: number }>(["counter"]);
        const next = { n: (value?.n ?? 0) + 1, by: "ours" };
        done += Number(await ours.cas(["counter"], value, next));
      }
      await theirs;
      expect(await ours.get(["counter"])).toMatchObject({ n: 2 * times });
      expect(await official.get(["counter"])).toMatchObject({ n: 2 * times });
    });

    test("the file is intact, whichever store closes last", async () => {
      const { official, ours, path } = await both();
      await official.set(["theirs"], 1);
      await ours.set(["ours"], 1);
      if (first === "official") {
        await official.end();
        await ours.set(["last"], "ours");
        await ours.close();
      } else {
        await ours.close();
        await official.set(["last"], "official");
        await official.end();
      }
      expect(await query(path, "SELECT count(*) AS n FROM fedify_kv")).toEqual([
        { n: 4 },
      ]);
      expect(await query(path, "PRAGMA integrity_check")).toEqual([
        { integrity_check: "ok" },
      ]);
    });
  });
}

test("our store opens a file while the official store writes to it", async () => {
  const path = await temporaryFile();
  const official = new Official(path);
  await official.set(["first"], 1);
  const counting = official.call("count", ["counter"], 1_000);
  const ours = openStore(path, {
    busyTimeout: 30_000,
    durability: "normal",
  });
  expect(await ours.get(["first"])).toBe(1);
  for (let done = 0; done < 50;) {
    const value = await ours.get<{ n: number }>(["counter"]);
    done += Number(
      await ours.cas(["counter"], value, { n: (value?.n ?? 0) + 1 }),
    );
  }
  await counting;
  expect(await official.get(["counter"])).toMatchObject({ n: 1_050 });
});

test("our list is right for prefixes that the official list gets wrong", async () => {
  const path = await temporaryFile();
  const official = new Official(path);
  const parts = ["alice", "Alice", "_f", "Xf", "100%", "100abc", 'a"', "a\\"];
  for (const part of parts) {
    await official.set([part, "x"], 1);
  }
  const ours = openStore(path);
  let different = 0;
  for (const part of parts) {
    const own = await collect(ours.list([part]));
    expect(own).toEqual([{ key: [part, "x"], value: 1 }]);
    const theirs = inTextOrder(await official.list([part]));
    different += Number(JSON.stringify(own) !== JSON.stringify(theirs));
  }
  // Otherwise these prefixes would prove nothing.
  expect(different).toBeGreaterThan(0);
});
