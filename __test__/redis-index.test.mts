// The option `index: true`, and changes to the data by clients without it.
import type { Redis } from "ioredis";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { RedisServer } from "./services/redis.mts";
import { collect, inTextOrder, keysOf } from "./support/collect.mts";
import { hostileKeys } from "./support/hostile.mts";
import { openStore } from "./support/redis.mts";
import { expectRejection } from "./support/rejection.mts";

const index = "fedify:::index";

let server: RedisServer;
let redis: Redis;

beforeAll(async () => {
  server = await RedisServer.start();
  redis = server.client();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await redis.flushall();
});

const members = () => redis.zrange(index, 0, -1);
const open = () => openStore(server.url, { index: true });

test("each write updates the index", async () => {
  const store = open();
  await store.set(["b"], 1);
  await store.set(["a", "x"], 1, { ttl: { hours: 1 } });
  expect(await members()).toEqual(["a::x", "b"]);
  expect(await store.cas(["c"], undefined, 1)).toBe(true);
  expect(await store.cas(["d"], 1, 2)).toBe(false);
  expect(await store.cas(["b"], 1, undefined)).toBe(true);
  await store.delete(["a", "x"]);
  await store.set(["c"], 2, { ttl: { seconds: 0 } });
  expect(await members()).toEqual([]);
  expect(await redis.keys("*")).toEqual([]);
});

test("a list reads only its matches", async () => {
  const store = open();
  const keys = Array.from(
    { length: 2_000 },
    (_, i) => ["k", String(i)] as const,
  );
  await Promise.all(keys.map((key) => store.set(key, 1)));
  await store.set(["l", "1"], 1);
  await redis.config("RESETSTAT");
  expect(await keysOf(store.list(["l"]))).toEqual([["l", "1"]]);
  const stats = await redis.info("commandstats");
  expect(stats).not.toContain("cmdstat_scan");
  expect(stats).toMatch(/cmdstat_zrangebylex:calls=[1-3],/);
  expect(stats).toContain("cmdstat_mget:calls=1,");
});

test("entries written without the index are listed after reindex()", async () => {
  const store = open();
  const plain = openStore(server.url);
  await store.set(["both"], 1);
  await plain.set(["theirs"], 2);
  await plain.delete(["both"]);
  expect(await store.get(["theirs"])).toBe(2);
  expect(await keysOf(store.list())).toEqual([]);
  expect(await store.clear(["theirs"])).toBe(0);
  expect(await store.reindex()).toBe(1);
  expect(store.reindexed).toBe(1);
  expect(await keysOf(store.list())).toEqual([["theirs"]]);
  expect(await members()).toEqual(["theirs"]);
  expect(await store.clear(["theirs"])).toBe(1);
  expect(await plain.get(["theirs"])).toBeUndefined();
});

test("every key is listed in the same order as without the index", async () => {
  const store = open();
  const plain = openStore(server.url);
  const keys = new Map(hostileKeys.map((key) => [JSON.stringify(key), key]));
  await Promise.all([...keys.values()].map((key) => plain.set(key, 1)));
  expect(await store.reindex()).toBe(keys.size);
  expect(await keysOf(store.list())).toEqual(await keysOf(plain.list()));
  for (const prefix of hostileKeys) {
    expect(inTextOrder(await keysOf(store.list(prefix)))).toEqual(
      inTextOrder(await keysOf(plain.list(prefix))),
    );
  }
});

test("expired entries are not listed and leave the index", async () => {
  const store = open();
  const keys = Array.from({ length: 300 }, (_, i) => ["k", String(i)] as const);
  await Promise.all(
    keys.map((key) => store.set(key, 1, { ttl: { milliseconds: 1 } })),
  );
  await store.set(["k", "stays"], 1);
  await expect.poll(() => store.get(["k", "299"])).toBeUndefined();
  expect(await keysOf(store.list())).toEqual([["k", "stays"]]);
  await expect.poll(members).toEqual(["k::stays"]);
});

test("a list that removes stale members keeps those of recreated entries", async () => {
  const store = open();
  for (let round = 0; round < 50; round += 1) {
    const keys = Array.from(
      { length: 20 },
      (_, i) => ["k", String(i)] as const,
    );
    await Promise.all(keys.map((key) => store.set(key, 1)));
    // The index's members are stale now. The list removes them, while the
    // entries are set again.
    await redis.del(...keys.map(([, i]) => `fedify::k::${i}`));
    const listed = collect(store.list());
    await Promise.all(keys.map((key) => store.set(key, round)));
    await listed;
    expect(await keysOf(store.list())).toHaveLength(20);
  }
});

test("reindex() works during writes and reports progress", async () => {
  const store = open();
  const plain = openStore(server.url);
  const keys = Array.from(
    { length: 20_000 },
    (_, i) => ["k", String(i)] as const,
  );
  await Promise.all(keys.map((key) => plain.set(key, 1)));
  const seen = new Set<number>();
  let writing = true;
  const written = (async () => {
    for (let i = 0; writing; i += 1) {
      seen.add(store.reindexed);
      await Promise.all([
        store.set(["new", String(i)], i),
        store.delete(["k", String(i * 7)]),
        store.set(["k", String(i * 11)], i),
      ]);
    }
  })();
  const count = await store.reindex();
  writing = false;
  await written;
  expect(count).toBeGreaterThan(10_000);
  expect(store.reindexed).toBe(count);
  // More values were seen than the final count.
  expect(seen.size).toBeGreaterThan(1);
  expect(await keysOf(store.list())).toEqual(await keysOf(plain.list()));
});

test("drop() deletes the index", async () => {
  const store = open();
  await store.set(["k"], 1);
  await store.drop();
  expect(await redis.keys("*")).toEqual([]);
});

test("reindex() rejects without the option, and after close()", async () => {
  const store = openStore(server.url);
  await expectRejection(() => store.reindex(), "ERR_KV_INVALID_OPTION");
  const closed = open();
  await closed.close();
  await expectRejection(() => closed.reindex(), "ERR_KV_CLOSED");
});

test("in a cluster the index needs a prefix with a hash tag", () => {
  expect(() => openStore("redis+cluster://host", { index: true })).toThrow(
    expect.objectContaining({ code: "ERR_KV_INVALID_OPTION" }),
  );
  openStore("redis+cluster://host", { index: true, keyPrefix: "{kv}::" });
});
