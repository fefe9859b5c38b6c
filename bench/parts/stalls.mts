// How late a timer is while a store answers calls in the same thread, each
// awaited before the next. A promise that is resolved already doesn't let the
// event loop turn, so a loop of such calls can hold all timers and requests.
import { MemoryKvStore as FedifyMemoryKvStore } from "@fedify/fedify";
import type { KvKey, KvStore } from "@fedify/fedify";
import { setTimeout as sleep } from "node:timers/promises";
import { MemoryKvStore } from "../../index.js";
import type { Bench, BenchTable, Stores } from "../bench.mts";
import { document, key } from "../data.mts";
import { longestStall } from "../delay.mts";
import { figure } from "../measure.mts";
import { Files, WAL_NORMAL } from "../sqlite-files.mts";

const ENTRIES = 500;
const COUNTER: KvKey = ["counter"];

type Call = (store: KvStore, index: number) => Promise<unknown>;

const CALLS: Readonly<Record<string, Call>> = {
  get: (store, i) => store.get(key(i % ENTRIES)),
  "get of nothing": (store) => store.get(["nothing"]),
  set: (store, i) => store.set(key(i % ENTRIES), i),
  async cas(store, i) {
    if (!(await store.cas!(COUNTER, i, i + 1))) throw new Error("cas failed");
  },
};

export async function stalls(bench: Bench): Promise<void> {
  bench.packages("@fedify/fedify", "@fedify/sqlite");
  const seconds = bench.quick ? 0.3 : 1;
  const columns = { "fedify-kv": "ours", "Fedify's store": "peer" } as const;
  const table = bench.table(
    "The longest stall while a second of calls is awaited one by one",
    columns,
  );
  await table.add("no calls", "s", async () => {
    const none = figure([await longestStall(() => sleep(seconds * 1000))]);
    return { "fedify-kv": none, "Fedify's store": none };
  });
  const memory = new MemoryKvStore();
  await rows(table, "memory", seconds, {
    "fedify-kv": memory,
    "Fedify's store": new FedifyMemoryKvStore(),
  });
  await memory.close();
  await using files = await Files.create();
  await rows(table, "SQLite", seconds, {
    "fedify-kv": files.ours({ durability: "normal" }),
    "Fedify's store": files.official(WAL_NORMAL),
  });
}

async function rows(
  table: BenchTable,
  engine: string,
  seconds: number,
  stores: Stores,
): Promise<void> {
  for (const store of Object.values(stores)) {
    for (let i = 0; i < ENTRIES; i++) await store.set(key(i), document(0));
  }
  for (const [name, call] of Object.entries(CALLS)) {
    await table.add(`${engine}, ${name}`, "s", async () => {
      const stalls: Record<string, ReturnType<typeof figure>> = {};
      for (const [column, store] of Object.entries(stores)) {
        await store.set(COUNTER, 0);
        const calls = () => repeat(seconds, (i) => call(store, i));
        stalls[column] = figure([await longestStall(calls)]);
      }
      return stalls;
    });
  }
}

/** Calls for some seconds, without a pause. */
async function repeat(
  seconds: number,
  call: (index: number) => Promise<unknown>,
): Promise<void> {
  const end = performance.now() + seconds * 1000;
  for (let i = 0; performance.now() < end; i++) await call(i);
}
