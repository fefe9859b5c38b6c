// The connections of a store on a server: who waits for which, and which of them
// are given up.
import { setTimeout as later } from "node:timers/promises";
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import type { Connection, TcpProxy } from "./services/proxy.mts";
import { key, numbers } from "./support/entries.mts";
import { recovers } from "./support/faults.mts";
import { type Served, servedRows, startProxy } from "./support/served.mts";

describe.each(servedRows)("$store", ({ start, open, acceptsLogin }) => {
  // Without logins, a connection is open at once, and never before it is needed.
  const testLogin = test.skipIf(acceptsLogin === undefined);
  let server: Served;
  beforeAll(async () => {
    server = await start();
  });
  afterAll(() => server.stop());

  async function prepare(timeout: number, maxConnections: number) {
    const proxy = await startProxy(server);
    const store = open(proxy.url(server), timeout, { maxConnections });
    onTestFinished(() => store.close());
    await store.drop();
    return { proxy, store };
  }

  type Store = Awaited<ReturnType<typeof prepare>>["store"];

  const getAll = (store: Store, count: number) =>
    Promise.all(numbers(count).map((i) => store.get(key(i))));

  const setAll = (store: Store, count: number, value: unknown) =>
    Promise.all(numbers(count).map((i) => store.set(key(i), value)));

  /** Has the store open this many connections. */
  async function connect(proxy: TcpProxy, store: Store, count: number) {
    proxy.delay = 5;
    const gets: Promise<unknown>[] = [];
    for (let i = 0; proxy.connections.size < count; i += 1) {
      gets.push(store.get(key(i)));
      await later(1);
    }
    proxy.delay = 0;
    await Promise.all(gets);
    expect(proxy.connections.size).toBeGreaterThanOrEqual(count);
  }

  testLogin(
    "calls use the connection that is free, not those being opened",
    async () => {
      const { proxy, store } = await prepare(20_000, 10);
      await setAll(store, 500, 1);
      proxy.delay = 10;
      // The handshakes of all others are held back.
      proxy.onConnection = (connection) => connection.stall();
      const [ready] = proxy.connections;
      const gets = Promise.all(numbers(20).map(() => getAll(store, 500)));
      await proxy.until(() => proxy.connections.size > 1);
      const opening = [...proxy.connections].filter((each) => each !== ready);
      expect(new Set((await gets).flat())).toEqual(new Set([1]));
      await setAll(store, 500, 2);
      // No call has waited until the store gave one of them up.
      expect(opening.filter((each) => !proxy.connections.has(each))).toEqual(
        [],
      );
      // They are of use as soon as they are open.
      proxy.onConnection = () => {};
      proxy.resume();
      expect(new Set(await getAll(store, 500))).toEqual(new Set([2]));
    },
  );

  test("a firewall that has forgotten connections costs one wait, not one each", async () => {
    const { proxy, store } = await prepare(2_000, 10);
    await store.set(["k"], 1);
    await connect(proxy, store, 6);
    const forgotten = [...proxy.connections];
    for (const connection of forgotten) connection.stall();
    let rejected = 0;
    for (let i = 0; i < 30; i += 1) {
      await store.get(["k"]).then(
        (value) => expect(value).toBe(1),
        () => (rejected += 1),
      );
    }
    expect(rejected).toBeLessThanOrEqual(2);
    // The store has closed them, or will.
    await expect
      .poll(() => forgotten.filter((each) => proxy.connections.has(each)))
      .toEqual([]);
  });

  const silences = {
    "at once": (connection: Connection) => connection.stall("toClient"),
    "after the login": (connection: Connection) => {
      connection.onPassed = (direction, bytes) => {
        if (direction === "toClient" && acceptsLogin?.(bytes)) {
          connection.stall("toClient");
        }
      };
    },
  };

  testLogin.each(Object.entries(silences))(
    "a server that is silent %s holds no more connections than allowed",
    async (_, silent) => {
      const { proxy, store } = await prepare(300, 2);
      await store.set(["k"], 1);
      proxy.onConnection = silent;
      proxy.cut();
      await proxy.until(() => proxy.connections.size === 0);
      for (const wave of numbers(10)) {
        const calls = numbers(3).map((i) => store.get(key(wave * 3 + i)));
        const outcomes = await Promise.allSettled(calls);
        expect(outcomes.map(({ status }) => status)).toEqual(
          numbers(3).map(() => "rejected"),
        );
      }
      // What was given up has been closed, apart from what is under way.
      await expect.poll(() => proxy.connections.size).toBeLessThanOrEqual(2);
      expect(proxy.accepted).toBeGreaterThan(1);
      proxy.onConnection = () => {};
      proxy.resume();
      await recovers(() => store.get(["k"]));
      expect(await store.get(["k"])).toBe(1);
      await expect.poll(() => proxy.connections.size).toBeLessThanOrEqual(2);
      await store.close();
      await expect.poll(() => proxy.connections.size).toBe(0);
    },
  );
});
