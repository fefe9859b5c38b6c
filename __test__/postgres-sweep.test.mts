// Expired rows are found by walking over the table. Of all the stores in all
// processes, one walks at a time.
import type { Sql } from "postgres";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import { type Child, startChild } from "./support/child.mts";
import { numbers } from "./support/entries.mts";

/** Rows that stay, so that a walk has several slices. */
const LIVE = 5_000;
const SLICES = LIVE / 500 + 1;

let server: PostgresServer;
let sql: Sql;
beforeAll(async () => {
  server = await PostgresServer.start({
    settings: { log_min_duration_statement: 0, log_line_prefix: "%p " },
  });
  sql = server.client();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await sql`DROP TABLE IF EXISTS fedify_kv_v2`;
});

/** The processes of the server that have walked, one for each slice. */
const walkers = () =>
  server.log
    .filter((line) => /(statement|execute [^:]*): .*SKIP LOCKED/.test(line))
    .map((line) => line.split(" ", 1)[0]);

/** A process with some stores, each of which writes entries that expire. */
async function worker(stores: number, name: string): Promise<Child> {
  const child = startChild(
    `
      const { PostgresKvStore } = require(addon);
      const stores = Array.from({ length: data.stores },
        () => new PostgresKvStore(data.url, { maxConnections: 2 }));
      for (const store of stores) await store.initialize();
      report("ready");
      await told();
      await Promise.all(stores.map((store, i) =>
        store.set(["t", data.name, String(i)], 1, { ttl: { milliseconds: 500 } })));
      report("set");
      await told();
      await Promise.all(stores.map((store) => store.close()));
    `,
    { stores, name, url: server.url },
  );
  expect(await child.next()).toBe("ready");
  return child;
}

const addLiveRows = () => sql`
  INSERT INTO fedify_kv_v2 (key, value)
  SELECT ARRAY['k', i::text], '0' FROM generate_series(1, ${LIVE}::int) AS i`;

const rows = async () => {
  const [row] = await sql`SELECT count(*)::int AS n FROM fedify_kv_v2`;
  return row?.n as number;
};

async function expire(workers: readonly Child[]): Promise<void> {
  for (const child of workers) child.tell("write");
  for (const child of workers) expect(await child.next()).toBe("set");
}

test("twenty stores in four processes: one of them walks", async () => {
  const workers = await Promise.all(
    numbers(4).map((i) => worker(5, String(i))),
  );
  await addLiveRows();
  await expire(workers);
  await expect.poll(rows, { timeout: 50_000, interval: 200 }).toBe(LIVE);
  const all = walkers();
  expect(all.length).toBeGreaterThanOrEqual(SLICES);
  // Twenty walks if each of them walked. Some may have begun a second one.
  expect(all.length).toBeLessThanOrEqual(5 * SLICES);
  // One after another: a session doesn't go on after another one has begun.
  const changes = all.filter((pid, i) => i > 0 && pid !== all[i - 1]);
  expect(changes.length).toBeLessThanOrEqual(all.length / SLICES);
  for (const child of workers) child.end();
});

test("if the process that walks is killed, another one goes on", async () => {
  const from = walkers().length;
  const workers = await Promise.all(
    numbers(2).map((i) => worker(1, String(i))),
  );
  await addLiveRows();
  await expire(workers);
  await expect
    .poll(() => walkers().length, { timeout: 30_000 })
    .toBeGreaterThan(from);
  const third = await worker(1, "2");
  // The one that walks is among them.
  for (const child of workers) child.kill();
  await expire([third]);
  await expect.poll(rows, { timeout: 50_000, interval: 200 }).toBe(LIVE);
  third.end();
});
