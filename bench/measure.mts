import type { KvStore } from "@fedify/fedify";
import { setTimeout as sleep } from "node:timers/promises";

/** What a row measures. */
export interface Case {
  readonly name: string;
  /** The number of operations in a round. */
  readonly operations: number;
  /** Makes the arguments of one round, and returns the round. */
  prepare(store: KvStore, round: number): Promise<Round>;
}

/**
 * Runs one round. Returns its times in µs: the mean of its operations, or one
 * for each.
 */
export type Round = () => Promise<readonly number[]>;

/** A call of a store; `index` differs from call to call. */
export type Operation =
  ((store: KvStore, index: number) => Promise<unknown>) | PreparedOperation;

/** A call whose arguments are made beforehand, so that only the call counts. */
export interface PreparedOperation {
  prepare(store: KvStore, index: number): Promise<() => Promise<unknown>>;
}

const ROUNDS = 7;

/** Runs a case on both stores in turn and prints its row. */
export async function compare(
  each: Case,
  ours: KvStore,
  peer: KvStore,
  rounds?: number,
): Promise<void> {
  await compareAll([each], ours, peer, rounds);
}

/**
 * Runs cases on both stores in turn and prints their rows. The cases take turns
 * too, so that their rows can be compared with each other.
 */
export async function compareAll(
  cases: readonly Case[],
  ours: KvStore,
  peer: KvStore,
  rounds = ROUNDS,
): Promise<void> {
  const times = cases.map(() => ({
    ours: [] as number[],
    peer: [] as number[],
  }));
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    for (const [i, each] of cases.entries()) {
      for (const side of ["peer", "ours"] as const) {
        const run = await each.prepare(side === "ours" ? ours : peer, round);
        const measured = await run();
        if (round > 0) times[i]![side].push(...measured);
      }
    }
  }
  for (const [i, { name }] of cases.entries()) {
    row(name, median(times[i]!.ours), median(times[i]!.peer));
  }
}

/**
 * Measures the CPU time of this thread for a case, without the time it waits.
 */
export async function cpu(
  { name, operations, prepare }: Case,
  ours: KvStore,
  peer: KvStore,
): Promise<void> {
  const times = { ours: [] as number[], peer: [] as number[] };
  for (let round = 0; round <= ROUNDS; round++) {
    for (const side of ["peer", "ours"] as const) {
      const run = await prepare(side === "ours" ? ours : peer, round);
      const before = process.threadCpuUsage();
      await run();
      const { user, system } = process.threadCpuUsage(before);
      if (round > 0) times[side].push((user + system) / operations);
    }
  }
  const [a, b] = [median(times.ours), median(times.peer)];
  row(`${name}, JavaScript thread's CPU`, a, b);
}

function row(name: string, ours: number, peer: number): void {
  const ratio = `${(peer / ours).toFixed(1)}×`;
  line(name, [`${digits(ours)} µs`, `${digits(peer)} µs`, ratio]);
}

export function heading(title: string): void {
  console.log(`\n${title}`);
  line("per operation", ["fedify-kv", "peer", "ratio"]);
}

/** Prints a line of a table. */
export function line(name: string, cells: readonly string[]): void {
  console.log(
    name.padEnd(48) + cells.map((cell) => cell.padStart(14)).join(""),
  );
}

/** A number with the digits that a reader can compare. */
export function digits(number: number): string {
  return number.toFixed(number < 10 ? 2 : 1);
}

export function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}

/**
 * A document of 490 bytes, like those that Fedify caches. Each revision
 * differs, because SQLite doesn't write a page that an update didn't change.
 */
export function document(revision: number): object {
  return {
    "@context": [
      "https://www.w3.org/ns/activitystreams",
      "https://w3id.org/security/v1",
    ],
    id: "https://example.com/users/alice",
    type: "Person",
    preferredUsername: "alice",
    inbox: "https://example.com/users/alice/inbox",
    outbox: "https://example.com/users/alice/outbox",
    followers: "https://example.com/users/alice/followers",
    summary: String(revision).padStart(140, "x"),
  };
}

/** Operations one after another. */
export function sequential(
  name: string,
  operations: number,
  operation: Operation,
): Case {
  return {
    name,
    operations,
    async prepare(store, round) {
      const call = await calls(operation, store, round, operations);
      return () =>
        mean(operations, async () => {
          for (let i = 0; i < operations; i++) await call(i);
        });
    },
  };
}

/** Batches of `width` operations at the same time. */
export function concurrent(
  name: string,
  width: number,
  batches: number,
  operation: Operation,
): Case {
  const operations = width * batches;
  return {
    name,
    operations,
    async prepare(store, round) {
      const call = await calls(operation, store, round, operations);
      return () =>
        mean(operations, async () => {
          for (let first = 0; first < operations; first += width) {
            await Promise.all(
              Array.from({ length: width }, (_, i) => call(first + i)),
            );
          }
        });
    },
  };
}

/** Operations that come alone, 3 ms after the one before. Each is timed. */
export function lone(
  name: string,
  operations: number,
  operation: Operation,
): Case {
  return {
    name,
    operations,
    async prepare(store, round) {
      const call = await calls(operation, store, round, operations);
      return async () => {
        const times = [];
        for (let i = 0; i < operations; i++) {
          await sleep(3);
          times.push(...(await mean(1, () => call(i))));
        }
        return times;
      };
    },
  };
}

/** Reads a whole list `times` times. One operation is one list or one entry. */
export function listing(
  name: string,
  prefix: (index: number) => readonly [string, ...string[]],
  entries: number,
  per: "list" | "entry",
  times: number,
): Case {
  const operations = per === "list" ? times : times * entries;
  return {
    name,
    operations,
    prepare: async (store, round) => () =>
      mean(operations, async () => {
        for (let i = 0; i < times; i++) {
          let count = 0;
          for await (const _ of store.list(prefix(round * times + i))) count++;
          if (count !== entries) throw new Error(`${name}: ${count} entries`);
        }
      }),
  };
}

/** The calls of one round, with their arguments if these are prepared. */
async function calls(
  operation: Operation,
  store: KvStore,
  round: number,
  count: number,
): Promise<(i: number) => Promise<unknown>> {
  const first = round * count;
  if (typeof operation === "function") {
    return (i) => operation(store, first + i);
  }
  const indexes = Array.from({ length: count }, (_, i) => first + i);
  const prepared = await Promise.all(
    indexes.map((index) => operation.prepare(store, index)),
  );
  return (i) => prepared[i]!();
}

/** The mean time of an operation in `work`, in µs. */
async function mean(
  operations: number,
  work: () => Promise<unknown>,
): Promise<readonly [number]> {
  const start = performance.now();
  await work();
  return [((performance.now() - start) * 1000) / operations];
}

/**
 * The key of entry `i` in a store that a benchmark has filled. Each prefix has
 * 50 entries in a row, because the spans of a trace are written together.
 */
export function key(i: number): readonly [string, string, string] {
  return ["traces", String(Math.floor(i / 50)), String(i)];
}
