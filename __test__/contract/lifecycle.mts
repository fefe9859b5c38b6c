// A store's life cycle: initialize, drop, close, disposal.
import { expect } from "vitest";
import { collect, keysOf } from "../support/collect.mts";
import { expectRejection, reasonOf } from "../support/rejection.mts";
import { end, fill, keyOf } from "./entries.mts";
import type { ContractTest } from "./fixture.mts";

export function describeLifecycle(test: ContractTest): void {
  test("initialize may be called at any time, and repeatedly", async ({
    store,
  }) => {
    await Promise.all([store.initialize(), store.initialize()]);
    await store.set(["k"], 1);
    await store.initialize();
    expect(await store.get(["k"])).toBe(1);
  });

  test("the first operations may be concurrent", async ({ store }) => {
    const [, , , , list] = await Promise.all([
      store.set(["a"], 1),
      store.cas(["b"], undefined, 2),
      store.get(["c"]),
      store.delete(["d"]),
      collect(store.list(["none"])),
      store.initialize(),
      store.clear(["none"]),
    ]);
    expect(list).toEqual([]);
    expect(await keysOf(store.list())).toHaveLength(2);
  });

  test("the first operations of two handles may be concurrent", async ({
    store,
    another,
  }) => {
    await Promise.all([
      store.set(["a"], 1),
      another.set(["b"], 2),
      store.get(["c"]),
      another.initialize(),
    ]);
    expect(await keysOf(store.list())).toHaveLength(2);
    expect(await keysOf(another.list())).toHaveLength(2);
  });

  test("each operation may be the first", async ({ store, another }) => {
    expect(await store.get(["k"])).toBeUndefined();
    expect(await collect(another.list())).toEqual([]);
  });

  test("drop deletes all entries, and the store still works", async ({
    store,
  }) => {
    await fill(store, 200);
    await store.drop();
    expect(await collect(store.list())).toEqual([]);
    expect(await store.get(keyOf(0))).toBeUndefined();
    await store.set(["k"], 1);
    expect(await collect(store.list())).toEqual([{ key: ["k"], value: 1 }]);
    await store.drop();
    await store.drop();
    expect(await store.cas(["k"], undefined, 2)).toBe(true);
    await store.drop();
    await store.initialize();
    expect(await collect(store.list())).toEqual([]);
  });

  test("drop may be the first operation", async ({ store }) => {
    await store.drop();
    expect(await store.get(["k"])).toBeUndefined();
  });

  test("another handle sees a drop and still works", async ({
    store,
    another,
  }) => {
    await fill(store, 10);
    expect(await another.get(keyOf(0))).toBe(0);
    await store.drop();
    expect(await another.get(keyOf(0))).toBeUndefined();
    expect(await collect(another.list())).toEqual([]);
    await another.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
    await another.drop();
    expect(await store.cas(["k"], undefined, 2)).toBe(true);
    expect(await another.get(["k"])).toBe(2);
    await store.drop();
    expect(await another.clear(["k"])).toBe(0);
    await store.drop();
    await another.delete(["k"]);
  });

  test("close may be called repeatedly, also at once", async ({ store }) => {
    await store.set(["k"], 1);
    await Promise.all([store.close(), store.close()]);
    await store.close();
    await store[Symbol.asyncDispose]();
  });

  test("close may be the first call", async ({ store }) => {
    await store.close();
    await expectRejection(() => store.get(["k"]), "ERR_KV_CLOSED");
  });

  test("a closed store refuses all operations", async ({ store }) => {
    await store.set(["k"], 1);
    await store.close();
    const calls: (() => unknown)[] = [
      () => store.get(["k"]),
      () => store.set(["k"], 1),
      () => store.delete(["k"]),
      () => store.cas(["k"], undefined, 1),
      () => store.clear(["k"]),
      () => store.initialize(),
      () => store.drop(),
      () => store.list().next(),
      () => store.list(["k"]).next(),
    ];
    for (const call of calls) {
      await expectRejection(call, "ERR_KV_CLOSED");
    }
  });

  test("calls after close() are refused before it has resolved", async ({
    store,
  }) => {
    await fill(store, 10);
    const closed = store.close();
    await expectRejection(() => store.get(keyOf(0)), "ERR_KV_CLOSED");
    await expectRejection(() => store.set(["k"], 1), "ERR_KV_CLOSED");
    await closed;
  });

  test("disposal closes the store", async ({ store }) => {
    {
      await using own = store;
      await own.set(["k"], 1);
    }
    await expectRejection(() => store.get(["k"]), "ERR_KV_CLOSED");
  });

  test("writes accepted before close() are finished", async ({
    store,
    another,
  }) => {
    const writes = Array.from({ length: 500 }, (_, i) =>
      store.set(["k", String(i)], i),
    );
    const swapped = store.cas(["k", "0"], 0, "swapped");
    await store.close();
    await Promise.all(writes);
    expect(await swapped).toBe(true);
    expect(await keysOf(another.list(["k"]))).toHaveLength(500);
    expect(await another.get(["k", "0"])).toBe("swapped");
  });

  test("all pending operations settle at close()", async ({ store }) => {
    await fill(store, 300);
    const lists = Array.from({ length: 5 }, () => store.list({ pageSize: 1 }));
    const settled = Promise.allSettled([
      ...Array.from({ length: 20 }, () => store.get(keyOf(0))),
      ...lists.flatMap((list) => [list.next(), list.next()]),
      store.set(["k"], 1),
    ]);
    await store.close();
    for (const outcome of await settled) {
      if (outcome.status === "rejected") {
        expect(outcome.reason).toMatchObject({ code: "ERR_KV_CLOSED" });
      }
    }
  });

  test("close() ends open iterators", async ({ store }) => {
    await fill(store, 300);
    const early = store.list();
    const buffered = store.list();
    const paging = store.list({ pageSize: 1 });
    const finished = store.list(["none"]);
    const returned = store.list();
    await Promise.all([buffered.next(), paging.next(), finished.next()]);
    await returned.return();
    await store.close();
    for (const open of [early, buffered, paging]) {
      await expectRejection(() => open.next(), "ERR_KV_CLOSED");
      expect(await open.next()).toEqual(end);
      expect((await open.return()).done).toBe(true);
    }
    expect(await finished.next()).toEqual(end);
    expect(await returned.next()).toEqual(end);
  });

  test("close() inside a loop over a list ends the loop", async ({ store }) => {
    await fill(store, 500);
    let seen = 0;
    let closed: Promise<void> | undefined;
    const reason = await reasonOf(async () => {
      for await (const _ of store.list({ pageSize: 2 })) {
        seen += 1;
        if (seen === 100) {
          closed = store.close();
        }
      }
    });
    expect(reason).toMatchObject({ code: "ERR_KV_CLOSED" });
    expect(seen).toBe(100);
    await closed;
  });

  test("close() does not wait for iterators", async ({ store }) => {
    await fill(store, 300);
    const list = store.list({ pageSize: 1 });
    const settled = Promise.allSettled([list.next()]);
    await store.close();
    const [outcome] = await settled;
    if (outcome?.status === "rejected") {
      expect(outcome.reason).toMatchObject({ code: "ERR_KV_CLOSED" });
    }
  });
}
