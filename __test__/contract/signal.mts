// An abort signal ends a list at once, with the signal's reason.
import { getEventListeners } from "node:events";
import { expect } from "vitest";
import { collect } from "../support/collect.mts";
import { expectRejection, reasonOf } from "../support/rejection.mts";
import { end, fill, keyOf } from "./entries.mts";
import type { ContractTest, Store } from "./fixture.mts";

export function describeSignal(test: ContractTest): void {
  test("an already aborted signal rejects the first next()", async ({
    store,
  }) => {
    await fill(store, 3);
    const reason = new Error("mine");
    const list = store.list({ signal: AbortSignal.abort(reason) });
    expect(await reasonOf(() => list.next())).toBe(reason);
    expect(await list.next()).toEqual(end);
  });

  test("an abort before the first next() rejects it", async ({ store }) => {
    await fill(store, 3);
    const controller = new AbortController();
    const list = store.list({ signal: controller.signal });
    controller.abort("a string for a reason");
    expect(await reasonOf(() => list.next())).toBe("a string for a reason");
    expect(await list.next()).toEqual(end);
  });

  test("the default reason is an AbortError", async ({ store }) => {
    const list = store.list({ signal: AbortSignal.abort() });
    expect(await reasonOf(() => list.next())).toMatchObject({
      name: "AbortError",
    });
  });

  test("an abort between two entries ends a list, even if more are buffered", async ({
    store,
  }) => {
    await fill(store, 200);
    for (const taken of [1, 64, 100]) {
      const controller = new AbortController();
      const list = store.list({ signal: controller.signal });
      for (let i = 0; i < taken; i += 1) {
        await list.next();
      }
      const reason = { mine: true };
      controller.abort(reason);
      expect(await reasonOf(() => list.next())).toBe(reason);
      expect(await list.next()).toEqual(end);
    }
  });

  test("an abort while next() is pending ends a list", async ({ store }) => {
    await fill(store, 200);
    const controller = new AbortController();
    const list = store.list({ pageSize: 1, signal: controller.signal });
    await list.next();
    const waiting = Array.from({ length: 10 }, () => list.next());
    const reason = new Error("mine");
    controller.abort(reason);
    const settled = await Promise.allSettled([...waiting, list.next()]);
    // Entries that were already read may come first, then the reason, then the
    // end.
    const rejected = settled.findIndex(({ status }) => status === "rejected");
    expect(settled[rejected]).toEqual({ status: "rejected", reason });
    for (const late of settled.slice(rejected + 1)) {
      expect(late).toEqual({ status: "fulfilled", value: end });
    }
    expect(await list.next()).toEqual(end);
  });

  test("an abort inside a loop ends it", async ({ store }) => {
    await fill(store, 200);
    const controller = new AbortController();
    const reason = new Error("mine");
    let seen = 0;
    const thrown = await reasonOf(async () => {
      for await (const _ of store.list({ signal: controller.signal })) {
        seen += 1;
        if (seen === 10) {
          controller.abort(reason);
        }
      }
    });
    expect(thrown).toBe(reason);
    expect(seen).toBe(10);
  });

  test("an abort after the end has no effect", async ({ store }) => {
    await fill(store, 3);
    const controller = new AbortController();
    const list = store.list({ signal: controller.signal });
    expect(await collect(list)).toHaveLength(3);
    controller.abort();
    expect(await list.next()).toEqual(end);
  });

  test("an abort ends only the lists with that signal", async ({ store }) => {
    await fill(store, 100);
    const controller = new AbortController();
    const aborted = store.list({ pageSize: 5, signal: controller.signal });
    const other = store.list({ pageSize: 5 });
    await Promise.all([aborted.next(), other.next()]);
    controller.abort();
    await reasonOf(() => aborted.next());
    expect(await collect(other)).toHaveLength(99);
    expect(await store.get(keyOf(0))).toBe(0);
  });

  test("one signal ends many lists", async ({ store }) => {
    await fill(store, 100);
    const controller = new AbortController();
    const { signal } = controller;
    const lists = Array.from({ length: 5 }, () => store.list({ signal }));
    await Promise.all(lists.map((list) => list.next()));
    const reason = new Error("mine");
    controller.abort(reason);
    for (const list of lists) {
      expect(await reasonOf(() => list.next())).toBe(reason);
    }
  });

  const ways: Record<string, (store: Store, signal: AbortSignal) => unknown> = {
    "was read to its end": (store, signal) => collect(store.list({ signal })),
    "was ended by break": async (store, signal) => {
      for await (const _ of store.list({ signal })) {
        break;
      }
    },
    "was returned before it began": (store, signal) =>
      store.list({ signal }).return(),
    "was ended by throw()": async (store, signal) => {
      const list = store.list({ signal });
      await list.next();
      await reasonOf(() => list.throw(new Error("mine")));
    },
    "was refused": (store, signal) =>
      reasonOf(() => store.list({ signal, pageSize: 0 }).next()),
  };

  for (const [way, finish] of Object.entries(ways)) {
    test(`a list that ${way} removes its abort listener`, async ({ store }) => {
      await fill(store, 3);
      const { signal } = new AbortController();
      await finish(store, signal);
      expect(getEventListeners(signal, "abort")).toHaveLength(0);
      expect(signal.onabort).toBeNull();
    });
  }

  test("a list of a closed store removes its abort listener", async ({
    store,
  }) => {
    await fill(store, 3);
    const { signal } = new AbortController();
    const list = store.list({ signal });
    await list.next();
    await store.close();
    await expectRejection(() => list.next(), "ERR_KV_CLOSED");
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });

  test("an abort after return() has no effect", async ({ store }) => {
    await fill(store, 3);
    for (const begun of [false, true]) {
      const controller = new AbortController();
      const list = store.list({ signal: controller.signal });
      if (begun) {
        await list.next();
      }
      await list.return();
      controller.abort();
      expect(await list.next()).toEqual(end);
    }
  });

  test("the signal's own onabort handler is kept", async ({ store }) => {
    const controller = new AbortController();
    let calls = 0;
    controller.signal.onabort = () => {
      calls += 1;
    };
    const list = store.list({ signal: controller.signal });
    await list.next();
    controller.abort();
    expect(calls).toBe(1);
  });

  test("a value that is not a signal is refused", async ({ store }) => {
    for (const signal of [{}, "abort", 1, true, () => 1]) {
      const list = store.list({ signal: signal as never });
      await expectRejection(() => list.next(), "ERR_KV_INVALID_OPTION");
    }
  });
}
