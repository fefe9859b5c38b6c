// A server that is away for longer than operations wait: all of them settle, and
// close() resolves.
import { randomInt } from "node:crypto";
import { setTimeout as later } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RedisKvStore } from "../index.js";
import { type Program, RedisServer } from "./services/redis.mts";
import { TcpProxy } from "./services/proxy.mts";
import { keysOf } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { type Cursors, FalseRedis } from "./support/false-redis.mts";
import { recovers } from "./support/faults.mts";
import { type Random, randomFrom } from "./support/random.mts";
import { openStore } from "./support/redis.mts";
import {
  type KvError,
  expectRejection,
  rejection,
} from "./support/rejection.mts";
import { silence, startProxy } from "./support/served.mts";

const seed = Number(process.env.SEED ?? randomInt(2 ** 31));

/** In milliseconds. Much longer than anything takes, even on a busy machine. */
const FOREVER = 15_000;

/** Notes which promises settle, and how. */
class Watch {
  readonly #left = new Set<string>();
  readonly #all: Promise<void>[] = [];
  readonly #wrong: string[] = [];

  add(name: string, promise: Promise<unknown>): void {
    const own = `${this.#all.length} ${name}`;
    this.#left.add(own);
    const settled = () => void this.#left.delete(own);
    const rejected = (error: unknown) => {
      settled();
      const { code, message } = error as KvError;
      const isExpected = /^ERR_KV_(CONNECTION|TIMEOUT|CLOSED)$/.test(code);
      if (!isExpected) this.#wrong.push(`${own}: ${code}: ${message}`);
    };
    this.#all.push(promise.then(settled, rejected));
  }

  /** What doesn't settle, and wrong errors. */
  async faults(): Promise<string[]> {
    const late = later(FOREVER, undefined, { ref: false });
    await Promise.race([Promise.all(this.#all), late]);
    return [...this.#left, ...this.#wrong];
  }
}

type Outage = (
  server: RedisServer,
  proxy: TcpProxy,
) => Promise<() => Promise<void> | void>;

/** Each returns what ends it. */
const outages: Record<string, Outage> = {
  "a server that is stopped": async (server) => {
    await server.pause();
    return () => server.resume();
  },
  "a server that is killed": async (server) => {
    await server.kill();
    return () => server.start();
  },
  "a network that holds everything": async (_, proxy) => {
    silence(proxy);
    return () => {
      proxy.onConnection = () => {};
      proxy.cut();
    };
  },
  "a network that refuses connections": async (_, proxy) => {
    proxy.refuse();
    proxy.cut();
    return () => proxy.accept();
  },
};

/** Longer than a connection may be idle before it is tried with a PING. */
const IDLE = 31_000;

/**
 * A store whose connection a firewall has forgotten: neither side learns of it.
 * New connections work. It is idle while the other tests run.
 */
let forgotten: {
  readonly server: RedisServer;
  readonly proxy: TcpProxy;
  readonly store: RedisKvStore;
  readonly idle: Promise<void>;
};
beforeAll(async () => {
  const server = await RedisServer.start();
  const proxy = await TcpProxy.start(server);
  const store = new RedisKvStore(proxy.url(server), {
    connectTimeout: 1_000,
    commandTimeout: 30_000,
  });
  await store.set(["k"], 1);
  proxy.stall();
  forgotten = { server, proxy, store, idle: later(IDLE) };
});
afterAll(async () => {
  const { server, proxy, store } = forgotten;
  await Promise.all([store.close(), proxy.stop(), server.stop()]);
});

describe.each<Program>(["redis-server", "valkey-server"])("%s", (program) => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await RedisServer.start({}, program);
  });
  afterAll(() => server.stop());

  describe.each(Object.entries(outages))("%s", (_, begin) => {
    async function away(options: { index?: boolean } = {}) {
      const proxy = await startProxy(server);
      const store = openStore(proxy.url(server), {
        ...options,
        commandTimeout: 200,
        connectTimeout: 200,
      });
      await store.set(["k"], 1);
      const end = await begin(server, proxy);
      return { store, end };
    }

    test.each([
      { index: false, together: true },
      { index: false, together: false },
      { index: true, together: true },
      { index: true, together: false },
    ])("get, clear, get and close: %o", async ({ index, together }) => {
      const { store, end } = await away({ index });
      const watch = new Watch();
      watch.add("get", store.get(["k"]));
      watch.add("clear", store.clear(["k"]));
      watch.add("get", store.get(["k"]));
      if (!together) await watch.faults();
      watch.add("close", store.close());
      const faults = await watch.faults();
      await end();
      expect(faults).toEqual([]);
    });

    test.each<[string, (store: RedisKvStore) => Promise<unknown>]>([
      ["drop", (store) => store.drop()],
      ["initialize", (store) => store.initialize()],
      ["clear", (store) => store.clear(["k"])],
      ["list", (store) => store.list().next()],
    ])("%s, and nothing else", async (name, call) => {
      const { store, end } = await away();
      const watch = new Watch();
      watch.add(name, call(store));
      const faults = await watch.faults();
      await end();
      expect(faults).toEqual([]);
      await recovers(() => store.set(["k"], 1));
    });
  });

  test("operations that outlast the outage succeed, and close waits for them", async () => {
    const proxy = await startProxy(server);
    const store = openStore(proxy.url(server), { commandTimeout: 30_000 });
    await store.clear(["k"]);
    proxy.refuse();
    proxy.cut();
    await proxy.until(() => proxy.connections.size === 0);
    // So that the store has noticed that its connection has ended.
    const noticed = store.get(["k"]);
    const answers = Promise.all([
      store.initialize(),
      store.set(["k"], 1),
      store.cas(["l"], undefined, 1),
      store.clear(["k"]),
      store.get(["k"]),
      store.delete(["l"]),
      noticed,
    ]);
    const closed = store.close();
    await proxy.accept();
    const [, , swapped, cleared, got] = await answers;
    expect([swapped, cleared, got]).toEqual([true, 1, undefined]);
    await closed;
  });

  test("maxclients", async () => {
    const redis = server.client();
    const info = await redis.info("clients");
    const connected = Number(/connected_clients:(\d+)/.exec(info)?.[1]);
    await redis.config("SET", "maxclients", connected);
    try {
      const store = openStore(server.url, { commandTimeout: 500 });
      const error = await expectRejection(
        () => store.get(["k"]),
        "ERR_KV_CONNECTION",
      );
      expect(error.message).toContain("max number of clients reached");
      await redis.config("SET", "maxclients", 10_000);
      await recovers(() => store.get(["k"]));
    } finally {
      await redis.config("SET", "maxclients", 10_000);
    }
  });

  test(`random outages, SEED=${seed}`, async () => {
    const random = randomFrom(seed);
    const seeds = numbers(60).map(() => random.below(2 ** 31));
    for (let from = 0; from < seeds.length; from += 20) {
      const some = seeds.slice(from, from + 20);
      const rounds = await Promise.all(
        some.map(async (seed) => ({
          seed,
          faults: await randomRound(server, randomFrom(seed)),
        })),
      );
      expect(rounds.filter(({ faults }) => faults.length > 0)).toEqual([]);
    }
  });
});

/** Returns what is wrong with a store's operations. */
async function randomRound(
  server: RedisServer,
  random: Random,
): Promise<string[]> {
  const proxy = await startProxy(server);
  const store = new RedisKvStore(proxy.url(server), {
    index: random.chance(0.3),
    commandTimeout: 100,
    connectTimeout: 100,
  });
  const operations: [string, () => Promise<unknown>][] = [
    ["get", () => store.get(["k"])],
    ["set", () => store.set(["k"], 1)],
    ["cas", () => store.cas(["k"], 1, 2)],
    ["clear", () => store.clear(["k"])],
    ["clear of another prefix", () => store.clear(["l"])],
    ["list", () => keysOf(store.list())],
    ["initialize", () => store.initialize()],
  ];
  await recovers(() => store.get(["k"]));
  const watch = new Watch();
  const call = () => {
    const [name, operation] = random.of(
      operations as [(typeof operations)[0], ...typeof operations],
    );
    watch.add(name, operation());
  };
  for (const _ of numbers(random.below(3))) call();
  const kind = random.of(["hold", "hold answers", "refuse", "cut"]);
  if (kind === "hold") silence(proxy);
  if (kind === "hold answers") proxy.stall("toClient");
  if (kind === "refuse") proxy.refuse();
  if (kind === "refuse" || kind === "cut") proxy.cut();
  for (const _ of numbers(1 + random.below(5))) {
    call();
    if (random.chance(0.5)) await later(random.below(150));
  }
  const closesFirst = random.chance(0.5);
  const close = () => watch.add("close", store.close());
  if (closesFirst) close();
  await later(random.below(300));
  proxy.onConnection = () => {};
  if (kind === "refuse") await proxy.accept();
  if (random.chance(0.5)) proxy.resume();
  else proxy.cut();
  if (!closesFirst) close();
  return watch.faults();
}

const cursors: Cursors[] = ["the same cursor", "new cursors"];
describe.each(cursors)("a scan that never ends, with %s", (cursors) => {
  test("list and clear reject when their time is over", async () => {
    const server = await FalseRedis.start(cursors);
    const store = openStore(server.url, { commandTimeout: 300 });
    for (const call of [() => store.list().next(), () => store.clear(["k"])]) {
      const { code } = await rejection(call);
      expect(code).toMatch(/^ERR_KV_(TIMEOUT|BACKEND)$/);
    }
    expect(await store.get(["k"])).toBeUndefined();
  });

  test("close() ends it", async () => {
    const server = await FalseRedis.start(cursors);
    const store = openStore(server.url, { commandTimeout: 60_000 });
    const listed = expectRejection(() => store.list().next(), "ERR_KV_CLOSED");
    await expect.poll(() => server.scans).toBeGreaterThan(1);
    await store.close();
    await listed;
    const { scans } = server;
    // It has no connection any more.
    await expectRejection(() => store.get(["k"]), "ERR_KV_CLOSED");
    expect(server.scans).toBe(scans);
  });

  test("return() and a signal end it", async () => {
    const server = await FalseRedis.start(cursors);
    const store = openStore(server.url, { commandTimeout: 60_000 });
    const controller = new AbortController();
    const list = store.list({ signal: controller.signal });
    const next = list.next().catch((reason: unknown) => reason);
    const other = store.list();
    const ended = other.next();
    await expect.poll(() => server.scans).toBeGreaterThan(1);
    controller.abort("enough");
    expect(await next).toBe("enough");
    await other.return?.();
    await ended;
    // Nothing is asked any more, so that another operation finds no more scans.
    await expect
      .poll(async () => {
        const before = server.scans;
        await Promise.all(numbers(20).map((i) => store.get(key(i))));
        return server.scans - before;
      })
      .toBe(0);
    await store.close();
  });
});

test("a connection that a firewall has forgotten", async () => {
  const { store, proxy, idle } = forgotten;
  await idle;
  const begin = performance.now();
  const answers = await Promise.all([
    store.get(["k"]),
    store.set(["set"], 1),
    store.cas(["cas"], undefined, 1),
  ]);
  // About a connectTimeout: far from a commandTimeout.
  expect(performance.now() - begin).toBeLessThan(15_000);
  expect(answers).toEqual([1, undefined, true]);
  expect(proxy.accepted).toBeGreaterThan(1);
});
