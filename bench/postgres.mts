import { PostgresKvStore as FedifyPostgresKvStore } from "@fedify/postgres";
import type { KvKey, KvStore, KvStoreListEntry } from "@fedify/fedify";
import postgresJs, { type Sql } from "postgres";
import { PostgresServer } from "../__test__/services/postgres.mts";
import { PostgresKvStore } from "../index.js";
import {
  compare,
  concurrent,
  cpu,
  document,
  heading,
  key,
  listing,
  sequential,
} from "./measure.mts";
import { compareSets } from "./sets.mts";

const ENTRIES = 100_000;

/**
 * The installed version of the official store has no list. This is the query of
 * a later version, which compares a slice of each key with the prefix.
 */
class Peer extends FedifyPostgresKvStore {
  readonly #sql: Sql;

  constructor(sql: Sql) {
    super(sql);
    this.#sql = sql;
  }

  async *list(prefix: KvKey): AsyncGenerator<KvStoreListEntry> {
    const rows = await this.#sql`
      SELECT key, value FROM ${this.#sql("fedify_kv_v2")}
      WHERE array_length(key, 1) >= ${prefix.length}
        AND key[1:${prefix.length}::int] = ${prefix as unknown as string[]}::text[]
        AND (ttl IS NULL OR created + ttl > CURRENT_TIMESTAMP)
      ORDER BY key`;
    for (const row of rows) {
      yield { key: row.key, value: row.value };
    }
  }
}

export async function postgres(): Promise<void> {
  const server = await PostgresServer.start();
  try {
    const sql = postgresJs(server.url, { onnotice: () => {} });
    const peer = new Peer(sql);
    await peer.initialize();
    const ours = new PostgresKvStore(server.url);
    // 2,000 prefixes of 50 entries, used by both sides.
    for (let i = 0; i < ENTRIES; i += 5000) {
      const some = Array.from({ length: 5000 }, (_, j) => key(i + j));
      await Promise.all(some.map((key) => ours.set(key, document(0))));
    }
    await sql`VACUUM ANALYZE fedify_kv_v2`;

    heading("PostgreSQL, beside @fedify/postgres on postgres.js");
    const get = (store: KvStore, i: number) =>
      store.get(key((i * 7919) % ENTRIES));
    const set = (store: KvStore, i: number) =>
      store.set(key((i * 7919) % ENTRIES), document(i + 1));
    const gets = [
      sequential("get, one at a time", 1000, get),
      concurrent("get, 64 in flight", 64, 50, get),
      concurrent("get, 1,000 in flight", 1000, 5, get),
    ];
    for (const each of gets) await compare(each, ours, peer);
    for (const each of gets) await cpu(each, ours, peer);
    heading(
      "Lists, beside the query of the peer's later version (it has no list)",
    );
    const few = listing(
      "list of 50 among 100,000, the list",
      (i) => ["traces", String((i * 17) % (ENTRIES / 50))],
      50,
      "list",
      5,
    );
    const all = listing(
      "list of all 100,000, an entry",
      () => ["traces"],
      ENTRIES,
      "entry",
      1,
    );
    await compare(few, ours, peer, 5);
    await compare(all, ours, peer, 3);
    heading("Sets (each set of the peer scans the table for expired entries)");
    const sets = [
      sequential("set, one at a time", 20, set),
      concurrent("set, 64 in flight", 64, 1, set),
    ];
    for (const each of sets) await compare(each, ours, peer, 3);
    heading("The same on a table of 1,000 entries");
    await ours.drop();
    const fewer = new PostgresKvStore(server.url);
    const fewerPeer = new Peer(sql);
    await fewerPeer.initialize();
    const small = (store: KvStore, i: number) =>
      store.set(key((i * 7919) % 1000), document(i + 1));
    const smallSets = [
      sequential("set, one at a time", 200, small),
      concurrent("set, 64 in flight", 64, 10, small),
      concurrent("set, 1,000 in flight", 1000, 1, small),
    ];
    for (const each of smallSets) await compare(each, fewer, fewerPeer, 3);
    await Promise.all([ours.close(), fewer.close()]);
    await sql.end();
  } finally {
    await server.stop();
  }
}

export async function postgresSets(): Promise<void> {
  const server = await PostgresServer.start();
  try {
    const sql = postgresJs(server.url, { onnotice: () => {} });
    const peer = new Peer(sql);
    await peer.initialize();
    const ours = new PostgresKvStore(server.url);
    heading(
      "PostgreSQL, the sets that Fedify makes, beside @fedify/postgres on postgres.js (each set of the peer scans the table for expired entries)",
    );
    // Few, because the peer becomes slower with each mark.
    await compareSets(ours, peer, { inARow: 50, batches: 2, rounds: 3 });
    await ours.close();
    await sql.end();
  } finally {
    await server.stop();
  }
}
