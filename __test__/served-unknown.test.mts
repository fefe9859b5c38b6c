// A write that may have been carried out says so if it is rejected, whatever it
// is and for whatever reason. One that certainly wasn't doesn't.
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { PostgresKvStore } from "../index.js";
import { key, numbers } from "./support/entries.mts";
import { rejection } from "./support/rejection.mts";
import { type Served, servedRows, startProxy } from "./support/served.mts";

type Writes = Pick<PostgresKvStore, "set" | "delete" | "cas" | "clear">;

/** Writes, and the values of `["k"]` and `["k", "1"]` after them. */
const writes: Record<
  string,
  { call: (store: Writes) => Promise<unknown>; after: readonly unknown[] }
> = {
  set: { call: (store) => store.set(["k"], 1), after: [1, 0] },
  delete: { call: (store) => store.delete(["k"]), after: [undefined, 0] },
  clear: { call: (store) => store.clear(["k"]), after: [undefined, undefined] },
  cas: { call: (store) => store.cas(["k"], 0, 1), after: [1, 0] },
  "cas that deletes": {
    call: (store) => store.cas(["k"], 0, undefined),
    after: [undefined, 0],
  },
};

describe.each(servedRows)("$store", ({ start, open, swaps, acceptsLogin }) => {
  let server: Served;
  beforeAll(async () => {
    server = await start();
  });
  afterAll(() => server.stop());

  async function prepare(
    timeout: number,
    call: (store: Writes) => Promise<unknown>,
  ) {
    const proxy = await startProxy(server);
    const store = open(proxy.url(server), timeout);
    onTestFinished(() => store.close());
    await store.drop();
    // Once before, so that its statement is prepared.
    await store.set(["k"], 0);
    await call(store);
    await store.set(["k"], 0);
    await store.set(["k", "1"], 0);
    return { proxy, store };
  }

  const values = () =>
    Promise.all([server.read(["k"]), server.read(["k", "1"])]);

  describe.each(Object.entries(writes))("%s", (name, { call, after }) => {
    const isSwap = /^(cas|clear)/.test(name);
    const testStatement = test.skipIf(isSwap && swaps !== "a statement");
    /** Whether nothing is written before an answer has come. */
    const readsFirst = isSwap && swaps === "a read and a write";
    const testLogin = test.skipIf(acceptsLogin === undefined);

    testStatement("the connection is cut before the answer", async () => {
      const { proxy, store } = await prepare(1_200, call);
      proxy.stall("toClient");
      const rejected = rejection(() => call(store));
      await expect.poll(values).toEqual(after);
      proxy.refuse();
      proxy.cut();
      const { code, message } = await rejected;
      expect(code).toMatch(/^ERR_KV_(CONNECTION|TIMEOUT)$/);
      expect(message).toContain("unknown");
    });

    testStatement("the answer doesn't come in time", async () => {
      const { proxy, store } = await prepare(600, call);
      proxy.onConnection = (connection) => connection.stall();
      proxy.stall("toClient");
      const rejected = rejection(() => call(store));
      await expect.poll(values).toEqual(after);
      const { code, message } = await rejected;
      expect(code).toBe("ERR_KV_TIMEOUT");
      expect(message).toContain("unknown");
    });

    test("the statement is still under way", async () => {
      const { proxy, store } = await prepare(600, call);
      proxy.onConnection = (connection) => connection.stall();
      proxy.stall("toServer");
      const { message } = await rejection(() => call(store));
      expect(message.includes("unknown")).toBe(!readsFirst);
      proxy.resume();
      // It may have been withdrawn, or it happens now.
      const possible = (readsFirst ? [[0, 0]] : [[0, 0], after]).map(String);
      await expect
        .poll(async () => possible.includes(String(await values())))
        .toBe(true);
    });

    test("the server is not reached", async () => {
      const { proxy, store } = await prepare(600, call);
      proxy.refuse();
      const [connection] = proxy.connections;
      expect(connection).toBeDefined();
      proxy.cut();
      await proxy.until(() => proxy.connections.size === 0);
      // Once, so that the store has noticed that its connections have ended.
      await rejection(() => store.get(["k"]));
      const { code, message } = await rejection(() => call(store));
      expect(code).toMatch(/^ERR_KV_(CONNECTION|TIMEOUT)$/);
      expect(message).not.toContain("unknown");
      expect(await values()).toEqual([0, 0]);
    });

    testLogin(
      "the server never says anything to a new connection",
      async () => {
        const { proxy, store } = await prepare(600, call);
        proxy.onConnection = (connection) => connection.stall();
        proxy.cut();
        await proxy.until(() => proxy.connections.size === 0);
        await rejection(() => store.get(["k"]));
        const { message } = await rejection(() => call(store));
        expect(message).not.toContain("unknown");
        expect(await values()).toEqual([0, 0]);
      },
    );
  });

  test("only the writes of a group that were sent", async () => {
    const { proxy, store } = await prepare(2_000, (store) =>
      Promise.all(numbers(50).map((i) => store.set(key(i), 0))),
    );
    proxy.stall("toClient");
    const received = proxy.receives("toServer", 1);
    const sent = numbers(50).map((i) => rejection(() => store.set(key(i), 1)));
    // Each of them waits for an earlier one.
    const behind = numbers(50).map((i) =>
      rejection(() => store.set(key(i), 2)),
    );
    await received;
    // A statement may have to be prepared first, which stops here, if groups have
    // other sizes than those before.
    const isPrepared = store instanceof PostgresKvStore;
    if (isPrepared) await expect.poll(() => server.read(key(0))).toBe(1);
    proxy.refuse();
    proxy.cut();
    const [first] = await Promise.all(sent);
    if (isPrepared) expect(first?.message).toContain("unknown");
    for (const { message } of await Promise.all(behind)) {
      expect(message).not.toContain("unknown");
    }
    for (const i of numbers(50)) {
      const isStored = (await server.read(key(i))) === 1;
      const { message } = (await sent[i]) ?? { message: "" };
      if (isStored) expect(message, String(i)).toContain("unknown");
    }
  });
});
