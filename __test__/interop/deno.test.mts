// The real Deno and our store on the same database. Each reads what the other
// wrote.
import * as fc from "fast-check";
import { statSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import {
  askDeno,
  openDenoStore,
  runDeno,
  startDeno,
} from "../support/deno.mts";
import { collect, inTextOrder, keysOf } from "../support/collect.mts";
import { asJson, hostileKeys, hostileValues } from "../support/hostile.mts";
import { expectRejection } from "../support/rejection.mts";
import { query, sql, temporaryFile } from "../support/sqlite.mts";
import { ask } from "../support/child.mts";

type Key = readonly [string, ...string[]];
type Entry = { key: Key; value: unknown };

/** All entries as Deno lists them. */
const listAll = `
  const all = [];
  for await (const { key, value } of kv.list({ prefix: [] })) {
    all.push({ key, value });
  }
  report(all);
`;

/** The values that are small enough for Deno KV. */
const smallValues = hostileValues.filter(
  ([, value]) => JSON.stringify(value).length < 60_000,
);

/** 300 random values of all JSON types. */
const anyValues = (seed: number) =>
  fc.sample(
    fc.oneof(
      fc.jsonValue(),
      fc.string({ unit: "binary" }),
      fc.double({ noNaN: true }),
      fc.integer(),
    ),
    { numRuns: 300, seed },
  );

describe("Deno reads entries of our store", () => {
  test("Deno lists keys and values of every kind, in our order", async () => {
    const path = await temporaryFile();
    const store = openDenoStore(path);
    const entries: Entry[] = [
      ...smallValues.map(([name, value]) => ({
        key: ["v", name] as Key,
        value,
      })),
      ...hostileKeys.map((key) => ({ key: ["k", ...key] as Key, value: 1 })),
      ...anyValues(1).map((value, i) => ({ key: ["a", `${i}`] as Key, value })),
    ];
    await Promise.all(entries.map(({ key, value }) => store.set(key, value)));
    const ours = await collect(store.list());
    // While our store is open, and after it was closed.
    expect(await askDeno(path, listAll)).toEqual(ours);
    await store.close();
    const theirs = await askDeno<Entry[]>(path, listAll);
    expect(theirs).toEqual(ours);
    const got = new Map(theirs.map((it) => [JSON.stringify(it.key), it.value]));
    for (const { key, value } of entries) {
      expect(got.get(JSON.stringify(key))).toEqual(asJson(value));
    }
  });

  test("Deno sees the results of cas, delete and clear", async () => {
    const path = await temporaryFile();
    const store = openDenoStore(path);
    await store.set(["n"], null);
    await store.set(["d"], 1);
    await store.set(["c", "1"], 1);
    await store.cas(["n"], null, { date: new Date(0), big: 2 ** 60 });
    await store.delete(["d"]);
    await store.clear(["c"]);
    expect(await askDeno(path, listAll)).toEqual([
      { key: ["n"], value: { date: "1970-01-01T00:00:00.000Z", big: 2 ** 60 } },
    ]);
  });

  test("a ttl is stored as Deno's expiration time", async () => {
    const path = await temporaryFile();
    const store = openDenoStore(path);
    const start = Date.now();
    await store.set(["k"], 1, { ttl: { hours: 1 } });
    await store.set(["l"], 1, { ttl: { hours: 1 } });
    await store.set(["l"], 2);
    const rows = await query(
      path,
      "SELECT expiration_ms AS at FROM kv ORDER BY k",
    );
    const at = Number(rows[0]?.at) - 3_600_000;
    expect(at).toBeGreaterThanOrEqual(start);
    expect(at).toBeLessThanOrEqual(Date.now());
    expect(rows[1]?.at).toBe(-1);
    // Deno removes it.
    await sql(path, "UPDATE kv SET expiration_ms = 1 WHERE expiration_ms > 0");
    expect(await askDeno(path, listAll)).toEqual([{ key: ["l"], value: 2 }]);
  });
});

describe("our store reads entries of Deno", () => {
  test("it reads keys and values of every JSON type", async () => {
    const path = await temporaryFile();
    const entries = [
      ...hostileKeys.map((key) => ({ key: ["k", ...key], value: 1 })),
      ...anyValues(2).map((value, i) => ({ key: ["a", `${i}`], value })),
      ...smallValues.map(([name, value]) => ({
        key: ["v", name],
        value: asJson(value),
      })),
    ];
    await runDeno(
      path,
      `for (const { key, value } of data.entries) await kv.set(key, value);`,
      { entries },
    );
    const store = openDenoStore(path);
    const ours = await collect(store.list());
    expect(ours).toEqual(await askDeno(path, listAll));
    const got = new Map(ours.map((it) => [JSON.stringify(it.key), it.value]));
    for (const { key, value } of entries) {
      expect(got.get(JSON.stringify(key))).toEqual(asJson(value));
      expect(await store.get(key as unknown as Key)).toEqual(asJson(value));
    }
  });

  test("it converts other values as JSON.stringify does", async () => {
    const path = await temporaryFile();
    await runDeno(
      path,
      `
        const shared = { a: ["漢"] };
        const sparse = new Array(4);
        sparse[2] = "two";
        await kv.set(["v"], {
          date: new Date(1e12), invalid: new Date(NaN), far: new Date(8e14),
          last: new Date(8.64e15), first: new Date(-8.64e15), bc: new Date(-1e14),
          none: undefined, holes: [, 1, undefined], sparse,
          named: Object.assign([1, 2], { name: [shared] }),
          shared: [shared, shared], boxed: [Object("s"), Object(1), Object(true)],
          numbers: [NaN, -Infinity, -0, 2 ** 53, 1e-7, 4294967295],
        });
        await kv.set(["nothing"], undefined);
        await kv.set(["null"], null);
      `,
    );
    const store = openDenoStore(path);
    const shared = { a: ["漢"] };
    const value = {
      date: new Date(1e12),
      invalid: null,
      far: new Date(8e14),
      last: new Date(8.64e15),
      first: new Date(-8.64e15),
      bc: new Date(-1e14),
      holes: [null, 1, null],
      sparse: [null, null, "two", null],
      named: [1, 2],
      shared: [shared, shared],
      boxed: ["s", 1, true],
      numbers: [null, null, 0, 2 ** 53, 1e-7, 4294967295],
    };
    expect(await store.get(["v"])).toEqual(asJson(value));
    // The value `undefined` means that there is no entry, as in all stores.
    expect(await store.get(["nothing"])).toBeUndefined();
    expect(await keysOf(store.list())).toEqual([["null"], ["v"]]);
    expect(await store.cas(["nothing"], undefined, 1)).toBe(true);
    expect(await store.cas(["v"], value, "swapped")).toBe(true);
    expect(await store.cas(["null"], null, "swapped too")).toBe(true);
    expect(await keysOf(store.list())).toHaveLength(3);
  });

  test("values without a JSON form are skipped, and hide no other entry", async () => {
    const path = await temporaryFile();
    await runDeno(
      path,
      `
        const cycle = {};
        cycle.self = cycle;
        const values = {
          "a Map": new Map([[1, 2]]), "a Set": [new Set([1])],
          "a BigInt": 1n, "a BigInt within": { a: [2n ** 70n] },
          "binary data": new Uint8Array(3), "binary data within": [new Uint8Array(3)],
          "a Deno.KvU64": new Deno.KvU64(7n), "a regular expression": /x/,
          "an Error": new Error("mine"), "a cycle": cycle,
        };
        for (const [name, value] of Object.entries(values)) {
          await kv.set(["bad", name], value);
          await kv.set(["bad", name, "good"], name);
        }
        for (const part of [1, 1n, true, false, new Uint8Array(2)]) {
          await kv.set(["bad", part], "not a key of the store");
        }
      `,
    );
    const store = openDenoStore(path);
    const list = store.list(["bad"]);
    const names = (await collect(list)).map(({ value }) => value as string);
    expect(names).toHaveLength(10);
    expect(list.skipped).toBe(15);
    for (const name of names) {
      const key = ["bad", name] as const;
      const error = await expectRejection(
        () => store.get(key),
        "ERR_KV_CORRUPT",
      );
      expect(error.message).toContain(JSON.stringify(key));
      expect(error.message).toContain(name.replace(" within", ""));
      await expectRejection(() => store.cas(key, {}, 1), "ERR_KV_CORRUPT");
    }
    // clear deletes corrupt values, but not keys that our store can't
    // represent.
    await store.set(["bad", "a Map"], "mended");
    expect(await store.get(["bad", "a Map"])).toBe("mended");
    expect(await store.clear(["bad"])).toBe(20);
    expect(await askDeno<Entry[]>(path, listAll)).toHaveLength(5);
    await store.drop();
    expect(await askDeno(path, listAll)).toEqual([]);
  });

  test("an entry with expireIn expires to the millisecond", async () => {
    const path = await temporaryFile();
    const deno = startDeno(
      path,
      `
        await kv.set(["k"], 1, { expireIn: 3_600_000 });
        await kv.set(["gone"], 1, { expireIn: 1 });
        report("set");
        // Deno itself still sees the entry for up to a minute.
      `,
    );
    await deno.next();
    const setBy = Date.now();
    while (Date.now() <= setBy + 1) await setImmediate();
    const store = openDenoStore(path);
    expect(await keysOf(store.list())).toEqual([["k"]]);
    expect(await store.get(["gone"])).toBeUndefined();
    expect(await store.cas(["gone"], undefined, "back")).toBe(true);
    expect(await store.get(["gone"])).toBe("back");
    await deno.end();
  });
});

describe("Deno and our store write at the same time", () => {
  test("a counter loses no increment", async () => {
    const path = await temporaryFile();
    const store = openDenoStore(path, { busyTimeout: 60_000 });
    await store.set(["n"], { count: 0 });
    const deno = startDeno(
      path,
      `
        report("ready");
        for (let done = 0; done < 200; ) {
          const entry = await kv.get(["n"]);
          const count = entry.value.count + 1;
          const { ok } = await patiently(() =>
            kv.atomic().check(entry).set(["n"], { count }).commit());
          done += ok ? 1 : 0;
        }
      `,
    );
    await deno.next();
    for (let done = 0; done < 200;) {
      const value = await store.get<{ count: number }>(["n"]);
      const count = (value?.count ?? 0) + 1;
      done += Number(await store.cas(["n"], value, { count }));
    }
    await deno.end();
    expect(await store.get(["n"])).toEqual({ count: 400 });
  });

  test("exactly one of two creations wins", async () => {
    const path = await temporaryFile();
    const store = openDenoStore(path, { busyTimeout: 60_000 });
    await store.initialize();
    const deno = startDeno(
      path,
      `
        report("ready");
        const won = [];
        for (let i = 0; i < 300; i += 1) {
          const key = ["k", String(i)];
          const { ok } = await patiently(() =>
            kv.atomic().check({ key, versionstamp: null })
              .set(key, "deno").commit());
          if (ok) won.push(i);
        }
        report(won);
      `,
    );
    await deno.next();
    const ours: number[] = [];
    for (let i = 299; i >= 0; i -= 1) {
      if (await store.cas(["k", String(i)], undefined, "us")) {
        ours.push(i);
      }
    }
    const theirs = await deno.next<number[]>();
    await deno.end();
    const all = [...ours, ...theirs].toSorted((a, b) => a - b);
    expect(all).toEqual(Array.from({ length: 300 }, (_, i) => i));
    const entries = await collect(store.list(["k"]));
    expect(entries.filter(({ value }) => value === "us")).toHaveLength(
      ours.length,
    );
  });

  test("all of many writes by both are stored", async () => {
    const path = await temporaryFile();
    const store = openDenoStore(path, { busyTimeout: 60_000 });
    await store.initialize();
    const deno = startDeno(
      path,
      `
        report("ready");
        for (let i = 0; i < 20; i += 1) {
          await patiently(() => {
            const atomic = kv.atomic();
            for (let j = 0; j < 50; j += 1) {
              atomic.set(["deno", i + "," + j], "x".repeat(500));
            }
            return atomic.commit();
          });
        }
      `,
    );
    await deno.next();
    await Promise.all(
      Array.from({ length: 2_000 }, (_, i) => store.set(["us", `${i}`], i)),
    );
    await deno.end();
    expect(await keysOf(store.list(["us"]))).toHaveLength(2_000);
    expect(await keysOf(store.list(["deno"]))).toHaveLength(1_000);
    expect(await store.clear(["deno"])).toBe(1_000);
  });
});

test("a checkpoint moves writes from the log into the database", async () => {
  const path = await temporaryFile();
  const store = openDenoStore(path);
  const value = "x".repeat(1_000);
  const write = (round: number) =>
    Promise.all(
      Array.from({ length: 500 }, (_, i) =>
        store.set(["k", String(i)], `${round}${value}`),
      ),
    );
  for (let round = 0; round < 4; round += 1) {
    await write(round);
  }
  // The store is still open.
  await expect.poll(() => statSync(path).size).toBeGreaterThan(400_000);
  expect(await keysOf(store.list())).toHaveLength(500);
});

// Node's V8 uses the same serialization format as Deno's.
describe("V8 of Node.js", () => {
  test("reads our values, and serializes them to the same bytes", async () => {
    const path = await temporaryFile();
    const store = openDenoStore(path);
    const values = [...smallValues.map(([, value]) => value), ...anyValues(3)];
    await Promise.all(values.map((value, i) => store.set([`${i}`], value)));
    await store.close();
    const got = await ask<[string, unknown, boolean][]>(
      `
        const { DatabaseSync } = await import("node:sqlite");
        const { deserialize, serialize } = await import("node:v8");
        const rows = new DatabaseSync(data).prepare("SELECT k, v FROM kv").all();
        report(rows.map(({ k, v }) => {
          const value = deserialize(v);
          const parsed = JSON.parse(JSON.stringify(value));
          return [
            Buffer.from(k).toString("latin1").slice(1, -1),
            value,
            serialize(parsed).equals(Buffer.from(v)),
          ];
        }));
      `,
      path,
    );
    expect(inTextOrder(got.map(([key]) => [key]))).toHaveLength(values.length);
    for (const [i, value, isTheSame] of got) {
      const expected = asJson(values[Number(i)]);
      expect(value).toEqual(expected);
      expect(isTheSame, JSON.stringify(expected)).toBe(true);
    }
  });

  test("writes values that our store reads", async () => {
    const path = await temporaryFile();
    const store = openDenoStore(path);
    await store.set(["k"], 1);
    const values = [
      ...smallValues.map(([, value]) => asJson(value)),
      ...anyValues(4),
    ];
    await store.close();
    await ask(
      `
        const { DatabaseSync } = await import("node:sqlite");
        const { serialize } = await import("node:v8");
        const database = new DatabaseSync(data.path);
        const insert = database.prepare(
          "INSERT INTO kv (k, v, v_encoding, version) VALUES (?, ?, 1, 1)");
        data.values.forEach((value, i) =>
          insert.run(Buffer.from("\\u0002" + i + "\\0"), serialize(value)));
        database.close();
        report(data.values.length);
      `,
      { path, values },
    );
    const again = openDenoStore(path);
    for (const [i, value] of values.entries()) {
      expect(await again.get([`${i}`])).toEqual(asJson(value));
    }
    expect(await keysOf(again.list())).toHaveLength(values.length + 1);
  });
});
