// The rows that most stores have in common.
import type { KvStore } from "@fedify/fedify";
import { type BenchTable, forEach, type Stores } from "./bench.mts";
import { ALL, anyPrefix, PER_PREFIX } from "./data.mts";
import { type Client, type Job, type Remote, workOf } from "./jobs.mts";
import { entries as eachEntry, listing, type Work } from "./patterns.mts";

type Side = KvStore | Client | Remote;

type Columns = Readonly<Record<string, Work>>;

/** The engine's own cost of a call, as a column of the row, if it is known. */
type Floor = (job: Job) => Columns | undefined | Promise<Columns>;

/** Measures jobs, each in a row. */
export async function compareCalls(
  table: BenchTable,
  sides: Readonly<Record<string, Side>>,
  jobs: readonly Job[],
  floor: Floor = () => undefined,
): Promise<void> {
  for (const job of jobs) {
    const able = Object.entries(sides).filter(([, side]) => can(side, job));
    const works = {
      ...forEach(Object.fromEntries(able), (side) => workOf(side, job)),
      ...(await floor(job)),
    };
    // Each step of a stall takes long, and a median needs several.
    const times = job.pattern.endsWith("stall") ? 2 : 1;
    await table.row(`${job.operation}, ${job.pattern}`, works, times);
  }
}

/** `cas` is the only call that a store may lack. */
function can(side: Side, { operation }: Job): boolean {
  return !operation.startsWith("cas") || "cas" in side || "work" in side;
}

/** Measures short lists, and a list of all `entries` entries. */
export async function compareLists(
  table: BenchTable,
  stores: Stores,
  entries: number,
  floor: (list: "few" | "all", entries: number) => Columns | undefined = () =>
    undefined,
): Promise<void> {
  const prefix = (i: number) => anyPrefix(i, entries);
  await table.row("list of 50", {
    ...forEach(stores, (store) => listing(store, prefix, PER_PREFIX)),
    ...floor("few", PER_PREFIX),
  });
  await table.row("list of all, an entry", {
    ...forEach(stores, (store) => eachEntry(store, ALL, entries)),
    ...floor("all", entries),
  });
}
