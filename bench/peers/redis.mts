import type { KvKey, KvStoreListEntry } from "@fedify/fedify";
import { RedisKvStore, type RedisKvStoreOptions } from "@fedify/redis";
import type { Redis } from "ioredis";
import type { Client } from "../jobs.mts";

/**
 * The official store. The installed version has no list, so this adds the calls
 * of a later one: SCAN, and a GET for each key.
 */
export class OfficialRedis extends RedisKvStore {
  readonly #redis: Redis;

  constructor(redis: Redis, options?: RedisKvStoreOptions) {
    super(redis, options);
    this.#redis = redis;
  }

  async *list(prefix: KvKey): AsyncGenerator<KvStoreListEntry> {
    const pattern = `fedify::${prefix.join("::")}::*`;
    let cursor = "0";
    do {
      const [next, names] = await this.#redis.scan(
        cursor,
        "MATCH",
        pattern,
        "COUNT",
        100,
      );
      cursor = next;
      for (const name of names) {
        const value = await this.#redis.getBuffer(name);
        if (value !== null) {
          const key = name.slice(8).split("::") as unknown as KvKey;
          yield { key, value: JSON.parse(value.toString()) };
        }
      }
    } while (cursor !== "0");
  }
}

/** The client alone, on the entries of the official store. */
export class BareRedis implements Client {
  readonly #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  async get<T>(key: KvKey): Promise<T> {
    const text = await this.#redis.get(`fedify::${key.join("::")}`);
    return JSON.parse(text!) as T;
  }
}
