// How long a new process takes until it has its first value.
import type { KvStore } from "@fedify/fedify";
import { PostgresServer } from "../../__test__/services/postgres.mts";
import { RedisServer } from "../../__test__/services/redis.mts";
import { PostgresKvStore, RedisKvStore } from "../../index.js";
import type { Bench, BenchTable } from "../bench.mts";
import { runChild } from "../child/run.mts";
import type { StoreName } from "../child/stores.mts";
import { document, key } from "../data.mts";
import { figure } from "../measure.mts";
import { openKeyv } from "../peers/keyv.mts";
import type { Figure } from "../results.mts";
import { Files } from "../sqlite-files.mts";

/** By column: the store that a child process opens, and where. */
type Children = Readonly<
  Record<string, readonly [name: StoreName, location: string]>
>;

interface Times {
  readonly load: number;
  readonly get: number;
}

export async function startup(bench: Bench): Promise<void> {
  const table = bench.table("Start-up, each in a new process", {
    "fedify-kv": "ours",
    "official package": "peer",
    Keyv: "peer",
    "no store": "floor",
  });
  const [redis, postgres] = await Promise.all([
    RedisServer.start(),
    PostgresServer.start(),
  ]);
  try {
    await sqliteRows(bench, table);
    await filled([
      new RedisKvStore(redis.url),
      await openKeyv("redis", redis.url),
      new PostgresKvStore(postgres.url, { unlogged: true }),
      await openKeyv("postgres", postgres.url),
    ]);
    await rows(bench, table, "Redis", {
      "fedify-kv": ["redis", redis.url],
      "official package": ["@fedify/redis", redis.url],
      Keyv: ["Keyv, redis", redis.url],
    });
    await rows(bench, table, "PostgreSQL", {
      "fedify-kv": ["postgres", postgres.url],
      "official package": ["@fedify/postgres", postgres.url],
      Keyv: ["Keyv, postgres", postgres.url],
    });
  } finally {
    await Promise.all([redis.stop(), postgres.stop()]);
  }
}

async function sqliteRows(bench: Bench, table: BenchTable): Promise<void> {
  await using files = await Files.create();
  const [ours, official, keyv] = [files.path(), files.path(), files.path()];
  await files.official("", official).set(key(0), document(0));
  await filled([
    files.ours({}, ours),
    await openKeyv("sqlite", `sqlite://${keyv}`),
  ]);
  await rows(bench, table, "SQLite", {
    "fedify-kv": ["sqlite", ours],
    "official package": ["@fedify/sqlite", official],
    Keyv: ["Keyv, sqlite", keyv],
  });
}

async function rows(
  bench: Bench,
  table: BenchTable,
  engine: string,
  children: Children,
): Promise<void> {
  const names = {
    load: `${engine}: loading the packages`,
    get: `${engine}: opening a store and the first get`,
    process: `${engine}: the whole process`,
  };
  const wanted = Object.values(names).some((name) =>
    bench.wants(table.table.title, name),
  );
  if (!wanted) return;
  const found: Record<string, Record<string, number[]>> = {};
  const add = (row: string, column: string, value: number) => {
    ((found[row] ??= {})[column] ??= []).push(value);
  };
  for (let round = 0; round < (bench.quick ? 2 : 15); round++) {
    bench.progress(`${engine}, process ${round + 1} of each`);
    for (const [column, words] of Object.entries(children)) {
      const start = performance.now();
      const { load, get } = await runChild<Times>("start.mts", ...words);
      add(names.process, column, (performance.now() - start) / 1000);
      add(names.load, column, load);
      add(names.get, column, get);
    }
    const start = performance.now();
    await runChild("start.mts");
    add(names.process, "no store", (performance.now() - start) / 1000);
  }
  for (const name of Object.values(names)) {
    const figures: Record<string, Figure> = {};
    for (const [column, values] of Object.entries(found[name]!)) {
      figures[column] = figure(values);
    }
    table.put(name, "s", figures);
  }
}

type Closable = Pick<KvStore, "set"> & { close(): Promise<void> };

/** Sets the entry that the children get, and closes the stores. */
async function filled(stores: readonly Closable[]): Promise<void> {
  for (const store of stores) {
    await store.set(key(0), document(0));
    await store.close();
  }
}
