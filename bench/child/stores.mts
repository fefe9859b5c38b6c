// Stores that a child process opens. Each first loads its packages, which takes
// part of the start-up, and then opens a file or a server's URL.
import type { KvStore } from "@fedify/fedify";
import { createRequire } from "node:module";
import type * as ours from "../../index.js";
import type { Client } from "../jobs.mts";

type Open = (location: string) => KvStore | Promise<KvStore>;

const loadOurs = () =>
  createRequire(import.meta.url)("../../index.js") as typeof ours;

export const STORES = {
  async sqlite() {
    const { SqliteKvStore } = loadOurs();
    return (path) => new SqliteKvStore(path);
  },
  async "@fedify/sqlite"() {
    const { DatabaseSync } = await import("node:sqlite");
    const { SqliteKvStore } = await import("@fedify/sqlite");
    return (path) => new SqliteKvStore(new DatabaseSync(path));
  },
  async "Keyv, sqlite"() {
    const { openKeyv } = await import("../peers/keyv.mts");
    return (path) => openKeyv("sqlite", `sqlite://${path}`);
  },
  async redis() {
    const { RedisKvStore } = loadOurs();
    return (url) => new RedisKvStore(url);
  },
  async "redis, index"() {
    const { RedisKvStore } = loadOurs();
    return (url) => new RedisKvStore(url, { index: true });
  },
  async "@fedify/redis"() {
    const { Redis } = await import("ioredis");
    const { OfficialRedis } = await import("../peers/redis.mts");
    return (url) => new OfficialRedis(new Redis(url));
  },
  async "Keyv, redis"() {
    const { openKeyv } = await import("../peers/keyv.mts");
    return (url) => openKeyv("redis", url);
  },
  async postgres() {
    const { PostgresKvStore } = loadOurs();
    return (url) => new PostgresKvStore(url, { unlogged: true });
  },
  async "postgres, logged"() {
    const { PostgresKvStore } = loadOurs();
    return (url) => new PostgresKvStore(url, { tableName: "logged" });
  },
  async "postgres, unlogged"() {
    const { PostgresKvStore } = loadOurs();
    const options = { tableName: "unlogged", unlogged: true };
    return (url) => new PostgresKvStore(url, options);
  },
  async "@fedify/postgres"() {
    const { default: postgres } = await import("postgres");
    const { OfficialPostgres } = await import("../peers/postgres.mts");
    return (url) => new OfficialPostgres(postgres(url, { onnotice: () => {} }));
  },
  async "postgres.js"() {
    const { default: postgres } = await import("postgres");
    const { BarePostgres } = await import("../peers/postgres.mts");
    // Only jobs that get have this side.
    return (url) => new BarePostgres(postgres(url)) as Client as KvStore;
  },
  async "Keyv, postgres"() {
    const { openKeyv } = await import("../peers/keyv.mts");
    return (url) => openKeyv("postgres", url);
  },
} satisfies Record<string, () => Promise<Open>>;

export type StoreName = keyof typeof STORES;

/** Makes the loader of a store. */
export function loader(name: string): () => Promise<Open> {
  return STORES[name as StoreName];
}
