// What tests do to the nodes of a cluster.
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import type { RedisCluster } from "../services/redis-cluster.mts";
import type { RedisServer, Settings } from "../services/redis.mts";

/** Changes settings of all nodes. */
export async function configure(
  cluster: RedisCluster,
  settings: Settings,
): Promise<void> {
  for (const node of cluster.nodes) {
    for (const [name, value] of Object.entries(settings)) {
      await cluster.clientOf(node).config("SET", name, value);
    }
  }
}

/** A key whose slot depends on the tag only. */
export const tagged = (tag: string, i: number) =>
  ["k", `{${tag}}${i}`] as const;

/** A tag whose keys are in a slot of this node. */
export async function tagOn(
  cluster: RedisCluster,
  node: RedisServer,
): Promise<string> {
  for (let i = 0; ; i += 1) {
    const slot = await cluster.slotOf(`{${i}}`);
    if ((await cluster.ownerOf(slot)) === node) return String(i);
  }
}

/** Waits until every running node says that all slots are served. */
export async function healthy(cluster: RedisCluster): Promise<void> {
  const running = cluster.nodes.filter(({ isRunning }) => isRunning);
  for (const node of running) {
    const client = cluster.clientOf(node);
    await expect
      .poll(async () => String(await client.call("CLUSTER", "INFO")))
      .toContain("cluster_state:ok");
  }
}

/** Starts the nodes that were killed, and waits until each master has a replica. */
export async function restore(cluster: RedisCluster): Promise<void> {
  for (const node of cluster.nodes) {
    if (!node.isRunning) await node.start();
  }
  const roles = async () => {
    const replication = await Promise.all(
      cluster.nodes.map((node) => cluster.clientOf(node).info("replication")),
    );
    const count = (pattern: RegExp) =>
      replication.filter((text) => pattern.test(text)).length;
    return [count(/connected_slaves:1/), count(/master_link_status:up/)];
  };
  const half = cluster.replicas.length;
  await expect.poll(roles).toEqual([half, half]);
  await healthy(cluster);
}

/** How often the nodes have answered with this error. */
export async function errors(
  cluster: RedisCluster,
  name: string,
): Promise<number> {
  let total = 0;
  for (const node of cluster.nodes.filter(({ isRunning }) => isRunning)) {
    const stats = await cluster.clientOf(node).info("errorstats");
    const pattern = new RegExp(`errorstat_${name}:count=(\\d+)`);
    total += Number(pattern.exec(stats)?.[1] ?? 0);
  }
  return total;
}

/**
 * Makes a replica the master, with its old master's consent. Other nodes may refuse
 * until twice the node timeout after the master was replaced before.
 */
export async function failOver(
  cluster: RedisCluster,
  replica: RedisServer,
): Promise<void> {
  const client = cluster.clientOf(replica);
  await expect
    .poll(async () => String(await client.info("replication")))
    .toContain("master_link_status:up");
  const isMaster = () =>
    expect
      .poll(async () => (await client.role())[0], { timeout: 6_000 })
      .toBe("master")
      .then(
        () => true,
        () => false,
      );
  // The nodes give up after five seconds.
  do await client.call("CLUSTER", "FAILOVER");
  while (!(await isMaster()));
}

/** The node that replicates this master. */
export async function replicaOf(
  cluster: RedisCluster,
  master: RedisServer,
): Promise<RedisServer> {
  const { port } = master;
  for (const node of cluster.nodes.filter(({ isRunning }) => isRunning)) {
    const [role, , masterPort] = await cluster.clientOf(node).role();
    if (role === "slave" && masterPort === port) return node;
  }
  throw new Error(`nothing replicates ${port}`);
}

/**
 * Takes a master out of the cluster. Another master gets its slots; its entries
 * are lost.
 */
export async function remove(
  cluster: RedisCluster,
  node: RedisServer,
): Promise<void> {
  const id = String(await cluster.clientOf(node).cluster("MYID"));
  const ranges = (await cluster.clientOf(node).call("CLUSTER", "SLOTS")) as [
    number,
    number,
    [string, number],
  ][];
  const own = ranges.filter(([, , [, port]]) => port === node.port);
  await cluster.clientOf(node).flushall();
  await cluster.clientOf(node).call("CLUSTER", "RESET", "HARD");
  const others = cluster.masters.filter((other) => other !== node);
  for (const other of others) {
    await cluster.clientOf(other).call("CLUSTER", "FORGET", id);
  }
  const [heir] = others;
  for (const [first, last] of own) {
    await cluster
      .clientOf(heir ?? node)
      .call("CLUSTER", "ADDSLOTSRANGE", first, last);
  }
}

/** Makes a node that is in no cluster a cluster of its own. */
export async function found(
  cluster: RedisCluster,
  node: RedisServer,
): Promise<void> {
  await cluster.clientOf(node).call("CLUSTER", "ADDSLOTSRANGE", 0, 16_383);
}

/** Replaces a node by an empty one that has the same address. */
export async function replace(node: RedisServer): Promise<void> {
  await node.kill();
  await rm(join(node.directory, "nodes.conf"), { force: true });
  await node.start();
}
