import { RedisKvStore as FedifyRedisKvStore } from "@fedify/redis";
import type { KvKey, KvStore, KvStoreListEntry } from "@fedify/fedify";
import { Redis } from "ioredis";
import { RedisServer } from "../__test__/services/redis.mts";
import { RedisKvStore } from "../index.js";
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

const ENTRIES = 200_000;

/**
 * The installed version of the official store has no list. These are the calls
 * of a later version.
 */
class Peer extends FedifyRedisKvStore {
  readonly #redis: Redis;

  constructor(redis: Redis) {
    super(redis);
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

export async function redis(): Promise<void> {
  const server = await RedisServer.start();
  try {
    const client = new Redis(server.url);
    const ours = new RedisKvStore(server.url);
    const indexed = new RedisKvStore(server.url, { index: true });
    const peer = new Peer(client);
    // 4,000 prefixes of 50 entries, used by both sides.
    for (let i = 0; i < ENTRIES; i += 5000) {
      const some = Array.from({ length: 5000 }, (_, j) => key(i + j));
      await Promise.all(some.map((key) => ours.set(key, document(0))));
    }
    await indexed.reindex();

    heading("Redis, beside @fedify/redis on ioredis, one server");
    const get = (store: KvStore, i: number) =>
      store.get(key((i * 7919) % ENTRIES));
    const set = (store: KvStore, i: number) =>
      store.set(key((i * 7919) % ENTRIES), document(i + 1));
    const cases = [
      sequential("get, one at a time", 2000, get),
      sequential("set, one at a time", 2000, set),
      concurrent("get, 64 in flight", 64, 100, get),
      concurrent("set, 64 in flight", 64, 100, set),
      concurrent("get, 1,000 in flight", 1000, 10, get),
      concurrent("set, 1,000 in flight", 1000, 10, set),
    ];
    for (const each of cases) await compare(each, ours, peer);
    for (const each of cases) await cpu(each, ours, peer);
    heading(
      "Lists, beside SCAN COUNT 100 and a GET for each key (the peer has no list)",
    );
    const few = listing(
      "list of 50 among 200,000, the list",
      (i) => ["traces", String((i * 17) % (ENTRIES / 50))],
      50,
      "list",
      3,
    );
    const all = listing(
      "list of all 200,000, an entry",
      () => ["traces"],
      ENTRIES,
      "entry",
      1,
    );
    await compare(few, ours, peer, 3);
    await compare(all, ours, peer, 1);
    heading("The same with index: true");
    await compare(few, indexed, peer, 3);
    await compare(all, indexed, peer, 1);
    const sets = concurrent("set, 64 in flight", 64, 100, set);
    await compare(sets, indexed, peer);
    await Promise.all([ours.close(), indexed.close()]);
    client.disconnect();
  } finally {
    await server.stop();
  }
}

export async function redisSets(): Promise<void> {
  const server = await RedisServer.start();
  try {
    const client = new Redis(server.url);
    const ours = new RedisKvStore(server.url);
    heading(
      "Redis, the sets that Fedify makes, beside @fedify/redis on ioredis",
    );
    await compareSets(ours, new Peer(client), { inARow: 500, batches: 30 });
    await ours.close();
    client.disconnect();
  } finally {
    await server.stop();
  }
}
