import type { SqliteKvStore } from "../index.js";
import {
  compare,
  concurrent,
  document,
  heading,
  key,
  listing,
  sequential,
} from "./measure.mts";
import { compareOtherWrites, compareSets } from "./sets.mts";
import {
  type Peer,
  RELAXED,
  temporaryFiles,
  WAL_NORMAL,
} from "./sqlite-files.mts";

const ENTRIES = 100_000;
const HOT = 500;

export async function sqlite(): Promise<void> {
  await using files = await temporaryFiles();
  await measure(
    "SQLite, beside @fedify/sqlite on node:sqlite as documented",
    files.ours(),
    files.peer(),
  );
  await measure(
    'SQLite, durability "normal", beside @fedify/sqlite in WAL mode, synchronous = NORMAL',
    files.ours({ durability: "normal" }),
    files.peer(WAL_NORMAL),
  );
}

export async function sqliteSets(): Promise<void> {
  await using files = await temporaryFiles();
  const modes = [
    {
      title: "SQLite, the writes that Fedify makes, beside @fedify/sqlite",
      ours: files.ours(),
      peer: files.peer().store,
    },
    {
      title:
        'The same with durability "normal", and the peer on WAL and NORMAL',
      ours: files.ours({ durability: "normal" }),
      peer: files.peer(WAL_NORMAL).store,
    },
    {
      title: 'The same with relaxed: [["_fedify"]], and the peer as before',
      ours: files.ours(RELAXED),
      peer: files.peer(WAL_NORMAL).store,
    },
  ];
  for (const { title, ours, peer } of modes) {
    heading(title);
    const scale = { inARow: 100, batches: 3 };
    await compareSets(ours, peer, scale);
    await compareOtherWrites(ours, peer, scale);
    await ours.close();
  }
}

async function measure(
  title: string,
  ours: SqliteKvStore,
  { store: peer, database }: Peer,
): Promise<void> {
  // Both sides are filled in bulk with 2,000 prefixes of 50 entries.
  const entries = Array.from({ length: ENTRIES }, (_, i) => key(i));
  await Promise.all(entries.map((key) => ours.set(key, document(0))));
  peer.initialize();
  database.exec("BEGIN");
  const insert = database.prepare(
    "INSERT INTO fedify_kv VALUES (?, ?, 0, NULL)",
  );
  for (const key of entries) {
    insert.run(JSON.stringify(key), JSON.stringify(document(0)));
  }
  database.exec("COMMIT");

  heading(title);
  const get = (store: { get(key: Key): Promise<unknown> }, i: number) =>
    store.get(key((i * 7919) % ENTRIES));
  const set = (
    store: { set(key: Key, value: unknown): Promise<void> },
    i: number,
  ) => store.set(key((i * 7919) % ENTRIES), document(i + 1));
  // Servers mostly read the same actors' documents again and again.
  const getHot = (store: { get(key: Key): Promise<unknown> }, i: number) =>
    store.get(key(i % HOT));
  const mark = (i: number): Key => [
    "_fedify",
    "activityIdempotence",
    String(i % 100),
  ];
  for (let i = 0; i < 100; i++) {
    await ours.set(mark(i), true);
    await peer.set(mark(i), true);
  }
  const cases = [
    sequential("get a mark (true), one at a time", 5000, (store, i) =>
      store.get(mark(i)),
    ),
    concurrent("get a mark, 64 in flight", 64, 80, (store, i) =>
      store.get(mark(i)),
    ),
    sequential("get one of 500 documents (490 B), one at a time", 2000, getHot),
    concurrent("get one of 500 documents, 64 in flight", 64, 30, getHot),
    sequential("get any of 100,000 documents, one at a time", 2000, get),
    concurrent("get any of 100,000 documents, 64 in flight", 64, 30, get),
    sequential("set a document, one at a time", 200, set),
    concurrent("set a document, 64 in flight", 64, 10, set),
    listing("list of 50 among 100,000, the list", trace, 50, "list", 40),
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

type Key = readonly [string, string, string];

/** The prefix of a trace, a different one for each `i`. */
function trace(i: number): readonly [string, string] {
  return ["traces", String((i * 17) % (ENTRIES / 50))];
}
