import connect, { type Sql } from "postgres";
import { PostgresServer } from "../../__test__/services/postgres.mts";
import { PostgresKvStore } from "../../index.js";
import type { Bench } from "../bench.mts";
import { RemoteStore } from "../child/remote.mts";
import type { StoreName } from "../child/stores.mts";
import { compareCalls } from "../compare.mts";
import { document, key } from "../data.mts";
import { depthOf } from "../floors/depth.mts";
import { pgbench } from "../floors/postgres.mts";
import { gets, type Job, SETS, sets } from "../jobs.mts";
import { keyvVersion, openKeyv } from "../peers/keyv.mts";
import { OfficialPostgres } from "../peers/postgres.mts";

const ENTRIES = 100_000;
const FEW = 1000;

const OURS = {
  "fedify-kv": "ours",
  "fedify-kv, on a thread": "ours",
  "fedify-kv, unlogged": "ours",
} as const;
const PEERS = { "@fedify/postgres": "peer", Keyv: "peer" } as const;
const FLOOR = { pgbench: "floor" } as const;

/** What Bun and Deno have, where our store can't use the event loop itself. */
const ON_A_THREAD = { FEDIFY_KV_HOST: "thread" };

export async function postgres(bench: Bench): Promise<void> {
  bench.packages("@fedify/postgres", "postgres");
  bench.version("@keyv/postgres", keyvVersion("@keyv/postgres"));
  bench.progress("starting a server");
  const server = await PostgresServer.start();
  try {
    const sql = server.client({ max: 10 });
    const [row] = await sql`SHOW server_version`;
    bench.version("PostgreSQL", row!.server_version.split(" ")[0]);
    await fillFew(server.url);

    // Each side has a process of its own: ours on a thread needs one, and the
    // heap and the garbage of the others would be slower for the rest.
    using processes = new DisposableStack();
    const start = async (name: StoreName, env = {}) =>
      processes.use(await RemoteStore.start(name, server.url, env));
    const ours = await start("postgres, logged");
    const onThread = await start("postgres, logged", ON_A_THREAD);
    const unlogged = await start("postgres, unlogged");
    const peers = {
      "@fedify/postgres": await start("@fedify/postgres"),
      Keyv: await start("Keyv, postgres"),
    };
    const stores = {
      "fedify-kv": ours,
      "fedify-kv, unlogged": unlogged,
      ...peers,
    };

    // Small tables first: a set of the peer scans the whole table for expired
    // entries.
    const small = bench.table("PostgreSQL, sets among 1,000 entries", {
      "fedify-kv": "ours",
      "fedify-kv, unlogged": "ours",
      ...PEERS,
      ...FLOOR,
    });
    await compareCalls(small, stores, sets(FEW), floor(server));

    bench.progress("filling tables");
    await fillMany(sql);
    const table = bench.table("PostgreSQL, calls among 100,000 entries", {
      ...OURS,
      "postgres.js": "peer",
      ...PEERS,
      ...FLOOR,
    });
    const readers = {
      "fedify-kv": ours,
      "fedify-kv, on a thread": onThread,
      "postgres.js": await start("postgres.js"),
      ...peers,
    };
    await compareCalls(table, readers, gets(ENTRIES), floor(server));
    // 1,000 calls of the peer would take 20 s.
    const some = sets(ENTRIES, ["one at a time", "64 in flight"]);
    await compareCalls(table, stores, some, floor(server));

    await sql`TRUNCATE fedify_kv_v2`;
    const writes = bench.table("PostgreSQL, the sets that Fedify makes", {
      ...OURS,
      ...PEERS,
    });
    const writers = { ...stores, "fedify-kv, on a thread": onThread };
    await compareCalls(writes, writers, SETS);
  } finally {
    await server.stop();
  }
}

/**
 * Sets a few entries in each store's table. The official package's table is
 * unlogged, ours and Keyv's are logged.
 */
async function fillFew(url: string): Promise<void> {
  const few = Array.from({ length: FEW }, (_, i) => key(i));
  const client = connect(url, { onnotice: () => {} });
  const closable = [
    new PostgresKvStore(url, { tableName: "logged", unlogged: false }),
    new PostgresKvStore(url, { tableName: "unlogged", unlogged: true }),
    await openKeyv("postgres", url),
  ];
  const official = new OfficialPostgres(client);
  // Calls at the same time would each create the table.
  await official.initialize();
  for (const store of [...closable, official]) {
    await Promise.all(few.map((key) => store.set(key, document(0))));
  }
  await Promise.all(closable.map((store) => store.close()));
  await client.end();
}

/** Adds entries to the tables that have a few. */
async function fillMany(sql: Sql): Promise<void> {
  const insert = sql`SELECT ARRAY['traces', (i / 50)::text, i::text], value
    FROM generate_series(${FEW}::int, ${ENTRIES - 1}) AS i,
      (SELECT value FROM logged LIMIT 1) AS one`;
  for (const name of ["logged", "unlogged", "fedify_kv_v2"]) {
    await sql`INSERT INTO ${sql(name)} (key, value) ${insert}`;
    await sql`VACUUM ANALYZE ${sql(name)}`;
  }
  await sql`INSERT INTO keyv (key, value)
    SELECT replace(one.key, 'traces::0::0', concat_ws('::', 'traces', i / 50, i)), value
    FROM generate_series(${FEW}::int, ${ENTRIES - 1}) AS i,
      (SELECT key, value FROM keyv WHERE key LIKE '%traces::0::0') AS one`;
  await sql`VACUUM ANALYZE keyv`;
}

const KEY = "ARRAY['traces', (:i / 50)::text, (:i)::text]";
const SELECT = `SELECT value FROM logged WHERE key = ${KEY}`;
const UPSERT = `INSERT INTO logged (key, value)
  VALUES (${KEY}, '${JSON.stringify(document(0))}')
  ON CONFLICT (key) DO UPDATE SET value = excluded.value`;

function floor(server: PostgresServer) {
  return async ({ operation, pattern, entries }: Job) => {
    const depth = depthOf(pattern);
    // A pipeline of 1,000 statements in one script is more than pgbench takes.
    if (depth === undefined || depth === 1000) return {};
    const statement = operation === "get" ? SELECT : UPSERT;
    return { pgbench: await pgbench(server, depth, entries, statement) };
  };
}
