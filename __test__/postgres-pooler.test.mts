// Two processes behind one pooler, with default options. A transaction pooler
// gives one process's session on the server to the other between two statements.
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import postgres from "postgres";
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { PgBouncer, PostgresServer } from "./services/postgres.mts";
import { pause } from "./services/pause.mts";
import { startChild } from "./support/child.mts";
import { key, numbers } from "./support/entries.mts";
import { openStore, ownTable } from "./support/postgres.mts";
import { expectRejection } from "./support/rejection.mts";

let server: PostgresServer;
beforeAll(async () => {
  server = await PostgresServer.start({ settings: { log_statement: "all" } });
});
afterAll(() => server.stop());

/** What a process has seen: calls that did not do what they should. */
interface Seen {
  calls: number;
  errors: string[];
}

const open = `
  const { PostgresKvStore } = require(addon);
  const store = new PostgresKvStore(data.url, { tableName: data.tableName });
  const seen = { calls: 0, errors: [] };
  const check = async (what, call) => {
    seen.calls += 1;
    const wrong = await call().then(
      (result) => (result ? undefined : "a wrong result"),
      (error) => error.code + ": " + error.message);
    if (wrong) seen.errors.push(what + ": " + wrong);
  };
  // The first statement is alone: where names are counted, both processes give
  // it the same name.
  await check("first", () => data.reads
    ? store.get(["none"]).then((value) => value === undefined)
    : store.delete(["none"]).then(() => true));
  report("ready");
  await told();
`;

const reader = `${open}
  const read = (i) => check("get " + i, async () =>
    (await store.get(["kept", String(i)])) === i);
  for (let round = 0; round < data.rounds; round += 1) {
    await Promise.all(data.keys.map(read));
    for (const i of data.keys) await read(i);
  }
  await store.close();
  report(seen);
`;

const writer = `${open}
  const key = (i) => ["other", String(i)];
  const write = async (i, round) => {
    await check("set " + i, () => store.set(key(i), round).then(() => true));
    await check("cas " + i, () => store.cas(key(i), round, [round]));
    await check("get " + i, async () =>
      JSON.stringify(await store.get(key(i))) === "[" + round + "]");
    await check("delete " + i, () => store.delete(key(i)).then(() => true));
  };
  for (let round = 0; round < data.rounds; round += 1) {
    await Promise.all(data.keys.map((i) => write(i, round)));
    for (const i of data.keys.slice(0, 5)) await write(i, round);
  }
  await store.close();
  report(seen);
`;

for (const [mode, size] of [
  ["transaction", 3],
  ["session", 30],
] as const) {
  describe(`PgBouncer in ${mode} mode`, () => {
    let pooler: PgBouncer;
    beforeAll(async () => {
      pooler = await PgBouncer.start(server, { mode, size });
    });
    afterAll(() => pooler.stop());

    test("one process reads, another writes: no entry vanishes, no call fails", async () => {
      const tableName = ownTable();
      const direct = openStore(server.url, { tableName });
      const keys = Array.from({ length: 20 }, (_, i) => i);
      await Promise.all(keys.map((i) => direct.set(["kept", String(i)], i)));
      const data = { url: pooler.url, tableName, keys, rounds: 40 };
      const processes = [
        startChild(reader, { ...data, reads: true }),
        startChild(writer, data),
      ];
      for (const each of processes) {
        expect(await each.next()).toBe("ready");
      }
      for (const each of processes) {
        each.tell("go");
      }
      for (const each of processes) {
        const seen = await each.next<Seen>();
        expect(seen.errors.slice(0, 5)).toEqual([]);
        expect(seen.calls).toBeGreaterThan(1_000);
      }
      const kept = await Array.fromAsync(direct.list(["kept"]));
      expect(kept).toHaveLength(keys.length);
      expect(await Array.fromAsync(direct.list(["other"]))).toEqual([]);
    });

    test("a connection that is given up ends no other client's session", async () => {
      const store = openStore(pooler.url, {
        tableName: ownTable(),
        queryTimeout: 1_000,
      });
      await store.set(["k"], 1);
      await pause(pooler.pid);
      await expectRejection(() => store.get(["k"]), "ERR_KV_TIMEOUT");
      process.kill(pooler.pid, "SIGCONT");
      expect(await store.get(["k"])).toBe(1);
      const logged = (text: string) =>
        server.log.filter((line) => line.includes(text));
      // Then earlier statements are in the log, too.
      const marker = ownTable();
      await server.client().unsafe(`SELECT '${marker}'`);
      await expect.poll(() => logged(marker)).not.toEqual([]);
      expect(logged("pg_terminate_backend")).toEqual([]);
    });
  });
}

/**
 * Passes connections on, and tells clients the number of the server's process,
 * as a pooler might.
 */
async function withProcess(port: number, pid: number): Promise<number> {
  const proxy = createServer((client) => {
    const upstream = connect(port, "127.0.0.1");
    for (const socket of [client, upstream]) {
      socket.on("error", () => {});
      socket.setNoDelay(true);
      onTestFinished(() => {
        socket.destroy();
      });
    }
    client.pipe(upstream);
    client.on("close", () => upstream.destroy());
    upstream.on("close", () => client.destroy());
    let login: Buffer | undefined = Buffer.alloc(0);
    upstream.on("data", (bytes) => {
      if (login === undefined) {
        client.write(bytes);
        return;
      }
      // Whole messages pass, until the one with the number.
      login = Buffer.concat([login, bytes]);
      while (login.length >= 5) {
        const length = login.readInt32BE(1) + 1;
        if (login.length < length) return;
        const message = login.subarray(0, length);
        login = login.subarray(length);
        if (message[0] === "K".charCodeAt(0)) {
          message.writeInt32BE(pid, 5);
          client.write(Buffer.concat([message, login]));
          login = undefined;
          return;
        }
        client.write(message);
      }
    });
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  onTestFinished(() => {
    proxy.close();
  });
  return (proxy.address() as AddressInfo).port;
}

test("a pooler that can't be told from a server is recognised by its errors", async () => {
  // One session, which forgets prepared statements after each transaction.
  const pooler = await PgBouncer.start(server, {
    size: 1,
    settings: `
server_reset_query = DEALLOCATE ALL
server_reset_query_always = 1
`,
  });
  onTestFinished(() => pooler.stop());
  const client = postgres(pooler.url, { max: 1, prepare: false });
  onTestFinished(() => client.end());
  const [session] = await client`SELECT pg_backend_pid() AS pid`;
  const port = await withProcess(pooler.port, session!.pid);
  const url = pooler.url.replace(`:${pooler.port}/`, `:${port}/`);
  const store = openStore(url, { tableName: ownTable() });
  await store.initialize();
  const refused = () =>
    server.log.filter((line) => /ERROR: .* "fedify_kv_\w+" does/.test(line));
  for (let round = 0; round < 20; round += 1) {
    const found = await Promise.all(
      numbers(50).flatMap((i) => [
        store.set(key(i), round),
        store.get(key(i)),
        store.delete(["none", String(i)]),
        store.cas(["won", String(round), String(i)], undefined, 1),
      ]),
    );
    expect(found).toEqual(
      numbers(50).flatMap(() => [undefined, round, undefined, true]),
    );
  }
  await expect.poll(refused).not.toEqual([]);
  // Each connection may have found it out at the same time, but only once.
  expect(refused().length).toBeLessThan(100);
});
