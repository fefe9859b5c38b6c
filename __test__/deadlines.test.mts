// Locks and changes of other processes on a database file: each operation has a
// deadline of its own, counted from its call.
import { describe, expect, test } from "vitest";
import { startChild } from "./support/child.mts";
import { collect } from "./support/collect.mts";
import { type FileRow, fileRows, openFile } from "./support/databases.mts";
import { lockedBy, released } from "./support/lock.mts";
import { openStore, sql, temporaryFile } from "./support/sqlite.mts";

/** The time that each operation has; more than a busy machine may hold one up. */
const deadline = 2_000;

/** How it ended, and after how long. */
async function timed(promise: Promise<unknown>) {
  const start = performance.now();
  const outcome = await promise.then(
    (value) => ({ value, code: undefined }),
    ({ code }: { code: string }) => ({ value: undefined, code }),
  );
  return { ...outcome, milliseconds: performance.now() - start };
}

type Timed = Awaited<ReturnType<typeof timed>>;

/** It was rejected when its time was over, and not much later. */
function expectInTime(outcome: Timed): void {
  expect(outcome.code).toBe("ERR_KV_TIMEOUT");
  // Clocks of two libraries may differ a little.
  expect(outcome.milliseconds).toBeGreaterThanOrEqual(deadline - 50);
  expect(outcome.milliseconds).toBeLessThan(2 * deadline);
}

const later = (milliseconds: number) =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

describe.each(fileRows)("$name: a lock of another process", (row: FileRow) => {
  async function prepare() {
    const path = await temporaryFile();
    const store = openFile(row, path, { busyTimeout: deadline });
    await store.set(["a"], 1);
    await store.set(["k"], 1);
    return { path, store };
  }

  test("each of several clears has a deadline of its own", async () => {
    const { path, store } = await prepare();
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    const clears = ["a", "b", "c", "d", "e"].map((key) =>
      timed(store.clear([key])),
    );
    await later(deadline / 2);
    const set = timed(store.set(["s"], 1));
    const order: string[] = [];
    const get = store.get(["k"]).then((value) => {
      order.push("get");
      return value;
    });
    void Promise.race(clears).then(() => order.push("clear"));
    expect(await get).toBe(1);
    // It needs no lock.
    expect(order).toEqual(["get"]);
    for (const clear of clears) {
      expectInTime(await clear);
    }
    expectInTime(await set);
    await released(child);
    expect(await store.get(["a"])).toBe(1);
    expect(await store.get(["s"])).toBeUndefined();
    expect(await store.clear(["a"])).toBe(1);
    await store.set(["s"], 1);
    expect(await store.get(["s"])).toBe(1);
  });

  test("a get behind a clear of its own key is answered or late", async () => {
    const { path, store } = await prepare();
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    const clear = timed(store.clear(["a"]));
    const get = timed(store.get(["a"]));
    expectInTime(await clear);
    const { value, milliseconds } = await get;
    expect(value).toBe(1);
    expect(milliseconds).toBeLessThan(2 * deadline);
    await released(child);
  });

  test("operations of all kinds end in time", async () => {
    const { path, store } = await prepare();
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    const operations = [
      () => store.set(["a"], 2),
      () => store.delete(["a"]),
      () => store.cas(["a"], 1, 2),
      () => store.clear(["a"]),
      () => store.set(["b"], 2),
      () => store.drop(),
      () => store.set(["c"], 2, { ttl: { hours: 1 } }),
    ];
    const running: Promise<Timed>[] = [];
    for (const operation of operations) {
      running.push(timed(operation()));
      await later(deadline / 20);
    }
    for (const outcome of running) {
      expectInTime(await outcome);
    }
    await released(child);
    expect(await collect(store.list())).toHaveLength(2);
    expect(await store.get(["a"])).toBe(1);
  });

  test("close takes no longer than the last deadline", async () => {
    const { path, store } = await prepare();
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    const running = [1, 2, 3, 4, 5].map(() => timed(store.clear(["a"])));
    await later(deadline / 2);
    running.push(timed(store.set(["s"], 1)));
    const close = timed(store.close());
    for (const outcome of running) {
      expectInTime(await outcome);
    }
    const { code, milliseconds } = await close;
    expect(code).toBeUndefined();
    expect(milliseconds).toBeLessThan(2 * deadline);
    await released(child);
  });

  test("what comes while the lock is held is done when it is free", async () => {
    const { path, store } = await prepare();
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    const running = [
      store.clear(["a"]),
      store.set(["a"], 2),
      store.cas(["a"], 2, 3),
      store.clear(["k"]),
    ];
    await later(100);
    await released(child);
    expect(await Promise.all(running)).toEqual([1, undefined, true, 1]);
    expect(await store.get(["a"])).toBe(3);
  });
});

test("Deno KV: clear goes on beside a writer of another process", async () => {
  const row = { name: "Deno KV", store: "DenoKvStore" } as const;
  const path = await temporaryFile();
  const store = openFile(row, path, { busyTimeout: 1_000 });
  // A slice has 256 entries, so that there are some.
  await Promise.all(
    Array.from({ length: 6_000 }, (_, i) => store.set(["k", String(i)], i)),
  );
  const child = startChild(
    `
      const { DatabaseSync } = await import("node:sqlite");
      const database = new DatabaseSync(data, { timeout: 10_000 });
      const free = new Int32Array(new SharedArrayBuffer(4));
      report("begun");
      for (;;) {
        database.exec("BEGIN IMMEDIATE");
        Atomics.wait(free, 0, 0, 250);
        database.exec("COMMIT");
        Atomics.wait(free, 0, 0, 20);
      }
    `,
    path,
  );
  expect(await child.next()).toBe("begun");
  // No wait is long, but all of them together are.
  expect(await store.clear(["k"])).toBe(6_000);
  child.kill();
  await child.exit;
});

describe("a table that another process drops", () => {
  test("again and again", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { busyTimeout: 30_000 });
    await store.initialize();
    const child = startChild(
      `
        const { DatabaseSync } = await import("node:sqlite");
        const database = new DatabaseSync(data, { timeout: 30_000 });
        report("begun");
        const end = performance.now() + 3_000;
        let dropped = 0;
        while (performance.now() < end) {
          database.exec("DROP TABLE IF EXISTS fedify_kv");
          dropped += 1;
        }
        database.close();
        report(dropped);
      `,
      path,
    );
    expect(await child.next()).toBe("begun");
    let ended = false;
    const dropped = child.next<number>().finally(() => (ended = true));
    const calls = [
      (key: string) => store.set([key], 1),
      (key: string) => store.get([key]),
      (key: string) => store.cas([key], undefined, 1),
      (key: string) => store.delete([key]),
      (key: string) => store.clear([key]),
      (key: string) => collect(store.list([key])),
      (key: string) => store.set([key], 1, { ttl: { milliseconds: 1 } }),
    ];
    const failures = new Set<string>();
    let done = 0;
    const work = async (worker: number) => {
      for (let i = worker; !ended; i += 1) {
        try {
          await calls[i % calls.length]?.(String(worker));
          done += 1;
        } catch (error) {
          failures.add(String(error));
        }
      }
    };
    await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(work));
    expect([...failures]).toEqual([]);
    expect(await dropped).toBeGreaterThan(0);
    expect(done).toBeGreaterThan(0);
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  });

  test("once, while operations of all kinds are under way", async () => {
    const path = await temporaryFile();
    const store = openStore(path);
    for (let round = 0; round < 5; round += 1) {
      await store.set(["a"], 1);
      await sql(path, "DROP TABLE fedify_kv");
      expect(
        await Promise.all([
          store.get(["a"]),
          store.cas(["b"], undefined, 1),
          store.clear(["a"]),
          store.delete(["a"]),
          store.set(["c"], 1),
          collect(store.list(["a"])),
        ]),
      ).toEqual([undefined, true, 0, undefined, undefined, []]);
    }
  });
});
