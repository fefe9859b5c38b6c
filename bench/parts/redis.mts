import type { Redis } from "ioredis";
import { RedisServer } from "../../__test__/services/redis.mts";
import { RedisKvStore } from "../../index.js";
import type { Bench } from "../bench.mts";
import { compareCalls, compareWrites } from "../compare.mts";
import { document, key } from "../data.mts";
import { redisBenchmark } from "../floors/redis.mts";
import { keyvVersion, openKeyv } from "../peers/keyv.mts";
import { OfficialRedis } from "../peers/redis.mts";
import { SETS } from "../writes.mts";

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
      Keyv: "peer",
      "redis-benchmark": "floor",
    });
    const text = JSON.stringify(document(0));
    const name = "floor::__rand_int__";
    await redisBenchmark(server, 1000, ENTRIES, ["SET", name, text])
      .prepare(0, 10)
      .then((fill) => fill());
    const commands = { get: ["GET", name], set: ["SET", name, text] };
    await compareCalls(table, stores, ENTRIES, {
      floor: (call, width) => ({
        "redis-benchmark": redisBenchmark(
          server,
          width,
          ENTRIES,
          commands[call],
        ),
      }),
    });

    const writes = bench.table("Redis, the sets that Fedify makes", {
      "fedify-kv": "ours",
      "fedify-kv, index": "ours",
      "@fedify/redis": "peer",
      Keyv: "peer",
    });
    await compareWrites(writes, SETS, {
      "fedify-kv": ours,
      "fedify-kv, index": indexed,
      "@fedify/redis": stores["@fedify/redis"],
      Keyv: keyv,
    });
  } finally {
    await Promise.all([ours.close(), indexed.close(), keyv.close()]);
    await server.stop();
  }
}

export async function redisVersion(client: Redis): Promise<string> {
  const info = await client.info("server");
  return info.match(/redis_version:(\S+)/)![1]!;
}
