// Four stores in two processes, on few keys, while connections end, stall, and
// deliver bytes late: what the operations returned has a legal order.
import { randomInt } from "node:crypto";
import { setTimeout as later } from "node:timers/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { PgBouncer, PostgresServer } from "./services/postgres.mts";
import {
  type Connection,
  type Direction,
  TcpProxy,
} from "./services/proxy.mts";
import { type Child, startChild } from "./support/child.mts";
import { numbers } from "./support/entries.mts";
import { type Operation, illegal } from "./support/history.mts";
import { type Random, randomFrom } from "./support/random.mts";
import type { Plan } from "./support/workload.mts";

const seed = Number(process.env.SEED ?? randomInt(2 ** 31));
const histories = Number(process.env.HISTORIES ?? 100);
/** How many histories run at the same time. */
const TOGETHER = 20;
const QUERY_TIMEOUT = 500;

/** A process with two stores. */
async function worker(
  name: string,
  url: string,
  options: object,
): Promise<Child> {
  const workload = join(import.meta.dirname, "support/workload.mts");
  const child = startChild(
    `
      const { work } = await import(data.workload);
      const { [data.name]: Store } = require(addon);
      const stores = [1, 2].map(() => new Store(data.url, data.options));
      for (const store of stores) await store.initialize();
      report("ready");
      for (;;) {
        const plan = await told();
        if (plan === undefined) break;
        report(await work(stores, plan));
      }
      await Promise.all(stores.map((store) => store.close()));
    `,
    { name, workload, url, options },
  );
  expect(await child.next()).toBe("ready");
  return child;
}

/** Cuts or stalls a connection at a random byte. */
function arm(connection: Connection, random: Random): void {
  const direction = random.of<Direction>(["toServer", "toClient"]);
  const cuts = random.chance(0.5);
  const pause = random.magnitude(10, 4 * QUERY_TIMEOUT);
  connection.after(direction, random.magnitude(200, 20_000), () => {
    if (cuts) return connection.cut();
    connection.stall(direction);
    void later(pause).then(() => {
      connection.resume(direction);
      arm(connection, random);
    });
  });
}

/**
 * Cuts and stalls connections, and ends them on the server, until the function
 * that it returns is called.
 */
function disturb(
  proxy: TcpProxy,
  random: Random,
  terminateSome: (random: Random) => Promise<unknown>,
): () => Promise<void> {
  for (const connection of proxy.connections) arm(connection, random);
  proxy.onConnection = (connection) => arm(connection, random);
  const over = Promise.withResolvers<boolean>();
  const terminate = async () => {
    for (;;) {
      const received = proxy
        .receives("toServer", random.magnitude(1_000, 50_000))
        .then(() => false);
      if (await Promise.race([over.promise, received])) return;
      await terminateSome(random);
    }
  };
  const terminating = terminate();
  return async () => {
    proxy.onConnection = () => {};
    over.resolve(true);
    await terminating;
  };
}

interface Behind {
  readonly url: string;
  readonly port: number;
  /** Ends some of the stores' connections. */
  terminateSome(random: Random): Promise<unknown>;
}

async function postgres(pooled = false): Promise<Behind> {
  const server = await PostgresServer.start();
  const pooler = pooled ? await PgBouncer.start(server) : undefined;
  onTestFinished(async () => {
    await pooler?.stop();
    await server.stop();
  });
  const sql = server.client();
  const { url, port } = pooler ?? server;
  return {
    url,
    port,
    terminateSome: () => sql`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE application_name = 'fedify-kv' AND random() < 0.3`,
  };
}

async function mysql(): Promise<Behind> {
  const server = await MysqlServer.start();
  onTestFinished(() => server.stop());
  return {
    url: server.url,
    port: server.port,
    terminateSome: async (random) => {
      const rows = await server.sql(
        "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE USER = 'fedify'",
      );
      const some = rows.filter(() => random.chance(0.3));
      // It may have ended by itself.
      const kill = ({ id }: { id?: unknown }) =>
        server.sql(`KILL CONNECTION ${id}`).catch(() => {});
      await Promise.all(some.map(kill));
    },
  };
}

const ways = [
  {
    name: "PostgreSQL",
    store: "PostgresKvStore",
    start: () => postgres(),
    fails: true,
    options: {},
  },
  {
    name: "PostgreSQL through a pooler, without prepared statements",
    store: "PostgresKvStore",
    start: () => postgres(true),
    fails: true,
    options: { preparedStatements: false },
  },
  {
    name: "PostgreSQL through a pooler, with default options",
    store: "PostgresKvStore",
    start: () => postgres(true),
    fails: false,
    options: {},
  },
  {
    name: "MariaDB",
    store: "MysqlKvStore",
    start: () => mysql(),
    fails: true,
    options: {},
  },
];

describe(`HISTORIES=${histories} SEED=${seed}`, () => {
  test.each(ways)(
    "$name",
    async ({ store, start, fails, options }) => {
      const behind = await start();
      const proxy = await TcpProxy.start(behind);
      onTestFinished(() => proxy.stop());
      const all = {
        ...options,
        maxConnections: 3,
        // Without faults, nothing is to be late on a busy machine.
        queryTimeout: fails ? QUERY_TIMEOUT : 60_000,
      };
      const workers = await Promise.all(
        numbers(2).map(() => worker(store, proxy.url(behind), all)),
      );
      const random = randomFrom(seed);
      const end = fails
        ? disturb(proxy, random, behind.terminateSome)
        : async () => {};
      const seen = { answered: 0, unknown: 0, "not done": 0 };
      for (let from = 0; from < histories / 2; from += TOGETHER) {
        const names = numbers(TOGETHER).map((i) => String(from + i));
        const operations = await round(workers, random, names);
        for (const { outcome } of operations) {
          seen["failed" in outcome ? outcome.failed : "answered"] += 1;
        }
        expect(illegal(operations)).toEqual([]);
      }
      await end();
      const rejected = seen.unknown + seen["not done"];
      expect(rejected > 0, JSON.stringify(seen)).toBe(fails);
      // A pooler whose connections all stall answers little.
      expect(seen.answered).toBeGreaterThan(histories / 10);
    },
    60_000 + histories * 1_000,
  );
});

/** All operations of some histories. */
async function round(
  workers: readonly Child[],
  random: Random,
  histories: readonly string[],
): Promise<Operation[]> {
  const done = workers.map((child, i) => {
    const plan: Plan = {
      name: String(i),
      seed: random.below(2 ** 31),
      histories,
      clients: 2,
      operations: 6,
      keys: 3,
    };
    child.tell(plan);
    return child.next<Operation[]>();
  });
  return (await Promise.all(done)).flat();
}
