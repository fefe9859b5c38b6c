// Expired rows are removed in the background, and never delay an operation.
import { setImmediate } from "node:timers/promises";
import { expect, test } from "vitest";
import { prompt, startChild } from "./support/child.mts";
import { collect } from "./support/collect.mts";
import { count, rowCounter, rowsGone } from "./support/row-counter.mts";
import {
  insertRows,
  officialTable,
  openStore,
  sql,
  temporaryFile,
} from "./support/sqlite.mts";

test("a backlog of expired rows does not delay operations", async () => {
  const path = await temporaryFile();
  const backlog = 200_000;
  await sql(
    path,
    officialTable,
    "CREATE INDEX idx_fedify_kv_expires ON fedify_kv (expires)",
    insertRows("old", backlog, '{"a":"some text"}', 2),
  );
  const counter = rowCounter(path, "fedify_kv");
  expect(await count(counter)).toBe(backlog);
  const store = openStore(path);
  await store.set(["new"], 1);
  // If the call had removed the backlog itself, only one row would be left.
  expect(await count(counter)).toBeGreaterThan(1);
  expect(await store.get(["old", "5"])).toBeUndefined();
  expect(await collect(store.list())).toEqual([{ key: ["new"], value: 1 }]);
  // Other operations still work while the backlog is removed.
  for (let i = 0; (await count(counter)) > 2; i += 1) {
    await store.set(["while"], i);
    expect(await store.get(["while"])).toBe(i);
  }
  expect(await collect(store.list())).toHaveLength(2);
}, 60_000);

test("an expired row is removed in the background", async () => {
  const path = await temporaryFile();
  const store = openStore(path);
  await store.set(["stays"], 1);
  await store.set(["later"], 1, { ttl: { hours: 1 } });
  for (let i = 0; i < 10; i += 1) {
    await store.set(["goes", String(i)], 1, {
      ttl: { milliseconds: 20 },
    });
  }
  const counter = rowCounter(path, "fedify_kv");
  await rowsGone(counter, 2);
  expect(await collect(store.list())).toHaveLength(2);
}, 90_000);

test("the sweep does not remove an expired row that is written again", async () => {
  const path = await temporaryFile();
  const store = openStore(path, { durability: "normal" });
  await store.set(["k"], 0);
  await store.set(["witness"], 1, { ttl: { milliseconds: 1 } });
  const counter = rowCounter(path, "fedify_kv");
  let swept = false;
  const sweeping = rowsGone(counter, 1).then(() => (swept = true));
  for (let round = 0; !swept; round += 1) {
    await store.set(["k"], round, { ttl: { milliseconds: 1 } });
    await store.set(["k"], round);
    expect(await store.get(["k"])).toBe(round);
    await setImmediate();
  }
  await sweeping;
  expect(await store.get(["k"])).not.toBeUndefined();
});

test("a sweep delays neither close nor exit", async () => {
  const backlog = 400_000;
  for (const end of ["await store.close();", ""]) {
    const path = await temporaryFile();
    await sql(path, officialTable, insertRows("old", backlog, "1", 2));
    const child = startChild(
      `
        const { SqliteKvStore } = require(addon);
        const store = new SqliteKvStore(data);
        await store.set(["k"], 1);
        report("set");
        await told();
        report("ending");
        ${end}
      `,
      path,
    );
    expect(await child.next()).toBe("set");
    const counter = rowCounter(path, "fedify_kv");
    // Waits until the sweep has begun.
    while ((await count(counter)) > backlog);
    child.tell("end");
    expect(await child.next()).toBe("ending");
    const { code, lastMilliseconds } = await child.exit;
    expect(code).toBe(0);
    expect(lastMilliseconds).toBeLessThan(prompt);
    expect(await count(counter)).toBeGreaterThan(1);
  }
});
