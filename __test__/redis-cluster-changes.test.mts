// A cluster whose slots and masters change while the store works.
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import type { RedisKvStore } from "../index.js";
import { OpenSlot, RedisCluster } from "./services/redis-cluster.mts";
import type { Program } from "./services/redis.mts";
import { keysOf } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import {
  failOver,
  found,
  healthy,
  remove,
  replace,
  replicaOf,
  restore,
  tagOn,
  tagged,
} from "./support/redis-cluster.mts";
import { openStore } from "./support/redis.mts";

const PATIENCE = 20_000;

/** Names that tell which entries are missing, and which are there twice. */
const names = (keys: readonly (readonly string[])[]) =>
  keys.map((key) => key.join(" ")).toSorted();

const expectAll = async (
  store: RedisKvStore,
  keys: readonly (readonly string[])[],
) => expect(names(await keysOf(store.list()))).toEqual(names(keys));

async function finish(opened: OpenSlot): Promise<void> {
  while ((await opened.moveKeys(100)) > 0);
  await opened.close();
}

describe.each<Program>(["redis-server", "valkey-server"])("%s", (program) => {
  describe("a slot on its way to another master", () => {
    let cluster: RedisCluster;
    beforeAll(async () => {
      cluster = await RedisCluster.start(false, undefined, program);
    });
    afterAll(() => cluster.stop());
    afterEach(() => cluster.flush());

    /** Fills a slot and others, and opens it. */
    async function prepare(store: RedisKvStore, count: number) {
      const [master] = cluster.masters;
      const tag = await tagOn(cluster, master!);
      const keys = [
        ...numbers(count).map((i) => tagged(tag, i)),
        ...numbers(300).map(key),
      ];
      await Promise.all(keys.map((key, i) => store.set(key, i)));
      const opened = await cluster.openSlot(await cluster.slotOf(`{${tag}}`));
      return { tag, keys, opened };
    }

    test("is listed and cleared on both sides", async () => {
      const store = openStore(cluster.urls);
      const { keys, opened } = await prepare(store, 200);
      await expectAll(store, keys);
      await opened.moveKeys(100);
      await expectAll(store, keys);
      expect(await store.clear(["k"])).toBe(keys.length);
      await expectAll(store, []);
      await finish(opened);
      await expectAll(store, []);
    });

    test("loses no entry of a list while its keys move", async () => {
      const store = openStore(cluster.urls);
      const { tag, keys, opened } = await prepare(store, 2_000);
      await finish(opened);
      const slot = await cluster.slotOf(`{${tag}}`);
      let listing = true;
      const moving = (async () => {
        while (listing) {
          await finish(await cluster.openSlot(slot));
        }
      })();
      try {
        for (let i = 0; i < 20; i += 1) await expectAll(store, keys);
      } finally {
        listing = false;
        await moving;
      }
    });

    test("keeps every operation on several keys waiting until it is whole", async () => {
      const store = openStore(cluster.urls, {
        index: true,
        keyPrefix: "{fedify}::",
        commandTimeout: PATIENCE,
      });
      await Promise.all(numbers(100).map((i) => store.set(key(i), i)));
      const opened = await cluster.openSlot(await cluster.slotOf("{fedify}"));
      await opened.moveKeys(50);
      const before = await opened.source.info("errorstats");
      const calls = Promise.all([
        ...numbers(100).map((i) =>
          i % 2 === 0
            ? store.cas(key(i), i, [i])
            : store.set(key(i), [i]).then(() => true),
        ),
        store.cas(key(100), undefined, [100]),
      ]);
      // Some nodes have refused them. None of them may reject.
      await Promise.race([
        calls,
        expect
          .poll(async () => {
            const stats = `${await opened.source.info("errorstats")}
              ${await opened.target.info("errorstats")}`;
            return stats !== before && /TRYAGAIN|ASK/.test(stats);
          })
          .toBe(true),
      ]);
      await finish(opened);
      expect(new Set(await calls)).toEqual(new Set([true]));
      await expectAll(store, numbers(101).map(key));
      for (const i of numbers(101))
        expect(await store.get(key(i))).toEqual([i]);
    });
  });

  describe("a master that is replaced", () => {
    let cluster: RedisCluster;
    beforeAll(async () => {
      cluster = await RedisCluster.start(true, undefined, program);
    });
    afterAll(() => cluster.stop());
    afterEach(async () => {
      await restore(cluster);
      await cluster.flush();
    });

    const first: Record<string, (store: RedisKvStore) => Promise<unknown>> = {
      list: (store) => keysOf(store.list()),
      clear: (store) => store.clear(["k"]),
      initialize: (store) => store.initialize(),
    };

    test.each(Object.entries(first))(
      "%s is the first operation afterwards",
      async (name, call) => {
        const store = openStore(cluster.urls, { commandTimeout: PATIENCE });
        await Promise.all(numbers(300).map((i) => store.set(key(i), i)));
        await cluster.replicated();
        const [old] = await cluster.runningMasters();
        await failOver(cluster, await replicaOf(cluster, old!));
        await old?.kill();
        const answer = await call(store);
        if (name === "list") expect(answer).toHaveLength(300);
        if (name === "clear") expect(answer).toBe(300);
        expect(await keysOf(store.list())).toHaveLength(
          name === "clear" ? 0 : 300,
        );
      },
    );

    test("lists and clears wait for the new master", async () => {
      const store = openStore(cluster.urls, { commandTimeout: PATIENCE });
      await Promise.all(numbers(300).map((i) => store.set(key(i), i)));
      await cluster.replicated();
      const [old] = await cluster.runningMasters();
      await old?.kill();
      expect(await keysOf(store.list())).toHaveLength(300);
      await store.initialize();
      expect(await store.clear(["k"])).toBe(300);
    });

    test("rejects nothing if it hands over in order", async () => {
      const store = openStore(cluster.urls, { commandTimeout: PATIENCE });
      let working = true;
      const work = async (i: number) => {
        let n = 0;
        await store.set(key(i), n);
        for (; working; n += 2) {
          const [swapped, , got] = await Promise.all([
            store.cas(key(i), n, n + 1),
            store.set(key(i), n + 2),
            store.get(key(i)),
            store.delete(["other", String(i)]),
          ]);
          expect([swapped, got]).toEqual([true, n + 2]);
        }
        return n;
      };
      const workers = Promise.all(numbers(100).map(work));
      const over = (async () => {
        for (const old of await cluster.runningMasters()) {
          await failOver(cluster, await replicaOf(cluster, old));
        }
      })();
      await Promise.race([workers, over]);
      working = false;
      const ends = await workers;
      await over;
      const stored = numbers(100).map((i) => store.get(key(i)));
      expect(await Promise.all(stored)).toEqual(ends);
    });
  });

  describe("a node that leaves for another cluster", () => {
    // So that nodes don't wait long before they serve the slots that they get.
    const settings = async () => ({
      "cluster-node-timeout": 2_000,
      "cluster-require-full-coverage": "no",
    });
    let cluster: RedisCluster;
    beforeEach(async () => {
      cluster = await RedisCluster.start(false, settings, program);
    });
    afterEach(() => cluster.stop());

    const write = (store: RedisKvStore, round: number) =>
      Promise.all(numbers(300).map((i) => store.set(key(i), [round, i])));

    test("gets no writes after a restart", async () => {
      const store = openStore(cluster.urls, { commandTimeout: PATIENCE });
      await write(store, 0);
      const leaver = cluster.masters[2]!;
      await remove(cluster, leaver);
      await replace(leaver);
      await found(cluster, leaver);
      await healthy(cluster);
      for (const round of numbers(3)) {
        await write(store, round);
        expect(await cluster.clientOf(leaver).dbsize()).toBe(0);
      }
      await expectAll(store, numbers(300).map(key));
      expect(await store.clear(["k"])).toBe(300);
    });

    test("gets no writes after the store has learnt of any change", async () => {
      const store = openStore(cluster.urls, { commandTimeout: PATIENCE });
      await write(store, 0);
      const leaver = cluster.masters[2]!;
      await remove(cluster, leaver);
      await found(cluster, leaver);
      await healthy(cluster);
      const foreign = cluster.clientOf(leaver);
      const strays = async () => {
        await foreign.flushall();
        await write(store, 1);
        return foreign.dbsize();
      };
      const moved = await tagOn(cluster, cluster.masters[1]!);
      const slot = await cluster.slotOf(`{${moved}}`);
      const [to, from] = cluster.masters.map((node) => cluster.clientOf(node));
      for (const round of numbers(20)) {
        const direction = round % 2 === 0 ? [from!, to!] : [to!, from!];
        const opened = new OpenSlot(slot, direction[0]!, direction[1]!);
        await opened.open();
        await finish(opened);
        // Answered with MOVED. The other cluster's map must not be believed now.
        await store.set(tagged(moved, 0), round);
        await expect.poll(strays).toBe(0);
      }
      expect(await store.clear(["k"])).toBe(301);
    });
  });
});
