// Stores on a server: when the process may end, and which connections remain.
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import { expectGoodEnd, runChild } from "./support/child.mts";
import { isTested } from "./support/hosts.mts";

interface Server {
  readonly url: string;
  stop(): Promise<void>;
}

interface Row {
  readonly store: string;
  start(): Promise<{ server: Server; empty(): Promise<unknown> }>;
  /** Code that defines `count()`, the server's connections, and `end()`. */
  readonly connections: string;
  /**
   * The connections that remain: the script's, its store's, maybe the test's.
   */
  readonly left: number;
}

const rows: Row[] = [
  {
    store: "RedisKvStore",
    async start() {
      const server = await RedisServer.start();
      const client = server.client();
      return { server, empty: () => client.flushall() };
    },
    connections: `
      const { Redis } = await import("ioredis");
      const client = new Redis(data);
      const count = async () =>
        (await client.client("LIST", "TYPE", "normal")).trim().split("\\n").length;
      const end = () => client.disconnect();
    `,
    left: 3,
  },
  {
    store: "PostgresKvStore",
    async start() {
      const server = await PostgresServer.start({ settings: { fsync: "off" } });
      const sql = server.client();
      return { server, empty: () => sql`DROP TABLE IF EXISTS fedify_kv_v2` };
    },
    connections: `
      const { default: postgres } = await import("postgres");
      const sql = postgres(data, { max: 1 });
      const backends =
        "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend'";
      const count = async () => (await sql.unsafe(backends)).length;
      const end = () => sql.end();
    `,
    left: 3,
  },
  {
    store: "MysqlKvStore",
    async start() {
      const server = await MysqlServer.start({
        "innodb-flush-log-at-trx-commit": 0,
      });
      const empty = () => server.sql("DROP TABLE IF EXISTS fedify_kv");
      return { server, empty };
    },
    connections: `
      const { createConnection } = await import("mysql2/promise");
      const client = await createConnection(data);
      const count = async () => (await client.query("SHOW PROCESSLIST"))[0].length;
      const end = () => client.end();
    `,
    left: 2,
  },
];

const tested = rows.filter(({ store }) => isTested(store));

describe.each(tested)("$store", ({ store, start, connections, left }) => {
  let server: Server;
  let empty: () => Promise<unknown>;

  beforeAll(async () => {
    ({ server, empty } = await start());
  });
  afterAll(() => server.stop());
  beforeEach(async () => {
    await empty();
  });

  const open = `
  const Store = require(addon).${store};
  const store = globalThis.kept = new Store(data);
`;
  const fill = `
  await Promise.all(Array.from({ length: 500 },
    (_, i) => store.set(["k", String(i)], i)));
`;

  async function run(script: string, flags?: string[]) {
    const ran = await runChild(open + script, server.url, flags);
    expectGoodEnd(ran);
    return ran.reports;
  }

  test.each([
    ["that was never used", ""],
    ["that was used", `await store.set(["k"], 1); await store.get(["k"]);`],
    ["with an unfinished list", `${fill} await store.list().next();`],
    [
      "with a list whose results are not awaited",
      `${fill} const list = store.list({ pageSize: 1 });
     for (let i = 0; i < 20; i += 1) void list.next();`,
    ],
    ["that was closed", `await store.set(["k"], 1); await store.close();`],
  ])("an idle store lets the process end: one %s", async (_, script) => {
    expect(await run(`${script} report("idle");`)).toEqual(["idle"]);
  });

  test("pending operations keep the process alive", async () => {
    const answers = await run(`
    store.set(["k"], 1).then(() => report("set"));
    store.get(["k"]).then((value) => report(value));
    store.cas(["k"], 1, 2).then((swapped) => report(swapped));
    store.list().next().then(({ value }) => report(value.value));
    store.clear(["none"]).then((count) => report(count));
  `);
    const onOneKey: unknown[] = ["set", 1, true];
    expect(answers.filter((answer) => onOneKey.includes(answer))).toEqual(
      onOneKey,
    );
    expect(answers.toSorted()).toEqual([0, 1, 2, "set", true]);
    expect(await run(`store.close().then(() => report("closed"))`)).toEqual([
      "closed",
    ]);
  });

  test("process.exit() is immediate, even during operations", async () => {
    await run(`
    ${fill}
    for (let i = 0; i < 1000; i += 1) void store.set(["l", String(i)], i);
    void store.list().next();
    report("leaving");
    process.exit(0);
  `);
  });

  test("the connections of a garbage-collected store are closed", async () => {
    const reports = await run(
      `
      ${connections}
      const most = await (async () => {
        const all = Array.from({ length: 20 }, () => new Store(data));
        for (const own of all) {
          await own.set(["k"], 1);
          await own.list().next();
        }
        const most = await count();
        return all.length > 0 ? most : 0;
      })();
      await store.set(["k"], 1);
      for (let i = 0; i < 1_500 && (await count()) > ${left}; i += 1) {
        globalThis.gc();
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      report([most > ${left}, await count()]);
      await end();
    `,
      ["--expose-gc"],
    );
    expect(reports).toEqual([[true, left]]);
  });

  test("worker threads can use stores, one after another and at once", async () => {
    const reports = await run(`
    const { Worker } = await import("node:worker_threads");
    const code = \`
      const { parentPort, workerData: [addon, url, n] } =
        require("node:worker_threads");
      const Store = require(addon).${store};
      const store = new Store(url);
      (async () => {
        for (let i = 0; i < 100; i += 1) {
          for (;;) {
            const value = await store.get(["n"]);
            if (await store.cas(["n"], value, (value ?? 0) + 1)) break;
          }
        }
        parentPort.postMessage("done");
      })();
    \`;
    const work = (n) => new Promise((resolve, reject) => {
      const worker = new Worker(code, {
        eval: true, execArgv: [], workerData: [addon, data, n],
      });
      worker.on("error", reject);
      worker.on("exit", resolve);
    });
    await work(0);
    await work(1);
    await Promise.all([work(2), work(3)]);
    report(await store.get(["n"]));
  `);
    expect(reports).toEqual([400]);
  });

  test("a worker can be terminated during operations", async () => {
    await run(`
    const { Worker } = await import("node:worker_threads");
    for (let i = 0; i < 5; i += 1) {
      const worker = new Worker(\`
        const { parentPort, workerData: [addon, url] } =
          require("node:worker_threads");
        const Store = require(addon).${store};
        const store = new Store(url);
        store.set(["k"], 1).then(() => {
          parentPort.postMessage("busy");
          for (let i = 0; i < 2000; i += 1) void store.set(["k", String(i)], i);
          void store.list().next();
        });
      \`, { eval: true, execArgv: [], workerData: [addon, data] });
      await new Promise((resolve) => worker.once("message", resolve));
      await worker.terminate();
    }
    await store.set(["k"], 1);
    report(await store.get(["k"]));
  `);
  });
});
