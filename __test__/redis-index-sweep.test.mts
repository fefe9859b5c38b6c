// Members of entries that have expired leave the index in the background, though
// nobody lists them.
import type { Redis } from "ioredis";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { RedisCluster } from "./services/redis-cluster.mts";
import { RedisServer } from "./services/redis.mts";
import { type Child, ask, startChild } from "./support/child.mts";
import { keysOf } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { openStore } from "./support/redis.mts";

const prefix = "fedify::";
const index = `${prefix}:index`;
/** How long a sweep may take on a busy machine. */
const PATIENCE = { timeout: 50_000, interval: 100 };
const MANY = 20_000;

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

const open = (keyPrefix = prefix) =>
  openStore(server.url, { index: true, keyPrefix });
/** The number of members. */
const members = (keyPrefix = prefix) => redis.zcard(`${keyPrefix}:index`);

/** Who writes `[prefix, …]` with a ttl; a store that doesn't write sweeps. */
const writers: Record<string, (keyPrefix: string) => Promise<unknown>> = {
  "the store itself": async (keyPrefix) => {
    const store = open(keyPrefix);
    await store.set(["stays", "long"], 1, { ttl: { hours: 1 } });
    const ttl = { milliseconds: 800 };
    for (const from of numbers(20)) {
      await Promise.all(
        numbers(MANY / 20).map((i) =>
          store.set(["mark", `${from}/${i}`], true, { ttl }),
        ),
      );
    }
    await store.delete(["stays", "long"]);
  },
  "a process that ends": (keyPrefix) =>
    ask(
      `
        const { RedisKvStore } = require(addon);
        const { url, keyPrefix } = data;
        const store = new RedisKvStore(url, { index: true, keyPrefix });
        const ttl = { milliseconds: 50 };
        await Promise.all(Array.from({ length: 1_000 }, (_, i) =>
          store.set(["mark", String(i)], true, { ttl })));
        await store.close();
        report(true);
      `,
      { url: server.url, keyPrefix },
    ),
  "another program": async (keyPrefix) => {
    for (const from of numbers(10)) {
      const pipeline = redis.pipeline();
      for (const i of numbers(1_000)) {
        pipeline.set(`${keyPrefix}mark::${from}/${i}`, "true", "PX", 50);
        pipeline.zadd(`${keyPrefix}:index`, 0, `mark::${from}/${i}`);
      }
      await pipeline.exec();
    }
  },
};

test("whoever wrote them", async () => {
  // At the same time, since sweeps pause for seconds.
  const all = Object.entries(writers).map(async ([name, write]) => {
    const keyPrefix = `${name}::`;
    const store = open(keyPrefix);
    await store.set(["stays"], 1);
    await write(keyPrefix);
    await expect
      .poll(() => members(keyPrefix), { ...PATIENCE, message: name })
      .toBe(1);
    expect(await keysOf(store.list())).toEqual([["stays"]]);
  });
  await Promise.all(all);
});

test("not those of entries that are written again meanwhile", async () => {
  const store = open();
  const sweeper = open();
  await sweeper.get(["k"]);
  const count = 500;
  let live = new Set<number>();
  for (const round of numbers(40)) {
    const expires = (i: number) => (i + round) % 3 === 0;
    await Promise.all(
      numbers(count).map((i) =>
        store.set(
          key(i),
          round,
          expires(i) ? { ttl: { milliseconds: 1 + (i % 50) } } : {},
        ),
      ),
    );
    live = new Set(numbers(count).filter((i) => !expires(i)));
  }
  await expect.poll(() => members(), PATIENCE).toBe(live.size);
  const listed = await keysOf(store.list());
  expect(new Set(listed.map(([, i]) => Number(i)))).toEqual(live);
});

/** A process with some stores, which writes when it is told to. */
async function writer(name: string, ttl: number): Promise<Child> {
  const child = startChild(
    `
      const { RedisKvStore } = require(addon);
      const stores = Array.from({ length: 3 },
        () => new RedisKvStore(data.url, { index: true }));
      for (const store of stores) await store.get(["k"]);
      report("ready");
      await told();
      const ttl = { milliseconds: data.ttl };
      await Promise.all(stores.flatMap((store, s) =>
        Array.from({ length: 2_000 }, (_, i) =>
          store.set([data.name, s + "/" + i], 1, { ttl }))));
      report("written");
      await told();
      await Promise.all(stores.map((store) => store.close()));
    `,
    { url: server.url, name, ttl },
  );
  expect(await child.next()).toBe("ready");
  return child;
}

test("by one store at a time, among twelve in four processes", async () => {
  const writers = await Promise.all(
    numbers(4).map((i) => writer(String(i), 3_000)),
  );
  for (const child of writers) child.tell("write");
  for (const child of writers) expect(await child.next()).toBe("written");
  // Nothing has expired yet.
  const walkers: string[] = [];
  const monitor = await server.client().monitor();
  const command = (_: string, parameters: string[], source: string) => {
    // What a script does is not from a client.
    const isOwn = source !== "lua" && parameters[0] !== "zcard";
    if (isOwn && parameters.includes(index)) walkers.push(source);
  };
  monitor.on("monitor", command);
  try {
    await expect.poll(() => members(), PATIENCE).toBe(0);
  } finally {
    monitor.disconnect();
  }
  // Three of four commands if all processes walked at once.
  const changes = walkers.filter((from, i) => i > 0 && from !== walkers[i - 1]);
  expect(walkers.length).toBeGreaterThan(0);
  expect(changes.length).toBeLessThanOrEqual(walkers.length / 2);
  for (const child of writers) child.end();
});

test("if the process that does it is killed, another one goes on", async () => {
  const children = await Promise.all(
    ["1", "2"].map((name) => writer(name, 500)),
  );
  const [first] = children as [Child, ...Child[]];
  first.tell("write");
  expect(await first.next()).toBe("written");
  await expect.poll(() => members(), PATIENCE).toBe(0);
  const third = await writer("3", 500);
  // The one that did it is among them.
  for (const child of children) child.kill();
  third.tell("write");
  expect(await third.next()).toBe("written");
  await expect.poll(() => members(), PATIENCE).toBe(0);
  third.end();
});

test("in a cluster", async () => {
  const cluster = await RedisCluster.start();
  try {
    const prefixes = ["{a}::", "{b}::", "{c}::"];
    const stores = prefixes.map((keyPrefix) =>
      openStore(cluster.urls, { index: true, keyPrefix }),
    );
    const ttl = { milliseconds: 100 };
    await Promise.all(
      stores.flatMap((store) =>
        numbers(1_000).map((i) => store.set(key(i), i, { ttl })),
      ),
    );
    await Promise.all(stores.map((store) => store.set(["stays"], 1)));
    const client = cluster.client();
    for (const prefix of prefixes) {
      await expect
        .poll(() => client.zcard(`${prefix}:index`), PATIENCE)
        .toBe(1);
    }
  } finally {
    await cluster.stop();
  }
});
