// Lists in stores of different sizes, and what a list of everything costs.
import type { KvKey, KvStore } from "@fedify/fedify";
import type { Redis } from "ioredis";
import type { JSONValue } from "postgres";
import { PostgresServer } from "../../__test__/services/postgres.mts";
import { RedisServer } from "../../__test__/services/redis.mts";
import { PostgresKvStore, RedisKvStore } from "../../index.js";
import { type Bench, forEach } from "../bench.mts";
import { runChild } from "../child/run.mts";
import type { StoreName } from "../child/stores.mts";
import { anyPrefix, document, key, PER_PREFIX } from "../data.mts";
import * as floors from "../floors/sqlite.mts";
import { figure } from "../measure.mts";
import { listing, type Work } from "../patterns.mts";
import { OfficialPostgres } from "../peers/postgres.mts";
import { OfficialRedis } from "../peers/redis.mts";
import type { Figure, Kind } from "../results.mts";
import { Files, fill } from "../sqlite-files.mts";
import { redisVersion } from "./redis.mts";

const WHOLE = 100_000;
const SIZES = [1000, 10_000, WHOLE];
const MILLION = 1_000_000;

/** The store in a child process, and where it finds the entries. */
type Child = readonly [column: string, name: StoreName, location: string];

/** What a list of all entries costs, a table for each cost. */
class Whole {
  readonly #bench: Bench;
  readonly #tables;

  constructor(bench: Bench) {
    this.#bench = bench;
    const columns = {
      "fedify-kv": "ours",
      "fedify-kv, index": "ours",
      "official package": "peer",
    } as const;
    const of = "A list of all 100,000 entries";
    this.#tables = {
      first: bench.table(`${of}: the time to the first`, columns),
      stall: bench.table(`${of}: the longest stall`, columns),
      memory: bench.table(`${of}: the growth of memory`, columns),
    };
  }

  /** Measures stores of one engine, each round in a new process. */
  async row(engine: string, children: readonly Child[]): Promise<void> {
    if (!this.#bench.wants("A list of all 100,000 entries", engine)) return;
    const costs = ["first", "stall", "memory"] as const;
    const found = costs.map(() => new Map<string, number[]>());
    for (let round = 0; round < (this.#bench.quick ? 1 : 3); round++) {
      for (const [column, name, location] of children) {
        this.#bench.progress(`a list of everything, ${engine}, ${column}`);
        const result = await runChild<Record<(typeof costs)[number], number>>(
          "list.mts",
          name,
          location,
          String(WHOLE),
        );
        for (const [i, cost] of costs.entries()) {
          const values = found[i]!.get(column) ?? [];
          found[i]!.set(column, [...values, Math.max(0, result[cost])]);
        }
      }
    }
    for (const [i, cost] of costs.entries()) {
      const figures: Record<string, Figure> = {};
      for (const [column, values] of found[i]!)
        figures[column] = figure(values);
      this.#tables[cost].put(
        engine,
        cost === "memory" ? "bytes" : "s",
        figures,
      );
    }
  }
}

export async function lists(bench: Bench): Promise<void> {
  bench.packages("@fedify/sqlite", "@fedify/redis", "@fedify/postgres");
  const whole = new Whole(bench);
  await sqliteLists(bench, whole);
  await redisLists(bench, whole);
  await postgresLists(bench, whole);
}

interface Engine {
  readonly name: string;
  readonly columns: Readonly<Record<string, Kind>>;
  /** Adds the entries from `from` up to `to`. */
  grow(from: number, to: number): Promise<void>;
  /** Lists of a prefix, by column. */
  works(prefix: (index: number) => KvKey): Record<string, Work>;
  readonly children: readonly Child[];
}

/** Fills an engine with more and more entries, and measures lists among them. */
async function curve(
  bench: Bench,
  whole: Whole,
  engine: Engine,
): Promise<void> {
  const title = `${engine.name}: a list of 50 among more and more entries`;
  const table = bench.table(title, engine.columns);
  let size = 0;
  for (const next of bench.quick ? SIZES : [...SIZES, MILLION]) {
    const among = `among ${next.toLocaleString("en")}`;
    bench.progress(`filling ${engine.name}, ${among}`);
    await engine.grow(size, next);
    size = next;
    await table.row(
      among,
      engine.works((i) => anyPrefix(i, next)),
    );
    if (next === WHOLE) await whole.row(engine.name, engine.children);
  }
}

const forAll = (
  stores: Readonly<Record<string, KvStore>>,
  prefix: (index: number) => KvKey,
) => forEach(stores, (store) => listing(store, prefix, PER_PREFIX));

async function sqliteLists(bench: Bench, whole: Whole): Promise<void> {
  await using files = await Files.create();
  const [ourPath, officialPath] = [files.path(), files.path()];
  let ours = files.ours({}, ourPath);
  await ours.initialize();
  const official = files.official("", officialPath);
  const database = files.database(officialPath);
  await curve(bench, whole, {
    name: "SQLite",
    columns: {
      "fedify-kv": "ours",
      "@fedify/sqlite": "peer",
      "node:sqlite": "floor",
    },
    async grow(from, to) {
      // Two SQLite libraries of a process must not open the same file.
      await ours.close();
      for (const path of [ourPath, officialPath]) {
        fill(path, keys(from, to), document(0));
      }
      ours = files.ours({}, ourPath);
    },
    works: (prefix) => ({
      ...forAll({ "fedify-kv": ours, "@fedify/sqlite": official }, prefix),
      "node:sqlite": floors.lists(database, prefix, PER_PREFIX),
    }),
    children: [
      ["fedify-kv", "sqlite", ourPath],
      ["official package", "@fedify/sqlite", officialPath],
    ],
  });
}

async function redisLists(bench: Bench, whole: Whole): Promise<void> {
  const server = await RedisServer.start();
  const { url } = server;
  const ours = new RedisKvStore(url);
  const indexed = new RedisKvStore(url, { index: true });
  try {
    const client = server.client();
    bench.version("Redis", await redisVersion(client));
    const stores = {
      "fedify-kv, index": indexed,
      "fedify-kv": ours,
      "@fedify/redis": new OfficialRedis(client),
    };
    await curve(bench, whole, {
      name: "Redis",
      columns: {
        "fedify-kv, index": "ours",
        "fedify-kv": "ours",
        "@fedify/redis": "peer",
      },
      async grow(from, to) {
        await fillRedis(client, from, to);
        await indexed.reindex();
      },
      works: (prefix) => forAll(stores, prefix),
      children: [
        ["fedify-kv", "redis", url],
        ["fedify-kv, index", "redis, index", url],
        ["official package", "@fedify/redis", url],
      ],
    });
  } finally {
    await Promise.all([ours.close(), indexed.close()]);
    await server.stop();
  }
}

/** Sets entries in a script on the server, so that they don't travel. */
async function fillRedis(
  client: Redis,
  from: number,
  to: number,
): Promise<void> {
  const script = `for i = ARGV[1], ARGV[2] - 1 do
      local place = string.format("%d::%d", i / ${PER_PREFIX}, i)
      redis.call("SET", "fedify::traces::" .. place, ARGV[3])
    end`;
  const value = JSON.stringify(document(0));
  for (let first = from; first < to; first += 10_000) {
    await client.eval(script, 0, first, Math.min(to, first + 10_000), value);
  }
}

async function postgresLists(bench: Bench, whole: Whole): Promise<void> {
  const server = await PostgresServer.start();
  try {
    const sql = server.client({ max: 10 });
    const [row] = await sql`SHOW server_version`;
    bench.version("PostgreSQL", row!.server_version.split(" ")[0]);
    const ours = new PostgresKvStore(server.url, { unlogged: true });
    await ours.initialize();
    const official = new OfficialPostgres(sql);
    const stores = { "fedify-kv": ours, "@fedify/postgres": official };
    await curve(bench, whole, {
      name: "PostgreSQL",
      columns: { "fedify-kv": "ours", "@fedify/postgres": "peer" },
      async grow(from, to) {
        await sql`INSERT INTO fedify_kv_v2 (key, value)
          SELECT ARRAY['traces', (i / ${PER_PREFIX}::int)::text, i::text],
            ${sql.json(document(0) as JSONValue)}
          FROM generate_series(${from}::int, ${to - 1}::int) AS i`;
        await sql`VACUUM ANALYZE fedify_kv_v2`;
      },
      works: (prefix) => forAll(stores, prefix),
      children: [
        ["fedify-kv", "postgres", server.url],
        ["official package", "@fedify/postgres", server.url],
      ],
    });
    await ours.close();
  } finally {
    await server.stop();
  }
}

function* keys(from: number, to: number): Iterable<KvKey> {
  for (let i = from; i < to; i++) yield key(i);
}
