// Expired rows of a Deno KV file are removed in the background, and never delay
// an operation.
import { setTimeout } from "node:timers/promises";
import { expect, test } from "vitest";
import { startChild } from "./support/child.mts";
import { collect } from "./support/collect.mts";
import { askDeno, openDenoStore } from "./support/deno.mts";
import { count, rowCounter, rowsGone } from "./support/row-counter.mts";
import { query, sql, temporaryFile } from "./support/sqlite.mts";

test("a backlog of expired rows does not delay operations", async () => {
  const path = await temporaryFile();
  const first = openDenoStore(path);
  await first.initialize();
  await first.close();
  const backlog = 50_000;
  // Keys like Deno's of one string each, ["00001"] and so on.
  await sql(path, [
    `INSERT INTO kv (k, v, v_encoding, version, expiration_ms)
       WITH RECURSIVE n(i) AS
         (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
       SELECT CAST(format('%c%05d', 2, i) AS BLOB) || x'00',
         x'ff0f4902', 1, 1, 2 FROM n`,
    backlog,
  ]);
  const counter = rowCounter(path, "kv");
  expect(await count(counter)).toBe(backlog);
  const store = openDenoStore(path);
  await store.set(["new"], 1);
  expect(await count(counter)).toBeGreaterThan(1);
  expect(await store.get(["00005"])).toBeUndefined();
  expect(await collect(store.list())).toEqual([{ key: ["new"], value: 1 }]);
  // Other operations still work while the backlog is removed.
  for (let i = 0; (await count(counter)) > 2; i += 1) {
    await store.set(["while"], i);
    expect(await store.get(["while"])).toBe(i);
  }
  counter.end();
});

test("entries are removed soon after they have expired", async () => {
  const path = await temporaryFile();
  const store = openDenoStore(path);
  await store.set(["stays"], 1);
  await store.set(["later"], 1, { ttl: { hours: 1 } });
  await store.set(["k"], 1, { ttl: { milliseconds: 1 } });
  const counter = rowCounter(path, "kv");
  await rowsGone(counter, 2);
  // Again, once the first sweep is over.
  await store.set(["k"], 1, { ttl: { milliseconds: 1 } });
  await store.set(["stays"], 2);
  await rowsGone(counter, 2);
  expect(await collect(store.list())).toHaveLength(2);
  counter.end();
});

test("a lock of another process only delays it", async () => {
  const path = await temporaryFile();
  const store = openDenoStore(path);
  await store.set(["k"], 1, { ttl: { milliseconds: 1 } });
  const locker = startChild(
    `
      const { DatabaseSync } = await import("node:sqlite");
      const database = new DatabaseSync(data, { timeout: 10_000 });
      database.exec("BEGIN IMMEDIATE");
      report("locked");
      await told();
      database.exec("COMMIT");
      report("free");
    `,
    path,
  );
  expect(await locker.next()).toBe("locked");
  const counter = rowCounter(path, "kv");
  // Past the time when the sweep was due.
  await setTimeout(1_500);
  expect(await count(counter)).toBe(1);
  expect(await store.get(["k"])).toBeUndefined();
  locker.tell("release");
  expect(await locker.next()).toBe("free");
  await rowsGone(counter, 0);
  locker.end();
  counter.end();
});

test("the longest ttl is one that Deno can read", async () => {
  const path = await temporaryFile();
  const store = openDenoStore(path);
  await store.set(["k"], 1, { ttl: { milliseconds: 1e18 } });
  expect(await store.get(["k"])).toBe(1);
  await store.close();
  const [row] = await query(path, "SELECT expiration_ms AS at FROM kv");
  expect(Number(row?.at)).toBeGreaterThan(8e15);
  // Deno's engine looks for the earliest expiry when it opens the file.
  const script = `report((await kv.get(["k"])).value);`;
  expect(await askDeno(path, script)).toBe(1);
});
