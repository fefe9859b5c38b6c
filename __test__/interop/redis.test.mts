// The official package with ioredis and our store, on one server.
import { RedisKvStore as OfficialStore } from "@fedify/redis";
import { Temporal } from "@js-temporal/polyfill";
import type { Redis } from "ioredis";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import { RedisServer } from "../services/redis.mts";
import { collect, inTextOrder, keysOf } from "../support/collect.mts";
import { asJson, hostileKeys, hostileValues } from "../support/hostile.mts";
import { openStore } from "../support/redis.mts";
import { expectRejection } from "../support/rejection.mts";

type Key = readonly [string, ...string[]];

/** A duration for the official package, whose type is the runtime's class. */
function duration(length: Temporal.DurationLike) {
  type Native = NonNullable<
    NonNullable<Parameters<OfficialStore["set"]>[2]>["ttl"]
  >;
  return Temporal.Duration.from(length) as unknown as Native;
}

let server: RedisServer;
let redis: Redis;
let official: OfficialStore;

beforeAll(async () => {
  server = await RedisServer.start();
  redis = server.client();
  official = new OfficialStore(redis);
});
afterAll(() => server.stop());
beforeEach(async () => {
  await redis.flushall();
});

describe("both stores on one server", () => {
  test("both read and delete each other's keys", async () => {
    const store = openStore(server.url);
    for (const [i, key] of hostileKeys.entries()) {
      await official.set(key, i);
      expect(await store.get(key), JSON.stringify(key)).toBe(i);
      await store.set(key, [i]);
      expect(await official.get(key)).toEqual([i]);
      await official.delete(key);
      expect(await store.get(key)).toBeUndefined();
      await store.set(key, i);
      await store.delete(key);
      expect(await official.get(key)).toBeUndefined();
    }
    expect(await redis.keys("*")).toEqual([]);
  });

  test("both read each other's values", async () => {
    const store = openStore(server.url);
    for (const [name, value] of hostileValues) {
      await official.set(["k"], value);
      expect(await store.get(["k"]), name).toStrictEqual(asJson(value));
      await store.set(["k"], value);
      expect(await official.get(["k"]), name).toStrictEqual(asJson(value));
    }
  });

  test("both write the same bytes under the same names", async () => {
    const store = openStore(server.url);
    for (const key of hostileKeys) {
      await official.set(key, { key });
    }
    const dump = async () => {
      const names = await redis.keysBuffer("*");
      const values = await redis.mgetBuffer(names);
      return inTextOrder(
        names.map((name, i) => [
          name.toString("hex"),
          values[i]?.toString("hex"),
        ]),
      );
    };
    const theirs = await dump();
    await redis.flushall();
    for (const key of hostileKeys) {
      await store.set(key, { key });
    }
    expect(await dump()).toEqual(theirs);
  });

  test("entries of the official store can be listed, swapped and cleared", async () => {
    const store = openStore(server.url);
    const keys = new Map(hostileKeys.map((key) => [JSON.stringify(key), key]));
    for (const key of keys.values()) {
      await official.set(key, { b: 1, a: 2 });
    }
    expect(inTextOrder(await keysOf(store.list()))).toEqual(
      inTextOrder(keys.values()),
    );
    for (const key of keys.values()) {
      expect(await store.cas(key, { a: 2, b: 1 }, "mine")).toBe(true);
      expect(await official.get(key)).toBe("mine");
    }
    expect(await store.clear(["parent"])).toBe(
      [...keys.values()].filter(([first]) => first === "parent").length,
    );
    expect(await official.get(["parent", ""])).toBeUndefined();
  });

  test("both set the same ttls, and clear each other's", async () => {
    const store = openStore(server.url);
    const ttl = duration({ hours: 1 });
    await official.set(["theirs"], 1, { ttl });
    await store.set(["ours"], 1, { ttl });
    for (const name of ["fedify::theirs", "fedify::ours"]) {
      const left = await redis.pttl(name);
      expect(left).toBeGreaterThan(3_590_000);
      expect(left).toBeLessThanOrEqual(3_600_000);
    }
    // A set without a ttl clears the ttl that the other store has set.
    await store.set(["theirs"], 2);
    await official.set(["ours"], 2);
    expect(await redis.pttl("fedify::theirs")).toBe(-1);
    expect(await redis.pttl("fedify::ours")).toBe(-1);
  });

  test.each([
    ["a string", "app*[x]?\\:", "app*[x]?\\:"],
    [
      "not UTF-8",
      Buffer.from([0xff, 0x2a, 0x00]),
      Buffer.from([0xff, 0x2a, 0x00]),
    ],
    ["empty", "", ""],
    ["a Uint8Array", Buffer.from("kv/"), new TextEncoder().encode("kv/")],
  ])("both use a key prefix that is %s", async (_, theirs, ours) => {
    const other = new OfficialStore(redis, { keyPrefix: theirs });
    const store = openStore(server.url, { keyPrefix: ours });
    await other.set(["a", "b"], 1);
    expect(await store.get(["a", "b"])).toBe(1);
    await store.set(["a:", "*"], 2);
    expect(await other.get(["a:", "*"])).toBe(2);
    await redis.set("appXx?", "not ours");
    await redis.set("appXx?::a", "not ours");
    if (theirs !== "") {
      expect(await keysOf(store.list())).toEqual([
        ["a", "b"],
        ["a:", "*"],
      ]);
      await store.drop();
      expect(await redis.dbsize()).toBe(2);
    }
  });

  test("the option codec is refused, because it would have no effect", () => {
    const codec = { encode: () => Buffer.alloc(0), decode: () => null };
    expect(() => openStore(server.url, { codec } as object)).toThrow("codec");
  });
});

describe("errors of the official package", () => {
  test("our list decodes keys whose parts end in a colon", async () => {
    const store = openStore(server.url);
    const keys: Key[] = [
      ["a:", "b"],
      ["a_", ":b"],
      ["a", ":b"],
      ["a::", "", "_:"],
    ];
    for (const key of keys) {
      await store.set(key, key);
    }
    for (const { key, value } of await collect(store.list())) {
      expect(key).toEqual(value);
    }
    expect(await keysOf(store.list(["a:"]))).toEqual([["a:", "b"]]);
    expect(await keysOf(store.list(["a_"]))).toEqual([["a_", ":b"]]);
  });

  test("special characters of patterns are ordinary in keys", async () => {
    const store = openStore(server.url);
    await store.set(["p*", "child"], 1);
    await store.set(["pXX", "child"], 2);
    expect(await keysOf(store.list(["p*"]))).toEqual([["p*", "child"]]);
    const url = "https://[2001:db8::1]/";
    await store.set([url, "child"], 1);
    await store.set(["https://2/", "child"], 1);
    expect(await keysOf(store.list([url]))).toEqual([[url, "child"]]);
    expect(await store.clear(["p*"])).toBe(1);
    expect(await store.get(["pXX", "child"])).toBe(2);
  });

  test("ttls of half a second and of zero are valid", async () => {
    const store = openStore(server.url);
    await store.set(["half"], 1, { ttl: { milliseconds: 500 } });
    expect(await redis.pttl("fedify::half")).toBeGreaterThan(0);
    expect(await redis.pttl("fedify::half")).toBeLessThanOrEqual(500);
    await store.set(["none"], 1);
    await store.set(["none"], 2, { ttl: { seconds: 0 } });
    expect(await store.get(["none"])).toBeUndefined();
    const ttl = duration({ milliseconds: 500 });
    await expect(official.set(["half"], 1, { ttl })).rejects.toThrow();
  });

  test("very long ttls are valid", async () => {
    const store = openStore(server.url);
    await store.set(["k"], 1, { ttl: { milliseconds: 1e300 } });
    expect(await store.get(["k"])).toBe(1);
    expect(await redis.pttl("fedify::k")).toBeGreaterThan(1e15);
  });
});

describe("foreign data under the same prefix", () => {
  test("keys of other types are not entries", async () => {
    const store = openStore(server.url);
    await redis.lpush("fedify::a::list", "x");
    await redis.hset("fedify::a::hash", "x", "y");
    await redis.zadd("fedify::zset", 1, "x");
    await store.set(["a", "entry"], 1);
    expect(await keysOf(store.list())).toEqual([["a", "entry"]]);
    for (const key of [["a", "list"], ["zset"]] as Key[]) {
      const error = await expectRejection(
        () => store.get(key),
        "ERR_KV_CORRUPT",
      );
      expect(error.message).toContain(JSON.stringify(key));
    }
    await expectRejection(() => store.cas(["zset"], 1, 2), "ERR_KV_CORRUPT");
    expect(await store.clear(["a"])).toBe(1);
    expect(await redis.exists("fedify::a::list")).toBe(1);
  });

  test("names that are not keys are not listed, but drop() deletes them", async () => {
    const store = openStore(server.url);
    await redis.set("fedify:::odd", "1");
    await redis.set(Buffer.from("fedify::\xff", "latin1"), "1");
    await redis.set("fedify:outside", "1");
    await store.set(["k"], 1);
    expect(await keysOf(store.list())).toEqual([["k"]]);
    await store.drop();
    expect(await redis.keys("*")).toEqual(["fedify:outside"]);
  });

  test("values that are not JSON are corrupt for get and skipped by list", async () => {
    const store = openStore(server.url);
    await store.set(["k", "1"], 1);
    await redis.set("fedify::k::2", "{");
    await redis.set("fedify::k::3", Buffer.from([0x22, 0xff, 0x22]));
    await redis.set("fedify::k::4", "");
    await store.set(["k", "5"], 5);
    const list = store.list(["k"]);
    expect((await collect(list)).map(({ value }) => value)).toEqual([1, 5]);
    expect(list.skipped).toBe(3);
    for (const part of ["2", "3", "4"]) {
      const key: Key = ["k", part];
      for (const call of [() => store.get(key), () => store.cas(key, 1, 2)]) {
        const error = await expectRejection(call, "ERR_KV_CORRUPT");
        expect(error.message).toContain(JSON.stringify(key));
      }
      expect(await store.cas(key, undefined, 2)).toBe(false);
      await store.set(key, part);
      expect(await store.get(key)).toBe(part);
    }
  });
});

test("cas is atomic against plain writes of the official store", async () => {
  const store = openStore(server.url);
  for (let i = 0; i < 200; i += 1) {
    await official.set(["k"], { n: i });
    await Promise.all([
      store.cas(["k"], { n: i }, "ours"),
      official.set(["k"], "theirs"),
    ]);
    // In either order: if the cas is second, it doesn't swap.
    expect(await store.get(["k"])).toBe("theirs");
  }
});
