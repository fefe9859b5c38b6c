import type { KvStore } from "@fedify/fedify";
import { MysqlServer } from "../../__test__/services/mysql.mts";
import { officialStore } from "../../__test__/support/mysql-official.mts";
import { MysqlKvStore } from "../../index.js";
import type { Bench } from "../bench.mts";
import { compareCalls, compareLists } from "../compare.mts";
import { document, key } from "../data.mts";
import { gets, SETS, sets } from "../jobs.mts";

const ENTRIES = 100_000;

/** The server's default: each commit is synced to disk. */
const SETTINGS = {
  "innodb-buffer-pool-size": "256M",
  "innodb-log-file-size": "96M",
};

export async function mysql(bench: Bench): Promise<void> {
  bench.packages("@fedify/mysql", "mysql2");
  bench.progress("starting a server");
  const server = await MysqlServer.start(SETTINGS);
  try {
    const [row] = await server.sql("SELECT VERSION() AS version");
    bench.version("MariaDB", String(row!.version).split("-")[0]!);
    const ours = new MysqlKvStore(server.url);
    const pool = server.pool({ connectionLimit: 10 });
    const stores = {
      "fedify-kv": ours,
      "@fedify/mysql": officialStore(pool) as unknown as KvStore,
    };
    const columns = { "fedify-kv": "ours", "@fedify/mysql": "peer" } as const;
    const writes = bench.table("MySQL, the sets that Fedify makes", columns);
    await compareCalls(writes, stores, SETS);

    bench.progress("filling a table");
    for (let i = 0; i < ENTRIES; i += 5000) {
      const some = Array.from({ length: 5000 }, (_, j) => key(i + j));
      await Promise.all(some.map((key) => ours.set(key, document(0))));
    }
    const table = bench.table("MySQL, calls among 100,000 entries", columns);
    await compareCalls(table, stores, [...gets(ENTRIES), ...sets(ENTRIES)]);
    await compareLists(table, stores, ENTRIES);
    await ours.close();
  } finally {
    await server.stop();
  }
}
