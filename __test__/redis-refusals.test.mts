// Errors of a server that prove that nothing was carried out: every operation is
// repeated until its deadline.
import type { Redis } from "ioredis";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import type { RedisKvStore } from "../index.js";
import { type Program, RedisServer, freePort } from "./services/redis.mts";
import { keysOf } from "./support/collect.mts";
import { openStore } from "./support/redis.mts";
import { rejection } from "./support/rejection.mts";

/** Each operation, and what it returns on the entries of `prepare`. */
const operations: Record<
  string,
  readonly [call: (store: RedisKvStore) => Promise<unknown>, answer: unknown]
> = {
  get: [(store) => store.get(["g"]), 0],
  set: [(store) => store.set(["s"], 1), undefined],
  "set with a ttl": [
    (store) => store.set(["t"], 1, { ttl: { hours: 1 } }),
    undefined,
  ],
  cas: [(store) => store.cas(["c"], 0, 1), true],
  "cas that creates": [(store) => store.cas(["new"], undefined, 1), true],
  delete: [(store) => store.delete(["d"]), undefined],
  list: [(store) => keysOf(store.list(["l"])), [["l", "1"]]],
  clear: [(store) => store.clear(["x"]), 2],
  initialize: [(store) => store.initialize(), undefined],
};

async function prepare(store: RedisKvStore): Promise<void> {
  const keys = [["g"], ["c"], ["d"], ["l", "1"], ["x"], ["x", "1"]] as const;
  await Promise.all(keys.map((key) => store.set(key, 0)));
}

/** Calls everything. Returns the answers, and errors as texts. */
async function callAll(store: RedisKvStore): Promise<unknown[]> {
  const calls = Object.values(operations).map(([call]) =>
    call(store).catch(String),
  );
  return Promise.all(calls);
}

const expected = Object.values(operations).map(([, answer]) => answer);

describe.each<Program>(["redis-server", "valkey-server"])("%s", (program) => {
  let server: RedisServer;
  let redis: Redis;
  beforeAll(async () => {
    server = await RedisServer.start({ "busy-reply-threshold": 50 }, program);
    redis = server.client({ enableReadyCheck: false });
  });
  afterAll(() => server.stop());
  beforeEach(async () => {
    await redis.replicaof("NO", "ONE");
    await redis.flushall();
    await redis.config("RESETSTAT");
  });

  /** Waits until the server has answered with this error. */
  const refused = (name: string) =>
    expect
      .poll(async () => {
        const stats = await redis.info("errorstats").catch(() => "");
        const pattern = new RegExp(`errorstat_${name}:count=(\\d+)`);
        return Number(pattern.exec(stats)?.[1] ?? 0);
      })
      .toBeGreaterThan(0);

  describe.each([{ index: false }, { index: true }])("%o", (options) => {
    const open = (commandTimeout: number) =>
      openStore(server.url, { ...options, commandTimeout });

    test("READONLY", async () => {
      const store = open(20_000);
      await prepare(store);
      await redis.replicaof("127.0.0.1", await freePort());
      const answers = callAll(store);
      await Promise.race([answers, refused("READONLY")]);
      await redis.replicaof("NO", "ONE");
      expect(await answers).toEqual(expected);
    });

    test("MASTERDOWN", async () => {
      const store = open(20_000);
      await prepare(store);
      await redis.config("SET", "replica-serve-stale-data", "no");
      onTestFinished(async () => {
        await redis.config("SET", "replica-serve-stale-data", "yes");
      });
      await redis.replicaof("127.0.0.1", await freePort());
      const answers = callAll(store);
      await Promise.race([answers, refused("MASTERDOWN")]);
      await redis.replicaof("NO", "ONE");
      expect(await answers).toEqual(expected);
    });

    test("BUSY", async () => {
      const store = open(20_000);
      await prepare(store);
      const script = server.client().call("EVAL", "while true do end", 0);
      const killed = expect(script).rejects.toThrow();
      await expect.poll(() => redis.get("k").catch(String)).toContain("BUSY");
      const answers = callAll(store);
      const other = openStore(server.url, { commandTimeout: 300 });
      // The reason is in the error of an operation whose time runs out.
      const { message } = await rejection(() => other.cas(["k"], 1, 2));
      expect(message).toContain("BUSY");
      expect(message).not.toContain("unknown");
      await redis.script("KILL");
      await killed;
      expect(await answers).toEqual(expected);
    });

    test("NOSCRIPT", async () => {
      const store = open(20_000);
      for (let round = 0; round < 5; round += 1) {
        await prepare(store);
        await store.delete(["new"]);
        await redis.script("FLUSH");
        expect(await callAll(store)).toEqual(expected);
      }
    });

    test("all of them reject with the reason if that lasts", async () => {
      const calls = Object.entries(operations)
        .filter(([name]) => name !== "initialize")
        .map(([name, [call]]) => ({ name, call, store: open(2_000) }));
      for (const { store } of calls) await prepare(store);
      await redis.config("SET", "replica-serve-stale-data", "no");
      onTestFinished(async () => {
        await redis.config("SET", "replica-serve-stale-data", "yes");
      });
      await redis.replicaof("127.0.0.1", await freePort());
      await Promise.all(
        calls.map(async ({ name, call, store }) => {
          const { code, message } = await rejection(() => call(store));
          expect(code).toMatch(/^ERR_KV_(TIMEOUT|BACKEND|CONNECTION)$/);
          expect(message, name).toMatch(/MASTERDOWN|READONLY|replica/);
          expect(message, name).not.toContain("unknown");
        }),
      );
      // The server is not asked all the time.
      const stats = await redis.info("errorstats");
      const pattern = /(?:MASTERDOWN|READONLY):count=(\d+)/g;
      const counts = Array.from(stats.matchAll(pattern), ([, n]) => Number(n));
      const count = counts.reduce((sum, n) => sum + n, 0);
      expect(count).toBeLessThan(200 * calls.length);
    });
  });
});
