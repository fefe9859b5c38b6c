// Processes that run out of threads or descriptors: every operation settles,
// the store works again when the shortage is over, and the process ends.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DenokvServer, hasDenokv } from "./services/denokv.mts";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import { type Child, expectGoodEnd, startChild } from "./support/child.mts";
import { isTested } from "./support/hosts.mts";
import {
  allowAllThreads,
  allowThreads,
  canLimit,
  directoryOf,
  ownUser,
  setLimit,
} from "./support/limits.mts";

interface Server {
  readonly url: string;
  stop(): Promise<unknown>;
}

interface Service {
  readonly server: Server;
  /** Ends the store's connections. */
  cut(): Promise<unknown>;
}

interface Row {
  readonly name: string;
  readonly store: string;
  /** What the constructor is given, before the options. */
  readonly place: "none" | "file" | ":memory:" | "url";
  readonly options?: object;
  start?(): Promise<Service>;
  /** Whether a `set` fails for want of a thread, or of a descriptor. */
  readonly needsThread: boolean;
  readonly needsDescriptor: boolean;
}

/** Long enough for a busy machine, as each of several operations takes it. */
const patience = 2_000;

async function startRedis(): Promise<Service> {
  const server = await RedisServer.start();
  const client = server.client();
  return {
    server,
    cut: () => client.client("KILL", "TYPE", "normal", "SKIPME", "yes"),
  };
}

const rows: Row[] = [
  {
    name: "memory",
    store: "MemoryKvStore",
    place: "none",
    needsThread: false,
    needsDescriptor: false,
  },
  {
    name: "sqlite, a file",
    store: "SqliteKvStore",
    place: "file",
    needsThread: true,
    needsDescriptor: true,
  },
  {
    name: "sqlite, a file, durability normal",
    store: "SqliteKvStore",
    place: "file",
    options: { durability: "normal" },
    needsThread: true,
    needsDescriptor: true,
  },
  {
    name: "sqlite, :memory:",
    store: "SqliteKvStore",
    place: ":memory:",
    needsThread: true,
    needsDescriptor: false,
  },
  {
    name: "Deno KV, a file",
    store: "DenoKvStore",
    place: "file",
    needsThread: true,
    needsDescriptor: true,
  },
  {
    name: "Deno KV, :memory:",
    store: "DenoKvStore",
    place: ":memory:",
    needsThread: true,
    needsDescriptor: false,
  },
  {
    name: "redis",
    store: "RedisKvStore",
    place: "url",
    options: { commandTimeout: patience },
    needsThread: true,
    needsDescriptor: true,
    start: startRedis,
  },
  {
    name: "redis, with an index",
    store: "RedisKvStore",
    place: "url",
    options: { commandTimeout: patience, index: true },
    needsThread: true,
    needsDescriptor: true,
    start: startRedis,
  },
  {
    name: "postgres",
    store: "PostgresKvStore",
    place: "url",
    options: { queryTimeout: patience },
    needsThread: true,
    needsDescriptor: true,
    async start() {
      const server = await PostgresServer.start({ settings: { fsync: "off" } });
      const sql = server.client({ max: 1 });
      return {
        server,
        cut: () => sql`
          SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
      };
    },
  },
  {
    name: "mysql",
    store: "MysqlKvStore",
    place: "url",
    options: { queryTimeout: patience },
    needsThread: true,
    needsDescriptor: true,
    async start() {
      const server = await MysqlServer.start({
        "innodb-flush-log-at-trx-commit": 0,
      });
      return { server, cut: () => server.sql("KILL HARD USER fedify") };
    },
  },
];

if (hasDenokv) {
  rows.push({
    name: "Deno KV, a server",
    store: "DenoKvStore",
    place: "url",
    options: { commandTimeout: patience, accessToken: "a token of the tests" },
    needsThread: true,
    needsDescriptor: true,
    async start() {
      const server = await DenokvServer.start();
      return {
        server,
        // It has no other way.
        cut: async () => {
          await server.kill();
          await server.start();
        },
      };
    },
  });
}

/**
 * What every script has: `open(name)`, which makes a store; `tryAll(store)`,
 * which calls everything at once and returns what became of each; and
 * `use(store)`, which throws unless all works.
 */
const prelude = `
  const { strict: assert } = await import("node:assert");
  const { spawnSync } = await import("node:child_process");
  const fs = await import("node:fs");
  // The threads that Node.js itself starts when it needs them.
  await Promise.all(Array.from({ length: 8 }, () => fs.promises.stat(".")));
  const stores = require(addon);
  const pause = (milliseconds) =>
    new Promise((resolve) => setTimeout(resolve, milliseconds));
  const open = (name) => {
    const places = {
      none: [],
      file: [data.directory + "/" + name + ".db"],
      ":memory:": [":memory:"],
      url: [data.url],
    };
    return new stores[data.store](...places[data.place], data.options);
  };
  const settle = async (promise) => {
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, 45_000, { code: "IT NEVER SETTLES" });
    });
    const settled = promise.then(
      (value) => ({ value: value ?? null }),
      ({ code, message }) => ({ code, message }),
    );
    const outcome = await Promise.race([settled, late]);
    clearTimeout(timer);
    return outcome;
  };
  const tryAll = async (store) => {
    const calls = {
      set: store.set(["a"], 1),
      setWithTtl: store.set(["b"], 1, { ttl: { milliseconds: 50 } }),
      get: store.get(["c"]),
      cas: store.cas(["d"], undefined, 1),
      delete: store.delete(["e"]),
      list: Array.fromAsync(store.list()),
      clear: store.clear(["f"]),
      initialize: store.initialize(),
      drop: store.drop(),
    };
    const outcomes = await Promise.all(Object.entries(calls)
      .map(async ([name, call]) => [name, await settle(call)]));
    return Object.fromEntries(outcomes);
  };
  const use = async (store) => {
    await store.set(["k"], "works");
    assert.equal(await store.get(["k"]), "works");
    assert.equal(await store.cas(["k"], "works", "again"), true);
    assert.deepEqual(
      await Array.fromAsync(store.list(["k"])),
      [{ key: ["k"], value: "again" }],
    );
    assert.equal(await store.clear(["k"]), 1);
    await store.set(["t"], 1, { ttl: { milliseconds: 1 } });
  };
`;

type Outcomes = Record<
  string,
  { value?: unknown; code?: string; message?: string }
>;

/** Every operation has settled, and those that were rejected say why. */
function expectSettled(outcomes: Outcomes): void {
  for (const [name, { code, message }] of Object.entries(outcomes)) {
    if (code !== undefined) {
      const said = `${name}: ${code}: ${message}`;
      // It may have waited for another one that waits.
      expect(code, said).toMatch(/^ERR_KV_(CONNECTION|BACKEND|TIMEOUT)$/);
      expect(message, said).not.toMatch(/internal error|^\W*$/);
    }
  }
}

const tested = rows.filter(({ store }) => isTested(store));

describe.skipIf(!canLimit).each(tested)("$name", (row) => {
  let service: Service | undefined;
  beforeAll(async () => {
    service = await row.start?.();
  });
  afterAll(() => service?.server.stop());

  async function start(script: string) {
    const user = ownUser();
    const { store, place, options } = row;
    const directory = await directoryOf(user);
    // By name, so that it has to be looked up.
    const url = service?.server.url.replace("127.0.0.1", "localhost");
    const data = { store, place, options, directory, url };
    const child = startChild(prelude + script, data, [], user);
    return { child, user, directory };
  }

  async function expectEnd(child: Child) {
    child.end();
    expect(await child.rest()).toEqual(["closed"]);
    expectGoodEnd(await child.exit);
  }

  describe("no thread can start", () => {
    test.each([0, 1, 2, 3])(
      "but %i, at the first operation",
      async (more) => {
        const { child, user } = await start(`
          const store = open("kv");
          report("ready");
          await told();
          const canStart = spawnSync("true").error === undefined;
          const outcomes = await tryAll(store);
          report([canStart, outcomes]);
          await told();
          await use(store);
          await store.close();
          report("closed");
        `);
        expect(await child.next()).toBe("ready");
        await allowThreads(child.pid, user, more);
        child.tell("there are no more threads");
        const [canStart, outcomes] = await child.next<[boolean, Outcomes]>();
        expectSettled(outcomes);
        if (more === 0) {
          expect(canStart).toBe(false);
          expect(outcomes.set?.code !== undefined).toBe(row.needsThread);
        }
        await allowAllThreads(child.pid, user);
        child.tell("there are threads again");
        await expectEnd(child);
      },
      120_000,
    );

    test("at the first operation, and the store is closed", async () => {
      const { child, user } = await start(`
        const store = open("kv");
        report("ready");
        await told();
        const outcomes = [settle(store.set(["k"], 1)), settle(store.get(["k"]))];
        const closed = await settle(store.close());
        report(closed);
        report({ ...await Promise.all(outcomes) });
        const { code } = await settle(store.get(["k"]));
        report(code);
        report("closed");
      `);
      expect(await child.next()).toBe("ready");
      await allowThreads(child.pid, user, 0);
      child.tell("there are no more threads");
      expect(await child.next()).toEqual({ value: null });
      expectSettled(await child.next());
      expect(await child.next()).toBe("ERR_KV_CLOSED");
      await expectEnd(child);
    });

    test("later", async () => {
      const { child, user } = await start(`
        const store = open("kv");
        await store.initialize();
        await store.get(["k"]);
        report("ready");
        await told();
        // A checkpoint is due 200 ms after the last write, and a sweep some
        // time after the entry's expiry. No event tells of them.
        const [early, ttl] = await Promise.all([
          settle(store.set(["k"], 1)),
          settle(store.set(["t"], 1, { ttl: { milliseconds: 1 } })),
        ]);
        await pause(500);
        report({ early, ttl, ...await tryAll(store) });
        await pause(500);
        report(await tryAll(store));
        await told();
        await use(store);
        await pause(300);
        await use(store);
        await store.close();
        report("closed");
      `);
      expect(await child.next()).toBe("ready");
      await allowThreads(child.pid, user, 0);
      await service?.cut();
      child.tell("there are no more threads");
      expectSettled(await child.next());
      expectSettled(await child.next());
      await allowAllThreads(child.pid, user);
      child.tell("there are threads again");
      await expectEnd(child);
    }, 120_000);

    test("later, and the store is closed", async () => {
      const { child, user } = await start(`
        const store = open("kv");
        await store.initialize();
        report("ready");
        await told();
        const early = await settle(store.set(["k"], 1));
        await pause(400);
        const late = [settle(store.set(["k"], 2)), settle(store.get(["k"]))];
        const list = settle(Array.fromAsync(store.list()));
        report(await settle(store.close()));
        report({ early, ...await Promise.all(late) });
        report((await list).code ?? "listed");
        report("closed");
      `);
      expect(await child.next()).toBe("ready");
      await allowThreads(child.pid, user, 0);
      child.tell("there are no more threads");
      expect(await child.next()).toEqual({ value: null });
      expectSettled(await child.next());
      expect(await child.next()).toMatch(/^(ERR_KV_\w+|listed)$/);
      await expectEnd(child);
    });
  });

  /** Code that takes all descriptors but some, and gives them back. */
  const descriptors = `
    const taken = [];
    const takeAllBut = (left) => {
      for (;;) {
        try {
          taken.push(fs.openSync("/dev/null"));
        } catch (error) {
          assert.equal(error.code, "EMFILE");
          break;
        }
      }
      giveBack(left);
    };
    const giveBack = (count) => {
      for (const fd of taken.splice(0, count)) fs.closeSync(fd);
    };
    const descriptors = () => fs.readdirSync("/proc/self/fd").length;
    report("ready");
    await told();
  `;

  async function startWithFewDescriptors(script: string) {
    const started = await start(descriptors + script);
    expect(await started.child.next()).toBe("ready");
    setLimit(started.child.pid, started.user, "--nofile=100:100");
    started.child.tell("there are few descriptors");
    return started;
  }

  describe("no descriptor can be had", () => {
    test.each([0, 1, 2, 3, 4, 5, 6, 7, 8])(
      "but %i, at the first operation",
      async (more) => {
        const { child } = await startWithFewDescriptors(`
          const store = open("kv");
          takeAllBut(${more});
          report(await tryAll(store));
          giveBack(1000);
          await use(store);
          await store.close();
          report("closed");
        `);
        const outcomes = await child.next<Outcomes>();
        expectSettled(outcomes);
        if (more === 0) {
          const failed = outcomes.set?.code !== undefined;
          expect(failed || !row.needsDescriptor).toBe(true);
        }
        await expectEnd(child);
      },
      120_000,
    );

    test("at the first operation, and the store is closed", async () => {
      const { child } = await startWithFewDescriptors(`
        const store = open("kv");
        takeAllBut(0);
        const outcomes = [settle(store.set(["k"], 1)), settle(store.get(["k"]))];
        report(await settle(store.close()));
        report({ ...await Promise.all(outcomes) });
        report("closed");
      `);
      expect(await child.next()).toEqual({ value: null });
      expectSettled(await child.next());
      await expectEnd(child);
    });

    test.each([0, 1, 2])(
      "but %i, later",
      async (more) => {
        const { child } = await startWithFewDescriptors(`
          // What the process opens once, and keeps, is opened by another store.
          const other = open("other");
          await use(other);
          await other.close();
          const before = descriptors();
          const store = open("kv");
          await use(store);
          takeAllBut(${more});
          report("short");
          await told();
          report(await tryAll(store));
          // Until a checkpoint is due.
          await pause(400);
          report(await tryAll(store));
          giveBack(1000);
          await use(store);
          await store.drop();
          await use(store);
          const second = open("kv");
          await use(second);
          await second.close();
          await store.close();
          report(descriptors() - before);
          report("closed");
        `);
        expect(await child.next()).toBe("short");
        await service?.cut();
        child.tell("the connections were cut");
        expectSettled(await child.next());
        expectSettled(await child.next());
        expect(await child.next()).toBe(0);
        await expectEnd(child);
      },
      120_000,
    );

    test("again and again, while the store is in use", async () => {
      const { child } = await startWithFewDescriptors(`
        const store = open("kv");
        await use(store);
        for (let round = 0; round < 20; round += 1) {
          takeAllBut(round % 4);
          const key = ["k", String(round)];
          report({
            set: await settle(store.set(key, round)),
            list: await settle(Array.fromAsync(store.list())),
            get: await settle(store.get(key)),
          });
          giveBack(1000);
          await store.set(key, round);
          assert.equal(await store.get(key), round);
          assert.equal((await Array.fromAsync(store.list(["k"]))).length, round + 1);
        }
        await store.close();
        report("closed");
      `);
      for (let round = 0; round < 20; round += 1) {
        expectSettled(await child.next());
      }
      await expectEnd(child);
    }, 120_000);
  });
});
