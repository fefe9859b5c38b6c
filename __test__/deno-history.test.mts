// Four stores in two processes, on few keys of a KV Connect server, while connections
// end, stall, and deliver bytes late, and answers get lost after their writes were
// carried out: what the operations returned has a legal order.
import { randomInt } from "node:crypto";
import { setTimeout as later } from "node:timers/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { DenokvServer, hasDenokv } from "./services/denokv.mts";
import {
  type Connection,
  type Direction,
  TcpProxy,
} from "./services/proxy.mts";
import { type Child, startChild } from "./support/child.mts";
import type { Options } from "./support/deno.mts";
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
import type { Plan } from "./support/workload.mts";

const seed = Number(process.env.SEED ?? randomInt(2 ** 31));
const histories = Number(process.env.HISTORIES ?? 100);
/** How many histories run at the same time. */
const TOGETHER = 20;
const TIMEOUT = 500;

/** A process with two stores. */
async function worker(url: string, options: Options): Promise<Child> {
  const workload = join(import.meta.dirname, "support/workload.mts");
  const child = startChild(
    `
      const { work } = await import(data.workload);
      const { DenoKvStore } = require(addon);
      const stores = [1, 2].map(() => new DenoKvStore(data.url, data.options));
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

/** Makes the server answer wrongly from time to time, until it is undone. */
function confuse(server: KvConnectServer, random: Random): () => void {
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
  return () => {
    server.answerRead = server.answerWrite = (good) => good;
    server.instead = () => undefined;
  };
}

interface Way {
  readonly name: string;
  /** Starts a server, and returns how to make it answer wrongly. */
  start(): Promise<{
    url: string;
    port: number;
    token: string;
    confuse(random: Random): () => void;
  }>;
}

const ways: Way[] = [
  {
    name: "a server that loses answers",
    start: async () => {
      const server = await KvConnectServer.start();
      const { url, port } = server;
      return { url, port, token, confuse: (random) => confuse(server, random) };
    },
  },
];
if (hasDenokv) {
  ways.push({
    name: "denokv",
    start: async () => {
      const server = await DenokvServer.start();
      onTestFinished(() => server.stop());
      const { url, port, token } = server;
      return { url, port, token, confuse: () => () => {} };
    },
  });
}

describe(`HISTORIES=${histories} SEED=${seed}`, () => {
  test.each(ways)(
    "$name",
    async ({ start }) => {
      const server = await start();
      const proxy = await TcpProxy.start(server);
      onTestFinished(() => proxy.stop());
      const options = { accessToken: server.token, commandTimeout: TIMEOUT };
      const workers = await Promise.all(
        numbers(2).map(() => worker(proxy.url(server), options)),
      );
      const random = randomFrom(seed);
      for (const connection of proxy.connections) arm(connection, random);
      proxy.onConnection = (connection) => arm(connection, random);
      const end = server.confuse(random);
      const seen = { answered: 0, unknown: 0, "not done": 0 };
      for (let from = 0; from < histories / 2; from += TOGETHER) {
        const names = numbers(TOGETHER).map((i) => String(from + i));
        const operations = await round(workers, random, names);
        for (const { outcome } of operations) {
          seen["failed" in outcome ? outcome.failed : "answered"] += 1;
        }
        expect(illegal(operations)).toEqual([]);
      }
      end();
      expect(seen.unknown, JSON.stringify(seen)).toBeGreaterThan(0);
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
