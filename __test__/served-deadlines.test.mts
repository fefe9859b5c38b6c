// Each operation of a store on a server has its own deadline, and waits for no
// operation that doesn't concern it.
import { setTimeout as later } from "node:timers/promises";
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { key, numbers } from "./support/entries.mts";
import { expectRejection } from "./support/rejection.mts";
import {
  type Served,
  servedRows,
  silence,
  startProxy,
} from "./support/served.mts";

/** Notes in which order promises settle. */
function order(promises: Record<string, Promise<unknown>>) {
  const settled: string[] = [];
  const note = (name: string) => () => void settled.push(name);
  const all = Object.entries(promises).map(([name, promise]) =>
    promise.then(note(name), note(`${name} was rejected`)),
  );
  return { settled, all: Promise.all(all) };
}

describe.each(servedRows)("$store", ({ start, open, many, swaps }) => {
  let server: Served;
  beforeAll(async () => {
    server = await start();
  });
  afterAll(() => server.stop());

  function opened(url: string, timeout: number) {
    const store = open(url, timeout);
    onTestFinished(() => store.close());
    return store;
  }

  test("other operations don't wait for clears", async () => {
    const store = opened(server.url, 60_000);
    await store.drop();
    await store.initialize();
    for (const prefix of ["a", "b"]) await server.fill(prefix, many);
    await store.set(["k"], 1);
    const { settled, all } = order({
      "clear a": store.clear(["a"]),
      "clear b": store.clear(["b"]),
      "clear a again": store.clear(["a"]),
      get: store.get(["k"]),
      set: store.set(["l"], 1),
      cas: store.cas(["m"], undefined, 1),
      delete: store.delete(["n"]),
    });
    await all;
    expect(settled.slice(0, 4).toSorted()).toEqual([
      "cas",
      "delete",
      "get",
      "set",
    ]);
    expect(await store.get(["l"])).toBe(1);
  });

  test("operations under a prefix wait for its clear", async () => {
    const store = opened(server.url, 60_000);
    await store.drop();
    await store.initialize();
    await server.fill("a", 10_000);
    const { settled, all } = order({
      clear: store.clear(["a"]),
      get: store.get(["a", "9999"]),
      set: store.set(["a", "1"], 1),
    });
    await all;
    expect(settled[0]).toBe("clear");
    expect(await store.get(["a", "1"])).toBe(1);
    expect(await store.get(["a", "9999"])).toBeUndefined();
  });

  test("other operations don't wait for clears that wait for a lock", async ({
    skip,
  }) => {
    const { withLock } = server;
    if (withLock === undefined) return skip("the server has no locks");
    const store = opened(server.url, 20_000);
    await store.drop();
    for (const prefix of ["a", "b", "c", "k"]) await store.set([prefix], 0);
    const running: Promise<unknown>[] = [];
    await withLock(["a"], async () => {
      // The second set and the clears wait for the lock, or for each other.
      running.push(store.set(["a"], 1));
      // That set is on its way, so that the later ones are not in its group.
      expect(await store.get(["k"])).toBe(0);
      running.push(
        store.clear(["a"]),
        store.clear(["b"]),
        store.clear(["a"]),
        store.clear(["c"]),
      );
      const failed = Promise.all(running).then(() => "not locked");
      const answered = Promise.all([
        store.get(["k"]),
        store.set(["l"], 1),
        store.cas(["m"], undefined, 1),
        store.initialize(),
        store.clear(["x"]),
      ]);
      expect(await Promise.race([answered, failed])).toEqual([
        0,
        undefined,
        true,
        undefined,
        0,
      ]);
    });
    expect(await Promise.all(running)).toEqual([undefined, 1, 1, 0, 1]);
  });

  test("operations outlast a server that stops for less than their time", async () => {
    const store = opened(server.url, 5_000);
    await store.drop();
    // So that all connections are there.
    await Promise.all(numbers(1_000).map((i) => store.set(key(i), i)));
    await Promise.all(numbers(1_000).map((i) => store.get(key(i))));
    const frozen = await server.freeze();
    const gets = Promise.all(numbers(100).map((i) => store.get(key(i))));
    await Promise.race([gets, later(2_500)]);
    frozen.thaw();
    expect(await gets).toEqual(numbers(100));
  });

  test("operations outlast a network that stops for less than their time", async () => {
    const proxy = await startProxy(server);
    const store = opened(proxy.url(server), 5_000);
    await Promise.all(numbers(100).map((i) => store.set(key(i), i)));
    silence(proxy);
    const gets = Promise.all(numbers(100).map((i) => store.get(key(i))));
    await Promise.race([gets, later(2_500)]);
    proxy.onConnection = () => {};
    proxy.resume();
    expect(await gets).toEqual(numbers(100));
  });

  describe("a server that says nothing any more", () => {
    const TIMEOUT = 500;
    /** A small part of the sum of all deadlines, and enough for a busy machine. */
    const SOON = 6 * TIMEOUT;

    async function silent() {
      const proxy = await startProxy(server);
      const store = opened(proxy.url(server), TIMEOUT);
      await store.set(["k"], 0);
      silence(proxy);
      return { store, begin: performance.now() };
    }

    const expectSoon = (begin: number) =>
      expect(performance.now() - begin).toBeLessThan(SOON);

    test("20 cas of a key", async () => {
      const { store, begin } = await silent();
      const errors = await Promise.all(
        numbers(20).map((i) =>
          expectRejection(() => store.cas(["k"], i, i + 1), "ERR_KV_TIMEOUT"),
        ),
      );
      expectSoon(begin);
      const unknown = errors.map(({ message }) => message.includes("unknown"));
      // The others wait for the first one, whose read may be its first request.
      const isSent = swaps !== "a read and a write";
      expect(unknown).toEqual(numbers(20).map((i) => i === 0 && isSent));
    });

    test("a get, and another one on a new connection", async () => {
      const { store, begin } = await silent();
      await expectRejection(() => store.get(["k"]), "ERR_KV_TIMEOUT");
      expectSoon(begin);
      const again = performance.now();
      await expectRejection(() => store.get(["k"]), "ERR_KV_TIMEOUT");
      expectSoon(again);
    });

    test("operations of all kinds, and close", async () => {
      const { store, begin } = await silent();
      const calls = {
        get: () => store.get(["g"]),
        set: () => store.set(["s"], 1),
        delete: () => store.delete(["d"]),
        cas: () => store.cas(["c"], undefined, 1),
        clear: () => store.clear(["x"]),
        list: () => store.list().next(),
        initialize: () => store.initialize(),
        "set behind the clear": () => store.set(["x"], 1),
      };
      const rejected = Object.entries(calls).map(async ([name, call]) => {
        const error = await expectRejection(call, "ERR_KV_TIMEOUT");
        return [name, error.message.includes("unknown")] as const;
      });
      const unknown = Object.fromEntries(await Promise.all(rejected));
      expectSoon(begin);
      expect(unknown).toMatchObject({ get: false, list: false });
      const closing = performance.now();
      await store.close();
      expectSoon(closing);
    });

    test("close while operations wait", async () => {
      const { store, begin } = await silent();
      const errors = numbers(20).map((i) =>
        expectRejection(
          () => (i % 2 === 0 ? store.get(["k"]) : store.set(["k"], i)),
          "ERR_KV_TIMEOUT",
        ),
      );
      await store.close();
      expectSoon(begin);
      await Promise.all(errors);
    });

    test("close of a store that waits for nothing", async () => {
      const { store, begin } = await silent();
      await store.close();
      expectSoon(begin);
    });
  });
});
