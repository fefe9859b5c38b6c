import type { KvStore } from "@fedify/fedify";

/** What a row measures. `run` does one round of `operations` operations. */
export interface Case {
  readonly name: string;
  readonly operations: number;
  run(store: KvStore, round: number): Promise<void>;
}

const ROUNDS = 7;

/** Runs a case on both stores in turn and prints its row. */
export async function compare(
  { name, operations, run }: Case,
  ours: KvStore,
  peer: KvStore,
  rounds = ROUNDS,
): Promise<void> {
  const times = { ours: [] as number[], peer: [] as number[] };
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    for (const side of ["peer", "ours"] as const) {
      const store = side === "ours" ? ours : peer;
      const start = performance.now();
      await run(store, round);
      const time = ((performance.now() - start) * 1000) / operations;
      if (round > 0) times[side].push(time);
    }
  }
  const [a, b] = [median(times.ours), median(times.peer)];
  row(name, a, b);
}

/**
 * Measures the CPU time of this thread for a case, without the time it waits.
 */
export async function cpu(
  { name, operations, run }: Case,
  ours: KvStore,
  peer: KvStore,
): Promise<void> {
  const times = { ours: [] as number[], peer: [] as number[] };
  for (let round = 0; round <= ROUNDS; round++) {
    for (const side of ["peer", "ours"] as const) {
      const before = process.threadCpuUsage();
      await run(side === "ours" ? ours : peer, round);
      const { user, system } = process.threadCpuUsage(before);
      if (round > 0) times[side].push((user + system) / operations);
    }
  }
  const [a, b] = [median(times.ours), median(times.peer)];
  row(`${name}, JavaScript thread's CPU`, a, b);
}

function row(name: string, ours: number, peer: number): void {
  const columns = [
    name.padEnd(48),
    `${ours.toFixed(1)} µs`.padStart(12),
    `${peer.toFixed(1)} µs`.padStart(12),
    `${(peer / ours).toFixed(1)}×`.padStart(9),
  ];
  console.log(columns.join(""));
}

export function heading(title: string): void {
  console.log(`\n${title}`);
  const columns = ["per operation", "fedify-kv", "peer", "ratio"];
  const [first, ...rest] = columns as [string, ...string[]];
  console.log(
    first.padEnd(48) +
      rest.map((column, i) => column.padStart(i < 2 ? 12 : 9)).join(""),
  );
}

function median(numbers: number[]): number {
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
  operation: (store: KvStore, index: number) => Promise<unknown>,
): Case {
  return {
    name,
    operations,
    async run(store, round) {
      for (let i = 0; i < operations; i++) {
        await operation(store, round * operations + i);
      }
    },
  };
}

/** Batches of `width` operations at the same time. */
export function concurrent(
  name: string,
  width: number,
  batches: number,
  operation: (store: KvStore, index: number) => Promise<unknown>,
): Case {
  const operations = width * batches;
  return {
    name,
    operations,
    async run(store, round) {
      for (let batch = 0; batch < batches; batch++) {
        const first = round * operations + batch * width;
        await Promise.all(
          Array.from({ length: width }, (_, i) => operation(store, first + i)),
        );
      }
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
  return {
    name,
    operations: per === "list" ? times : times * entries,
    async run(store, round) {
      for (let i = 0; i < times; i++) {
        let count = 0;
        for await (const _ of store.list(prefix(round * times + i))) count++;
        if (count !== entries) throw new Error(`${name}: ${count} entries`);
      }
    },
  };
}

/**
 * The key of entry `i` in a store that a benchmark has filled. Each prefix has
 * 50 entries in a row, because the spans of a trace are written together.
 */
export function key(i: number): readonly [string, string, string] {
  return ["traces", String(Math.floor(i / 50)), String(i)];
}
