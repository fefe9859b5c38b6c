import type { Redis } from "ioredis";
import { RedisServer } from "../../__test__/services/redis.mts";
import { RedisKvStore } from "../../index.js";
import type { Bench } from "../bench.mts";
import { compareCalls } from "../compare.mts";
import { document, key } from "../data.mts";
import { depthOf } from "../floors/depth.mts";
import { redisBenchmark } from "../floors/redis.mts";
import { gets, type Job, SETS, sets } from "../jobs.mts";
import { keyvVersion, openKeyv } from "../peers/keyv.mts";
import { BareRedis, OfficialRedis } from "../peers/redis.mts";

const ENTRIES = 20_000;

export async function redis(bench: Bench): Promise<void> {
  bench.packages("@fedify/redis", "ioredis");
  bench.version("@keyv/redis", keyvVersion("@keyv/redis"));
  bench.progress("starting a server");
  const server = await RedisServer.start();
  const client = server.client();
  const ours = new RedisKvStore(server.url);
  const indexed = new RedisKvStore(server.url, {
    index: true,
    keyPrefix: "indexed::",
  });
  const keyv = await openKeyv("redis", server.url);
  try {
    bench.version("Redis", await redisVersion(client));
    const ioredis = new BareRedis(client);
    const stores = {
      "fedify-kv": ours,
      "@fedify/redis": new OfficialRedis(client),
      Keyv: keyv,
    };
    bench.progress("filling the server");
    // The same entries are used by both sides, except for Keyv.
    const keys = Array.from({ length: ENTRIES }, (_, i) => key(i));
    await Promise.all(keys.map((key) => ours.set(key, document(0))));
    await keyv.fill(keys, document(0));

    const table = bench.table("Redis, calls among 20,000 entries", {
      "fedify-kv": "ours",
      "@fedify/redis": "peer",
      ioredis: "peer",
      Keyv: "peer",
      "redis-benchmark": "floor",
    });
    const text = JSON.stringify(document(0));
    const name = "floor::__rand_int__";
    await redisBenchmark(server, 1000, ENTRIES, ["SET", name, text])
      .prepare(0, 10)
      .then((fill) => fill());
    const floor =
      (command: readonly string[]) =>
      ({ pattern }: Job) => {
        const depth = depthOf(pattern);
        if (depth === undefined) return undefined;
        const work = redisBenchmark(server, depth, ENTRIES, command);
        return { "redis-benchmark": work };
      };
    const readers = { ...stores, ioredis };
    await compareCalls(table, readers, gets(ENTRIES), floor(["GET", name]));
    await compareCalls(
      table,
      stores,
      sets(ENTRIES),
      floor(["SET", name, text]),
    );

    const writes = bench.table("Redis, the sets that Fedify makes", {
      "fedify-kv": "ours",
      "fedify-kv, index": "ours",
      "@fedify/redis": "peer",
      Keyv: "peer",
    });
    const writers = { ...stores, "fedify-kv, index": indexed };
    await compareCalls(writes, writers, SETS);
  } finally {
    await Promise.all([ours.close(), indexed.close(), keyv.close()]);
    await server.stop();
  }
}

export async function redisVersion(client: Redis): Promise<string> {
  const info = await client.info("server");
  return info.match(/redis_version:(\S+)/)![1]!;
}
