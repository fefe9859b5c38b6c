// The iterator that list returns follows the async iterator protocol.
import { expect } from "vitest";
import { collect, keysOf } from "../support/collect.mts";
import { expectRejection, reasonOf } from "../support/rejection.mts";
import { numbers } from "../support/entries.mts";
import { end, fill } from "./entries.mts";
import type { ContractTest } from "./fixture.mts";

export function describeIterator(test: ContractTest): void {
  test("it is an iterator and its own iterable", async ({ store }) => {
    const list = store.list();
    expect(list[Symbol.asyncIterator]()).toBe(list);
    expect(typeof list.next).toBe("function");
    expect(typeof list.return).toBe("function");
    expect(typeof list.throw).toBe("function");
    expect(typeof list[Symbol.asyncDispose]).toBe("function");
    expect(await list.next()).toEqual(end);
  });

  test("nothing runs before the first next()", async ({ store }) => {
    await store.set(["early"], 1);
    const list = store.list();
    await store.delete(["early"]);
    await store.set(["late"], 2);
    expect(await collect(list)).toEqual([{ key: ["late"], value: 2 }]);
  });

  test("it ends once and stays ended", async ({ store }) => {
    await fill(store, 1);
    const list = store.list();
    expect((await list.next()).done).toBe(false);
    expect(await list.next()).toEqual(end);
    await fill(store, 5);
    expect(await list.next()).toEqual(end);
    expect((await list.return()).done).toBe(true);
    expect(await list.next()).toEqual(end);
    expect(await collect(list)).toEqual([]);
  });

  test("overlapping next() resolve in the order of the calls", async ({
    store,
  }) => {
    await fill(store, 150);
    const list = store.list({ pageSize: 10 });
    const settled: number[] = [];
    const results = await Promise.all(
      numbers(200).map((i) =>
        list.next().then((result) => {
          settled.push(i);
          return result;
        }),
      ),
    );
    expect(settled).toEqual(numbers(200));
    expect(
      results.map((result) => (result.done ? "end" : result.value.value)),
    ).toEqual([...numbers(150), ...Array(50).fill("end")]);
  });

  test("only the first of overlapping next() rejects if a list fails", async ({
    store,
  }) => {
    const list = store.list([1] as never);
    const settled = await Promise.allSettled([list.next(), list.next()]);
    expect(settled[0]).toMatchObject({
      status: "rejected",
      reason: { code: "ERR_KV_INVALID_KEY" },
    });
    expect(settled[1]).toEqual({ status: "fulfilled", value: end });
  });

  test("return() ends a list before its first next()", async ({ store }) => {
    await fill(store, 3);
    const list = store.list();
    expect((await list.return()).done).toBe(true);
    expect(await list.next()).toEqual(end);
  });

  test("return() ends a list that has begun", async ({ store }) => {
    await fill(store, 300);
    const list = store.list({ pageSize: 10 });
    await list.next();
    expect((await list.return()).done).toBe(true);
    expect((await list.return()).done).toBe(true);
    expect(await list.next()).toEqual(end);
  });

  test("return() ends a list while next() is pending", async ({ store }) => {
    await fill(store, 300);
    for (const overlapping of [1, 5]) {
      const list = store.list({ pageSize: 1 });
      const waiting = numbers(overlapping).map(() => list.next());
      const returned = list.return();
      const results = await Promise.all(waiting);
      expect((await returned).done).toBe(true);
      expect(await list.next()).toEqual(end);
      // Each pending call got an entry or the end. Entries came first.
      const dones = results.map((result) => result.done === true);
      expect(dones).toEqual(dones.toSorted((a, b) => Number(a) - Number(b)));
    }
  });

  test("return() awaits its argument", async ({ store }) => {
    await fill(store, 3);
    const mine = new Error("mine");
    const thenable = (settle: (resolve: (value: unknown) => void) => void) => {
      const object = {};
      Reflect.set(object, "then", settle);
      return object;
    };
    const values: [given: unknown, value: unknown][] = [
      [undefined, undefined],
      [1, 1],
      [Promise.resolve("later"), "later"],
      [thenable((resolve) => resolve("then")), "then"],
    ];
    for (const [given, value] of values) {
      const list = store.list();
      await list.next();
      expect(await list.return(given)).toEqual({ value, done: true });
      expect(await list.next()).toEqual(end);
    }
    // Made when it is used: nothing may reject before it is handled.
    const rejecting: (() => unknown)[] = [
      () => Promise.reject(mine),
      () =>
        thenable(() => {
          throw mine;
        }),
    ];
    for (const make of rejecting) {
      const list = store.list();
      await list.next();
      expect(await reasonOf(() => list.return(make()))).toBe(mine);
      expect(await list.next()).toEqual(end);
    }
  });

  test("return() ends the list before its argument settles", async ({
    store,
  }) => {
    await fill(store, 3);
    const list = store.list();
    await list.next();
    const { promise, resolve } = Promise.withResolvers<string>();
    const returned = list.return(promise);
    expect(await list.next()).toEqual(end);
    resolve("later");
    expect(await returned).toEqual({ value: "later", done: true });
  });

  test("break ends it", async ({ store }) => {
    await fill(store, 300);
    const list = store.list({ pageSize: 10 });
    for await (const { value } of list) {
      if (value === 25) {
        break;
      }
    }
    expect(await list.next()).toEqual(end);
    expect(await collect(store.list())).toHaveLength(300);
  });

  test("an error in the loop's body ends it", async ({ store }) => {
    await fill(store, 300);
    const list = store.list();
    const mine = new Error("mine");
    const reason = await reasonOf(async () => {
      for await (const _ of list) {
        throw mine;
      }
    });
    expect(reason).toBe(mine);
    expect(await list.next()).toEqual(end);
  });

  test("throw() rejects with its argument", async ({ store }) => {
    await fill(store, 3);
    for (const before of [0, 1, 3]) {
      const list = store.list();
      for (let i = 0; i < before; i += 1) {
        await list.next();
      }
      const mine = new Error("mine");
      expect(await reasonOf(() => list.throw(mine))).toBe(mine);
      expect(await list.next()).toEqual(end);
    }
  });

  test("disposal ends it", async ({ store }) => {
    await fill(store, 3);
    const list = store.list();
    {
      await using own = list;
      await own.next();
    }
    expect(await list.next()).toEqual(end);
    await list[Symbol.asyncDispose]();
  });

  test("iterators are independent of each other", async ({ store }) => {
    await fill(store, 100);
    const one = store.list({ pageSize: 3 });
    const other = store.list({ prefix: ["k"], pageSize: 7 });
    for (let i = 0; i < 100; i += 1) {
      const [a, b] = await Promise.all([one.next(), other.next()]);
      expect([a.value?.value, b.value?.value]).toEqual([i, i]);
      if (i === 49) {
        await one.return();
        break;
      }
    }
    expect(await one.next()).toEqual(end);
    expect(await collect(other)).toHaveLength(50);
  });

  test("abandoned iterators don't block other operations", async ({
    store,
  }) => {
    await fill(store, 300);
    for (let i = 0; i < 50; i += 1) {
      const list = store.list({ pageSize: 1 });
      await list.next();
      // Closing the store may come first.
      list.next().catch(() => {});
    }
    await store.set(["k", "more"], 1);
    expect(await keysOf(store.list())).toHaveLength(301);
  });

  test("Array.fromAsync works on it", async ({ store }) => {
    await fill(store, 5);
    const entries = await Array.fromAsync(store.list());
    expect(entries.map(({ value }) => value)).toEqual(numbers(5));
  });

  for (const [name, prefix] of Object.entries({
    "a number as a part": [1],
    "a hole": Array(1),
    "a lone surrogate": ["\ud800"],
    null: [null],
  })) {
    test(`${name} in a prefix makes the first next() reject`, async ({
      store,
    }) => {
      for (const argument of [prefix, { prefix }]) {
        const list = store.list(argument as never);
        await expectRejection(() => list.next(), "ERR_KV_INVALID_KEY");
        expect(await list.next()).toEqual(end);
      }
    });
  }

  test("an argument that is neither a prefix nor options rejects", async ({
    store,
  }) => {
    for (const argument of ["a", 1, true, Symbol("s"), 1n]) {
      const list = store.list(argument as never);
      const error = await reasonOf(() => list.next());
      expect(error).toBeInstanceOf(TypeError);
      expect((error as { code?: string }).code).toMatch(
        /^ERR_KV_INVALID_(KEY|OPTION)$/,
      );
    }
    for (const prefix of ["a", 1, {}]) {
      const list = store.list({ prefix } as never);
      await expectRejection(() => list.next(), "ERR_KV_INVALID_KEY");
    }
  });

  test("a refused list that is not read causes no unhandled rejection", async ({
    store,
  }) => {
    // An unhandled rejection would fail the run.
    store.list([1] as never);
    store.list({ pageSize: 0 });
    store.list({ signal: AbortSignal.abort() });
    await store.get(["k"]);
  });

  test("return() works on a refused list", async ({ store }) => {
    const list = store.list([1] as never);
    expect((await list.return()).done).toBe(true);
    expect(await list.next()).toEqual(end);
  });
}
