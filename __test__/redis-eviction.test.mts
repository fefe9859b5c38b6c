// A server that evicts any key when its memory is full would evict parts of the
// index: the store refuses to keep one there.
import type { Redis } from "ioredis";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import type { RedisKvStore } from "../index.js";
import { type Program, RedisServer } from "./services/redis.mts";
import { keysOf } from "./support/collect.mts";
import { openStore } from "./support/redis.mts";
import { expectRejection } from "./support/rejection.mts";

describe.each<Program>(["redis-server", "valkey-server"])("%s", (program) => {
  let server: RedisServer;
  let redis: Redis;
  beforeAll(async () => {
    server = await RedisServer.start({}, program);
    redis = server.client();
  });
  afterAll(() => server.stop());
  beforeEach(async () => {
    await redis.flushall();
    await redis.config("SET", "maxmemory", "100mb");
  });

  const policy = (name: string) =>
    redis.config("SET", "maxmemory-policy", name);

  const first: Record<string, (store: RedisKvStore) => Promise<unknown>> = {
    get: (store) => store.get(["k"]),
    set: (store) => store.set(["k"], 1),
    cas: (store) => store.cas(["k"], undefined, 1),
    delete: (store) => store.delete(["k"]),
    list: (store) => store.list().next(),
    clear: (store) => store.clear(["k"]),
    initialize: (store) => store.initialize(),
    reindex: (store) => store.reindex(),
  };

  test.each(["allkeys-lru", "allkeys-lfu", "allkeys-random"])(
    "%s is refused, with the policies that are safe",
    async (name) => {
      await policy(name);
      for (const call of Object.values(first)) {
        const store = openStore(server.url, { index: true });
        const { message } = await expectRejection(
          () => call(store),
          "ERR_KV_INVALID_OPTION",
        );
        expect(message).toContain(name);
        expect(message).toContain("noeviction");
        expect(message).toContain("volatile-");
      }
      expect(await redis.dbsize()).toBe(0);
      const plain = openStore(server.url);
      await plain.set(["k"], 1);
      expect(await plain.get(["k"])).toBe(1);
    },
  );

  async function works(store: RedisKvStore): Promise<void> {
    await store.set(["k"], 1);
    expect(await store.cas(["k"], 1, 2)).toBe(true);
    expect(await keysOf(store.list())).toEqual([["k"]]);
    expect(await store.clear(["k"])).toBe(1);
  }

  test.each(["noeviction", "volatile-lru", "volatile-ttl"])(
    "%s is allowed",
    async (name) => {
      await policy(name);
      await works(openStore(server.url, { index: true }));
    },
  );

  test("without a limit of the memory, any policy is allowed", async () => {
    await policy("allkeys-lru");
    await redis.config("SET", "maxmemory", "0");
    await works(openStore(server.url, { index: true }));
  });

  test.each([
    { rights: ["-config"], isKnown: true },
    { rights: ["-info"], isKnown: true },
    { rights: ["-config", "-info"], isKnown: false },
  ])("a user with $rights", async ({ rights, isKnown }) => {
    await policy("allkeys-lru");
    const user = ["on", "nopass", "~*", "+@all", ...rights];
    await redis.call("ACL", "SETUSER", "kv", "reset", ...user);
    const url = `redis://kv:any@127.0.0.1:${server.port}`;
    const store = openStore(url, { index: true });
    if (!isKnown) return works(store);
    await expectRejection(() => store.get(["k"]), "ERR_KV_INVALID_OPTION");
  });

  test("the store works when the policy has been changed", async () => {
    await policy("allkeys-lru");
    const store = openStore(server.url, { index: true });
    await expectRejection(() => store.get(["k"]), "ERR_KV_INVALID_OPTION");
    await policy("noeviction");
    await works(openStore(server.url, { index: true }));
  });
});
