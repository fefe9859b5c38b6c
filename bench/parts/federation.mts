// A whole federation: a signed POST to an inbox, from the request to the answer.
// It reads the sender's key and the activity's mark, runs the listener and sets
// the mark.
import {
  type KvStore,
  MemoryKvStore as FedifyMemoryKvStore,
} from "@fedify/fedify";
import { PostgresServer } from "../../__test__/services/postgres.mts";
import { RedisServer } from "../../__test__/services/redis.mts";
import { MemoryKvStore, PostgresKvStore, RedisKvStore } from "../../index.js";
import type { Bench } from "../bench.mts";
import { Receiver, Sender, type Times } from "../inbox.mts";
import { figure } from "../measure.mts";
import { keyvVersion, openKeyv } from "../peers/keyv.mts";
import { OfficialPostgres } from "../peers/postgres.mts";
import { OfficialRedis } from "../peers/redis.mts";
import type { Figure, Kind } from "../results.mts";
import { Files, RELAXED, WAL_NORMAL } from "../sqlite-files.mts";
import { quantile } from "../stats.mts";
import { redisVersion } from "./redis.mts";

const WIDTHS = [1, 32];

/** How long a store's rows of one width may take, in seconds. */
const SECONDS = { quick: 1, full: 12 };

type Columns = Readonly<Record<string, readonly [Kind, KvStore]>>;

export async function federation(bench: Bench): Promise<void> {
  bench.packages("@fedify/fedify", "@fedify/sqlite", "@fedify/redis");
  bench.packages("@fedify/postgres", "ioredis", "postgres");
  bench.version("keyv", keyvVersion("keyv"));
  const sender = await Sender.create();
  await memory(bench, sender);
  await sqlite(bench, sender);
  await redis(bench, sender);
  await postgres(bench, sender);
}

async function memory(bench: Bench, sender: Sender): Promise<void> {
  const ours = new MemoryKvStore();
  await compare(bench, sender, "memory", {
    "fedify-kv": ["ours", ours],
    "Fedify's MemoryKvStore": ["peer", new FedifyMemoryKvStore()],
  });
  await ours.close();
}

async function sqlite(bench: Bench, sender: Sender): Promise<void> {
  await using files = await Files.create();
  await compare(bench, sender, "SQLite", {
    "fedify-kv": ["ours", files.ours()],
    "fedify-kv, relaxed": ["ours", files.ours(RELAXED)],
    "@fedify/sqlite": ["peer", files.official()],
    "@fedify/sqlite, WAL, NORMAL": ["peer", files.official(WAL_NORMAL)],
    Keyv: ["peer", await files.keyv()],
  });
}

async function redis(bench: Bench, sender: Sender): Promise<void> {
  const server = await RedisServer.start();
  const client = server.client();
  const tuned = server.client({ enableAutoPipelining: true });
  bench.version("Redis", await redisVersion(client));
  // Each store has keys of its own.
  const ours = new RedisKvStore(server.url, { keyPrefix: "ours::" });
  const keyv = await openKeyv("redis", server.url);
  try {
    await compare(bench, sender, "Redis", {
      "fedify-kv": ["ours", ours],
      "@fedify/redis": ["peer", new OfficialRedis(client)],
      "@fedify/redis, autopipelining": [
        "peer",
        new OfficialRedis(tuned, { keyPrefix: "tuned::" }),
      ],
      Keyv: ["peer", keyv],
    });
  } finally {
    await Promise.all([ours.close(), keyv.close()]);
    await server.stop();
  }
}

async function postgres(bench: Bench, sender: Sender): Promise<void> {
  const server = await PostgresServer.start();
  try {
    const sql = server.client({ max: 10 });
    const [row] = await sql`SHOW server_version`;
    bench.version("PostgreSQL", row!.server_version.split(" ")[0]);
    const [ours, unlogged] = [false, true].map((unlogged) => {
      const tableName = unlogged ? "unlogged" : "logged";
      return new PostgresKvStore(server.url, { tableName, unlogged });
    });
    const keyv = await openKeyv("postgres", server.url);
    await compare(bench, sender, "PostgreSQL", {
      "fedify-kv": ["ours", ours!],
      "fedify-kv, unlogged": ["ours", unlogged!],
      "@fedify/postgres": ["peer", new OfficialPostgres(sql)],
      Keyv: ["peer", keyv],
    });
    await Promise.all([ours!.close(), unlogged!.close(), keyv.close()]);
  } finally {
    await server.stop();
  }
}

/** The rows of a table: their names, and what they take from a round. */
const ROWS = {
  "time each": "mean",
  p99: "each",
  "longest stall": "stall",
} as const;

async function compare(
  bench: Bench,
  sender: Sender,
  engine: string,
  columns: Columns,
): Promise<void> {
  const kinds = Object.entries(columns).map(
    ([name, [kind]]) => [name, kind] as const,
  );
  const table = bench.table(
    `Incoming activities, ${engine}`,
    Object.fromEntries(kinds),
  );
  const receivers = Object.entries(columns).map(([column, [, kv]]) => ({
    column,
    kv,
    receiver: new Receiver(kv),
  }));
  for (const { kv } of receivers) await sender.cacheKey(kv);
  for (const width of WIDTHS) {
    const at = `${width} at a time`;
    const names = Object.keys(ROWS).map((name) => `${at}, ${name}`);
    if (!names.some((name) => bench.wants(table.table.title, name))) continue;
    bench.next(`${engine}, ${at}`);
    const rounds = await measure(bench, sender, receivers, width);
    for (const [row, what] of Object.entries(ROWS)) {
      const figures: Record<string, Figure> = {};
      for (const [column, times] of Object.entries(rounds)) {
        figures[column] =
          what === "each"
            ? p99(times.flatMap(({ each }) => each))
            : figure(times.map((time) => time[what]));
      }
      table.put(`${at}, ${row}`, "s", figures);
    }
  }
}

interface Competitor {
  readonly column: string;
  readonly receiver: Receiver;
}

/** All receivers get the same requests. They take turns to be the first. */
async function measure(
  bench: Bench,
  sender: Sender,
  competitors: readonly Competitor[],
  width: number,
): Promise<Record<string, Times[]>> {
  const times: Record<string, Times[]> = {};
  const end =
    performance.now() + SECONDS[bench.quick ? "quick" : "full"] * 1000;
  // The first round warms up.
  for (let round = 0; round < 2 || performance.now() < end; round++) {
    const requests = await sender.requests(32);
    const first = round % competitors.length;
    for (const { column, receiver } of [
      ...competitors.slice(first),
      ...competitors.slice(0, first),
    ]) {
      const result = await receiver.handle(requests, width);
      if (round > 0) (times[column] ??= []).push(result);
    }
  }
  return times;
}

/** The p99 of all requests, as a figure without a spread. */
function p99(times: readonly number[]): Figure {
  return { ...figure([quantile(times, 0.99)]), samples: times.length };
}
