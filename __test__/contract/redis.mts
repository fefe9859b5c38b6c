// The contract suite's rows for Redis and Valkey. Each row has its own servers.
import type { Redis } from "ioredis";
import { RedisKvStore } from "../../index.js";
import { RedisCluster } from "../services/redis-cluster.mts";
import { type Program, RedisServer } from "../services/redis.mts";
import { type Options, ownPrefix } from "../support/redis.mts";
import { PATIENCE, type Row, type Store } from "./fixture.mts";

function oneServer(name: string, options: Options, program?: Program): Row {
  let server: RedisServer;
  let client: Redis;
  return {
    name,
    setUp: async () => {
      server = await RedisServer.start({}, program);
      client = server.client();
    },
    tearDown: () => server.stop(),
    open: async () => {
      const handles: Store[] = [];
      const keyPrefix = ownPrefix();
      const openAnother = () => {
        const handle = new RedisKvStore(server.url, {
          keyPrefix,
          commandTimeout: PATIENCE,
          ...options,
        });
        handles.push(handle);
        return handle;
      };
      return {
        store: openAnother(),
        openAnother,
        remove: async () => {
          await Promise.all(handles.map((handle) => handle.close()));
          await client.flushall();
        },
      };
    },
  };
}

function cluster(name: string, options: Options, program?: Program): Row {
  let nodes: RedisCluster;
  return {
    name,
    setUp: async () => {
      nodes = await RedisCluster.start(false, undefined, program);
    },
    tearDown: () => nodes.stop(),
    open: async () => {
      const handles: Store[] = [];
      const keyPrefix = ownPrefix();
      const openAnother = () => {
        const handle = new RedisKvStore(nodes.urls, {
          keyPrefix,
          commandTimeout: PATIENCE,
          ...options,
        });
        handles.push(handle);
        return handle;
      };
      return {
        store: openAnother(),
        openAnother,
        remove: async () => {
          await Promise.all(handles.map((handle) => handle.close()));
          await nodes.flush();
        },
      };
    },
  };
}

export const redisRows: readonly Row[] = [
  oneServer("redis, one server", {}),
  oneServer("redis, one server, indexed", { index: true }),
  oneServer("valkey, one server", {}, "valkey-server"),
  cluster("valkey, a cluster of three", {}, "valkey-server"),
  cluster("redis, a cluster of three, indexed in one slot", {
    index: true,
    keyPrefix: "{fedify}::",
  }),
];
