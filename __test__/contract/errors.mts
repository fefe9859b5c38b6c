// Errors: a call rejects and never throws, each error has a code, and the store
// still works afterwards.
import { expect } from "vitest";
import { collect } from "../support/collect.mts";
import { expectRejection, reasonOf } from "../support/rejection.mts";
import type { ContractTest, Store } from "./fixture.mts";

export function describeErrors(test: ContractTest): void {
  test("calls without arguments reject", async ({ store }) => {
    const bare = store as unknown as Record<string, () => Promise<unknown>>;
    for (const name of ["get", "set", "delete", "cas", "clear"]) {
      await expectRejection(() => bare[name]?.(), "ERR_KV_INVALID_KEY");
    }
  });

  test("options that are not an object are rejected or ignored", async ({
    store,
  }) => {
    // The call must not throw, and the entry must agree with the outcome.
    for (const options of [null, 1, "ttl", true, [], () => 1]) {
      await store.set(["k"], "old");
      const outcome = Promise.resolve(
        reasonOrNothing(() => store.set(["k"], "new", options as never)),
      );
      const reason = await outcome;
      expect(await store.get(["k"])).toBe(reason ? "old" : "new");
    }
  });

  test("a call rejects if a getter of its options throws", async ({
    store,
  }) => {
    const options = {
      get ttl(): never {
        throw new Error("not today");
      },
    };
    await reasonOf(() => store.set(["k"], 1, options));
    await reasonOf(() => store.cas(["k"], undefined, 1, options));
    expect(await store.get(["k"])).toBeUndefined();
    const listOptions = {
      get prefix(): never {
        throw new Error("not today");
      },
    };
    const list = store.list(listOptions);
    await reasonOf(() => list.next());
  });

  test("unknown options of set, cas and list are ignored", async ({
    store,
  }) => {
    // Fedify may pass further ones some day.
    const unknown = { unheardOf: 1 };
    await store.set(["k"], 1, unknown as object);
    expect(await store.cas(["k"], 1, 2, unknown as object)).toBe(true);
    const list = store.list({ prefix: ["k"], ...unknown } as object);
    expect(await collect(list)).toEqual([{ key: ["k"], value: 2 }]);
  });

  test("an error has a class, a message and a stack", async ({ store }) => {
    const error = await expectRejection(
      () => store.get(["a", 1] as never),
      "ERR_KV_INVALID_KEY",
    );
    expect(error).toBeInstanceOf(TypeError);
    expect(error.name).toBe("TypeError");
    expect(error.message.length).toBeGreaterThan(10);
    expect(error.stack).toContain(error.message);
  });

  test("a thousand rejected calls change nothing", async ({ store }) => {
    await store.set(["k"], 1);
    const refused = await Promise.allSettled(
      Array.from({ length: 1_000 }, (_, i) =>
        i % 2 === 0 ? store.get([] as never) : store.set(["k"], 1n),
      ),
    );
    expect(refused.every(({ status }) => status === "rejected")).toBe(true);
    expect(await collect(store.list())).toEqual([{ key: ["k"], value: 1 }]);
  });

  test("methods fail if `this` is not a store", async ({ store }) => {
    const { get } = store;
    // The call may throw or reject, but it must not crash the process.
    const attempts: Store[] = [{} as Store, null as never];
    for (const other of attempts) {
      let failed = false;
      try {
        await get.call(other, ["k"]);
      } catch {
        failed = true;
      }
      expect(failed).toBe(true);
    }
  });
}

/**
 * The reason that the call rejects with, or `undefined` if it succeeds. A call
 * that throws fails the test.
 */
async function reasonOrNothing(
  call: () => Promise<unknown>,
): Promise<{ reason: unknown } | undefined> {
  const promise = call();
  try {
    await promise;
    return undefined;
  } catch (reason) {
    return { reason };
  }
}
