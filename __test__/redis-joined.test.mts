// Operations that wait at the same time share commands. Their results must be
// the same as without that.
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { RedisServer } from "./services/redis.mts";
import { key, numbers } from "./support/entries.mts";
import { openStore } from "./support/redis.mts";

let server: RedisServer;

beforeAll(async () => {
  server = await RedisServer.start();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await server.client().flushall();
  await server.client().config("RESETSTAT");
});

/** How often the server has run each command. */
async function calls(): Promise<Record<string, number>> {
  const stats = await server.client().info("commandstats");
  return Object.fromEntries(
    Array.from(stats.matchAll(/cmdstat_(\w+):calls=(\d+)/g), (match) => [
      match[1],
      Number(match[2]),
    ]),
  );
}

/** Makes calls while the server is paused, so that they wait together. */
async function together<T>(
  call: () => Promise<T>[],
): Promise<PromiseSettledResult<T>[]> {
  await server.pause();
  try {
    return Promise.allSettled(call());
  } finally {
    server.resume();
  }
}

test("waiting operations share commands", async () => {
  const store = openStore(server.url);
  await store.initialize();
  await together(() => numbers(500).map((i) => store.set(key(i), i)));
  const values = await together(() =>
    numbers(500).map((i) => store.get(key(i))),
  );
  expect(values).toEqual(
    numbers(500).map((value) => ({ status: "fulfilled", value })),
  );
  await together(() => numbers(500).map((i) => store.delete(key(i))));
  const { get = 0, mget = 0, set = 0, mset = 0, del = 0 } = await calls();
  expect([mget > 0, mset > 0]).toEqual([true, true]);
  for (const count of [get + mget, set + mset, del]) {
    expect(count).toBeLessThan(250);
  }
  expect(await server.client().dbsize()).toBe(0);
});

test("operations on one entry take effect in the order of the calls", async () => {
  const store = openStore(server.url);
  const seen: Promise<unknown>[] = [];
  const expected: unknown[] = [];
  const held = new Map<number, unknown>();
  const remember = (answer: Promise<unknown>, value: unknown) => {
    seen.push(answer);
    expected.push(value);
  };
  // Sequences of the same operation, of different lengths, on few keys.
  let random = 1;
  const next = (below: number) => {
    random = (random * 48_271) % 2_147_483_647;
    return random % below;
  };
  for (let step = 0; step < 400; step += 1) {
    const operation = next(5);
    for (let n = next(40); n >= 0; n -= 1) {
      const i = next(8);
      const value = [step, n];
      if (operation < 2) {
        remember(store.get(key(i)), held.get(i));
      } else if (operation === 2) {
        remember(store.delete(key(i)), undefined);
        held.delete(i);
      } else {
        const options = operation === 3 ? {} : { ttl: { hours: 1 } };
        remember(store.set(key(i), value, options), undefined);
        held.set(i, value);
      }
    }
  }
  expect(await Promise.all(seen)).toEqual(expected);
});

test("a key of another type is corrupt, and a missing key is undefined", async () => {
  const store = openStore(server.url);
  const others = [7, 180];
  for (const i of others) await server.client().lpush(`fedify::k::${i}`, "x");
  const isSet = (i: number) => !others.includes(i) && (i % 3 > 0 || i < 150);
  const set = numbers(200).filter(isSet);
  await Promise.all(set.map((i) => store.set(key(i), i)));
  // Many at a time: in some rounds most keys exist, in others most are missing.
  for (const [from, to] of [
    [10, 200],
    [0, 40],
    [0, 10],
    [150, 500],
    [7, 8],
    [0, 200],
  ] as const) {
    const asked = numbers(to).slice(from);
    const outcomes = await together(() => asked.map((i) => store.get(key(i))));
    for (const [at, i] of asked.entries()) {
      const value = isSet(i) && i < 200 ? i : undefined;
      expect(outcomes[at]).toMatchObject(
        others.includes(i)
          ? { status: "rejected", reason: { code: "ERR_KV_CORRUPT" } }
          : { status: "fulfilled", value },
      );
    }
  }
  const { mget = 0, exists = 0 } = await calls();
  expect([mget > 0, exists > 0]).toEqual([true, true]);
});

test("a get of a missing key does not see a later set", async () => {
  const store = openStore(server.url);
  await Promise.all(numbers(100).map((i) => store.set(key(i), i)));
  for (const round of numbers(50)) {
    const gets = numbers(100).map((i) => store.get(key(i)));
    const missed = store.get(["new", String(round)]);
    const set = store.set(["new", String(round)], round);
    await Promise.all([...gets, set]);
    expect(await missed).toBeUndefined();
  }
});

test("a user without the rights for shared commands can use single ones", async () => {
  const redis = server.client();
  const rights = ["nopass", "~fedify::*", "+get", "+set", "+del", "+client"];
  await redis.call("ACL", "SETUSER", "plain", "on", ...rights);
  const { host } = new URL(server.url);
  const store = openStore(`redis://plain:any@${host}`);
  for (const round of numbers(3)) {
    await Promise.all(numbers(200).map((i) => store.set(key(i), round)));
    const values = numbers(200).map((i) => store.get(key(i)));
    expect(await Promise.all(values)).toEqual(numbers(200).fill(round));
  }
});

test("a forbidden key fails only its own operation", async () => {
  const redis = server.client();
  const rights = ["nopass", "%R~fedify::*", "~fedify::k::1*", "+@all"];
  await redis.call("ACL", "SETUSER", "some", "on", ...rights);
  const { host } = new URL(server.url);
  const store = openStore(`redis://some:any@${host}`);
  const outcomes = await Promise.allSettled(
    numbers(100).map((i) => store.set(key(i), i)),
  );
  for (const [i, { status }] of outcomes.entries()) {
    const own = String(i).startsWith("1");
    expect(status, String(i)).toBe(own ? "fulfilled" : "rejected");
    expect(await store.get(key(i))).toBe(own ? i : undefined);
  }
});

test("every set rejects while the server is out of memory", async () => {
  const store = openStore(server.url);
  const redis = server.client();
  await store.set(key(0), "old");
  await redis.config("SET", "maxmemory", "1");
  const outcomes = await Promise.allSettled([
    ...numbers(100).map((i) => store.set(key(i), i)),
    ...numbers(100).map((i) => store.get(key(i))),
  ]);
  await redis.config("SET", "maxmemory", "0");
  for (const outcome of outcomes.slice(0, 100)) {
    expect(outcome).toMatchObject({
      status: "rejected",
      reason: { code: "ERR_KV_BACKEND" },
    });
  }
  expect(outcomes[100]).toEqual({ status: "fulfilled", value: "old" });
  expect(outcomes[101]).toEqual({ status: "fulfilled", value: undefined });
  await Promise.all(numbers(100).map((i) => store.set(key(i), i)));
  expect(await store.get(key(99))).toBe(99);
});
