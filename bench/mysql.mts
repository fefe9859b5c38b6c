import type { KvStore } from "@fedify/fedify";
import { MysqlServer } from "../__test__/services/mysql.mts";
import { officialStore } from "../__test__/support/mysql-official.mts";
import { MysqlKvStore } from "../index.js";
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

/** The server's default: each commit is synced to disk. */
const SETTINGS = {
  "innodb-buffer-pool-size": "256M",
  "innodb-log-file-size": "96M",
};

export async function mysql(): Promise<void> {
  const server = await MysqlServer.start(SETTINGS);
  try {
    const ours = new MysqlKvStore(server.url);
    const pool = server.pool({ connectionLimit: 10 });
    const peer = officialStore(pool) as unknown as KvStore;
    // 2,000 prefixes of 50 entries, used by both sides.
    for (let i = 0; i < ENTRIES; i += 5000) {
      const some = Array.from({ length: 5000 }, (_, j) => key(i + j));
      await Promise.all(some.map((key) => ours.set(key, document(0))));
    }

    heading(
      "MySQL, beside @fedify/mysql on mysql2, one MariaDB server (a hook removes the package's CAST(? AS JSON), which MariaDB lacks)",
    );
    const get = (store: KvStore, i: number) =>
      store.get(key((i * 7919) % ENTRIES));
    const set = (store: KvStore, i: number) =>
      store.set(key((i * 7919) % ENTRIES), document(i + 1));
    const cases = [
      sequential("get, one at a time", 500, get),
      concurrent("get, 64 in flight", 64, 30, get),
      concurrent("get, 1,000 in flight", 1000, 2, get),
      sequential("set, one at a time", 200, set),
      concurrent("set, 64 in flight", 64, 10, set),
      concurrent("set, 1,000 in flight", 1000, 1, set),
    ];
    for (const each of cases) await compare(each, ours, peer);
    const few = listing(
      "list of 50 among 100,000, the list",
      (i) => ["traces", String((i * 17) % (ENTRIES / 50))],
      50,
      "list",
      20,
    );
    const all = listing(
      "list of all 100,000, an entry",
      () => ["traces"],
      ENTRIES,
      "entry",
      1,
    );
    await compare(few, ours, peer);
    await compare(all, ours, peer, 3);
    for (const each of [...cases, few, all]) await cpu(each, ours, peer);
    await ours.close();
  } finally {
    await server.stop();
  }
}

export async function mysqlSets(): Promise<void> {
  const server = await MysqlServer.start(SETTINGS);
  try {
    const ours = new MysqlKvStore(server.url);
    const pool = server.pool({ connectionLimit: 10 });
    const peer = officialStore(pool) as unknown as KvStore;
    heading(
      "MySQL, the sets that Fedify makes, beside @fedify/mysql on mysql2",
    );
    await compareSets(ours, peer, { inARow: 100, batches: 5 });
    await ours.close();
  } finally {
    await server.stop();
  }
}
