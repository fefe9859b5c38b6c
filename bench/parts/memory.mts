import { MemoryKvStore as FedifyMemoryKvStore } from "@fedify/fedify";
import { MemoryKvStore } from "../../index.js";
import type { Bench } from "../bench.mts";
import { compareCalls, compareLists } from "../compare.mts";
import { document, key } from "../data.mts";
import { gets, SETS } from "../jobs.mts";
import { synchronous } from "../patterns.mts";

const ENTRIES = 100_000;

export async function memory(bench: Bench): Promise<void> {
  bench.packages("@fedify/fedify");
  const ours = new MemoryKvStore();
  const stores = {
    "fedify-kv": ours,
    "Fedify's MemoryKvStore": new FedifyMemoryKvStore(),
  };
  const table = bench.table("Memory, reads among 100,000 entries", {
    "fedify-kv": "ours",
    "Fedify's MemoryKvStore": "peer",
    "JSON.parse": "floor",
  });
  bench.progress("filling stores");
  for (const store of Object.values(stores)) {
    for (let i = 0; i < ENTRIES; i++) await store.set(key(i), document(0));
  }
  const text = JSON.stringify(document(0));
  const parse = { "JSON.parse": synchronous(() => JSON.parse(text)) };
  await compareCalls(table, stores, gets(ENTRIES), ({ pattern }) =>
    pattern.endsWith("stall") ? undefined : parse,
  );
  await compareLists(table, stores, ENTRIES, (list) =>
    list === "all" ? parse : undefined,
  );

  const writes = bench.table("Memory, writes", {
    "fedify-kv": "ours",
    "Fedify's MemoryKvStore": "peer",
  });
  await compareCalls(writes, stores, SETS);
  await ours.close();
}
