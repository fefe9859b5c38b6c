// JavaScript may call back from anywhere: from hooks of promises, getters,
// toJSON, and the methods and listeners of a signal. Each method of a store and
// of its iterator is called from each of these while other calls are under way.
// The scripts run in processes of their own, so that an abort is seen.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import { expectGoodEnd, runChild } from "./support/child.mts";
import { isTested, onThread } from "./support/hosts.mts";
import { temporaryFile } from "./support/sqlite.mts";

interface Place {
  readonly path: string;
  readonly redis: string;
  readonly postgres: string;
  readonly mysql: string;
}

/** How each store is opened. */
const stores: Record<string, string> = {
  memory: "new MemoryKvStore()",
  "sqlite, a file": "new SqliteKvStore(data.path)",
  "sqlite, :memory:": 'new SqliteKvStore(":memory:")',
  "deno kv, a file": "new DenoKvStore(data.path)",
  "deno kv, :memory:": 'new DenoKvStore(":memory:")',
  redis: "new RedisKvStore(data.redis)",
  postgres: "new PostgresKvStore(data.postgres)",
  mysql: "new MysqlKvStore(data.mysql)",
};

/** What is called from within; `list` is the one that is being read. */
const inner: Record<string, string> = {
  get: `store.get(["k", "0"])`,
  set: `store.set(["x", "set"], { n: 1 })`,
  delete: `store.delete(["x", "gone"])`,
  cas: `store.cas(["x", "cas"], undefined, { n: 1 })`,
  "another list": `store.list({ prefix: ["k"], pageSize: 2 }).next()`,
  clear: `store.clear(["y"])`,
  initialize: `store.initialize()`,
  next: `next()`,
  return: `list.return()`,
  throw: `list.throw(new Error("mine"))`,
  "list disposal": `list[Symbol.asyncDispose]()`,
  skipped: `list.skipped`,
  asyncIterator: `list[Symbol.asyncIterator]()`,
  close: `store.close()`,
  disposal: `store[Symbol.asyncDispose]()`,
  drop: `store.drop()`,
};

/**
 * Where from. `wrap` returns what a call is given for a value, `before` and
 * `after` arm and disarm.
 */
const outer: Record<string, string> = {
  "an init hook of async_hooks": `
    const hook = require("node:async_hooks").createHook({ init: call });
    before = () => hook.enable();
    after = () => hook.disable();
  `,
  "a getter named then": `
    before = () => Object.defineProperty(Object.prototype, "then", {
      configurable: true,
      get() { call(); return undefined; },
    });
    after = () => { delete Object.prototype.then; };
  `,
  toJSON: `
    wrap = (value) => ({ toJSON() { call(); return value; } });
  `,
  "a key's getter": `
    key = (part) => Object.defineProperty(["x"], 1, {
      enumerable: true,
      get() { call(); return part; },
    });
  `,
  "the getters and methods of a ttl": `
    options = { ttl: {
      get years() { call(); return 0; },
      total() { call(); return 60_000; },
    } };
  `,
  "the getters and methods of a signal": `
    signal = {
      get aborted() { call(); return false; },
      get addEventListener() { call(); return () => call(); },
      get removeEventListener() { call(); return () => call(); },
    };
  `,
  "a signal that is aborted while it is listened to": `
    const controller = new AbortController();
    ({ signal } = controller);
    const add = signal.addEventListener;
    signal.addEventListener = function (...args) {
      add.apply(this, args);
      call();
      controller.abort();
    };
  `,
  "an abort listener": `
    const controller = new AbortController();
    ({ signal } = controller);
    signal.addEventListener("abort", call);
    during = () => controller.abort();
  `,
  "a thenable that return() awaits": `
    during = () => kept.push(list.return({ then(resolve) { call(); resolve(); } }));
  `,
};

/** Runs all that there is for one store and one way in. */
const script = (open: string, from: string) => `
  const {
    DenoKvStore, MemoryKvStore, MysqlKvStore, PostgresKvStore, RedisKvStore,
    SqliteKvStore,
  } = require(addon);
  const { isDeepStrictEqual } = await import("node:util");
  const inner = {
    ${Object.entries(inner)
      .map(
        ([name, code]) =>
          `${JSON.stringify(name)}: (store, list, next) => ${code},`,
      )
      .join("\n")}
  };
  for (const [name, callInner] of Object.entries(inner)) {
    const store = ${open};
    await store.clear(["k"]);
    await store.clear(["x"]);
    for (let n = 0; n < 9; n += 1) await store.set(["k", String(n)], { n });

    let list;
    const kept = [];
    let calls = 0;
    let inside = false;
    const call = () => {
      // Hooks see the inner call's own promises too; and some end must be.
      if (inside || calls >= 12 || !list) return;
      inside = true;
      calls += 1;
      try {
        const answer = callInner(store, list, next);
        // It may reject before anyone waits for it.
        if (answer instanceof Promise) answer.catch(() => {});
        kept.push(answer);
      } finally {
        inside = false;
      }
    };
    let wrap = (value) => value;
    let key = (part) => ["x", part];
    let options, signal;
    let before = () => {}, during = () => {}, after = () => {};
    ${from}

    // What each next() got, in the order of the calls.
    const got = [];
    const next = () => {
      const n = got.push("nothing") - 1;
      return list.next().then(
        ({ value, done }) => { got[n] = done ? "end" : value.value.n; },
        (error) => { got[n] = error.name === "AbortError" ? error.name : error.code; },
      );
    };
    list = store.list({ prefix: ["k"], pageSize: 2, ...(signal && { signal }) });
    before();
    const first = next();
    const answers = {
      get: store.get(["k", "1"]),
      set: store.set(key("a"), wrap({ n: 1 }), options),
      cas: store.cas(key("b"), undefined, wrap({ n: 2 }), options),
      compare: store.cas(key("c"), wrap(1), wrap(2), options),
      delete: store.delete(key("d")),
      clear: store.clear(["y"]),
    };
    kept.push(next(), next());
    during();
    for (let n = 0; n < 10; n += 1) kept.push(next());
    await first;
    await Promise.allSettled([...kept, ...Object.values(answers)]);
    after();
    // Calls from within may have left something under way.
    await Promise.allSettled(kept);

    const settled = {};
    for (const [operation, promise] of Object.entries(answers)) {
      settled[operation] = await promise.then(
        (value) => value ?? null,
        (error) => error.code,
      );
    }
    report({ name, calls, got, settled, skipped: list.skipped });
    await store.close();
  }
`;

interface Report {
  name: string;
  calls: number;
  got: (number | string)[];
  settled: Record<string, unknown>;
  skipped: number;
}

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

const endings = ["close", "disposal"];
const ending = (name: string) => endings.includes(name);

for (const [storeName, open] of Object.entries(stores)) {
  if (!isTested(storeName)) continue;
  describe(storeName, () => {
    test.each(Object.entries(outer))("%s", async (_, from) => {
      const place: Place = {
        path: await temporaryFile(),
        redis: servers.redis.url,
        postgres: servers.postgres.url,
        mysql: servers.mysql.url,
      };
      const ran = await runChild(script(open, from), place);
      expectGoodEnd(ran);
      const reports = ran.reports as Report[];
      expect(reports.map(({ name }) => name)).toEqual(Object.keys(inner));
      for (const { name, calls, got, settled, skipped } of reports) {
        expect(calls, name).toBeGreaterThan(0);
        expect(skipped).toBe(0);
        // Entries in their order without a gap, then what ended the list.
        const entries = got.filter((item) => typeof item === "number");
        expect(got.slice(0, entries.length), name).toEqual(entries);
        expect(entries, name).toEqual([...entries.keys()]);
        for (const item of got.slice(entries.length)) {
          expect(item, name).toMatch(/^(end|ERR_KV_CLOSED|AbortError)$/);
        }
        for (const [operation, answer] of Object.entries(settled)) {
          const rightAnswers: Record<string, unknown[]> = {
            get: [{ n: 1 }, ...(name === "drop" ? [null] : [])],
            set: [null],
            cas: [true],
            compare: [false],
            delete: [null],
            clear: [0],
          };
          const closed = ending(name) ? ["ERR_KV_CLOSED"] : [];
          expect(
            [...(rightAnswers[operation] ?? []), ...closed],
            `${name}: ${operation}`,
          ).toContainEqual(answer);
        }
      }
    });
  });
}

describe.skipIf(onThread)("calls from within take effect in order", () => {
  const run = (body: string) =>
    runChild(`
      const { MemoryKvStore, SqliteKvStore } = require(addon);
      const { createHook } = require("node:async_hooks");
      for (const store of [new MemoryKvStore(), new SqliteKvStore(":memory:")]) {
        await store.initialize();
        let call = () => {};
        const hook = createHook({ init() { const f = call; call = () => {}; f(); } });
        hook.enable();
        ${body}
        hook.disable();
      }
    `);

  test("a set within a set comes second", async () => {
    const ran = await run(`
      let within;
      call = () => { within = store.set(["k"], "inner"); };
      await store.set(["k"], "outer");
      await within;
      report(await store.get(["k"]));
    `);
    expectGoodEnd(ran);
    expect(ran.reports).toEqual(["inner", "inner"]);
  });

  test("close() within set() lets the set be", async () => {
    const ran = await run(`
      let closed;
      call = () => { closed = store.close(); };
      report(await store.set(["k"], 1).then(() => "set", (error) => error.code));
      report(await closed.then(() => "closed"));
    `);
    expectGoodEnd(ran);
    expect(ran.reports).toEqual(["set", "closed", "set", "closed"]);
  });

  test("close() within close() settles with it", async () => {
    const ran = await run(`
      const within = [];
      call = () => {
        within.push(store.close());
        call = () => within.push(store.close());
        within.push(store.close());
      };
      within.push(store.close());
      report((await Promise.all(within)).length);
      report(await store.close() ?? null);
    `);
    expectGoodEnd(ran);
    expect(ran.reports).toEqual([4, null, 4, null]);
  });

  test("next() within next() gets the entry after it", async () => {
    const ran = await run(`
      for (let n = 0; n < 6; n += 1) await store.set(["k", String(n)], n);
      const list = store.list({ pageSize: 2 });
      for (let n = 0; n < 3; n += 1) {
        let within;
        call = () => { within = list.next(); };
        const outer = await list.next();
        report([outer.value.value, (await within).value.value]);
      }
    `);
    expectGoodEnd(ran);
    const pairs = [
      [0, 1],
      [2, 3],
      [4, 5],
    ];
    expect(ran.reports).toEqual([...pairs, ...pairs]);
  });

  test("return() within next() ends the list for it or after it", async () => {
    const ran = await run(`
      for (let n = 0; n < 6; n += 1) await store.set(["k", String(n)], n);
      const list = store.list({ pageSize: 2 });
      call = () => void list.return();
      report((await list.next()).done);
      report((await list.next()).done);
    `);
    expectGoodEnd(ran);
    expect(ran.reports).toEqual([true, true, true, true]);
  });
});
