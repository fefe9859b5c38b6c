// Errors: never thrown by a call, always with a code, and the store lives on.
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

  test("options that are no object reject or mean nothing", async ({
    store,
  }) => {
    // What may not happen is a throw, or an entry with another value.
    for (const options of [null, 1, "ttl", true, [], () => 1]) {
      await store.set(["k"], "old");
      const outcome = Promise.resolve(
        reasonOrNothing(() => store.set(["k"], "new", options as never)),
      );
      const reason = await outcome;
      expect(await store.get(["k"])).toBe(reason ? "old" : "new");
    }
  });

  test("an options getter that throws is a rejection", async ({ store }) => {
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

  test("an error says what was wrong", async ({ store }) => {
    const error = await expectRejection(
      () => store.get(["a", 1] as never),
      "ERR_KV_INVALID_KEY",
    );
    expect(error).toBeInstanceOf(TypeError);
    expect(error.name).toBe("TypeError");
    expect(error.message.length).toBeGreaterThan(10);
    expect(error.stack).toContain(error.message);
  });

  test("a thousand refused calls leave the store as it was", async ({
    store,
  }) => {
    await store.set(["k"], 1);
    const refused = await Promise.allSettled(
      Array.from({ length: 1_000 }, (_, i) =>
        i % 2 === 0 ? store.get([] as never) : store.set(["k"], 1n),
      ),
    );
    expect(refused.every(({ status }) => status === "rejected")).toBe(true);
    expect(await collect(store.list())).toEqual([{ key: ["k"], value: 1 }]);
  });

  test("methods of one store refuse another this", async ({ store }) => {
    const { get } = store;
    // The language's own way is a throw or a rejection; a crash is neither.
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

/** What the call rejects with, or nothing when it succeeds; never a throw. */
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
