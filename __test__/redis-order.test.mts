// Operations of a store on one entry take effect in the order of the calls, also
// if the commands that some of them share are refused, and if a connection ends.
import { setTimeout as later } from "node:timers/promises";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import type { RedisKvStore } from "../index.js";
import { RedisCluster } from "./services/redis-cluster.mts";
import { type Program, RedisServer } from "./services/redis.mts";
import { numbers } from "./support/entries.mts";
import { randomFrom } from "./support/random.mts";
import { openStore } from "./support/redis.mts";
import { startProxy } from "./support/served.mts";

const COUNT = 30;

type Key = readonly [string, ...string[]];

interface Keys {
  /** Different ones in each round. */
  readonly own: readonly Key[];
  /** A command that has this key among others is refused as a whole. */
  readonly refused?: Key;
}

/** What may be refused, an operation behind it, and what both must come to. */
const sequences: Record<
  string,
  {
    first: (store: RedisKvStore, key: Key) => Promise<unknown>;
    second: (store: RedisKvStore, key: Key) => Promise<unknown>;
    /** The answers, and the value at the end. It is "old" at the beginning. */
    answers: readonly [first: unknown, second: unknown];
    value: unknown;
  }
> = {
  "a set, and a cas that expects it": {
    first: (store, key) => store.set(key, "first"),
    second: (store, key) => store.cas(key, "first", "second"),
    answers: [undefined, true],
    value: "second",
  },
  "a set, and a cas that expects the value before": {
    first: (store, key) => store.set(key, "first"),
    second: (store, key) => store.cas(key, "old", "second"),
    answers: [undefined, false],
    value: "first",
  },
  "a delete, and a cas that creates": {
    first: (store, key) => store.delete(key),
    second: (store, key) => store.cas(key, undefined, "second"),
    answers: [undefined, true],
    value: "second",
  },
  "a delete, and a cas that expects the value before": {
    first: (store, key) => store.delete(key),
    second: (store, key) => store.cas(key, "old", "second"),
    answers: [undefined, false],
    value: undefined,
  },
  "a get, and a set": {
    first: (store, key) => store.get(key),
    second: (store, key) => store.set(key, "second"),
    answers: ["old", undefined],
    value: "second",
  },
  "a get, and a cas": {
    first: (store, key) => store.get(key),
    second: (store, key) => store.cas(key, "old", "second"),
    answers: ["old", true],
    value: "second",
  },
};

const names = Object.keys(sequences);

/** Runs a sequence on many keys at once, some rounds long. */
async function expectOrder(
  store: RedisKvStore,
  name: string,
  keysOf: (round: number) => Keys,
): Promise<void> {
  const { first, second, answers, value } = sequences[name]!;
  for (const round of numbers(20)) {
    const { own, refused } = keysOf(round);
    await Promise.all(own.map((key) => store.set(key, "old")));
    const firsts = own.map((key) => first(store, key));
    const rejected = refused && first(store, refused).catch(() => {});
    const seconds = own.map((key) => second(store, key));
    expect(await Promise.all(firsts)).toEqual(own.map(() => answers[0]));
    expect(await Promise.all(seconds)).toEqual(own.map(() => answers[1]));
    await rejected;
    const values = await Promise.all(own.map((key) => store.get(key)));
    expect(values).toEqual(own.map(() => value));
  }
}

const ownKeys = (round: number) =>
  numbers(COUNT).map((i) => ["own", `${round}/${i}`] as const);

describe.each<Program>(["redis-server", "valkey-server"])("%s", (program) => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await RedisServer.start({}, program);
    const user = ["on", "nopass", "+@all", "~fedify::own::*"];
    await server.client().call("ACL", "SETUSER", "kv", ...user);
  });
  afterAll(() => server.stop());

  test.each(names)("%s, with a key that is forbidden", async (name) => {
    const store = openStore(`redis://kv:any@127.0.0.1:${server.port}`);
    await expectOrder(store, name, (round) => ({
      own: ownKeys(round),
      refused: ["forbidden"],
    }));
  });

  test.each(names)("%s, with a key that has another type", async (name) => {
    await server.client().call("LPUSH", "fedify::list", "x");
    const store = openStore(server.url);
    await expectOrder(store, name, (round) => ({
      own: ownKeys(round),
      refused: ["list"],
    }));
    await server.client().del("fedify::list");
  });

  test("a get that is repeated does not show a later write", async () => {
    const proxy = await startProxy(server);
    const store = openStore(proxy.url(server), { commandTimeout: 20_000 });
    const random = randomFrom(1);
    let repeated = 0;
    for (const round of numbers(60)) {
      const keys = numbers(5).map((i) => ["cut", `${round}/${i}`] as const);
      await Promise.all(keys.map((key) => store.set(key, "old")));
      // The server gets some of the bytes, and all answers are lost.
      const cut = Promise.withResolvers<void>();
      for (const connection of proxy.connections) {
        connection.stall("toClient");
        connection.after("toServer", 1 + random.below(800), () => {
          connection.cut();
          cut.resolve();
        });
      }
      const before = proxy.accepted;
      const gets = keys.map((key) => store.get(key));
      const writes = keys.map((key, i) =>
        (i % 2 === 0
          ? store.set(key, "later")
          : store.cas(key, "old", "later")
        ).then(
          () => "done",
          (error: unknown) => String(error),
        ),
      );
      // Perhaps fewer bytes are sent before the answers.
      await Promise.race([cut.promise, later(30)]);
      proxy.cut();
      const seen = await Promise.all(gets);
      expect(seen).toEqual(keys.map(() => "old"));
      for (const outcome of await Promise.all(writes)) {
        expect(outcome).toMatch(/^done$|the outcome is unknown/);
      }
      if (proxy.accepted > before) repeated += 1;
    }
    expect(repeated).toBeGreaterThan(0);
  });
});

describe("a slot that is half moved", () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await RedisCluster.start();
  });
  afterAll(() => cluster.stop());
  beforeEach(() => cluster.flush());

  test.each(names)("%s", async (name) => {
    const store = openStore(cluster.urls, { keyPrefix: "{fedify}::" });
    const slot = await cluster.slotOf("{fedify}");
    for (const round of numbers(5)) {
      const keys = ownKeys(round);
      await Promise.all(keys.map((key) => store.set(key, "old")));
      const opened = await cluster.openSlot(slot);
      await opened.moveKeys(COUNT / 2);
      await expectOrder(store, name, (inner) => ({
        own: inner === 0 ? keys : ownKeys(round * 100 + inner),
      }));
      while ((await opened.moveKeys(100)) > 0);
      await opened.close();
    }
  });
});
