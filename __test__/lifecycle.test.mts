// When a process may end, what happens at its end, and worker threads.
import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  expectGoodEnd,
  prompt,
  runChild,
  startChild,
} from "./support/child.mts";
import { keysOf } from "./support/collect.mts";
import {
  insertRows,
  officialTable,
  openStore,
  query,
  sql,
  temporaryFile,
} from "./support/sqlite.mts";

/** The stores that every script here may open by name. */
const stores = `
  const { DenoKvStore, MemoryKvStore, SqliteKvStore } = require(addon);
  const open = {
    memory: () => new MemoryKvStore(),
    "a file": () => new SqliteKvStore(data.path),
    ":memory:": () => new SqliteKvStore(":memory:"),
    "Deno KV": () => new DenoKvStore(data.path),
  }[data.name];
`;

async function inStore(name: string, script: string, flags?: string[]) {
  const path = await temporaryFile();
  return runChild(stores + script, { name, path }, flags);
}

/** Whether all handles share the entries, also those in other threads. */
const isShared = (name: string) => name === "a file" || name === "Deno KV";

for (const name of ["memory", "a file", ":memory:", "Deno KV"]) {
  describe(`${name}: an idle store lets the process end`, () => {
    const idle: Record<string, string> = {
      "that was never used": `open(); report("idle");`,
      "that was used": `
        const store = open();
        await store.set(["k"], 1);
        await store.get(["k"]);
        await Array.fromAsync(store.list());
        report("idle");
      `,
      "with a timer of its own": `
        const store = open();
        await store.set(["k"], 1, { ttl: { hours: 1 } });
        await store.set(["l"], 1, { ttl: { milliseconds: 1 } });
        report("idle");
      `,
      "with unfinished iterators": `
        const store = open();
        await Promise.all(Array.from({ length: 500 },
          (_, i) => store.set(["k", String(i)], i)));
        const started = store.list({ pageSize: 1 });
        await started.next();
        const unstarted = store.list();
        globalThis.kept = [store, started, unstarted];
        report("idle");
      `,
      "with an iterator whose result is not awaited": `
        const store = open();
        await Promise.all(Array.from({ length: 500 },
          (_, i) => store.set(["k", String(i)], i)));
        const list = globalThis.kept = store.list({ pageSize: 1 });
        for (let i = 0; i < 20; i += 1) void list.next();
        report("idle");
      `,
      "with a signal that never aborts": `
        const store = open();
        await store.set(["k"], 1);
        const { signal } = globalThis.kept = new AbortController();
        await store.list({ signal }).next();
        report("idle");
      `,
      "that was closed with iterators open": `
        const store = open();
        await Promise.all(Array.from({ length: 500 },
          (_, i) => store.set(["k", String(i)], i)));
        const list = globalThis.kept = store.list({ pageSize: 1 });
        await list.next();
        void list.next().catch(() => {});
        await store.close();
        report("idle");
      `,
    };
    for (const [how, script] of Object.entries(idle)) {
      test(how, async () => {
        const ran = await inStore(name, script);
        expectGoodEnd(ran);
        expect(ran.reports).toEqual(["idle"]);
      });
    }
  });

  describe(`${name}: a pending operation keeps the process alive`, () => {
    const operations: Record<string, [call: string, answer: unknown]> = {
      get: [`store.get(["k"])`, null],
      set: [`store.set(["k"], 1)`, null],
      delete: [`store.delete(["k"])`, null],
      cas: [`store.cas(["k"], undefined, 1)`, true],
      clear: [`store.clear(["k"])`, 0],
      "next()": [`store.list().next()`, { done: true }],
      initialize: [`store.initialize()`, null],
      drop: [`store.drop()`, null],
      close: [`store.close()`, null],
    };
    test.each(Object.entries(operations))("%s", async (_, [call, answer]) => {
      const ran = await inStore(
        name,
        `
          const store = open();
          ${call}.then((answer) => report(answer ?? null));
        `,
      );
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([answer]);
    });

    test("until the last operation of a sequence", async () => {
      const ran = await inStore(
        name,
        `
          const store = open();
          (async () => {
            for (let i = 0; i < 100; i += 1) {
              await store.set(["k", String(i)], i);
              await store.get(["k", String(i)]);
            }
            let n = 0;
            for await (const _ of store.list({ pageSize: 1 })) n += 1;
            await store.close();
            report(n);
          })();
        `,
      );
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([100]);
    });

    test("even an operation that starts in beforeExit", async () => {
      const ran = await inStore(
        name,
        `
          const store = open();
          process.once("beforeExit", () => {
            store.set(["k"], 1).then(() => store.get(["k"])).then(report);
          });
        `,
      );
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([1]);
    });
  });

  describe(`${name}: the process can end during operations`, () => {
    const busy = `
      const store = open();
      await Promise.all(Array.from({ length: 500 },
        (_, i) => store.set(["k", String(i)], i)));
      for (let i = 0; i < 500; i += 1) {
        store.set(["l", String(i)], "x".repeat(1000));
        store.get(["k", String(i)]);
      }
      const lists = Array.from({ length: 5 }, () => store.list({ pageSize: 1 }));
      for (const list of lists) void list.next();
      report("busy");
    `;

    test("by process.exit", async () => {
      for (const when of ["", "await null;", "await store.get(['k', '1']);"]) {
        const ran = await inStore(name, `${busy} ${when} process.exit(0);`);
        expectGoodEnd(ran);
        expect(ran.reports).toEqual(["busy"]);
      }
    });

    test("by an uncaught error", async () => {
      const ran = await inStore(
        name,
        `${busy} setImmediate(() => { throw new Error("mine"); });`,
      );
      expect(ran).toMatchObject({ code: 1, signal: null });
      expect(ran.stderr).toContain("Error: mine");
      expect(ran.lastMilliseconds).toBeLessThan(prompt);
    });

    test("by process.exit during close", async () => {
      const ran = await inStore(
        name,
        `${busy} store.close(); process.exit(0);`,
      );
      expectGoodEnd(ran);
    });

    test("by process.exit inside a loop over a list", async () => {
      const ran = await inStore(
        name,
        `${busy}
        for await (const _ of lists[4]) process.exit(0);`,
      );
      expectGoodEnd(ran);
    });
  });

  describe(`${name}: garbage collection`, () => {
    test("iterators can be collected while a page is read", async () => {
      const ran = await inStore(
        name,
        `
          const store = open();
          await Promise.all(Array.from({ length: 500 },
            (_, i) => store.set(["k", String(i)], "x".repeat(500))));
          for (let i = 0; i < 300; i += 1) {
            const list = store.list({ pageSize: 1 + (i % 7) });
            for (let calls = 0; calls < i % 4; calls += 1) {
              list.next().catch(() => {});
            }
            if (i % 3 === 0) gc();
            if (i % 5 === 0) await store.get(["k", "1"]);
            if (i % 7 === 0) await new Promise(setImmediate);
            if (i % 11 === 0) void list.return();
          }
          gc();
          const rest = await Array.fromAsync(store.list());
          await store.close();
          gc();
          report(rest.length);
        `,
        ["--expose-gc"],
      );
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([500]);
    });

    test("a promise settles even if the store is not referenced", async () => {
      const ran = await inStore(
        name,
        `
          await open().initialize();
          for (let round = 0; round < 10; round += 1) {
            const set = (() => open().set(["k"], 1))();
            gc();
            await set;
            const next = (() => open().list().next())();
            gc();
            await new Promise(setImmediate);
            gc();
            report((await next).done);
          }
        `,
        ["--expose-gc"],
      );
      expectGoodEnd(ran);
      // Each new memory store is empty, while a file still has its entry.
      expect(ran.reports).toEqual(Array(10).fill(!isShared(name)));
    });

    test("unreferenced iterators and stores are collected", async () => {
      const ran = await inStore(
        name,
        `
          const store = open();
          await Promise.all(Array.from({ length: 300 },
            (_, i) => store.set(["k", String(i)], i)));
          const seen = [];
          for (let i = 0; i < 200; i += 1) {
            const list = store.list({ pageSize: 1 });
            await list.next();
            if (i % 2) void list.next();
            seen.push(new WeakRef(list));
          }
          for (let i = 0; i < 50; i += 1) {
            const other = open();
            await other.get(["k"]);
            await other.close();
            seen.push(new WeakRef(other));
          }
          const left = () => seen.filter((ref) => ref.deref()).length;
          for (let i = 0; i < 1_000 && left() >= 25; i += 1) {
            await new Promise((resolve) => setTimeout(resolve, 5));
            gc();
          }
          report(left());
        `,
        ["--expose-gc"],
      );
      expectGoodEnd(ran);
      expect(ran.reports[0]).toBeLessThan(25);
    });
  });

  describe(`${name}: threads`, () => {
    /** Defines `worker(script)`. A script can use `open`, like those above. */
    const workers = `
      import { Worker } from "node:worker_threads";
      import { once } from "node:events";
      const worker = (script) => new Worker(
        \`
          const { parentPort } = require("node:worker_threads");
          const [addon, data] = \${JSON.stringify([addon, data])};
          const { DenoKvStore, MemoryKvStore, SqliteKvStore } = require(addon);
          const open = {
            memory: () => new MemoryKvStore(),
            "a file": () => new SqliteKvStore(data.path, { busyTimeout: 30000 }),
            ":memory:": () => new SqliteKvStore(":memory:"),
            "Deno KV": () => new DenoKvStore(data.path, { busyTimeout: 30000 }),
          }[data.name];
          (async () => { \${script} })();
        \`,
        { eval: true, execArgv: [] },
      );
    `;

    async function withWorkers(script: string) {
      const path = await temporaryFile();
      const ran = await runChild(workers + script, { name, path });
      return { ...ran, path };
    }

    test("workers can use a store one after another, without the main thread", async () => {
      const ran = await withWorkers(`
        for (let i = 0; i < 4; i += 1) {
          const one = worker(\`
            const store = open();
            await store.set(["k"], 1);
            const n = (await Array.fromAsync(store.list())).length;
            parentPort.postMessage(n);
            \${i % 2 ? "await store.close();" : ""}
          \`);
          const exit = once(one, "exit");
          const [n] = await once(one, "message");
          report([n, ...await exit]);
        }
      `);
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([
        [1, 0],
        [1, 0],
        [1, 0],
        [1, 0],
      ]);
    });

    test("eight workers can use a store at once", async () => {
      const ran = await withWorkers(`
        const all = Array.from({ length: 8 }, () => worker(\`
          const store = open();
          for (let done = 0; done < 20; ) {
            const value = await store.get(["counter"]);
            done += Number(await store.cas(["counter"], value, (value ?? 0) + 1));
          }
          parentPort.postMessage(await store.get(["counter"]));
          await store.close();
        \`));
        const counts = await Promise.all(
          all.map(async (one) => {
            const exit = once(one, "exit");
            const [n] = await once(one, "message");
            await exit;
            return n;
          }),
        );
        report(Math.max(...counts));
      `);
      // Each thread has its own memory store, but all threads share a file.
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([isShared(name) ? 160 : 20]);
    });

    test("a worker can be terminated during operations", async () => {
      const ran = await withWorkers(`
        for (let i = 0; i < 12; i += 1) {
          const one = worker(\`
            const store = open();
            await Promise.all(Array.from({ length: 200 },
              (_, i) => store.set(["k", String(i)], i)));
            parentPort.postMessage("busy");
            const work = async () => {
              for (;;) {
                await store.set(["k", "0"], 1);
                await store.get(["k", "1"]);
                for await (const _ of store.list({ pageSize: 1 })) {
                  await new Promise(setImmediate);
                }
              }
            };
            work(); work(); work();
          \`);
          await once(one, "message");
          if (i % 3) await new Promise((resolve) => setTimeout(resolve, i));
          await one.terminate();
        }
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data.path);
        await store.set(["after"], 1);
        report(await store.get(["after"]));
        await store.close();
      `);
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([1]);
    });

    test.skipIf(!existsSync("/proc/self/fd"))(
      "a worker that is terminated while lists wait leaves nothing behind",
      async () => {
        const ran = await withWorkers(`
          const { readdirSync } = require("node:fs");
          const count = (what) => readdirSync("/proc/self/" + what).length;
          const run = async () => {
            const one = worker(\`
              const store = open();
              await Promise.all(Array.from({ length: 200 },
                (_, i) => store.set(["k", String(i)], i)));
              const { signal } = new AbortController();
              // Nothing answers them: the thread has no turn any more.
              for (let i = 0; i < 5; i += 1) {
                const list = store.list({ pageSize: 1 + i, signal });
                for (let calls = 0; calls < 20; calls += 1) void list.next();
              }
              void open().list().next();
              parentPort.postMessage("waiting");
              for (;;);
            \`);
            await once(one, "message");
            await one.terminate();
          };
          // What the first one starts for all others stays.
          await run();
          const counts = () => [count("task"), count("fd")];
          const before = counts();
          for (let i = 0; i < 6; i += 1) await run();
          const less = ([a, b], [c, d]) => a <= c && b <= d;
          for (let i = 0; i < 1_000 && !less(counts(), before); i += 1) {
            await new Promise((resolve) => setTimeout(resolve, 10));
          }
          report(less(counts(), before) ? "back" : [before, counts()]);
        `);
        expectGoodEnd(ran);
        expect(ran.reports).toEqual(["back"]);
      },
    );

    test("a worker can exit during operations", async () => {
      const ran = await withWorkers(`
        for (let i = 0; i < 5; i += 1) {
          const one = worker(\`
            const store = open();
            await store.set(["k"], 1);
            for (let i = 0; i < 100; i += 1) void store.set(["k"], i);
            void store.list().next();
            process.exit(7);
          \`);
          report((await once(one, "exit"))[0]);
        }
      `);
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([7, 7, 7, 7, 7]);
    });

    test.each([1, 2, 3])(
      "the process can exit during workers' operations: %i",
      async () => {
        const ran = await withWorkers(`
        const all = Array.from({ length: 3 }, () => worker(\`
          const store = open();
          await store.set(["k"], 1);
          parentPort.postMessage("busy");
          for (;;) await store.set(["k"], 1);
        \`));
        await Promise.all(all.map((one) => once(one, "message")));
        report("busy");
        process.exit(0);
      `);
        expectGoodEnd(ran);
        expect(ran.reports).toEqual(["busy"]);
      },
    );
  });
}

test("resolved writes are stored, even if the store is not closed", async () => {
  const path = await temporaryFile();
  for (const end of ["", "process.exit(0);", "await store.close();"]) {
    const ran = await runChild(
      `
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data.path);
        await store.set(["k", data.end], 1);
        report("set");
        ${end}
      `,
      { path, end },
    );
    expectGoodEnd(ran);
  }
  const store = openStore(path);
  expect(await keysOf(store.list(["k"]))).toHaveLength(3);
});

test("an exit during writes leaves an intact file", async () => {
  const path = await temporaryFile();
  const ran = await runChild(
    `
      const { SqliteKvStore } = require(addon);
      const store = new SqliteKvStore(data);
      await store.set(["k"], 1);
      for (let i = 0; i < 5_000; i += 1) {
        void store.set(["k", String(i)], "x".repeat(500));
      }
      setTimeout(() => process.exit(0), 5);
    `,
    path,
  );
  expect(ran).toMatchObject({ code: 0, stderr: "" });
  expect(await query(path, "PRAGMA integrity_check")).toEqual([
    { integrity_check: "ok" },
  ]);
  expect(await openStore(path).get(["k"])).toBe(1);
});

test("an unfinished long list does not keep the process alive", async () => {
  const path = await temporaryFile();
  await sql(path, officialTable, insertRows("k", 100_000, '"some text"'));
  const ran = await runChild(
    `
      const { SqliteKvStore } = require(addon);
      const store = new SqliteKvStore(data);
      const list = globalThis.list = store.list();
      const { value } = await list.next();
      report(value.value);
    `,
    path,
  );
  expectGoodEnd(ran);
  expect(ran.reports).toEqual(["some text"]);
});

test("SIGTERM ends a process during writes", async () => {
  const path = await temporaryFile();
  const child = startChild(
    `
      const { SqliteKvStore } = require(addon);
      const store = new SqliteKvStore(data);
      await store.set(["k"], 1);
      report(process.pid);
      for (;;) await store.set(["k"], 1);
    `,
    path,
  );
  process.kill(await child.next<number>(), "SIGTERM");
  expect(await child.exit).toMatchObject({ signal: "SIGTERM" });
  expect(await openStore(path).get(["k"])).toBe(1);
});
