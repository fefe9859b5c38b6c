// Answers that wait for a turn of the event loop: their order, the process that
// they keep alive, and its end. The contract suite has the rest.
import { describe, expect, test } from "vitest";
import { MemoryKvStore, SqliteKvStore } from "../index.js";
import { expectGoodEnd, runChild } from "./support/child.mts";
import { numbers } from "./support/entries.mts";

const stores = {
  memory: () => new MemoryKvStore(),
  sqlite: () => new SqliteKvStore(":memory:"),
};

describe.each(Object.entries(stores))("%s", (_, open) => {
  test("gets settle in the order of their calls", async () => {
    await using store = open();
    await store.set(["k"], 1);
    const order: number[] = [];
    await Promise.all(
      numbers(20_000).map(async (i) => {
        // Some are rejected, and some find nothing.
        const key = i % 3 === 0 ? [] : i % 3 === 1 ? ["k"] : ["nothing"];
        await store.get(key as never).catch(() => {});
        order.push(i);
      }),
    );
    expect(order).toEqual(numbers(20_000));
  });

  test("a call that is made while others wait settles after them", async () => {
    await using store = open();
    await store.set(["k"], 1);
    const order: string[] = [];
    const reads = numbers(20_000).map(() => store.get(["k"]));
    const last = reads.at(-1)?.then(() => order.push("last"));
    // Long before the last one settles.
    await reads[0];
    await store.get(["k"]);
    order.push("later");
    await last;
    expect(order).toEqual(["last", "later"]);
  });
});

test("several stores take turns", async () => {
  await using one = new MemoryKvStore();
  await using other = new MemoryKvStore();
  const settled = { one: 0, other: 0 };
  // More than fast machines settle in one turn.
  const count = 300_000;
  const reads = numbers(count).map(() =>
    one.get(["k"]).then(() => (settled.one += 1)),
  );
  const read = other.get(["k"]).then(() => settled.one);
  expect(await read).toBeLessThan(count);
  await Promise.all(reads);
  expect(settled.one).toBe(count);
});

const setUp = `
  const { MemoryKvStore, SqliteKvStore } = require(addon);
  const many = (call) => Array.from({ length: 20_000 }, (_, i) => call(i));
`;

test("answers that wait keep the process alive, and nothing else does", async () => {
  const ran = await runChild(`
    ${setUp}
    let settled = 0;
    process.on("exit", () => report(settled));
    {
      const store = new MemoryKvStore();
      const list = store.list();
      many(() => store.get(["k"]).then(() => { settled += 1; }));
      many(() => list.next().then(() => { settled += 1; }));
    }
  `);
  expectGoodEnd(ran);
  expect(ran.reports).toEqual([40_000]);
});

test("process.exit() while answers wait", async () => {
  const ran = await runChild(`
    ${setUp}
    const store = new MemoryKvStore();
    const list = store.list();
    many(() => void store.get(["k"]));
    many(() => void list.next());
    report("begun");
    process.exit(0);
  `);
  expectGoodEnd(ran);
  expect(ran.reports).toEqual(["begun"]);
});

test("a worker may end while answers wait", async () => {
  const ran = await runChild(`
    ${setUp}
    const { Worker } = require("node:worker_threads");
    const script = \`
      const { MemoryKvStore } = require(\${JSON.stringify(addon)});
      const { parentPort } = require("node:worker_threads");
      const store = new MemoryKvStore();
      const list = store.list();
      for (let i = 0; i < 20_000; i += 1) {
        void store.get(["k"]);
        void list.next();
      }
    \`;
    for (const end of ["process.exit(0)", "parentPort.postMessage(1)", "throw 1"]) {
      const worker = new Worker(script + end, { eval: true, execArgv: [] });
      const exited = new Promise((resolve) => worker.on("exit", resolve));
      worker.on("error", () => {});
      worker.on("message", () => worker.terminate());
      await exited;
      report(end);
    }
  `);
  expectGoodEnd(ran);
  expect(ran.reports).toHaveLength(3);
});

test("a loop in an init hook of async_hooks is answered too", async () => {
  const ran = await runChild(`
    ${setUp}
    const { createHook } = require("node:async_hooks");
    const store = new MemoryKvStore();
    const within = [];
    let inside = false;
    const init = (_, type, __, resource) => {
      if (inside) return;
      inside = true;
      // The immediate's function may be called from anywhere too.
      if (type === "Immediate") immediate = resource;
      immediate?._onImmediate?.();
      within.push(store.get(["k"]));
      inside = false;
    };
    let immediate;
    const hook = createHook({ init });
    await store.set(["k"], 1);
    hook.enable();
    const reads = many(() => store.get(["k"]));
    const values = new Set(await Promise.all(reads));
    hook.disable();
    report([...values, ...new Set(await Promise.all(within))]);
  `);
  expectGoodEnd(ran);
  expect(ran.reports).toEqual([[1, 1]]);
});
