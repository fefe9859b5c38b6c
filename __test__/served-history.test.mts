// Four stores in two processes, on few keys, while connections end, stall, and
// deliver bytes late, answers get lost after their writes were carried out, and
// servers are stopped and replaced: what the operations returned has a legal order.
import { randomInt } from "node:crypto";
import { setTimeout as later } from "node:timers/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { DenokvServer, hasDenokv } from "./services/denokv.mts";
import { MysqlServer } from "./services/mysql.mts";
import { PgBouncer, PostgresServer } from "./services/postgres.mts";
import {
  type Connection,
  type Direction,
  type TcpProxy,
} from "./services/proxy.mts";
import { RedisCluster } from "./services/redis-cluster.mts";
import { type Program, RedisServer } from "./services/redis.mts";
import { type Child, startChild } from "./support/child.mts";
import { numbers } from "./support/entries.mts";
import { type Operation, illegal } from "./support/history.mts";
import {
  type Answer,
  KvConnectServer,
  conflict,
  token,
  writeDisabled,
} from "./support/kv-connect.mts";
import { type Random, randomFrom } from "./support/random.mts";
import {
  disturbCluster,
  disturbServer,
  durable,
  orderly,
  terminateSome,
} from "./support/redis-disturb.mts";
import { startProxy } from "./support/served.mts";
import type { Plan } from "./support/workload.mts";

const seed = Number(process.env.SEED ?? randomInt(2 ** 31));
const histories = Number(process.env.HISTORIES ?? 100);
/** How many histories run at the same time. */
const TOGETHER = 20;
/** In the names of histories. In a cluster, they choose the slots of the keys. */
const tags = ["{0}", "{1}", "{2}", "{3}", "{4}"] as const;
/** How long an operation may take, in milliseconds. */
const TIMEOUT = 500;

/** A process with two stores. */
async function worker(
  name: string,
  url: string | readonly string[],
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
  const pause = random.magnitude(10, 4 * TIMEOUT);
  connection.after(direction, random.magnitude(200, 20_000), () => {
    if (cuts) return connection.cut();
    connection.stall(direction);
    // Late bytes arrive though their sender has given up.
    void later(pause).then(() => {
      connection.resume(direction);
      arm(connection, random);
    });
  });
}

interface Disturbance {
  /** Whether enough has happened. */
  readonly isEnough?: () => boolean;
  end(): void | Promise<void>;
}

/** Cuts and stalls connections. */
function disturb(proxy: TcpProxy, random: Random): Disturbance {
  for (const connection of proxy.connections) arm(connection, random);
  proxy.onConnection = (connection) => arm(connection, random);
  return {
    end: () => {
      proxy.onConnection = () => {};
    },
  };
}

/** Makes something happen again and again, after random pauses. */
function repeated(random: Random, act: () => Promise<unknown>): Disturbance {
  let count = 0;
  let isOver = false;
  const run = async () => {
    for (; !isOver; count += 1) {
      await later(random.magnitude(10, TIMEOUT));
      await act();
    }
  };
  const running = run().finally(() => {
    isOver = true;
  });
  // `end` reports a failure.
  running.catch(() => {});
  return {
    isEnough: () => isOver || count >= histories / 10,
    end: () => {
      isOver = true;
      return running;
    },
  };
}

/** Ends connections on the server from time to time. */
function terminating(
  proxy: TcpProxy | undefined,
  random: Random,
  terminateSome: () => Promise<unknown>,
): Disturbance[] {
  if (proxy === undefined) return [];
  const over = Promise.withResolvers<boolean>();
  const terminate = async () => {
    for (;;) {
      const received = proxy
        .receives("toServer", random.magnitude(1_000, 50_000))
        .then(() => false);
      if (await Promise.race([over.promise, received])) return;
      await terminateSome();
    }
  };
  const terminating = terminate();
  const end = async () => {
    over.resolve(true);
    await terminating;
  };
  return [{ end }];
}

/** Answers that a server or a proxy may give after anything was carried out. */
const unclear: readonly [Answer, ...Answer[]] = [
  {},
  { status: 502 },
  { status: 504, body: "<h1>Gateway Timeout</h1>" },
  { status: 503, headers: { "retry-after": "0" } },
  { status: 200 },
  { status: 200, body: "garbled" },
  { status: 204 },
  { status: 302, headers: { location: "/" } },
  { status: 404 },
  { status: 429 },
];

/** Makes a server answer wrongly from time to time. */
function confuse(server: KvConnectServer, random: Random): Disturbance {
  const wrong = (good: Answer) =>
    random.chance(0.05) ? random.of(unclear) : good;
  server.answerRead = wrong;
  server.answerWrite = wrong;
  server.instead = (path) => {
    if (!path.endsWith("/atomic_write") || !random.chance(0.1)) {
      return undefined;
    }
    const body = random.of([writeDisabled, conflict]);
    return { status: 200, body };
  };
  return {
    end: () => {
      server.answerRead = server.answerWrite = (good) => good;
      server.instead = () => undefined;
    },
  };
}

interface Behind {
  readonly url: string | readonly string[];
  /** Where the proxy is to be; there is none if a store finds servers itself. */
  readonly port?: number;
  readonly options?: object;
  /** Makes the server itself fail. */
  disturb(random: Random, proxy: TcpProxy | undefined): Disturbance[];
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
    disturb: (random, proxy) =>
      terminating(
        proxy,
        random,
        () => sql`
          SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE application_name = 'fedify-kv' AND random() < 0.3`,
      ),
  };
}

async function mysql(): Promise<Behind> {
  const server = await MysqlServer.start();
  onTestFinished(() => server.stop());
  const { url, port } = server;
  const terminateSome = async (random: Random) => {
    const rows = await server.sql(
      "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE USER = 'fedify'",
    );
    const some = rows.filter(() => random.chance(0.3));
    // It may have ended by itself.
    const kill = ({ id }: { id?: unknown }) =>
      server.sql(`KILL CONNECTION ${id}`).catch(() => {});
    await Promise.all(some.map(kill));
  };
  return {
    url,
    port,
    disturb: (random, proxy) =>
      terminating(proxy, random, () => terminateSome(random)),
  };
}

async function kvConnect(): Promise<Behind> {
  const server = await KvConnectServer.start();
  const { url, port } = server;
  return {
    url,
    port,
    options: { accessToken: token },
    disturb: (random) => [confuse(server, random)],
  };
}

async function denokv(): Promise<Behind> {
  const server = await DenokvServer.start();
  onTestFinished(() => server.stop());
  const { url, port } = server;
  return {
    url,
    port,
    options: { accessToken: server.token },
    disturb: () => [],
  };
}

async function redis(program: Program): Promise<Behind> {
  const server = await RedisServer.start(durable, program);
  onTestFinished(() => server.stop());
  const { url, port } = server;
  return {
    url,
    port,
    disturb: (random) => [
      repeated(random, () =>
        random.chance(0.8)
          ? terminateSome(server, random)
          : disturbServer(server, random),
      ),
    ],
  };
}

async function redisCluster(
  program: Program,
  names: readonly [string, ...string[]],
): Promise<Behind> {
  const cluster = await RedisCluster.start(true, async () => orderly, program);
  onTestFinished(() => cluster.stop());
  return {
    url: cluster.urls,
    disturb: (random) => [
      repeated(random, () => disturbCluster(cluster, random, names)),
    ],
  };
}

interface Way {
  readonly name: string;
  readonly store: string;
  start(): Promise<Behind>;
  readonly fails: boolean;
  /** The options, given how long an operation may take. */
  options(timeout: number): object;
}

const pooled = (queryTimeout: number) => ({ queryTimeout, maxConnections: 3 });

const ways: Way[] = [
  {
    name: "PostgreSQL",
    store: "PostgresKvStore",
    start: () => postgres(),
    fails: true,
    options: pooled,
  },
  {
    name: "PostgreSQL through a pooler, without prepared statements",
    store: "PostgresKvStore",
    start: () => postgres(true),
    fails: true,
    options: (timeout) => ({ ...pooled(timeout), preparedStatements: false }),
  },
  {
    name: "PostgreSQL through a pooler, with default options",
    store: "PostgresKvStore",
    start: () => postgres(true),
    fails: false,
    options: pooled,
  },
  {
    name: "MariaDB",
    store: "MysqlKvStore",
    start: () => mysql(),
    fails: true,
    options: pooled,
  },
  {
    name: "KV Connect, a server that loses answers",
    store: "DenoKvStore",
    start: () => kvConnect(),
    fails: true,
    options: (commandTimeout) => ({ commandTimeout }),
  },
];
const commands = (commandTimeout: number) => ({ commandTimeout });
const indexed = (commandTimeout: number) => ({
  commandTimeout,
  index: true,
  keyPrefix: "{fedify}::",
});
ways.push(
  {
    name: "Redis",
    store: "RedisKvStore",
    start: () => redis("redis-server"),
    fails: true,
    options: commands,
  },
  {
    name: "Valkey, indexed",
    store: "RedisKvStore",
    start: () => redis("valkey-server"),
    fails: true,
    options: indexed,
  },
  {
    name: "a Valkey cluster",
    store: "RedisKvStore",
    start: () => redisCluster("valkey-server", tags),
    fails: true,
    options: commands,
  },
  {
    name: "a Redis cluster, indexed",
    store: "RedisKvStore",
    start: () => redisCluster("redis-server", ["{fedify}"]),
    fails: true,
    options: indexed,
  },
);
if (hasDenokv) {
  ways.push({
    name: "KV Connect, denokv",
    store: "DenoKvStore",
    start: () => denokv(),
    fails: true,
    options: (commandTimeout) => ({ commandTimeout }),
  });
}

describe(`HISTORIES=${histories} SEED=${seed}`, () => {
  test.each(ways)(
    "$name",
    async ({ store, start, fails, options }) => {
      const behind = await start();
      const { port } = behind;
      const proxy = port === undefined ? undefined : await startProxy({ port });
      const url = proxy?.url({ url: String(behind.url) }) ?? behind.url;
      // Without faults, nothing is to be late on a busy machine.
      const timeout = fails ? TIMEOUT : 60_000;
      const all = { ...options(timeout), ...behind.options };
      const workers = await Promise.all(
        numbers(2).map(() => worker(store, url, all)),
      );
      const random = randomFrom(seed);
      const disturbances = fails ? behind.disturb(random, proxy) : [];
      if (fails && proxy) disturbances.push(disturb(proxy, random));
      const isEnough = () =>
        disturbances.every(({ isEnough }) => isEnough?.() ?? true);
      const seen = { answered: 0, unknown: 0, "not done": 0 };
      for (
        let from = 0;
        from < histories / 2 || !isEnough();
        from += TOGETHER
      ) {
        const names = numbers(TOGETHER).map(
          (i) => `${tags[i % tags.length]}${from + i}`,
        );
        const operations = await round(workers, random, names);
        for (const { outcome } of operations) {
          seen["failed" in outcome ? outcome.failed : "answered"] += 1;
        }
        expect(illegal(operations)).toEqual([]);
      }
      for (const disturbance of disturbances) await disturbance.end();
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
