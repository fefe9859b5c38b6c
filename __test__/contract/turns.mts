// Nothing holds the event loop: loops of calls that are answered at once, and
// many calls at once, let timers and I/O have their turn.
import { expect } from "vitest";
import { numbers } from "../support/entries.mts";
import { reasonOf } from "../support/rejection.mts";
import { fill, keyOf } from "./entries.mts";
import type { ContractTest, Store } from "./fixture.mts";

/**
 * The time after which a loop is given up, in ms. It is not left to vitest,
 * whose own limit needs a turn of the event loop too.
 */
const limit = 10_000;

/** Calls until `isOver`. */
async function callUntil(
  isOver: () => boolean,
  call: () => unknown,
): Promise<void> {
  const start = performance.now();
  while (!isOver()) {
    if (performance.now() - start > limit) {
      throw new Error("the event loop had no turn");
    }
    await call();
  }
}

/** Calls until a timer has run. */
async function callUntilTimer(call: () => unknown): Promise<void> {
  let over = false;
  setTimeout(() => (over = true));
  await callUntil(() => over, call);
}

/** The calls of each loop, on a store that has an entry `["k"]`. */
const calls: Record<string, (store: Store) => () => unknown> = {
  get: (store) => () => store.get(["k"]),
  "get, and work after it": (store) => async () => {
    await store.get(["k"]);
    const start = performance.now();
    while (performance.now() - start < 2);
  },
  "get of nothing": (store) => () => store.get(["nothing"]),
  "get of an invalid key": (store) => () =>
    reasonOf(() => store.get([] as never)),
  set: (store) => () => store.set(["k"], 1),
  "set of undefined": (store) => () => store.set(["k"], undefined),
  "set of an invalid value": (store) => () =>
    reasonOf(() => store.set(["k"], 1n)),
  cas: (store) => () => store.cas(["k"], 1, 1),
  "cas that is lost": (store) => () => store.cas(["k"], 2, 1),
  delete: (store) => () => store.delete(["nothing"]),
  clear: (store) => () => store.clear(["nothing"]),
  "clear of an invalid prefix": (store) => () =>
    reasonOf(() => store.clear([] as never)),
  initialize: (store) => () => store.initialize(),
  drop: (store) => () => store.drop(),
  "list of nothing": (store) => () => store.list(["nothing"]).next(),
  "list of something": (store) => () => store.list(["k"]).next(),
  "list of an invalid prefix": (store) => () =>
    reasonOf(() => store.list([1] as never).next()),
  "list of an aborted signal": (store) => () =>
    reasonOf(() => store.list({ signal: AbortSignal.abort() }).next()),
  "whole lists": (store) => () => Array.fromAsync(store.list(["k"])),
  "next() of an ended list": (store) => {
    const list = store.list();
    void list.return();
    return () => list.next();
  },
  "return()": (store) => () => store.list().return(1),
  "return() of a rejected promise": (store) => () =>
    reasonOf(() => store.list().return(Promise.reject(new Error("mine")))),
  "throw()": (store) => () =>
    reasonOf(() => store.list().throw(new Error("mine"))),
  "disposal of a list": (store) => () => store.list()[Symbol.asyncDispose](),
};

/** The calls of each loop, on a closed store. */
const callsWhenClosed: Record<string, (store: Store) => unknown> = {
  get: (store) => reasonOf(() => store.get(["k"])),
  set: (store) => reasonOf(() => store.set(["k"], 1)),
  "set of undefined": (store) => reasonOf(() => store.set(["k"], undefined)),
  "list().next()": (store) => reasonOf(() => store.list().next()),
  close: (store) => store.close(),
};

export function describeTurns(test: ContractTest): void {
  for (const [name, callsOf] of Object.entries(calls)) {
    test(`a loop of ${name} lets a timer run`, async ({ store }) => {
      await store.set(["k"], 1);
      await callUntilTimer(callsOf(store));
    });
  }

  for (const [name, call] of Object.entries(callsWhenClosed)) {
    test(`a loop of ${name} after close() lets a timer run`, async ({
      store,
    }) => {
      await store.close();
      await callUntilTimer(() => call(store));
    });
  }

  test("a loop over a list lets a timer run", async ({ store }) => {
    await fill(store, 100);
    let list = store.list();
    await callUntilTimer(async () => {
      if ((await list.next()).done) {
        list = store.list();
      }
    });
  });

  test("a list beside a loop of sets ends", async ({ store }) => {
    await fill(store, 100);
    let seen = 0;
    let over = false;
    const read = async () => {
      for await (const _ of store.list({ prefix: ["k"], pageSize: 1 })) {
        seen += 1;
        // Long enough that the list waits for a turn.
        for (let i = 0; i < 2_000; i += 1) {
          await Promise.resolve();
        }
      }
      over = true;
    };
    const listed = read();
    await callUntil(
      () => over,
      () => store.set(["other"], 1),
    );
    await listed;
    expect(seen).toBe(100);
  });

  test("many gets at once let a timer run before the last one settles", async ({
    store,
  }) => {
    await store.set(["k"], 1);
    let settled = 0;
    const reads = numbers(20_000).map(async () => {
      const value = await store.get(["k"]);
      settled += 1;
      return value;
    });
    let settledBefore: number | undefined;
    setTimeout(() => (settledBefore = settled));
    expect(new Set(await Promise.all(reads))).toEqual(new Set([1]));
    expect(settledBefore).toBeLessThan(20_000);
  });

  test("many next() at once let a timer run before the last one settles", async ({
    store,
  }) => {
    await fill(store, 2_000);
    const list = store.list();
    let settled = 0;
    const results = numbers(20_000).map(async () => {
      const { value } = await list.next();
      settled += 1;
      return value?.value;
    });
    let settledBefore: number | undefined;
    setTimeout(() => (settledBefore = settled));
    expect(await Promise.all(results)).toEqual([
      ...numbers(2_000),
      ...Array(18_000).fill(undefined),
    ]);
    expect(settledBefore).toBeLessThan(20_000);
  });

  test("each of many calls at once takes effect when it is called", async ({
    store,
  }) => {
    const answers = numbers(1_500).flatMap((i): Promise<unknown>[] => [
      store.set(["k"], i),
      store.get(["k"]),
      store.cas(["k"], i, -1),
      store.get(["k"]),
    ]);
    const listed = store.list(["k"]).next();
    await store.set(["k"], "last");
    expect(await Promise.all(answers)).toEqual(
      numbers(1_500).flatMap((i) => [undefined, i, true, -1]),
    );
    expect((await listed).value?.key).toEqual(["k"]);
    expect(await store.get(["k"])).toBe("last");
  });

  test("calls that wait for a turn settle when the store is closed", async ({
    store,
  }) => {
    await fill(store, 10);
    const reads = numbers(5_000).map((i) => store.get(keyOf(i % 10)));
    const list = store.list();
    // Some of these are rejected before the reads are over.
    const steps = Promise.allSettled(numbers(20).map(() => list.next()));
    const closed = store.close();
    expect(await Promise.all(reads)).toEqual(numbers(5_000).map((i) => i % 10));
    expect(await steps).toHaveLength(20);
    await closed;
  });
}
