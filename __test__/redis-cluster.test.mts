// A real cluster, with slots that move and masters that fail.
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { openKvStore } from "../index.js";
import { RedisCluster } from "./services/redis-cluster.mts";
import { key, numbers } from "./support/entries.mts";
import { collect, keysOf } from "./support/collect.mts";
import { openStore } from "./support/redis.mts";
import { expectRejection } from "./support/rejection.mts";

let cluster: RedisCluster;

beforeAll(async () => {
  cluster = await RedisCluster.start(true);
}, 60_000);
afterAll(() => cluster.stop());
beforeEach(() => cluster.flush());

test("300 keys are listed and cleared from any node", async () => {
  const store = openStore(cluster.urls);
  await Promise.all(numbers(300).map((i) => store.set(key(i), i)));
  const [first = ""] = cluster.urls;
  await using another = openKvStore(first.replace("redis:", "redis+cluster:"));
  const listed = await collect(another.list(["k"]));
  expect(new Set(listed.map(({ value }) => value))).toEqual(
    new Set(numbers(300)),
  );
  expect(listed).toHaveLength(300);
  expect(await keysOf(store.list())).toEqual(listed.map(({ key }) => key));
  expect(await another.clear(["k"])).toBe(300);
  expect(await keysOf(store.list())).toEqual([]);
});

test("the store and another client read each other's entries", async () => {
  const store = openStore(cluster.urls);
  const client = cluster.client();
  for (const i of numbers(50)) {
    await client.set(`fedify::k::${i}`, String(i));
    expect(await store.get(key(i))).toBe(i);
    await store.set(key(i), [i]);
    expect(await client.get(`fedify::k::${i}`)).toBe(`[${i}]`);
  }
});

test("errors say so if a cluster is opened as a single server", async () => {
  const [first = ""] = cluster.urls;
  const store = openStore(first);
  const outcomes = await Promise.allSettled(
    numbers(50).map((i) => store.set(key(i), i)),
  );
  const reasons = outcomes.flatMap((outcome) =>
    outcome.status === "rejected" ? [outcome.reason] : [],
  );
  expect(reasons.length).toBeGreaterThan(10);
  for (const reason of reasons) {
    expect(reason).toMatchObject({ code: "ERR_KV_BACKEND" });
    expect(reason.message).toContain("redis+cluster:");
  }
});

test("one reachable node is enough", async () => {
  const [first = ""] = cluster.urls;
  const store = openStore(["redis://127.0.0.1:1", first]);
  await store.set(["k"], 1);
  const none = openStore(["redis://127.0.0.1:1", "redis://127.0.0.1:2"]);
  await expectRejection(() => none.get(["k"]), "ERR_KV_CONNECTION");
  await expectRejection(() => none.list().next(), "ERR_KV_CONNECTION");
});

test("operations keep their order while slots move", async () => {
  const store = openStore(cluster.urls);
  const indexed = openStore(cluster.urls, {
    index: true,
    keyPrefix: "{fedify}::",
  });
  await Promise.all(numbers(200).map((i) => store.set(key(i), 0)));
  await indexed.set(["k"], 0);
  let working = true;
  const work = async (i: number) => {
    let n = 0;
    while (working) {
      // Concurrent calls take effect in this order, wherever the slot is.
      const [swapped, , got] = await Promise.all([
        store.cas(key(i), n, n + 1),
        store.set(key(i), n + 2),
        store.get(key(i)),
      ]);
      expect([swapped, got]).toEqual([true, n + 2]);
      await indexed.set(["k"], n);
      n += 2;
    }
    return n;
  };
  const before = await cluster.redirections();
  const workers = numbers(200).map(work);
  const redirected = async () => {
    const { moved, asked } = await cluster.redirections();
    return moved > before.moved && asked > before.asked;
  };
  // Moves some slots twice, and goes on until nodes have answered MOVED and
  // ASK.
  for (let i = 0; i < 40 || !(await redirected()); i += 1) {
    await cluster.move(await cluster.slotOf(`fedify::k::${i % 20}`));
    if (i % 10 === 0) await cluster.move(await cluster.slotOf("{fedify}::k"));
  }
  working = false;
  const ends = await Promise.all(workers);
  for (const [i, n] of ends.entries()) {
    expect(await store.get(key(i))).toBe(n);
  }
  expect(await keysOf(store.list(["k"]))).toHaveLength(200);
  expect(await keysOf(indexed.list())).toEqual([["k"]]);
  expect(await indexed.clear(["k"])).toBe(1);
}, 120_000);

test("a master that fails is replaced by its replica", async () => {
  const store = openStore(cluster.urls, { commandTimeout: 10_000 });
  await Promise.all(numbers(300).map((i) => store.set(key(i), i)));
  const [victim] = cluster.masters;
  await cluster.replicated();
  await victim?.kill();
  const answers = await Promise.all(
    numbers(300).map(async (i) => {
      await store.set(key(i), [i]);
      return store.get(key(i));
    }),
  );
  expect(answers).toEqual(numbers(300).map((i) => [i]));
  expect(await keysOf(store.list(["k"]))).toHaveLength(300);
  expect(await store.cas(key(1), [1], "swapped")).toBe(true);
  // The old master rejoins as a replica.
  await victim?.start();
  expect(await store.clear(["k"])).toBe(300);
}, 120_000);
