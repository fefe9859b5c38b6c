// A Redis cluster for a test: three masters, optionally with a replica each.
import { setTimeout as later } from "node:timers/promises";
import { Cluster, type Redis } from "ioredis";
import {
  type Program,
  RedisServer,
  type Settings,
  freePort,
} from "./redis.mts";

export class RedisCluster {
  readonly masters: readonly RedisServer[];
  readonly replicas: readonly RedisServer[];
  readonly #clients = new Map<RedisServer, Redis>();
  #cluster: Cluster | undefined;

  private constructor(
    masters: readonly RedisServer[],
    replicas: readonly RedisServer[],
  ) {
    this.masters = masters;
    this.replicas = replicas;
  }

  /** `more` returns additional settings for a node. */
  static async start(
    replicated = false,
    more: () => Promise<Settings> = async () => ({}),
    program: Program = "redis-server",
  ): Promise<RedisCluster> {
    const count = replicated ? 6 : 3;
    const nodes = await Promise.all(
      Array.from({ length: count }, async () =>
        RedisServer.start(
          {
            "cluster-enabled": "yes",
            // Without replicas no test stops a node. The timeout is long then, so
            // that a slow node on a busy machine doesn't count as failed.
            "cluster-node-timeout": replicated ? 1_000 : 15_000,
            "cluster-port": await freePort(),
            "cluster-replica-validity-factor": 0,
            "repl-diskless-sync-delay": 0,
            // Replicas are in the map only after something was replicated.
            "repl-ping-replica-period": 1,
            ...(await more()),
          },
          program,
        ),
      ),
    );
    const cluster = new RedisCluster(nodes.slice(0, 3), nodes.slice(3));
    await cluster.#join();
    return cluster;
  }

  get nodes(): RedisServer[] {
    return [...this.masters, ...this.replicas];
  }

  get urls(): string[] {
    return this.masters.map(({ url }) => url);
  }

  /** A client of the whole cluster. */
  client(): Cluster {
    this.#cluster ??= new Cluster(
      this.masters.map(({ port }) => ({ host: "127.0.0.1", port })),
    );
    this.#cluster.on("error", () => {});
    return this.#cluster;
  }

  /** The slot of a key. */
  async slotOf(name: string): Promise<number> {
    return Number(await this.#anyClient().call("CLUSTER", "KEYSLOT", name));
  }

  /** Moves a slot to another master, key by key, as resharding does. */
  async move(slot: number): Promise<void> {
    const opened = await this.openSlot(slot);
    while ((await opened.moveKeys(10)) > 0);
    await opened.close();
  }

  /** Begins to move a slot to another master. */
  async openSlot(slot: number): Promise<OpenSlot> {
    const masters = await this.runningMasters();
    const owner = await this.ownerOf(slot);
    const from = masters.indexOf(owner);
    const [source, target] = [owner, masters[(from + 1) % masters.length]];
    const opened = new OpenSlot(
      slot,
      this.clientOf(source),
      this.clientOf(target ?? source),
    );
    await opened.open();
    return opened;
  }

  /** The master that has a slot. */
  async ownerOf(slot: number): Promise<RedisServer> {
    for (const node of await this.runningMasters()) {
      const nodes = String(await this.clientOf(node).cluster("NODES"));
      const own = nodes.split("\n").find((line) => line.includes("myself"));
      const has = ([first, last]: [number, number]) =>
        first <= slot && slot <= last;
      if (slots(own ?? "").some(has)) return node;
    }
    throw new Error(`no master has slot ${slot}`);
  }

  /** The running nodes that are masters now. */
  async runningMasters(): Promise<RedisServer[]> {
    const running = this.nodes.filter(({ isRunning }) => isRunning);
    const roles = await Promise.all(
      running.map((node) => this.clientOf(node).role()),
    );
    return running.filter((_, i) => roles[i]?.[0] === "master");
  }

  /** How many times nodes have answered MOVED, and how many times ASK. */
  async redirections(): Promise<{ moved: number; asked: number }> {
    const total = { moved: 0, asked: 0 };
    for (const client of await this.#masters()) {
      const stats = await client.info("errorstats");
      total.moved += Number(
        /errorstat_MOVED:count=(\d+)/.exec(stats)?.[1] ?? 0,
      );
      total.asked += Number(/errorstat_ASK:count=(\d+)/.exec(stats)?.[1] ?? 0);
    }
    return total;
  }

  /** Waits until all replicas have the data of their masters. */
  async replicated(): Promise<void> {
    const masters = await this.#masters();
    for (const client of masters) {
      while ((await client.wait(1, 1_000)) < 1);
    }
  }

  async flush(): Promise<void> {
    for (const client of await this.#masters()) {
      await client.flushall();
    }
  }

  async stop(): Promise<void> {
    this.#cluster?.disconnect();
    await Promise.all(this.nodes.map((node) => node.stop()));
  }

  #anyClient(): Redis {
    const node = this.nodes.find(({ isRunning }) => isRunning);
    if (node === undefined) {
      throw new Error("no node is running");
    }
    return this.clientOf(node);
  }

  /** A client of one node. */
  clientOf(node: RedisServer): Redis {
    const client = this.#clients.get(node) ?? node.client();
    this.#clients.set(node, client);
    return client;
  }

  async #masters(): Promise<Redis[]> {
    const masters = await this.runningMasters();
    return masters.map((node) => this.clientOf(node));
  }

  async #join(): Promise<void> {
    const { nodes } = this;
    const clients = nodes.map((node) => node.client());
    const [first] = clients as [Redis];
    for (const [i, client] of clients.slice(0, 3).entries()) {
      const [from, to] = [5462 * i, Math.min(5462 * (i + 1), 16384) - 1];
      await client.call("CLUSTER", "ADDSLOTSRANGE", from, to);
      await client.call("CLUSTER", "SET-CONFIG-EPOCH", i + 1);
    }
    const ids = await Promise.all(
      clients.map(async (client) => String(await client.cluster("MYID"))),
    );
    const meet = async (node: RedisServer, client: Redis) => {
      const bus = (await client.config("GET", "cluster-port")) as string[];
      await first.call("CLUSTER", "MEET", "127.0.0.1", node.port, bus[1] ?? "");
    };
    // A node that was too slow to answer needs another MEET.
    await this.#until([first], async () => {
      const known = String(await first.cluster("NODES"));
      const missing = nodes.filter((_, i) => !known.includes(ids[i] ?? ""));
      for (const node of missing) await meet(node, this.clientOf(node));
      return missing.length === 0;
    });
    await this.#until(clients, async (client) => {
      const known = String(await client.cluster("NODES"));
      return ids.every((id) => known.includes(id));
    });
    for (const [i, replica] of this.replicas.entries()) {
      await replica.client().call("CLUSTER", "REPLICATE", ids[i] ?? "");
    }
    await this.#until(clients, async (client) => {
      const info = String(await client.call("CLUSTER", "INFO"));
      const slots = (await client.call("CLUSTER", "SLOTS")) as unknown[][];
      return (
        info.includes("cluster_state:ok") &&
        slots.length === 3 &&
        slots.every((slot) => slot.length === 2 + nodes.length / 3)
      );
    });
  }

  /**
   * Polls until a condition holds for every client. Nodes spread changes by
   * gossip, and there is no event for the end of that.
   */
  async #until(
    clients: readonly Redis[],
    holds: (client: Redis) => Promise<boolean>,
  ): Promise<void> {
    for (const client of clients) {
      while (!(await holds(client))) {
        await later(20);
      }
    }
  }
}

/** A slot that is on its way to another master. */
export class OpenSlot {
  readonly slot: number;
  readonly source: Redis;
  readonly target: Redis;

  constructor(slot: number, source: Redis, target: Redis) {
    this.slot = slot;
    this.source = source;
    this.target = target;
  }

  async open(): Promise<void> {
    const { source, target, slot } = this;
    const [from, to] = await this.#ids();
    await target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", from);
    await source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", to);
  }

  /** Moves some of the keys that are left. Returns how many. */
  async moveKeys(count: number): Promise<number> {
    const { source, target, slot } = this;
    const names = await source.call("CLUSTER", "GETKEYSINSLOT", slot, count);
    if (!Array.isArray(names) || names.length === 0) return 0;
    const port = target.options.port ?? 0;
    await source.migrate("127.0.0.1", port, "", 0, 5_000, "KEYS", ...names);
    return names.length;
  }

  /** Ends the move. The slot must have no keys left in the source. */
  async close(): Promise<void> {
    const [, to] = await this.#ids();
    for (const client of [this.target, this.source]) {
      await client.call("CLUSTER", "SETSLOT", this.slot, "NODE", to);
    }
    // Otherwise the next move may go to the source with an epoch that is too old,
    // and then the nodes would undo it.
    const epoch = await numberIn(this.target, "cluster_my_epoch");
    while ((await numberIn(this.source, "cluster_current_epoch")) < epoch) {
      await later(5);
    }
  }

  async #ids(): Promise<[source: string, target: string]> {
    return [
      String(await this.source.cluster("MYID")),
      String(await this.target.cluster("MYID")),
    ];
  }
}

/** A number in CLUSTER INFO. */
async function numberIn(client: Redis, name: string): Promise<number> {
  const info = String(await client.call("CLUSTER", "INFO"));
  return Number(new RegExp(`${name}:(\\d+)`).exec(info)?.[1]);
}

/** The first and last slot of each range in a line of CLUSTER NODES. */
function slots(line: string): [number, number][] {
  return line
    .split(" ")
    .slice(8)
    .filter((range) => !range.startsWith("["))
    .map((range) => {
      const [first, last = first] = range.split("-").map(Number);
      return [first ?? -1, last ?? -1];
    });
}
