// How calls follow each other in a round: in a row, many at a time, or alone.
import type { KvKey, KvStore } from "@fedify/fedify";
import { setTimeout as sleep } from "node:timers/promises";

/** What one side of a row runs. */
export interface Work {
  /** The number of operations in a step, which a round can't divide. */
  readonly perStep: number;
  /** Makes the arguments of `steps` steps, and returns the round. */
  prepare(first: number, steps: number): Promise<Round>;
}

/**
 * Runs one round. Returns its times in seconds: the mean of its operations, or
 * one for each.
 */
export type Round = () => Promise<readonly number[]>;

/** A call; `index` differs from call to call. */
export type Call = (index: number) => unknown;

/** A call whose arguments are made beforehand, so that only the call counts. */
export interface PreparedCall {
  prepare(index: number): Promise<() => Promise<unknown>>;
}

export type Operation = Call | PreparedCall;

/** Each call is awaited before the next. */
export function sequential(operation: Operation): Work {
  return {
    perStep: 1,
    async prepare(first, steps) {
      const call = await calls(operation, first, steps);
      return () =>
        mean(steps, async () => {
          for (let i = 0; i < steps; i++) await call(i);
        });
    },
  };
}

/** Calls that return no promise, as in a loop without a store. */
export function synchronous(call: Call): Work {
  return {
    perStep: 1,
    prepare: async (first, steps) => () =>
      mean(steps, async () => {
        for (let i = first; i < first + steps; i++) call(i);
      }),
  };
}

/** Batches of `width` calls at the same time. */
export function concurrent(width: number, operation: Operation): Work {
  return {
    perStep: width,
    async prepare(first, steps) {
      const count = steps * width;
      const call = await calls(operation, first * width, count);
      return () =>
        mean(count, async () => {
          for (let i = 0; i < count; i += width) {
            await Promise.all(
              Array.from({ length: width }, (_, j) => call(i + j)),
            );
          }
        });
    },
  };
}

/** Calls in a row for a width of 1, and otherwise batches. */
export function together(width: number, operation: Operation): Work {
  return width === 1 ? sequential(operation) : concurrent(width, operation);
}

export function inFlight(width: number): string {
  if (width === 1) return "one at a time";
  return `${width.toLocaleString("en")} in flight`;
}

/** Calls that come alone, 3 ms after the one before. Each is timed. */
export function lone(operation: Operation): Work {
  return {
    perStep: 1,
    async prepare(first, steps) {
      const call = await calls(operation, first, steps);
      return async () => {
        const times = [];
        for (let i = 0; i < steps; i++) {
          await sleep(3);
          times.push(...(await mean(1, () => call(i))));
        }
        return times;
      };
    },
  };
}

type Listable = Pick<KvStore, "list">;

/** Reads whole lists of `entries` entries. An operation is a list. */
export function listing(
  store: Listable,
  prefix: (index: number) => KvKey,
  entries: number,
): Work {
  return sequential(async (index) => {
    let count = 0;
    for await (const _ of store.list!(prefix(index))) count++;
    if (count !== entries) throw new Error(`A list had ${count} entries`);
  });
}

/** The same, but an operation is an entry. */
export function entries(store: Listable, prefix: KvKey, entries: number): Work {
  return perEntry(
    listing(store, () => prefix, entries),
    entries,
  );
}

/** The time of an entry, where `work` measures all of them. */
export function perEntry(work: Work, entries: number): Work {
  return {
    perStep: entries,
    async prepare(first, steps) {
      const round = await work.prepare(first, steps);
      return async () => (await round()).map((time) => time / entries);
    },
  };
}

/** The time until a list has its first entry. The rest isn't read. */
export function firstEntry(store: Listable, prefix: KvKey): Work {
  return sequential(async () => {
    for await (const _ of store.list!(prefix)) return;
    throw new Error("A list was empty");
  });
}

/** The calls of one round, with their arguments if these are prepared. */
async function calls(
  operation: Operation,
  first: number,
  count: number,
): Promise<(i: number) => unknown> {
  if (typeof operation === "function") return (i) => operation(first + i);
  const prepared = await Promise.all(
    Array.from({ length: count }, (_, i) => operation.prepare(first + i)),
  );
  return (i) => prepared[i]!();
}

/** The mean time of an operation in `work`, in seconds. */
async function mean(
  operations: number,
  work: () => unknown,
): Promise<readonly [number]> {
  const start = performance.now();
  await work();
  return [(performance.now() - start) / 1000 / operations];
}
