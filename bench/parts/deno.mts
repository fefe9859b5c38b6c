import { openKv } from "@deno/kv";
import { DenoKvStore } from "../../index.js";
import type { Bench } from "../bench.mts";
import { compareCalls, compareLists } from "../compare.mts";
import { document, key } from "../data.mts";
import { gets, sets } from "../jobs.mts";
import { OfficialDeno } from "../peers/deno.mts";
import { Files } from "../sqlite-files.mts";

const ENTRIES = 20_000;

export async function deno(bench: Bench): Promise<void> {
  bench.packages("@deno/kv");
  await using files = await Files.create();
  const ours = new DenoKvStore(files.path());
  const kv = await openKv(files.path());
  try {
    const stores = { "fedify-kv": ours, "@deno/kv": new OfficialDeno(kv) };
    const table = bench.table("Deno KV, a file with 20,000 entries", {
      "fedify-kv": "ours",
      "@deno/kv": "peer",
    });
    bench.progress("filling files");
    // Deno KV takes up to ten entries in a transaction.
    for (let i = 0; i < ENTRIES; i += 5000) {
      const some = Array.from({ length: 5000 }, (_, j) => key(i + j));
      await Promise.all(some.map((key) => ours.set(key, document(0))));
      await Promise.all(
        tens(some).map((ten) => {
          const atomic = kv.atomic();
          for (const key of ten) atomic.set(key, document(0));
          return atomic.commit();
        }),
      );
    }
    await compareCalls(table, stores, [...gets(ENTRIES), ...sets(ENTRIES)]);
    await compareLists(table, stores, ENTRIES);
  } finally {
    await ours.close();
    kv.close();
  }
}

function tens<T>(items: readonly T[]): T[][] {
  return Array.from({ length: Math.ceil(items.length / 10) }, (_, i) =>
    items.slice(i * 10, i * 10 + 10),
  );
}
