// What may happen to Redis servers without the loss of an awaited write: they keep
// each write on disk, and masters hand over in order.
import { setTimeout as later } from "node:timers/promises";
import type { RedisCluster } from "../services/redis-cluster.mts";
import type { RedisServer, Settings } from "../services/redis.mts";
import type { Random } from "./random.mts";
import { failOver, healthy, replicaOf } from "./redis-cluster.mts";

/** An awaited write survives a crash of the server. */
export const durable: Settings = { appendonly: "yes", appendfsync: "always" };

/**
 * Settings of a cluster: a master that is away is not replaced, since its replica
 * may lack its last writes.
 */
export const orderly: Settings = {
  ...durable,
  "cluster-replica-no-failover": "yes",
};

/** The longest pause of a server, in milliseconds. */
const PAUSE = 1_500;

async function pauseFor(server: RedisServer, random: Random): Promise<void> {
  await server.pause();
  await later(random.magnitude(10, PAUSE));
  server.resume();
}

async function restart(server: RedisServer): Promise<void> {
  await server.kill();
  await server.start();
}

/** Pauses a server, or kills and restarts it. */
export async function disturbServer(
  server: RedisServer,
  random: Random,
): Promise<void> {
  if (random.chance(0.5)) await pauseFor(server, random);
  else await restart(server);
}

/** Ends some connections to a server. */
export async function terminateSome(
  server: RedisServer,
  random: Random,
): Promise<void> {
  const redis = server.client();
  const own = await redis.client("ID");
  const list = String(await redis.client("LIST"));
  const ids = Array.from(list.matchAll(/^id=(\d+) /gm), ([, id]) => Number(id));
  for (const id of ids) {
    if (id === own || !random.chance(0.3)) continue;
    await redis.client("KILL", "ID", id);
  }
  redis.disconnect();
}

/**
 * Pauses or restarts a master, moves a slot of one of these names, or makes a
 * replica the master.
 */
export async function disturbCluster(
  cluster: RedisCluster,
  random: Random,
  names: readonly [string, ...string[]],
): Promise<void> {
  const masters = await cluster.runningMasters();
  const master = random.of(masters as [RedisServer, ...RedisServer[]]);
  const kind = random.of(["pause", "restart", "move", "move", "fail over"]);
  if (kind === "pause") await pauseFor(master, random);
  if (kind === "restart") await restart(master);
  if (kind === "move") {
    await cluster.move(await cluster.slotOf(random.of(names)));
  }
  if (kind === "fail over") {
    await failOver(cluster, await replicaOf(cluster, master));
  }
  await healthy(cluster);
}
