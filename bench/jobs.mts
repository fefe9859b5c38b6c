// What a row measures, in words that can be sent to a child process.
import type { KvStore } from "@fedify/fedify";
import { anyKey, document } from "./data.mts";
import {
  type Operation,
  type Pattern,
  PATTERNS,
  type Work,
} from "./patterns.mts";
import { WRITES, type WriteName } from "./writes.mts";

export interface Job {
  readonly operation: "get" | "set" | WriteName;
  readonly pattern: Pattern;
  /** How many documents `get` and `set` choose from. */
  readonly entries: number;
}

/** A store in another process, which runs jobs itself. */
export interface Remote {
  work(job: Job): Work;
}

/** A client without a store can `get`, and has no other jobs. */
export type Client = Pick<KvStore, "get">;

type Call = (store: KvStore, entries: number) => Operation;

const CALLS: Readonly<Record<Job["operation"], Call>> = {
  get: (store, entries) => (i) => store.get(anyKey(i, entries)),
  set: (store, entries) => (i) =>
    store.set(anyKey(i, entries), document(i + 1)),
  ...WRITES,
};

export function workOf(store: KvStore | Client | Remote, job: Job): Work {
  if ("work" in store) return store.work(job);
  const operation = CALLS[job.operation](store as KvStore, job.entries);
  return PATTERNS[job.pattern](operation);
}

/** `get` of any of `entries` documents. */
export function gets(entries: number): Job[] {
  const patterns = Object.keys(PATTERNS) as Pattern[];
  return patterns.map((pattern) => ({ operation: "get", pattern, entries }));
}

/** `set` of any of `entries` documents, without a ttl. */
export function sets(
  entries: number,
  patterns: readonly Pattern[] = [
    "one at a time",
    "64 in flight",
    "1,000 in flight",
  ],
): Job[] {
  return patterns.map((pattern) => ({ operation: "set", pattern, entries }));
}

/** Writes with a ttl. */
export function writes(...operations: readonly WriteName[]): Job[] {
  const patterns = ["3 ms apart", "one at a time", "64 in flight"] as const;
  return patterns.flatMap((pattern) =>
    operations.map((operation) => ({ operation, pattern, entries: 0 })),
  );
}

/** The sets that Fedify makes. */
export const SETS = writes("set a mark", "set a document");
