import { MemoryKvStore as FedifyMemoryKvStore } from "@fedify/fedify";
import { Temporal } from "temporal-polyfill";
import { MemoryKvStore } from "../index.js";
import {
  compare,
  concurrent,
  document,
  heading,
  key,
  listing,
  sequential,
} from "./measure.mts";
import { compareSets, compareWrites, setMark } from "./sets.mts";

const ENTRIES = 100_000;

export async function memory(): Promise<void> {
  const ours = new MemoryKvStore();
  const peer = new FedifyMemoryKvStore();
  for (let i = 0; i < ENTRIES; i++) {
    await ours.set(key(i), document(0));
    await peer.set(key(i), document(0));
  }
  heading("Memory, beside Fedify's MemoryKvStore (which doesn't copy values)");
  const cases = [
    sequential("get, one at a time", 20_000, (store, i) =>
      store.get(key((i * 7919) % ENTRIES)),
    ),
    sequential("set, one at a time", 20_000, (store, i) =>
      store.set(key((i * 7919) % ENTRIES), document(i)),
    ),
    concurrent("get, 64 in flight", 64, 300, (store, i) =>
      store.get(key((i * 7919) % ENTRIES)),
    ),
    listing("list of 50 among 100,000, the list", trace, 50, "list", 3),
    listing(
      "list of all 100,000, an entry",
      () => ["traces"],
      ENTRIES,
      "entry",
      1,
    ),
  ];
  for (const each of cases) await compare(each, ours, peer);
  await ours.close();
}

export async function memorySets(): Promise<void> {
  const ours = new MemoryKvStore();
  const peer = new FedifyMemoryKvStore();
  const scale = { inARow: 5000, batches: 60 };
  heading("Memory, the sets that Fedify makes, beside its MemoryKvStore");
  await compareSets(ours, peer, scale);
  heading("The same, with the Durations of temporal-polyfill");
  const kept = { ttl: Temporal.Duration.from({ days: 1 }) };
  const variants = {
    "set a mark": setMark(() => undefined),
    "set a mark, kept Duration": setMark(() => kept),
    "set a mark, new Duration": setMark(() => ({
      ttl: Temporal.Duration.from({ days: 1 }),
    })),
  };
  await compareWrites(variants, ours, peer, scale);
  await ours.close();
}

/** The prefix of a trace, a different one for each `i`. */
function trace(i: number): readonly [string, string] {
  return ["traces", String((i * 17) % (ENTRIES / 50))];
}
