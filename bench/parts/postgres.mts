import { PostgresServer } from "../../__test__/services/postgres.mts";
import { PostgresKvStore } from "../../index.js";
import type { Bench } from "../bench.mts";
import { compareCalls, compareWrites } from "../compare.mts";
import { document, key } from "../data.mts";
import { pgbench } from "../floors/postgres.mts";
import { keyvVersion, openKeyv } from "../peers/keyv.mts";
import { OfficialPostgres } from "../peers/postgres.mts";
import { SETS } from "../writes.mts";

const ENTRIES = 100_000;
const FEW = 1000;

const COLUMNS = {
  "fedify-kv": "ours",
  "fedify-kv, unlogged": "ours",
  "@fedify/postgres": "peer",
  Keyv: "peer",
  pgbench: "floor",
} as const;

export async function postgres(bench: Bench): Promise<void> {
  bench.packages("@fedify/postgres", "postgres");
  bench.version("@keyv/postgres", keyvVersion("@keyv/postgres"));
  bench.progress("starting a server");
  const server = await PostgresServer.start();
  try {
    const sql = server.client({ max: 10 });
    const [row] = await sql`SHOW server_version`;
    bench.version("PostgreSQL", row!.server_version.split(" ")[0]);
    // The official package's table is unlogged, ours and Keyv's are logged.
    const tableName = "logged";
    const ours = new PostgresKvStore(server.url, {
      tableName,
      unlogged: false,
    });
    const unlogged = new PostgresKvStore(server.url, {
      tableName: "unlogged",
      unlogged: true,
    });
    const official = new OfficialPostgres(sql);
    const keyv = await openKeyv("postgres", server.url);
    const stores = {
      "fedify-kv": ours,
      "fedify-kv, unlogged": unlogged,
      "@fedify/postgres": official,
      Keyv: keyv,
    };

    // Small tables first: a set of the peer scans the whole table for expired
    // entries.
    const few = Array.from({ length: FEW }, (_, i) => key(i));
    for (const store of Object.values(stores)) {
      await Promise.all(few.map((key) => store.set(key, document(0))));
    }
    const sets = bench.table("PostgreSQL, sets among 1,000 entries", COLUMNS);
    await compareCalls(sets, stores, FEW, {
      names: ["set"],
      floor: floor(server, FEW),
    });

    bench.progress("filling tables");
    const insert = sql`SELECT ARRAY['traces', (i / 50)::text, i::text], value
      FROM generate_series(${FEW}::int, ${ENTRIES - 1}) AS i,
        (SELECT value FROM ${sql(tableName)} LIMIT 1) AS one`;
    for (const name of [tableName, "unlogged", "fedify_kv_v2"]) {
      await sql`INSERT INTO ${sql(name)} (key, value) ${insert}`;
      await sql`VACUUM ANALYZE ${sql(name)}`;
    }
    await sql`INSERT INTO keyv (key, value)
      SELECT replace(one.key, 'traces::0::0', concat_ws('::', 'traces', i / 50, i)), value
      FROM generate_series(${FEW}::int, ${ENTRIES - 1}) AS i,
        (SELECT key, value FROM keyv WHERE key LIKE '%traces::0::0') AS one`;
    await sql`VACUUM ANALYZE keyv`;
    const table = bench.table(
      "PostgreSQL, calls among 100,000 entries",
      COLUMNS,
    );
    await compareCalls(table, stores, ENTRIES, {
      names: ["get"],
      floor: floor(server, ENTRIES),
    });
    // 1,000 calls of the peer would take 20 s.
    await compareCalls(table, stores, ENTRIES, {
      names: ["set"],
      widths: [1, 64],
      floor: floor(server, ENTRIES),
    });

    await sql`TRUNCATE fedify_kv_v2`;
    const { pgbench: _, ...columns } = COLUMNS;
    const writes = bench.table(
      "PostgreSQL, the sets that Fedify makes",
      columns,
    );
    await compareWrites(writes, SETS, stores);
    await Promise.all([ours.close(), unlogged.close(), keyv.close()]);
  } finally {
    await server.stop();
  }
}

const KEY = "ARRAY['traces', (:i / 50)::text, (:i)::text]";
const SELECT = `SELECT value FROM logged WHERE key = ${KEY}`;
const UPSERT = `INSERT INTO logged (key, value)
  VALUES (${KEY}, '${JSON.stringify(document(0))}')
  ON CONFLICT (key) DO UPDATE SET value = excluded.value`;

/** A pipeline of 1,000 statements in one script is more than pgbench takes. */
function floor(server: PostgresServer, entries: number) {
  return async (call: "get" | "set", width: number) => {
    if (width === 1000) return {};
    const statement = call === "get" ? SELECT : UPSERT;
    return { pgbench: await pgbench(server, width, entries, statement) };
  };
}
