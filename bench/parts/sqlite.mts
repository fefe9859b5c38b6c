import type { KvKey, KvStore } from "@fedify/fedify";
import { type Bench, forEach } from "../bench.mts";
import { compareCalls, compareLists } from "../compare.mts";
import { ALL, anyKey, anyPrefix, document, key } from "../data.mts";
import * as floors from "../floors/sqlite.mts";
import { SETS, writes } from "../jobs.mts";
import { type Pattern, perEntry, PATTERNS } from "../patterns.mts";
import { keyvVersion, openKeyv } from "../peers/keyv.mts";
import {
  Files,
  fill,
  fillKeyv,
  RELAXED,
  WAL_FULL,
  WAL_NORMAL,
} from "../sqlite-files.mts";

const ENTRIES = 100_000;
const HOT = 500;
const MARKS = 100;

const any = (i: number) => anyKey(i, ENTRIES);
const hot = (i: number) => key(i % HOT);
const mark = (i: number): KvKey => ["mark", String(i % MARKS)];

export async function sqlite(bench: Bench): Promise<void> {
  bench.packages("@fedify/sqlite");
  bench.version("@keyv/sqlite", keyvVersion("@keyv/sqlite"));
  bench.version("node:sqlite", process.versions.sqlite ?? "unknown");
  await using files = await Files.create();
  await reads(bench, files);
  await durableWrites(bench, files);
  await relaxedWrites(bench, files);
}

async function reads(bench: Bench, files: Files): Promise<void> {
  const table = bench.table("SQLite, reads among 100,000 entries", {
    "fedify-kv": "ours",
    "@fedify/sqlite": "peer",
    Keyv: "peer",
    "node:sqlite": "floor",
  });
  bench.progress("filling files");
  const keys = Array.from({ length: ENTRIES }, (_, i) => key(i));
  const marks = Array.from({ length: MARKS }, (_, i) => mark(i));
  const ours = files.ours();
  await Promise.all(keys.map((key) => ours.set(key, document(0))));
  const path = files.path();
  const official = files.official("", path);
  fill(path, keys, document(0));
  const keyvPath = files.path();
  await setFirst(keyvPath);
  fillKeyv(keyvPath, keys, key(0));
  const keyv = await files.keyv(keyvPath);
  const stores = { "fedify-kv": ours, "@fedify/sqlite": official, Keyv: keyv };
  for (const store of Object.values(stores)) {
    for (const key of marks) await store.set(key, true);
  }
  const database = files.database(path);

  const get = async (
    name: string,
    key: (index: number) => KvKey,
    patterns: readonly Pattern[],
  ) => {
    const call = (store: KvStore) => (i: number) => store.get(key(i));
    for (const pattern of patterns) {
      await table.row(`${name}, ${pattern}`, {
        ...forEach(stores, (store) => PATTERNS[pattern](call(store))),
        ...(pattern === "one at a time" && {
          "node:sqlite": floors.gets(database, key),
        }),
      });
    }
  };
  const some = ["one at a time", "64 in flight"] as const;
  await get("get a mark", mark, some);
  await get("get one of 500 documents", hot, ["3 ms apart", ...some]);
  await get(
    "get any of 100,000 documents",
    any,
    Object.keys(PATTERNS) as Pattern[],
  );

  const listable = { "fedify-kv": ours, "@fedify/sqlite": official };
  await compareLists(table, listable, ENTRIES, (list, count) => {
    const work = floors.lists(
      database,
      (i) => (list === "few" ? anyPrefix(i, ENTRIES) : ALL),
      count,
    );
    return { "node:sqlite": list === "few" ? work : perEntry(work, count) };
  });
}

/** Closes the file too: two SQLite libraries of a process must not share it. */
async function setFirst(path: string): Promise<void> {
  const keyv = await openKeyv("sqlite", `sqlite://${path}`);
  await keyv.set(key(0), document(0));
  await keyv.close();
}

/** Each resolved write is on the disk. */
async function durableWrites(bench: Bench, files: Files): Promise<void> {
  const table = bench.table("SQLite, writes that survive a power loss", {
    "fedify-kv": "ours",
    "@fedify/sqlite": "peer",
    Keyv: "peer",
    "node:sqlite, WAL": "floor",
  });
  const stores = {
    "fedify-kv": files.ours(),
    "@fedify/sqlite": files.official(),
    Keyv: await files.keyv(),
  };
  const path = files.path();
  files.official("", path);
  const database = files.database(path, WAL_FULL);
  const jobs = writes(
    "set a mark",
    "set a document",
    "cas of a document",
    "delete",
  );
  await compareCalls(table, stores, jobs, ({ operation, pattern }) => {
    const work = floors.sets(database, operation, pattern);
    return work && { "node:sqlite, WAL": work };
  });
}

/** The last writes may be lost, but the file stays intact. */
async function relaxedWrites(bench: Bench, files: Files): Promise<void> {
  const table = bench.table("SQLite, writes without a sync each", {
    "fedify-kv, relaxed": "ours",
    'fedify-kv, "normal"': "ours",
    "@fedify/sqlite, WAL, NORMAL": "peer",
    "node:sqlite, WAL, NORMAL": "floor",
  });
  const stores = {
    "fedify-kv, relaxed": files.ours(RELAXED),
    'fedify-kv, "normal"': files.ours({ durability: "normal" }),
    "@fedify/sqlite, WAL, NORMAL": files.official(WAL_NORMAL),
  };
  const path = files.path();
  files.official("", path);
  const database = files.database(path, WAL_NORMAL);
  await compareCalls(table, stores, SETS, ({ operation, pattern }) => {
    const work = floors.sets(database, operation, pattern);
    return work && { "node:sqlite, WAL, NORMAL": work };
  });
}
