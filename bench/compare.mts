// The rows that most stores have in common.
import type { KvStore } from "@fedify/fedify";
import { type BenchTable, forEach, type Stores } from "./bench.mts";
import { ALL, anyKey, anyPrefix, document, PER_PREFIX } from "./data.mts";
import {
  entries as eachEntry,
  inFlight,
  listing,
  together,
  type Work,
} from "./patterns.mts";
import { type Pattern, PATTERNS, patterns, type Write } from "./writes.mts";

/** The engine's own cost of a call, as a column of the row, if it is known. */
type Floor<A, B> = (
  call: A,
  pattern: B,
) => Record<string, Work> | undefined | Promise<Record<string, Work>>;

type CallName = "get" | "set";

interface Calls {
  readonly names?: readonly CallName[];
  /** How many calls are in flight. */
  readonly widths?: readonly number[];
  readonly floor?: Floor<CallName, number>;
}

/** Measures `get` and `set` of any of `entries` documents. */
export async function compareCalls(
  table: BenchTable,
  stores: Stores,
  entries: number,
  {
    names = ["get", "set"],
    widths = [1, 64, 1000],
    floor = () => undefined,
  }: Calls = {},
): Promise<void> {
  const calls = {
    get: (store: KvStore) => (i: number) => store.get(anyKey(i, entries)),
    set: (store: KvStore) => (i: number) =>
      store.set(anyKey(i, entries), document(i + 1)),
  };
  for (const name of names) {
    for (const width of widths) {
      await table.row(`${name}, ${inFlight(width)}`, {
        ...forEach(stores, (store) => together(width, calls[name](store))),
        ...(await floor(name, width)),
      });
    }
  }
}

/** Measures short lists, and a list of all `entries` entries. */
export async function compareLists(
  table: BenchTable,
  stores: Stores,
  entries: number,
  floor: Floor<"few" | "all", number> = () => undefined,
): Promise<void> {
  const prefix = (i: number) => anyPrefix(i, entries);
  await table.row("list of 50", {
    ...forEach(stores, (store) => listing(store, prefix, PER_PREFIX)),
    ...(await floor("few", PER_PREFIX)),
  });
  await table.row("list of all, an entry", {
    ...forEach(stores, (store) => eachEntry(store, ALL, entries)),
    ...(await floor("all", entries)),
  });
}

/** Measures writes that come alone, in a row, and 64 at a time. */
export async function compareWrites(
  table: BenchTable,
  writes: Readonly<Record<string, Write>>,
  stores: Stores,
  floor: Floor<string, Pattern> = () => undefined,
): Promise<void> {
  for (const pattern of patterns) {
    for (const [name, write] of Object.entries(writes)) {
      const able = Object.entries(stores).filter(
        ([, store]) => !name.startsWith("cas") || store.cas !== undefined,
      );
      await table.row(`${name}, ${pattern}`, {
        ...forEach(Object.fromEntries(able), (store) =>
          PATTERNS[pattern](write(store)),
        ),
        ...(await floor(name, pattern)),
      });
    }
  }
}
