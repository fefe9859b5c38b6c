// Stores whose operations run on Node's event loop: its handles and their ends,
// worker threads, turns that other code takes, and continuations. All of it must
// hold for stores on a thread too (support/hosts.mts).
import { existsSync } from "node:fs";
import type { Sql } from "postgres";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import {
  expectGoodEnd,
  prompt,
  runChild,
  startChild,
} from "./support/child.mts";
import { numbers } from "./support/entries.mts";
import { ownTable } from "./support/postgres.mts";

let server: PostgresServer;
let sql: Sql;

beforeAll(async () => {
  server = await PostgresServer.start({
    settings: { fsync: "off", max_connections: 200 },
  });
  sql = server.client();
});
afterAll(() => server.stop());
beforeEach(async () => {
  if (!server.isRunning) {
    await server.start();
  }
  await sql`DROP TABLE IF EXISTS fedify_kv_v2`;
});

const hasProc = existsSync("/proc/self/fd");

/**
 * What scripts can use. `resources()` counts the process' descriptors, and its
 * event loop's handles of the types that a host may use. `quiet()` returns them
 * when they no longer change. `backTo(before)` returns them when they are no more
 * than before, or after some time.
 */
const prelude = `
  const { readdirSync } = await import("node:fs");
  const { PostgresKvStore } = require(addon);
  const open = (options, url = data) => new PostgresKvStore(url, options);
  const each = (count, call) => Array.from({ length: count }, (_, i) => call(i));
  const pause = (milliseconds) =>
    new Promise((resolve) => setTimeout(resolve, milliseconds));
  process.report.excludeNetwork = true;
  const handles = () => process.report.getReport().libuv;
  const resources = () => {
    // Closed stores keep some until they are collected.
    globalThis.gc?.();
    const counts = { descriptors: readdirSync("/proc/self/fd").length };
    for (const type of ["async", "check", "poll", "prepare", "timer"]) {
      counts[type] = 0;
    }
    for (const { type } of handles()) {
      if (type in counts) counts[type] += 1;
    }
    return counts;
  };
  const quiet = async () => {
    let last;
    for (let same = 0; same < 5; ) {
      await pause(20);
      const now = JSON.stringify(resources());
      same = now === last ? same + 1 : 0;
      last = now;
    }
    return JSON.parse(last);
  };
  const backTo = async (before) => {
    let now = resources();
    const more = () =>
      Object.entries(before).some(([type, count]) => now[type] > count);
    for (let i = 0; i < 500 && more(); i += 1) {
      await pause(10);
      now = resources();
    }
    return now;
  };
`;

type Resources = Record<string, number>;

/** Expects what is open to be no more than before, of each type. */
function expectNoMore(after: Resources, before: Resources): void {
  const more = Object.entries(before).filter(
    ([type, count]) => (after[type] ?? 0) > count,
  );
  expect(more, JSON.stringify({ before, after })).toEqual([]);
}

async function run(script: string, flags?: string[]): Promise<unknown[]> {
  const ran = await runChild(prelude + script, server.url, flags);
  expectGoodEnd(ran);
  return ran.reports;
}

/** The connections of stores whose statements wait for a lock. */
const held = async () => {
  const rows = await sql<{ pid: number }[]>`
    SELECT pid FROM pg_stat_activity
    WHERE application_name = 'fedify-kv' AND wait_event_type = 'Lock'`;
  return rows.map(({ pid }) => pid);
};

/** Runs code while the table is locked. */
const whileLocked = (code: () => Promise<unknown>) =>
  sql.begin(async (transaction) => {
    await transaction`LOCK TABLE fedify_kv_v2 IN ACCESS EXCLUSIVE MODE`;
    await code();
  });

describe("worker threads", () => {
  const workers = `
    const { Worker } = await import("node:worker_threads");
    const { once } = await import("node:events");
    const start = (script, url = data) => new Worker(
      \`
        const { parentPort, workerData: [addon, data] } =
          require("node:worker_threads");
        const { PostgresKvStore } = require(addon);
        const store = new PostgresKvStore(data);
        const each = (count, call) =>
          Array.from({ length: count }, (_, i) => call(i));
        (async () => { \${script} })();
      \`,
      { eval: true, execArgv: [], workerData: [addon, url] },
    );
  `;

  async function runAlone(script: string) {
    const ran = await runChild(workers + script, server.url);
    expectGoodEnd(ran);
    return ran.reports;
  }

  test("eight use stores at once, without the main thread", async () => {
    const reports = await runAlone(`
      const count = async () => {
        const worker = start(\`
          for (let done = 0; done < 20; ) {
            const value = await store.get(["n"]);
            done += Number(await store.cas(["n"], value, (value ?? 0) + 1));
          }
          await Promise.all(each(200, (i) => store.set(["k", String(i)], i)));
          parentPort.postMessage(await store.get(["n"]));
        \`);
        const exit = once(worker, "exit");
        const [n] = await once(worker, "message");
        return [n, ...await exit];
      };
      const all = await Promise.all(Array.from({ length: 8 }, count));
      report([Math.max(...all.map(([n]) => n)), all.every(([, code]) => code === 0)]);
    `);
    expect(reports).toEqual([[160, true]]);
  });

  test("one uses a store after another, without the main thread", async () => {
    const reports = await runAlone(`
      for (let i = 0; i < 4; i += 1) {
        const worker = start(\`
          const value = await store.get(["n"]);
          await store.set(["n"], (value ?? 0) + 1);
          \${i % 2 ? "await store.close();" : ""}
          parentPort.postMessage(value ?? 0);
        \`);
        const exit = once(worker, "exit");
        const [n] = await once(worker, "message");
        report([n, ...await exit]);
      }
    `);
    expect(reports).toEqual([
      [0, 0],
      [1, 0],
      [2, 0],
      [3, 0],
    ]);
  });

  const busy: Record<string, string> = {
    "in its first call": `
      void store.get(["k"]);
      parentPort.postMessage("busy");
    `,
    "while answers arrive": `
      await store.initialize();
      for (let i = 0; i < 20; i += 1) {
        void (async () => {
          for (;;) {
            await store.set(["k", String(i)], i);
            await store.get(["k", String(i)]);
          }
        })();
      }
      await store.get(["k"]);
      parentPort.postMessage("busy");
    `,
    "after the first answer of a burst": `
      await store.initialize();
      const gets = each(2_000, (i) => store.get(["k", String(i)]));
      await gets[0];
      parentPort.postMessage("busy");
    `,
    "that never turns its event loop again": `
      await store.get(["k"]);
      for (let i = 0; i < 100; i += 1) void store.set(["k", String(i)], i);
      parentPort.postMessage("busy");
      for (;;);
    `,
    "while it closes its store": `
      await store.get(["k"]);
      for (let i = 0; i < 100; i += 1) void store.set(["k", String(i)], i);
      void store.close();
      parentPort.postMessage("busy");
    `,
  };

  test.skipIf(!hasProc).each(Object.entries(busy))(
    "one can be terminated ten times: %s",
    { timeout: 120_000 },
    async (_, script) => {
      const [before, after, ...values] = await run(
        `
        ${workers}
        const store = open();
        await store.set(["main"], 0);
        const terminate = async () => {
          const worker = start(${JSON.stringify(script)});
          await once(worker, "message");
          await worker.terminate();
        };
        // What the first one starts for all others stays.
        await terminate();
        // Each worker that is terminated leaves a timer of Node.js for a while.
        const { descriptors, poll } = await quiet();
        const before = { descriptors, poll };
        const values = [];
        for (let i = 0; i < 10; i += 1) {
          const set = store.set(["main"], i);
          await terminate();
          await set;
          values.push(await store.get(["main"]));
        }
        report(before);
        report(await backTo(before));
        values.forEach(report);
      `,
        ["--expose-gc"],
      );
      expectNoMore(after as Resources, before as Resources);
      expect(values).toEqual(numbers(10));
    },
  );

  test("ones can be terminated while a lock holds their statements", async () => {
    const child = startChild(
      `
        ${prelude + workers}
        const store = open({ tableName: "unlocked" });
        await store.set(["main"], 1);
        await open().initialize();
        report("ready");
        while (await told()) {
          const worker = start(\`
            void store.get(["k"]);
            void Promise.all(each(100, (i) => store.set(["k", String(i)], i)));
            parentPort.postMessage("busy");
          \`);
          await once(worker, "message");
          report("busy");
          await told();
          await worker.terminate();
          report(await store.get(["main"]));
        }
      `,
      server.url,
    );
    expect(await child.next()).toBe("ready");
    await whileLocked(async () => {
      for (let i = 0; i < 10; i += 1) {
        // The server doesn't notice that the earlier ones' clients are gone.
        const earlier = await held();
        child.tell("start one");
        expect(await child.next()).toBe("busy");
        await expect
          .poll(async () =>
            (await held()).filter((pid) => !earlier.includes(pid)),
          )
          .not.toEqual([]);
        child.tell("terminate it");
        expect(await child.next()).toBe(1);
      }
    });
    child.end();
    expect(await child.rest()).toEqual([]);
    expectGoodEnd(await child.exit);
  });

  test("ones can be terminated while a connection is being opened", async () => {
    const reports = await run(`
      ${workers}
      const { createServer } = await import("node:net");
      // It accepts, and then never answers.
      const silent = createServer().listen(0, "127.0.0.1");
      await once(silent, "listening");
      const url = "postgres://u:p@127.0.0.1:" + silent.address().port + "/d";
      const store = open();
      for (let i = 0; i < 10; i += 1) {
        const connected = once(silent, "connection");
        const worker = start(\`
          void store.get(["k"]);
          void store.list().next();
        \`, url);
        const [socket] = await connected;
        if (i % 2) await once(socket, "data");
        await worker.terminate();
        socket.destroy();
        await store.set(["k"], i);
        report(await store.get(["k"]));
      }
      silent.close();
    `);
    expect(reports).toEqual(numbers(10));
  });

  test("one can exit in a continuation of a get", async () => {
    const reports = await runAlone(`
      for (let i = 0; i < 5; i += 1) {
        const worker = start(\`
          await store.get(["k"]);
          const gets = each(100, (i) => store.get(["k", String(i)]));
          await gets[50];
          process.exit(7);
        \`);
        report((await once(worker, "exit"))[0]);
      }
    `);
    expect(reports).toEqual([7, 7, 7, 7, 7]);
  });
});

describe("the end of the process", () => {
  test.skipIf(!hasProc)(
    "is not kept off by any handle when nothing is pending",
    async () => {
      const [before, after] = await run(`
        const referenced = () => handles()
          .filter((handle) => handle.is_active && handle.is_referenced)
          .map(({ type }) => type)
          .toSorted();
        await new Promise(setImmediate);
        const before = referenced();
        const store = open();
        await store.set(["k"], 1);
        await Promise.all(each(100, (i) => store.get(["k", String(i)])));
        await store.cas(["k"], 1, 2);
        await new Promise(setImmediate);
        report(before);
        report(referenced());
      `);
      expect(after).toEqual(before);
    },
  );

  test.each(["get", "set", "delete", "cas"])(
    "waits for the answer of a pending %s",
    async (operation) => {
      const child = startChild(
        `
          ${prelude}
          const store = open();
          await store.set(["k"], 1);
          process.on("exit", () => report("exit"));
          report("ready");
          await told();
          const words = { set: [2], cas: [1, 2] }.${operation} ?? [];
          store.${operation}(["k"], ...words).then((value) => report(value ?? null));
        `,
        server.url,
      );
      expect(await child.next()).toBe("ready");
      await whileLocked(async () => {
        child.tell("call");
        child.end();
        await expect.poll(held).toHaveLength(1);
      });
      const answer = { get: 1, cas: true }[operation] ?? null;
      expect(await child.rest()).toEqual([answer, "exit"]);
      expectGoodEnd(await child.exit);
    },
  );

  const exits: Record<string, string> = {
    "in the first call": `void store.get(["k"]); process.exit(0);`,
    "while the first connection is opened": `
      for (let i = 0; i < 10; i += 1) void store.get(["k", String(i)]);
      setImmediate(() => process.exit(0));
    `,
    "in a continuation of the first get": `
      store.get(["k"]).then(() => process.exit(0));
    `,
    "in a continuation of a get, with others pending": `
      await store.get(["k"]);
      const gets = each(1_000, (i) => store.get(["k", String(i)]));
      void store.set(["k"], 1);
      void store.list().next();
      await gets[500];
      process.exit(0);
    `,
    "in a tick after a get": `
      await store.get(["k"]);
      each(100, (i) => void store.get(["k", String(i)]));
      await store.get(["k"]);
      process.nextTick(() => process.exit(0));
    `,
    "in a continuation of a rejected call": `
      void store.get(["k"]);
      store.get([]).catch(() => process.exit(0));
    `,
    "during close()": `
      await store.get(["k"]);
      each(100, (i) => void store.set(["k", String(i)], i));
      void store.close();
      process.exit(0);
    `,
  };
  test.each(Object.entries(exits))(
    "by process.exit() %s",
    async (_, script) => {
      expect(
        await run(`const store = open(); report("begun"); ${script}`),
      ).toEqual(["begun"]);
    },
  );

  test("by process.exit() while a lock holds statements", async () => {
    const child = startChild(
      `
        ${prelude}
        const store = open();
        await store.initialize();
        report("ready");
        await told();
        each(100, (i) => void store.set(["k", String(i)], i));
        void store.get(["k"]);
        await told();
        process.exit(0);
      `,
      server.url,
    );
    expect(await child.next()).toBe("ready");
    await whileLocked(async () => {
      child.tell("call");
      await expect.poll(held).not.toEqual([]);
      child.tell("exit");
      expect(await child.rest()).toEqual([]);
      expectGoodEnd(await child.exit);
    });
  });

  test("calls in beforeExit are answered, and those in exit do no harm", async () => {
    const reports = await run(`
      const store = open();
      process.once("beforeExit", () => {
        store.set(["k"], 1).then(() => store.get(["k"])).then(report);
        process.once("beforeExit", () => {
          open().get(["k"]).then((value) => report(["another", value]));
        });
      });
      process.on("exit", () => {
        void store.get(["k"]);
        void open().get(["k"]);
        report("exit");
      });
    `);
    expect(reports).toEqual([1, ["another", 1], "exit"]);
  });
});

test.skipIf(!hasProc)("an idle store wakes no thread", async () => {
  const script = (use: string) => `
    ${prelude}
    const { readFileSync } = await import("node:fs");
    const wakeUps = () => {
      let sum = 0;
      for (const task of readdirSync("/proc/self/task")) {
        const status = readFileSync("/proc/self/task/" + task + "/status", "utf8");
        sum += Number(/^voluntary_ctxt_switches:\\s+(\\d+)/m.exec(status)[1]);
      }
      return sum;
    };
    ${use}
    // What is left to do after the last operation, such as a collection of
    // garbage, wakes threads for a while.
    const counts = [];
    for (let i = 0; i < 4; i += 1) {
      const before = wakeUps();
      await pause(1_500);
      counts.push(wakeUps() - before);
    }
    report(Math.min(...counts));
  `;
  const [used, empty] = await Promise.all(
    [
      `
        const store = open();
        await Promise.all(each(100, (i) => store.set(["k", String(i)], i)));
        await store.get(["k"]);
        await store.cas(["k"], undefined, 1);
        await Array.fromAsync(store.list());
      `,
      "",
    ].map((use) => runChild(script(use), server.url)),
  );
  for (const ran of [used, empty]) {
    expect(ran).toMatchObject({ code: 0, stderr: "" });
  }
  const [wakeUps, without] = [used?.reports[0], empty?.reports[0]] as number[];
  expect(wakeUps).toBeLessThan(Number(without) + 10);
});

describe("an event loop blocked for three seconds costs no answer", () => {
  const lone = `
      const stores = each(4, () => open(options));
      await Promise.all(stores.map((store, i) => store.set(["k", String(i)], i)));
      answers = [
        stores[0].get(["k", "0"]),
        stores[1].set(["k", "1"], "new"),
        stores[2].delete(["k", "2"]),
        stores[3].cas(["k", "3"], 3, "new"),
      ];
  `;
  /** What is called before the event loop is blocked, with a second to answer. */
  const calls: Record<string, string> = {
    "lone calls": lone,
    "lone calls that were sent": `
      ${lone}
      await new Promise(setImmediate);
    `,
    bursts: `
      const stores = each(4, () => open(options));
      await Promise.all(each(400, (i) =>
        stores[i % 4].set([String(i % 4), String(i >> 2)], i)));
      answers = each(100, (i) => [
        stores[0].get(["0", String(i)]),
        stores[1].set(["1", String(i)], "new"),
        stores[2].delete(["2", String(i)]),
        stores[3].cas(["3", String(i)], 4 * i + 3, "new"),
      ]).flat();
    `,
    "first calls": `
      await open(options).initialize();
      const stores = each(4, () => open(options));
      answers = [
        stores[0].get(["k", "0"]),
        stores[1].set(["k", "1"], "new"),
        stores[2].delete(["k", "2"]),
        stores[3].cas(["k", "3"], undefined, "new"),
      ];
    `,
  };
  const blocks: Record<string, string> = {
    "by a computation": `
      for (const end = performance.now() + 3_000; performance.now() < end; );
    `,
    "by Atomics.wait": `
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3_000);
    `,
  };
  const expected: Record<string, unknown[]> = {
    "lone calls": [0, null, null, true],
    "lone calls that were sent": [0, null, null, true],
    bursts: numbers(100).flatMap((i) => [4 * i, null, null, true]),
    "first calls": [null, null, null, true],
  };

  test.each(Object.entries(blocks))("%s", async (_, block) => {
    const answers = Object.entries(calls).map(async ([name, call]) => {
      const [values] = await run(`
        let answers;
        const options = { queryTimeout: 1_000, tableName: "${ownTable()}" };
        ${call}
        ${block}
        const settled = answers.map((answer) =>
          answer.then((value) => value ?? null, (error) => error.message));
        report(await Promise.all(settled));
      `);
      return [name, values];
    });
    expect(Object.fromEntries(await Promise.all(answers))).toEqual(expected);
  });

  test("but what the server has not answered is late", async () => {
    const child = startChild(
      `
        ${prelude}
        const store = open({ queryTimeout: 1_000 });
        await store.initialize();
        report("ready");
        await told();
        const get = store.get(["k"]);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3_000);
        report(await get.catch((error) => error.code));
        await told();
        report(await store.get(["k"]) ?? null);
      `,
      server.url,
    );
    expect(await child.next()).toBe("ready");
    await whileLocked(async () => {
      child.tell("call");
      expect(await child.next()).toBe("ERR_KV_TIMEOUT");
    });
    child.tell("the lock is gone");
    expect(await child.next()).toBe(null);
    child.end();
    expectGoodEnd(await child.exit);
  });
});

describe.skipIf(!hasProc)("every handle and descriptor is closed", () => {
  /** Runs code that uses and closes stores; what is open must be as before. */
  const leavesNothing = (code: string) => `
    const use = async (store) => {
      await store.set(["k"], 1);
      await Promise.all(each(100, (i) => store.get(["k", String(i)])));
      await store.list().next();
    };
    // What the process opens once stays open.
    await (async () => {
      const first = open();
      await use(first);
      await first.close();
    })();
    void process.stdin;
    const before = await quiet();
    // A function of its own, so that nothing refers to the stores afterwards.
    await (async () => { ${code} })();
    report({ ...before, poll: 0 });
    report(await backTo(before));
  `;

  test.each<[string, string]>([
    [
      "of 30 stores that are closed",
      `
        const stores = each(30, () => open());
        await Promise.all(stores.map(use));
        await Promise.all(stores.map((store) => store.close()));
      `,
    ],
    [
      "of 30 stores one after another",
      `
        for (let i = 0; i < 30; i += 1) {
          const store = open();
          await use(store);
          await store.close();
        }
      `,
    ],
    [
      "of stores that are closed while they connect",
      `
        for (let i = 0; i < 30; i += 1) {
          const store = open();
          const get = store.get(["k"]).catch(() => {});
          if (i % 2) await new Promise(setImmediate);
          await store.close();
          await get;
        }
      `,
    ],
    [
      "of connections that are refused",
      `
        const port = new URL(data).port;
        const wrong = [
          data.replace(/:[^:@]*@/, ":wrong@"),
          data.replace(":" + port, ":1"),
          data.replace("127.0.0.1", "nowhere.invalid"),
        ];
        for (const url of wrong) {
          const store = open({}, url);
          for (let i = 0; i < 5; i += 1) {
            const error = await store.get(["k"]).catch(({ code }) => code);
            if (error !== "ERR_KV_CONNECTION") report(error);
          }
          await store.close();
        }
      `,
    ],
    [
      "of stores that are collected",
      `
        for (const store of each(10, () => open())) await use(store);
      `,
    ],
  ])("%s", async (_, code) => {
    const [before, after] = await run(leavesNothing(code), ["--expose-gc"]);
    expectNoMore(after as Resources, before as Resources);
  });

  test("of connections that a restart of the server ends", async () => {
    const child = startChild(
      prelude +
        leavesNothing(`
          const store = open({ queryTimeout: 30_000 });
          await use(store);
          report("in use");
          await told();
          await use(store);
          report("in use");
          await told();
          report(await backTo({ poll: 0 }));
          await store.close();
        `),
      server.url,
      ["--expose-gc"],
    );
    expect(await child.next()).toBe("in use");
    await server.kill("SIGINT");
    await server.start();
    child.tell("it was restarted");
    expect(await child.next()).toBe("in use");
    await server.kill("SIGINT");
    child.tell("it was stopped");
    expectNoMore(await child.next(), { poll: 0 });
    const before = await child.next<Resources>();
    expectNoMore(await child.next(), before);
    await server.start();
    child.end();
    expectGoodEnd(await child.exit);
  });

  test("of connections that are given up", async () => {
    const child = startChild(
      prelude +
        leavesNothing(`
          const store = open({ queryTimeout: 300 });
          await store.initialize();
          report("ready");
          await told();
          for (let i = 0; i < 5; i += 1) {
            const calls = [store.get(["k"]), store.set(["l"], 1)];
            for (const call of await Promise.allSettled(calls)) {
              report(call.reason?.code);
            }
          }
          await told();
          await use(store);
          await store.close();
        `),
      server.url,
      ["--expose-gc"],
    );
    expect(await child.next()).toBe("ready");
    await whileLocked(async () => {
      child.tell("call");
      for (let i = 0; i < 10; i += 1) {
        expect(await child.next()).toBe("ERR_KV_TIMEOUT");
      }
    });
    child.tell("the lock is gone");
    child.end();
    const [before, after] = await child.rest<Resources>();
    expectNoMore(after as Resources, before as Resources);
    expectGoodEnd(await child.exit);
  });
});

describe("turns of the event loop", () => {
  test("1,000 gets at once are each answered with their own value", async () => {
    const [values] = await run(`
      const store = open();
      await Promise.all(each(1_000, (i) => store.set(["k", String(i)], i)));
      report(await Promise.all(each(1_000, (i) => store.get(["k", String(i)]))));
    `);
    expect(values).toEqual(numbers(1_000));
  });

  test("a value of 20 MB is transferred in many of them", async () => {
    // How much of it is under way is counted by a proxy on another thread.
    const [written, read, right] = await run(`
      const { Worker } = await import("node:worker_threads");
      const { once } = await import("node:events");
      const bytes = new Int32Array(new SharedArrayBuffer(4));
      const proxy = new Worker(\`
        const { parentPort, workerData: [port, bytes] } =
          require("node:worker_threads");
        const { connect, createServer } = require("node:net");
        const { Transform, pipeline } = require("node:stream");
        const counter = () => new Transform({
          transform(chunk, _, done) {
            Atomics.add(bytes, 0, chunk.length);
            done(null, chunk);
          },
        });
        createServer((client) => {
          const server = connect(port, "127.0.0.1");
          pipeline(client, counter(), server, () => {});
          pipeline(server, counter(), client, () => {});
        }).listen(0, "127.0.0.1", function () {
          parentPort.postMessage(this.address().port);
        });
      \`, { eval: true, execArgv: [], workerData: [new URL(data).port, bytes] });
      const [port] = await once(proxy, "message");
      const url = data.replace(":" + new URL(data).port, ":" + port);
      const store = open({}, url);
      const other = open();
      await other.set(["k"], 1);
      await store.initialize();
      /** Turns in which some of it arrived, and gets that were answered. */
      const during = async (promise) => {
        let settled = false;
        const end = promise.finally(() => { settled = true; });
        let gets = 0;
        const get = async () => {
          while (!settled) gets += await other.get(["k"]);
        };
        void get();
        const seen = new Set();
        while (!settled) {
          seen.add(Atomics.load(bytes, 0));
          await new Promise(setImmediate);
        }
        await end;
        return [seen.size, gets];
      };
      const value = "x".repeat(20_000_000);
      report(await during(store.set(["big"], value)));
      let got;
      report(await during(store.get(["big"]).then((value) => { got = value; })));
      report(got === value);
      await proxy.terminate();
    `);
    expect(right).toBe(true);
    for (const [turns, gets] of [written, read] as [number, number][]) {
      expect(turns).toBeGreaterThan(4);
      expect(gets).toBeGreaterThan(0);
    }
  });

  test("come while thousands of calls follow each other", async () => {
    const [immediates, timers] = (await run(`
      const store = open();
      await store.set(["k"], 1);
      let done = false;
      const turns = [0, 0];
      const immediate = () => {
        turns[0] += 1;
        if (!done) setImmediate(immediate);
      };
      const timer = () => {
        turns[1] += 1;
        if (!done) setTimeout(timer, 1);
      };
      immediate();
      timer();
      await Promise.all(each(8, async () => {
        for (let i = 0; i < 1_000; i += 1) await store.get(["k"]);
      }));
      done = true;
      turns.forEach(report);
    `)) as number[];
    expect(immediates).toBeGreaterThan(100);
    expect(timers).toBeGreaterThan(10);
  });
});

describe("continuations", () => {
  test("microtasks and ticks run before the next turn", async () => {
    const reports = await run(`
      const store = open();
      await store.set(["k"], 1);
      for (const call of [
        () => store.get(["k"]),
        () => store.set(["k"], 1),
        () => store.cas(["k"], 1, 1),
        () => store.delete(["none"]),
        () => Promise.all(each(100, () => store.get(["k"]))),
      ]) {
        const order = [];
        await call();
        setImmediate(() => order.push("immediate"));
        process.nextTick(() => {
          order.push("tick");
          queueMicrotask(() => order.push("microtask of the tick"));
        });
        queueMicrotask(() => order.push("microtask"));
        await new Promise(setImmediate);
        report(order);
      }
    `);
    const order = ["microtask", "tick", "microtask of the tick", "immediate"];
    expect(reports).toEqual(Array(5).fill(order));
  });

  test("a tick in the last continuation runs", async () => {
    const reports = await run(`
      const store = open();
      store.get(["k"]).then(() => process.nextTick(() => report("tick")));
    `);
    expect(reports).toEqual(["tick"]);
  });

  test("keep the context of AsyncLocalStorage", async () => {
    const [wrong, outside] = await run(`
      const { AsyncLocalStorage } = await import("node:async_hooks");
      const storage = new AsyncLocalStorage();
      const store = open();
      let wrong = 0;
      const check = (i) => { wrong += Number(storage.getStore() !== i); };
      await Promise.all(each(200, (i) => storage.run(i, async () => {
        await store.get(["k"]);
        check(i);
        await store.set(["k", String(i)], i);
        check(i);
        await store.cas(["k", String(i)], i, -i);
        check(i);
        await store.get([]).catch(() => {});
        check(i);
        await new Promise((resolve) => store.get(["k"]).then(() => {
          process.nextTick(() => { check(i); resolve(); });
        }));
        check(i);
      })));
      report(wrong);
      report(storage.getStore() ?? null);
    `);
    expect([wrong, outside]).toEqual([0, null]);
  });

  test.each<[string, string]>([
    ["unhandledRejection", `throw new Error("mine");`],
    [
      "uncaughtException",
      `process.nextTick(() => { throw new Error("mine"); });`,
    ],
    [
      "uncaughtException",
      `queueMicrotask(() => { throw new Error("mine"); });`,
    ],
  ])("that throw are reported as %s: %s", async (event, code) => {
    const [seen, answers, value] = await run(`
      const store = open();
      await Promise.all(each(100, (i) => store.set(["k", String(i)], i)));
      const seen = [];
      for (const event of ["unhandledRejection", "uncaughtException"]) {
        process.on(event, (error) => seen.push(event + ": " + error.message));
      }
      const gets = each(100, (i) => store.get(["k", String(i)]));
      gets[0].then(() => { ${code} });
      gets[50].then(() => { ${code} });
      const answers = await Promise.all(gets);
      await new Promise(setImmediate);
      report(seen);
      report(answers);
      await store.set(["k"], "works");
      report(await store.get(["k"]));
    `);
    expect(seen).toEqual([`${event}: mine`, `${event}: mine`]);
    expect(answers).toEqual(numbers(100));
    expect(value).toBe("works");
  });

  test("that throw without a handler end the process", async () => {
    const ran = await runChild(
      `
        ${prelude}
        const store = open();
        await store.set(["k"], 1);
        each(100, (i) => void store.get(["k", String(i)]));
        store.get(["k"]).then(() => {
          process.nextTick(() => { throw new Error("mine"); });
        });
      `,
      server.url,
    );
    expect(ran).toMatchObject({ code: 1, signal: null });
    expect(ran.stderr).toContain("Error: mine");
    expect(ran.lastMilliseconds).toBeLessThan(prompt);
  });

  test("calls in a callback of a FinalizationRegistry are answered", async () => {
    const reports = await run(
      `
        const store = open();
        await store.set(["k"], 1);
        let answers;
        const registry = new FinalizationRegistry(() => {
          answers = Promise.all([store.get(["k"]), open().get(["k"])]);
          answers.then(report);
        });
        registry.register({}, "held");
        while (answers === undefined) {
          gc();
          await pause(1);
        }
      `,
      ["--expose-gc"],
    );
    expect(reports).toEqual([[1, 1]]);
  });
});
