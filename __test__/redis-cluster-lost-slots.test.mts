// Slots that no node serves: operations wait, at little cost, and reject with the
// reason when their time is over.
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { RedisKvStore } from "../index.js";
import { RedisCluster } from "./services/redis-cluster.mts";
import type { Program } from "./services/redis.mts";
import { ask } from "./support/child.mts";
import { keysOf } from "./support/collect.mts";
import {
  configure,
  errors,
  healthy,
  tagOn,
  tagged,
} from "./support/redis-cluster.mts";
import { openStore } from "./support/redis.mts";
import type { KvError } from "./support/rejection.mts";

const TIMEOUT = 3_000;

/** Milliseconds of CPU that the process of a store may take in that time. */
const LITTLE = TIMEOUT / 3;

describe.each<Program>(["redis-server", "valkey-server"])("%s", (program) => {
  let cluster: RedisCluster;
  /** A key of the first master's, and its slot. */
  let lost: readonly [string, string];
  let slot: number;
  beforeAll(async () => {
    cluster = await RedisCluster.start(false, undefined, program);
    const tag = await tagOn(cluster, cluster.masters[0]!);
    lost = tagged(tag, 0);
    slot = await cluster.slotOf(`{${tag}}`);
  });
  afterAll(() => cluster.stop());
  afterEach(async () => {
    await assign();
    await configure(cluster, { "cluster-require-full-coverage": "yes" });
    await healthy(cluster);
    await cluster.flush();
  });

  const clients = () => cluster.masters.map((node) => cluster.clientOf(node));

  /** Takes the slot from its master. No node has it then. */
  async function unassign(): Promise<void> {
    for (const client of clients()) {
      await client.call("CLUSTER", "DELSLOTS", slot);
    }
  }

  /** Gives the slot to the first master. */
  async function assign(): Promise<void> {
    const id = String(await clients()[0]?.cluster("MYID"));
    for (const client of clients()) {
      await client.call("CLUSTER", "SETSLOT", slot, "NODE", id);
    }
  }

  interface Report {
    readonly errors: Record<string, Pick<KvError, "code" | "message">>;
    /** Milliseconds. */
    readonly cpu: number;
  }

  /** Calls operations of that key in another process, whose CPU it measures. */
  const call = () =>
    ask<Report>(
      `
        const { RedisKvStore } = require(addon);
        const store = new RedisKvStore(data.urls, { commandTimeout: data.timeout });
        await store.get(["other"]);
        const { key } = data;
        const before = process.cpuUsage();
        const calls = {
          get: store.get(key),
          set: store.set(key, 1),
          cas: store.cas(key, 1, 2),
          delete: store.delete(key),
        };
        const errors = {};
        for (const [name, promise] of Object.entries(calls)) {
          await promise.then(
            () => { errors[name] = { code: "resolved", message: "" }; },
            ({ code, message }) => { errors[name] = { code, message }; },
          );
        }
        const { user, system } = process.cpuUsage(before);
        await store.close();
        report({ errors, cpu: (user + system) / 1_000 });
      `,
      { urls: cluster.urls, timeout: TIMEOUT, key: lost },
    );

  function expectRejected({ errors, cpu }: Report, reason: RegExp): void {
    for (const [name, { code, message }] of Object.entries(errors)) {
      expect([name, code]).toEqual([name, "ERR_KV_TIMEOUT"]);
      // A write may have been on its way when its time was over.
      expect(message).toMatch(name === "get" ? reason : /./);
    }
    expect(cpu).toBeLessThan(LITTLE);
  }

  test("a slot that no node has", async () => {
    await configure(cluster, { "cluster-require-full-coverage": "no" });
    await unassign();
    expectRejected(await call(), /CLUSTERDOWN|slot/);
    expect(await errors(cluster, "CLUSTERDOWN")).toBeLessThan(500);
  });

  test("a cluster that serves no slot while it lacks one", async () => {
    await unassign();
    await expect
      .poll(async () => String(await clients()[1]?.call("CLUSTER", "INFO")))
      .toContain("cluster_state:fail");
    const store = openStore(cluster.urls, { commandTimeout: 30_000 });
    const operations: ((store: RedisKvStore) => Promise<unknown>)[] = [
      (store) => store.cas(["c"], undefined, 1),
      (store) => store.set(["s"], 1),
      (store) => store.get(["g"]),
      (store) => store.delete(["d"]),
      (store) => keysOf(store.list(["l"])),
      (store) => store.clear(["x"]),
      (store) => store.initialize(),
    ];
    const before = await errors(cluster, "CLUSTERDOWN");
    const answers = Promise.all(
      operations.map((call) => call(store).catch(String)),
    );
    const refused = expect
      .poll(() => errors(cluster, "CLUSTERDOWN"))
      .toBeGreaterThan(before);
    await Promise.race([answers, refused]);
    await assign();
    expect(await answers).toEqual([
      true,
      undefined,
      undefined,
      undefined,
      [],
      0,
      undefined,
    ]);
    expect(await store.get(["s"])).toBe(1);
  });

  test("two nodes that redirect to each other", async () => {
    // The first says that the second has the slot, and the other way round.
    const [first, second] = clients();
    const id = String(await second?.cluster("MYID"));
    await first?.call("CLUSTER", "SETSLOT", slot, "NODE", id);
    const before = await errors(cluster, "MOVED");
    expectRejected(await call(), /redirect|MOVED/);
    expect((await errors(cluster, "MOVED")) - before).toBeLessThan(1_000);
  });

  test("other slots are served meanwhile", async () => {
    await configure(cluster, { "cluster-require-full-coverage": "no" });
    await unassign();
    const store = openStore(cluster.urls, { commandTimeout: 10_000 });
    const waiting = store.get(lost);
    for (const master of cluster.masters.slice(1)) {
      const key = tagged(await tagOn(cluster, master), 0);
      await store.set(key, 1);
      expect(await store.cas(key, 1, 2)).toBe(true);
    }
    await assign();
    expect(await waiting).toBeUndefined();
  });
});
