// Memory: operations that have ended leave nothing behind.
import { existsSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import { ask } from "./support/child.mts";
import { temporaryFile } from "./support/sqlite.mts";

/** The code of each kind of operation, which runs many times. */
const operations: Record<string, string> = {
  "get and set": `
    await store.set(["k", String(i % 100)], value);
    await store.get(["k", String(i % 100)]);
  `,
  "many in flight": `
    await Promise.all(Array.from({ length: 4 }, (_, n) =>
      n % 2 ? store.get(["k", String(n)]) : store.set(["k", String(n)], value)));
  `,
  "cas and delete": `
    await store.cas(["k"], undefined, value);
    await store.cas(["k"], [value], value);
    await store.cas(["k"], value, undefined);
    await store.delete(["k"]);
  `,
  "a short life": `
    await store.set(["k", String(n++)], value, { ttl: { milliseconds: 1 } });
  `,
  "refused calls": `
    await store.get([]).catch(() => {});
    await store.set(["k"], 1n).catch(() => {});
    await store.set(["k"], value, { ttl: 1 }).catch(() => {});
    await store.list([1]).next().catch(() => {});
  `,
  "lists, finished and unfinished": `
    if (i < 300) await store.set(["k", String(i)], value);
    if (i % 100 === 0) await Array.fromAsync(store.list());
    for await (const _ of store.list({ pageSize: 5 })) break;
    void store.list().return();
  `,
};

interface Place {
  readonly path: string;
  readonly redis: string;
  readonly postgres: string;
  readonly mysql: string;
}

/** How each store is opened, and how often each operation runs. */
const stores: Record<string, readonly [open: string, times: number]> = {
  memory: ["new MemoryKvStore()", 2_000],
  sqlite: ['new SqliteKvStore(data.path, { durability: "normal" })', 2_000],
  "deno kv": ['new DenoKvStore(":memory:")', 1_000],
  redis: ["new RedisKvStore(data.redis)", 1_000],
  "redis, indexed": ["new RedisKvStore(data.redis, { index: true })", 1_000],
  postgres: ["new PostgresKvStore(data.postgres)", 1_000],
  mysql: ["new MysqlKvStore(data.mysql)", 1_000],
};

/** The bytes that an operation may leave on average: half its value. */
const bound = 4_000;

let servers: {
  redis: RedisServer;
  postgres: PostgresServer;
  mysql: MysqlServer;
};
beforeAll(async () => {
  servers = {
    redis: await RedisServer.start(),
    postgres: await PostgresServer.start({ settings: { fsync: "off" } }),
    mysql: await MysqlServer.start({ "innodb-flush-log-at-trx-commit": 0 }),
  };
});
afterAll(() =>
  Promise.all(Object.values(servers).map((server) => server.stop())),
);

/**
 * Runs an operation many times, in several runs. Returns the smallest growth of
 * memory in a run: a leak grows in each run, while other growth varies.
 */
function growth(
  place: Place,
  open: string,
  times: number,
  operation: string,
  wait: number,
) {
  return ask<number>(
    `
      const {
        DenoKvStore,
        MemoryKvStore,
        MysqlKvStore,
        PostgresKvStore,
        RedisKvStore,
        SqliteKvStore,
      } = require(addon);
      const { readFileSync } = await import("node:fs");
      const store = ${open};
      const value = { text: "é".repeat(4_000) };
      let n = 0;
      const run = async () => {
        for (let i = 0; i < ${times}; i += 1) {
          ${operation}
          if (i % 100 === 0) await new Promise(setImmediate);
        }
        await new Promise((resolve) => setTimeout(resolve, ${wait}));
        gc();
        const status = readFileSync("/proc/self/status", "utf8");
        return Number(/RssAnon:\\s+(\\d+)/.exec(status)[1]) * 1024;
      };
      let before = await run();
      let least = Infinity;
      for (let i = 0; i < 3 && least > 1e6; i += 1) {
        const after = await run();
        least = Math.min(least, after - before);
        before = after;
      }
      await store.close();
      report(least);
    `,
    place,
    ["--expose-gc"],
  );
}

for (const [name, [open, times]] of Object.entries(stores)) {
  for (const [kind, operation] of Object.entries(operations)) {
    test.skipIf(!existsSync("/proc/self/status"))(
      `${name}: ${kind}`,
      { timeout: 120_000 },
      async () => {
        const place = {
          path: await temporaryFile(),
          redis: servers.redis.url,
          postgres: servers.postgres.url,
          mysql: servers.mysql.url,
        };
        // Expired entries are removed a little later.
        const wait = kind === "a short life" ? 1_100 : 50;
        const grown = await growth(place, open, times, operation, wait);
        expect(grown).toBeLessThan(times * bound);
      },
    );
  }
}

/** What all scripts about forgotten objects find. */
const embedded: Record<string, string> = {
  memory: "new MemoryKvStore()",
  "sqlite, a file": "new SqliteKvStore(data)",
  "sqlite, :memory:": 'new SqliteKvStore(":memory:")',
  "deno kv": "new DenoKvStore(data)",
};
const setUp = `
  const { DenoKvStore, MemoryKvStore, SqliteKvStore } = require(addon);
  const { readFileSync } = await import("node:fs");
  const megabytes = () => {
    const status = readFileSync("/proc/self/status", "utf8");
    return Number(/RssAnon:\\s+(\\d+)/.exec(status)[1]) / 1024;
  };
`;

describe.skipIf(!existsSync("/proc/self/status"))("forgotten", () => {
  test.each(Object.entries(embedded))(
    "iterators that were begun are collected in time: %s",
    { timeout: 120_000 },
    async (_, open) => {
      // No gc() here, and no turns of the event loop but the store's own: the
      // engine must know what the iterators hold.
      const grown = await ask<number>(
        `
          ${setUp}
          const store = ${open};
          for (let i = 0; i < 200; i += 1) {
            await store.set(["k", String(i)], "x".repeat(480));
          }
          await store.list().next();
          const before = megabytes();
          let most = 0;
          for (let i = 0; i < 10_000; i += 1) {
            await store.list().next();
            if (i % 250 === 0) most = Math.max(most, megabytes() - before);
          }
          report(most);
          await store.close();
        `,
        await temporaryFile(),
      );
      // Each holds about 60 KB, 600 MB in all.
      expect(grown).toBeLessThan(250);
    },
  );

  test.each(Object.entries(embedded))(
    "iterators leave their signal when they are collected: %s",
    async (_, open) => {
      const left = await ask<[number, number]>(
        `
          ${setUp}
          const { getEventListeners, setMaxListeners } = await import("node:events");
          const store = ${open};
          for (let i = 0; i < 200; i += 1) {
            await store.set(["k", String(i)], i);
          }
          const { signal } = new AbortController();
          setMaxListeners(0, signal);
          const listeners = () => getEventListeners(signal, "abort").length;
          const kept = store.list({ signal });
          await kept.next();
          // A function of its own, so that nothing keeps them afterwards.
          const begin = async () => {
            const lists = Array.from({ length: 500 }, () => store.list({ signal }));
            for (const list of lists) await list.next();
            return listeners();
          };
          const begun = await begin();
          for (let i = 0; i < 1_000 && listeners() > 1; i += 1) {
            gc();
            await new Promise(setImmediate);
          }
          report([begun, listeners()]);
          await kept.return();
          await store.close();
        `,
        await temporaryFile(),
        ["--expose-gc"],
      );
      expect(left).toEqual([501, 1]);
    },
  );

  test("memory stores are collected in time", async () => {
    const grown = await ask<number>(`
      ${setUp}
      const value = "x".repeat(10_000);
      const before = megabytes();
      let most = 0;
      for (let n = 0; n < 60; n += 1) {
        const store = new MemoryKvStore();
        for (let i = 0; i < 2_000; i += 1) await store.set(["k", String(i)], value);
        await new Promise(setImmediate);
        most = Math.max(most, megabytes() - before);
      }
      report(most);
    `);
    // Each holds 20 MB, 1,200 MB in all.
    expect(grown).toBeLessThan(400);
  });
});
