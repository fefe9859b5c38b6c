import { MemoryKvStore as FedifyMemoryKvStore } from "@fedify/fedify";
import type { KvStore } from "@fedify/fedify";
import { MemoryKvStore } from "../../index.js";
import { type Bench, forEach } from "../bench.mts";
import { compareLists, compareWrites } from "../compare.mts";
import { anyKey, document, key } from "../data.mts";
import { concurrent, sequential, synchronous } from "../patterns.mts";
import { SETS } from "../writes.mts";

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
  const get = (store: KvStore) => (i: number) => store.get(anyKey(i, ENTRIES));
  const text = JSON.stringify(document(0));
  const parse = { "JSON.parse": synchronous(() => JSON.parse(text)) };
  await table.row("get, one at a time", {
    ...forEach(stores, (store) => sequential(get(store))),
    ...parse,
  });
  await table.row("get, 64 in flight", {
    ...forEach(stores, (store) => concurrent(64, get(store))),
    ...parse,
  });
  await compareLists(table, stores, ENTRIES, (list) =>
    list === "all" ? parse : undefined,
  );

  const writes = bench.table("Memory, writes", {
    "fedify-kv": "ours",
    "Fedify's MemoryKvStore": "peer",
  });
  await compareWrites(writes, SETS, stores);
  await ours.close();
}
