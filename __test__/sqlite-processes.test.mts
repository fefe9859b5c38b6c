// Several processes on one file, and processes that are killed.
import { expect, test } from "vitest";
import { startChild } from "./support/child.mts";
import { collect, keysOf } from "./support/collect.mts";
import {
  type Options,
  openStore,
  query,
  temporaryFile,
} from "./support/sqlite.mts";

/** Writes that are not synced, so that lone ones run on the calling thread. */
const unsynced: Record<string, Options> = {
  normal: { durability: "normal" },
  relaxed: { relaxed: [["counter"], ["own"], ["k"]] },
};

/** Increments a counter with cas `data.count` times, and writes other keys. */
const counter = `
  const { SqliteKvStore } = require(addon);
  const store = new SqliteKvStore(data.path, {
    busyTimeout: 30_000,
    ...data.options,
  });
  report("ready");
  await told();
  let lost = 0;
  await Promise.all(data.loops.map(async (loop) => {
    for (let done = 0; done < data.count; ) {
      const value = await store.get(["counter"]);
      if (await store.cas(["counter"], value, { n: (value?.n ?? 0) + 1 })) {
        done += 1;
        await store.set(["own", data.name, String(loop), String(done)], done);
      } else {
        lost += 1;
      }
    }
  }));
  await store.close();
  report(lost);
`;

const contests = [
  { processes: 2, loops: [0, 1, 2], durability: "normal" },
  { processes: 4, loops: [0, 1, 2], durability: "normal" },
  { processes: 2, loops: [0], durability: "normal" },
  { processes: 2, loops: [0], durability: "relaxed" },
];
for (const { processes, loops, durability } of contests) {
  test(`${processes} processes lose no increment, ${loops.length} in flight, ${durability}`, async () => {
    const path = await temporaryFile();
    const count = 360 / processes / loops.length;
    const options = unsynced[durability];
    const children = Array.from({ length: processes }, (_, i) =>
      startChild(counter, { path, count, loops, options, name: String(i) }),
    );
    for (const child of children) {
      expect(await child.next()).toBe("ready");
    }
    // No process has opened the file yet, so they also race to create it.
    children.forEach((child) => child.tell("go"));
    for (const child of children) {
      expect(await child.next<number>()).toBeGreaterThanOrEqual(0);
      expect(await child.exit).toMatchObject({ code: 0, stderr: "" });
    }
    const store = openStore(path);
    expect(await store.get(["counter"])).toEqual({ n: 360 });
    expect(await keysOf(store.list(["own"]))).toHaveLength(360);
  });
}

test("exactly one of many processes' creates wins", async () => {
  const path = await temporaryFile();
  const children = Array.from({ length: 4 }, (_, i) =>
    startChild(
      `
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data.path, { busyTimeout: 30_000 });
        report("ready");
        await told();
        const won = [];
        for (let lock = 0; lock < 30; lock += 1) {
          const key = ["lock", String(lock)];
          if (await store.cas(key, undefined, data.i)) won.push(lock);
        }
        report(won);
        await store.close();
      `,
      { path, i },
    ),
  );
  for (const child of children) {
    await child.next();
  }
  children.forEach((child) => child.tell("go"));
  const won = await Promise.all(
    children.map((child) => child.next<number[]>()),
  );
  expect(won.flat().toSorted((a, b) => a - b)).toEqual(
    Array.from(Array(30).keys()),
  );
});

test("a process lists stable entries while another process writes", async () => {
  const path = await temporaryFile();
  const writer = startChild(
    `
      const { SqliteKvStore } = require(addon);
      const store = new SqliteKvStore(data, { durability: "normal" });
      for (let i = 0; i < 300; i += 1) {
        await store.set(["stays", String(i).padStart(3, "0")], i);
      }
      report("filled");
      let told_ = false;
      const end = told().then(() => { told_ = true; });
      for (let i = 0; !told_; i += 1) {
        await store.set(["stays", String(i % 300).padStart(3, "0"), "x"], i);
        await store.delete(["stays", String((i + 9) % 300).padStart(3, "0"), "x"]);
        await store.set(["stays", String((i * 7) % 300).padStart(3, "0")], i);
        if (i % 20 === 0) await new Promise(setImmediate);
      }
      await end;
      await store.close();
    `,
    path,
  );
  expect(await writer.next()).toBe("filled");
  const store = openStore(path);
  for (const pageSize of [1, 5, 64, 300]) {
    const keys = await keysOf(store.list({ prefix: ["stays"], pageSize }));
    expect(keys.filter((key) => key.length === 2)).toEqual(
      Array.from({ length: 300 }, (_, i) => [
        "stays",
        String(i).padStart(3, "0"),
      ]),
    );
  }
  writer.tell("end");
  expect((await writer.exit).code).toBe(0);
});

test("a busy reader sees what another process writes", async () => {
  const path = await temporaryFile();
  const store = openStore(path);
  await store.set(["k"], 0);
  const writer = startChild(
    `
      const { SqliteKvStore } = require(addon);
      const store = new SqliteKvStore(data);
      await store.get(["k"]);
      report("ready");
      for (let n; (n = await told()); ) await store.set(["k"], n);
    `,
    path,
  );
  expect(await writer.next()).toBe("ready");
  for (let n = 1; n <= 20; n += 1) {
    writer.tell(n);
    // Reads that are answered on the calling thread don't yield to the event
    // loop.
    const until = Date.now() + 5_000;
    while ((await store.get(["k"])) !== n && Date.now() < until);
    expect(await store.get(["k"])).toBe(n);
  }
});

const victims = Object.entries({ full: {}, ...unsynced }).flatMap(
  ([name, options]) => [1, 16].map((inFlight) => ({ name, options, inFlight })),
);
for (const { name, options, inFlight } of victims) {
  test(`a killed process loses no resolved write, ${name}, ${inFlight} in flight`, async () => {
    const path = await temporaryFile();
    const value = "x".repeat(2_000);
    const writer = startChild(
      `
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data.path, data.options);
        let next = 0;
        for (let i = 0; i < data.inFlight; i += 1) {
          (async () => {
            for (;;) {
              const id = next++;
              await store.set(["k", String(id)], { id, value: data.value });
              report(id);
            }
          })();
        }
      `,
      { path, options, inFlight, value },
    );
    const ids: number[] = [];
    while (ids.length < 300) {
      ids.push(await writer.next<number>());
    }
    writer.kill();
    ids.push(...(await writer.rest<number>()));
    expect((await writer.exit).signal).toBe("SIGKILL");
    const store = openStore(path);
    for (const id of ids) {
      expect(await store.get(["k", String(id)])).toEqual({ id, value });
    }
    const entries = await collect(store.list());
    expect(entries.length).toBeGreaterThanOrEqual(ids.length);
    expect(entries.length).toBeLessThanOrEqual(ids.length + 2 * inFlight);
    await store.close();
    expect(await query(path, "PRAGMA integrity_check")).toEqual([
      { integrity_check: "ok" },
    ]);
  });
}

test("a killed process leaves no lock behind", async () => {
  const path = await temporaryFile();
  const store = openStore(path, { busyTimeout: 2_000 });
  for (let round = 0; round < 3; round += 1) {
    const writer = startChild(
      `
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data);
        await store.set(["child"], 1);
        report("writing");
        for (;;) await store.set(["child"], "x".repeat(100_000));
      `,
      path,
    );
    expect(await writer.next()).toBe("writing");
    writer.kill();
    await writer.exit;
    await store.set(["k"], round);
    expect(await store.get(["k"])).toBe(round);
  }
});
