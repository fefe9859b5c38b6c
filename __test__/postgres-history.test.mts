// Four stores in two processes, on few keys, while connections end, stall, and
// deliver bytes late: what the operations returned has a legal order.
import { randomInt } from "node:crypto";
import { setTimeout as later } from "node:timers/promises";
import { join } from "node:path";
import type { Sql } from "postgres";
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { PgBouncer, PostgresServer } from "./services/postgres.mts";
import {
  type Connection,
  type Direction,
  TcpProxy,
} from "./services/proxy.mts";
import { type Child, startChild } from "./support/child.mts";
import { numbers } from "./support/entries.mts";
import { type Operation, illegal } from "./support/history.mts";
import { type Options, ownTable } from "./support/postgres.mts";
import { type Random, randomFrom } from "./support/random.mts";
import type { Plan } from "./support/workload.mts";

const seed = Number(process.env.SEED ?? randomInt(2 ** 31));
const histories = Number(process.env.HISTORIES ?? 100);
/** How many histories run at the same time. */
const TOGETHER = 20;
const QUERY_TIMEOUT = 500;

let server: PostgresServer;
let sql: Sql;
beforeAll(async () => {
  server = await PostgresServer.start();
  sql = server.client();
});
afterAll(() => server.stop());

/** A process with two stores. */
async function worker(url: string, options: Options): Promise<Child> {
  const workload = join(import.meta.dirname, "support/workload.mts");
  const child = startChild(
    `
      const { work } = await import(data.workload);
      const { PostgresKvStore } = require(addon);
      const stores = [1, 2].map(() => new PostgresKvStore(data.url, data.options));
      for (const store of stores) await store.initialize();
      report("ready");
      for (;;) {
        const plan = await told();
        if (plan === undefined) break;
        report(await work(stores, plan));
      }
      await Promise.all(stores.map((store) => store.close()));
    `,
    { workload, url, options },
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
function disturb(proxy: TcpProxy, random: Random): () => Promise<void> {
  for (const connection of proxy.connections) arm(connection, random);
  proxy.onConnection = (connection) => arm(connection, random);
  const over = Promise.withResolvers<boolean>();
  const terminate = async () => {
    for (;;) {
      const received = proxy
        .receives("toServer", random.magnitude(1_000, 50_000))
        .then(() => false);
      if (await Promise.race([over.promise, received])) return;
      await sql`
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'fedify-kv' AND random() < 0.3`;
    }
  };
  const terminating = terminate();
  return async () => {
    proxy.onConnection = () => {};
    over.resolve(true);
    await terminating;
  };
}

const ways = [
  { name: "directly", pooled: false, fails: true, options: {} },
  {
    name: "through a pooler, without prepared statements",
    pooled: true,
    fails: true,
    options: { preparedStatements: false },
  },
  {
    name: "through a pooler, with default options",
    pooled: true,
    fails: false,
    options: {},
  },
];

describe(`HISTORIES=${histories} SEED=${seed}`, () => {
  test.each(ways)(
    "$name",
    async ({ pooled, fails, options }) => {
      const pooler = pooled ? await PgBouncer.start(server) : undefined;
      onTestFinished(() => pooler?.stop());
      const behind = pooler ?? server;
      const proxy = await TcpProxy.start(behind);
      onTestFinished(() => proxy.stop());
      const all = {
        ...options,
        tableName: ownTable(),
        maxConnections: 3,
        queryTimeout: QUERY_TIMEOUT,
      };
      const workers = await Promise.all(
        numbers(2).map(() => worker(proxy.url(behind), all)),
      );
      const random = randomFrom(seed);
      const end = fails ? disturb(proxy, random) : async () => {};
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
      expect(seen.answered).toBeGreaterThan(histories);
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
