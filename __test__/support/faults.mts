// Code that the tests of failing servers share.
import { expect } from "vitest";
import type { PostgresKvStore } from "../../index.js";
import { key, numbers } from "./entries.mts";

/** Any store on a server. */
type Store = Pick<PostgresKvStore, "get" | "set" | "cas" | "delete">;

/** Waits until an operation of the store succeeds. */
export const recovers = (call: () => Promise<unknown>) =>
  expect
    .poll(() =>
      call().then(
        () => true,
        () => false,
      ),
    )
    .toBe(true);

/**
 * Writes 1,000 entries, and restarts the server meanwhile. Expects that every
 * resolved write is stored, that every `cas` that resolves is `true`, and that
 * few writes are rejected.
 */
export async function writeThrough(
  store: Store,
  restart: () => Promise<unknown>,
): Promise<void> {
  let settled = 0;
  const some = Promise.withResolvers<void>();
  const count = (promise: Promise<unknown>) => {
    const done = () => {
      settled += 1;
      if (settled === 200) some.resolve();
    };
    promise.then(done, done);
    return promise;
  };
  const write = async (i: number) => {
    const answer = await count(
      i % 2 === 0 ? store.set(key(i), i) : store.cas(key(i), undefined, i),
    );
    return { i, answer };
  };
  const outcomes: PromiseSettledResult<{ i: number; answer: unknown }>[] = [];
  const run = async () => {
    for (const batch of numbers(10)) {
      const ids = numbers(100).map((i) => batch * 100 + i);
      outcomes.push(...(await Promise.allSettled(ids.map(write))));
    }
  };
  const running = run();
  await some.promise;
  await restart();
  await running;
  expect(outcomes).toHaveLength(1_000);
  for (const outcome of outcomes) {
    if (outcome.status === "rejected") {
      expect(outcome.reason).toMatchObject({ code: "ERR_KV_CONNECTION" });
      expect(outcome.reason.message).toContain("unknown");
    } else {
      const { i, answer } = outcome.value;
      // There is no other writer, so `false` would be wrong.
      expect(answer, String(i)).toBe(i % 2 === 0 ? undefined : true);
      expect(await store.get(key(i))).toBe(i);
    }
  }
  // Only those are rejected that were under way when connections ended: at the
  // beginning of the shutdown, and some that were sent during it.
  const rejected = outcomes.filter(({ status }) => status === "rejected");
  expect(rejected.length).toBeLessThanOrEqual(200);
}

/**
 * Writes and reads in rounds, while `cut` closes connections. Returns how many
 * connections it has closed.
 */
export async function writeThroughCuts(
  store: Store,
  rounds: number,
  cut: () => Promise<number>,
): Promise<number> {
  await store.set(["k"], 0);
  let cuts = 0;
  for (const round of numbers(rounds)) {
    const operations = numbers(50).map(async (i) => {
      const known = await store.set(key(i), round).then(
        () => true,
        (error: unknown) => {
          expect(String(error)).toContain("the outcome is unknown");
          return false;
        },
      );
      const value = await store.get(key(i));
      if (known) expect(value).toBe(round);
    });
    cuts += await cut();
    await Promise.all(operations);
    expect(await store.get(["k"])).toBe(0);
  }
  return cuts;
}
