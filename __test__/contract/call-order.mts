// Operations of one handle on one key take effect in the order of the calls,
// even if the calls are not awaited.
import * as fc from "fast-check";
import { expect } from "vitest";
import type { ContractTest } from "./fixture.mts";

export function describeCallOrder(test: ContractTest): void {
  test("a read sees the write before it", async ({ store }) => {
    const [, first, swapped, second, , third, created, fourth] =
      await Promise.all([
        store.set(["k"], 1),
        store.get(["k"]),
        store.cas(["k"], 1, 2),
        store.get(["k"]),
        store.delete(["k"]),
        store.get(["k"]),
        store.cas(["k"], undefined, 3),
        store.get(["k"]),
      ]);
    expect([first, swapped, second]).toEqual([1, true, 2]);
    expect([third, created, fourth]).toEqual([undefined, true, 3]);
  });

  test("a read does not see the write after it", async ({ store }) => {
    await store.set(["k"], "before");
    const read = store.get(["k"]);
    const written = store.set(["k"], "after");
    expect(await read).toBe("before");
    await written;
    expect(await store.get(["k"])).toBe("after");
  });

  test("the last of many writes wins", async ({ store }) => {
    const last: number[] = [];
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 2_000; i += 1) {
      last[i % 7] = i;
      writes.push(store.set(["k", String(i % 7)], i));
    }
    const reads = last.map((_, i) => store.get(["k", String(i)]));
    await Promise.all(writes);
    expect(await Promise.all(reads)).toEqual(last);
  });

  test("a rejected call does not block later calls", async ({ store }) => {
    const settled = await Promise.allSettled([
      store.set(["k"], 1),
      store.set(["k"], 1n),
      store.get([] as never),
      store.get(["k"]),
    ]);
    expect(settled.map(({ status }) => status)).toEqual([
      "fulfilled",
      "rejected",
      "rejected",
      "fulfilled",
    ]);
    expect(settled[3]).toMatchObject({ value: 1 });
  });

  const key = fc.constantFrom<[string, ...string[]]>(["a"], ["b"], ["a", "b"]);
  const value = fc.constantFrom<unknown>(undefined, null, 1, { a: 1, b: 2 });
  const operation = fc.oneof(
    fc.record({ is: fc.constant("get" as const), key }),
    fc.record({ is: fc.constant("set" as const), key, value }),
    fc.record({ is: fc.constant("delete" as const), key }),
    fc.record({ is: fc.constant("cas" as const), key, value, expected: value }),
  );

  test("concurrent calls have the same results as calls one by one", async ({
    store,
  }) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(operation, { minLength: 1, maxLength: 60, size: "max" }),
        async (operations) => {
          await store.drop();
          const model = new Map<string, string>();
          const write = (name: string, value: unknown) => {
            if (value === undefined) {
              model.delete(name);
            } else {
              model.set(name, JSON.stringify(value));
            }
          };
          const expected: unknown[] = [];
          const answers = operations.map((operation) => {
            const name = JSON.stringify(operation.key);
            const current = model.get(name);
            switch (operation.is) {
              case "get":
                expected.push(current && JSON.parse(current));
                return store.get(operation.key);
              case "set":
                if (operation.value !== undefined) {
                  write(name, operation.value);
                }
                expected.push(undefined);
                return store.set(operation.key, operation.value);
              case "delete":
                write(name, undefined);
                expected.push(undefined);
                return store.delete(operation.key);
              case "cas": {
                const won = current === JSON.stringify(operation.expected);
                if (won) {
                  write(name, operation.value);
                }
                expected.push(won);
                return store.cas(
                  operation.key,
                  operation.expected,
                  operation.value,
                );
              }
            }
          });
          expect(await Promise.all<unknown>(answers)).toEqual(expected);
        },
      ),
      { numRuns: 60 },
    );
  });
}
