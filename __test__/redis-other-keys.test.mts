// Keys of other programs in the same database: lists, hashes, sorted sets.
import type { Redis } from "ioredis";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { RedisServer } from "./services/redis.mts";
import { keysOf } from "./support/collect.mts";
import { openStore } from "./support/redis.mts";
import { expectRejection } from "./support/rejection.mts";

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

async function addOthers(prefix: string): Promise<string[]> {
  await redis.lpush(`${prefix}k::list`, "x");
  await redis.hset(`${prefix}k::hash`, "x", 1);
  await redis.zadd(`${prefix}k::zset`, 0, "x");
  await redis.sadd(`${prefix}k::set`, "x");
  await redis.xadd(`${prefix}k::stream`, "*", "x", "1");
  return redis.keys("*");
}

const keys = async () => (await redis.keys("*")).toSorted();

test.each([{ index: false }, { index: true }])(
  "drop() with an empty prefix is refused: %o",
  async (options) => {
    const store = openStore(server.url, { keyPrefix: "", ...options });
    await store.set(["k"], 1);
    await addOthers("");
    const before = await keys();
    const { message } = await expectRejection(
      () => store.drop(),
      "ERR_KV_INVALID_OPTION",
    );
    expect(message).toContain("keyPrefix");
    expect(await keys()).toEqual(before);
    expect(await store.get(["k"])).toBe(1);
  },
);

test.each([{ keyPrefix: "" }, { keyPrefix: "fedify::" }])(
  "list and clear see strings only: %o",
  async ({ keyPrefix }) => {
    const others = await addOthers(keyPrefix);
    const store = openStore(server.url, { keyPrefix });
    await store.set(["k"], 1);
    await store.set(["k", "1"], 1);
    expect(await keysOf(store.list())).toEqual([["k"], ["k", "1"]]);
    expect(await store.clear(["k"])).toBe(2);
    expect(await keys()).toEqual(others.toSorted());
  },
);

test("drop() deletes all keys with the prefix, and no others", async () => {
  const others = await addOthers("other::");
  await addOthers("fedify::");
  const store = openStore(server.url);
  await store.set(["k"], 1);
  await store.drop();
  expect(await keys()).toEqual(others.toSorted());
});
