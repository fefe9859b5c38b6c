// How calls follow each other in a round: in a row, many at a time, or alone.
import type { KvKey, KvStore } from "@fedify/fedify";
import { setTimeout as sleep } from "node:timers/promises";
import { add, type Cpu, each, startCpu } from "./cpu.mts";
import { longestStall } from "./delay.mts";

/** What one side of a row runs. */
export interface Work {
  /** Makes the arguments of `steps` steps, and returns the round. */
  prepare(first: number, steps: number): Promise<Round>;
}

/** What one round measured. */
export interface Outcome {
  /** In seconds: the mean of the round's operations, or one for each. */
  readonly times: readonly number[];
  /** Of an operation, if it is work of this process. */
  readonly cpu?: Cpu;
}

export type Round = () => Promise<Outcome>;

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
    prepare: async (first, steps) => () =>
      mean(steps, async () => {
        for (let i = first; i < first + steps; i++) call(i);
      }),
  };
}

/** Batches of `width` calls at the same time. */
export function concurrent(width: number, operation: Operation): Work {
  return {
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

/**
 * Calls that come alone, 3 ms after the one before. Each is measured without the
 * timer, whose CPU time would be a large part of it.
 */
export function lone(operation: Operation): Work {
  return {
    async prepare(first, steps) {
      const call = await calls(operation, first, steps);
      return async () => {
        const outcomes: Required<Outcome>[] = [];
        for (let i = 0; i < steps; i++) {
          await sleep(3);
          outcomes.push(await mean(1, () => call(i)));
        }
        const sum = outcomes.map(({ cpu }) => cpu).reduce(add);
        return {
          times: outcomes.flatMap(({ times }) => times),
          cpu: each(sum, steps),
        };
      };
    },
  };
}

/**
 * The longest stall of the event loop during each step of `work`. A step starts
 * after a pause and a garbage collection, so that what it sees is its own.
 */
export function stall(work: Work): Work {
  return {
    prepare: async (first, steps) => async () => {
      const times = [];
      for (let i = first; i < first + steps; i++) {
        times.push(await longestStall(await work.prepare(i, 1)));
      }
      return { times };
    },
  };
}

/** The patterns that rows are named after. */
export const PATTERNS = {
  "3 ms apart": lone,
  "one at a time": sequential,
  "64 in flight": (operation) => concurrent(64, operation),
  "1,000 in flight": (operation) => concurrent(1000, operation),
  "1,000 in flight, longest stall": (operation) =>
    stall(concurrent(1000, operation)),
} satisfies Record<string, (operation: Operation) => Work>;

export type Pattern = keyof typeof PATTERNS;

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
    async prepare(first, steps) {
      const round = await work.prepare(first, steps);
      return async () => {
        const { times, cpu } = await round();
        return {
          times: times.map((time) => time / entries),
          ...(cpu && { cpu: each(cpu, entries) }),
        };
      };
    },
  };
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

/** Measures the mean of the operations in `work`. */
async function mean(
  operations: number,
  work: () => unknown,
): Promise<Required<Outcome>> {
  const cpu = startCpu();
  const start = performance.now();
  await work();
  const time = (performance.now() - start) / 1000;
  return { times: [time / operations], cpu: each(cpu(), operations) };
}
