// A standby takes over. Connections to the old primary stay open, but it is
// read-only from then on.
import type { Sql } from "postgres";
import { afterEach, beforeEach, expect, test } from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import type { TcpProxy } from "./services/proxy.mts";
import { key, numbers } from "./support/entries.mts";
import { openStore } from "./support/postgres.mts";
import { rejection } from "./support/rejection.mts";
import { startProxy } from "./support/served.mts";

let primary: PostgresServer;
let standby: PostgresServer;
let sql: Sql;
let proxy: TcpProxy;

beforeEach(async () => {
  primary = await PostgresServer.start();
  standby = await primary.startStandby();
  sql = primary.client();
  proxy = await startProxy(primary);
});
afterEach(() => Promise.all([primary.stop(), standby.stop()]));

/** A store with some connections to the primary, and entries on both servers. */
async function connected(queryTimeout = 20_000) {
  const store = openStore(proxy.url(primary), { queryTimeout });
  await store.set(["k"], "old");
  await Promise.all(numbers(1_000).map((i) => store.set(key(i), "old")));
  await Promise.all(numbers(1_000).map((i) => store.get(key(i))));
  const other = standby.client();
  await expect
    .poll(async () => {
      const rows = await other`
        SELECT count(*)::int FROM pg_class WHERE relname = 'fedify_kv_v2'`;
      if (rows[0]?.count === 0) return 0;
      return (await other`SELECT FROM fedify_kv_v2`).length;
    })
    .toBe(1_001);
  return { store, other };
}

/** The old primary's sessions learn it before their next statement. */
async function demote(): Promise<void> {
  await sql`ALTER SYSTEM SET default_transaction_read_only = on`;
  await sql`SELECT pg_reload_conf()`;
  await expect
    .poll(async () => {
      const rows = await sql`SHOW default_transaction_read_only`;
      return rows[0]?.default_transaction_read_only;
    })
    .toBe("on");
}

async function switchOver(): Promise<void> {
  await demote();
  await standby.promote();
  proxy.target = standby.port;
}

const sessions = () => sql`
  SELECT FROM pg_stat_activity WHERE application_name = 'fedify-kv'`;

test.each(["set", "cas", "group"])(
  "%s succeeds on the new primary, and gets follow it",
  async (kind) => {
    const { store, other } = await connected();
    await switchOver();
    const calls: Record<string, () => Promise<unknown>> = {
      set: () => store.set(["k"], "new"),
      cas: () => store.cas(["k"], "old", "new"),
      group: () =>
        Promise.all(
          numbers(100).map((i) =>
            i % 2 === 0
              ? store.set(key(i), "new")
              : store.cas(key(i), "old", "new"),
          ),
        ),
    };
    await calls[kind]?.();
    expect(
      await other`SELECT FROM fedify_kv_v2 WHERE value = '"new"'`,
    ).not.toHaveLength(0);
    // The old server has other values.
    const fresh = JSON.stringify("fresh");
    await other`DELETE FROM fedify_kv_v2`;
    await other`
      INSERT INTO fedify_kv_v2 (key, value)
      SELECT ARRAY['k', i::text], ${fresh}::text::jsonb
      FROM generate_series(0, 999) AS i`;
    const values = await Promise.all(
      numbers(1_000).map((i) => store.get(key(i))),
    );
    expect(new Set(values)).toEqual(new Set(["fresh"]));
    await expect.poll(sessions).toHaveLength(0);
  },
);

test("writes wait for the new primary", async () => {
  const { store } = await connected(30_000);
  await demote();
  const before = proxy.accepted;
  const writes = Promise.all([
    store.set(["k"], "new"),
    store.cas(["l"], undefined, "new"),
    store.clear(["k", "1"]),
  ]);
  // It has tried again, on a new connection to the old server.
  const failed = writes.then(() => "not read-only");
  const tried = proxy.until(() => proxy.accepted > before);
  expect(await Promise.race([tried, failed])).toBeUndefined();
  await standby.promote();
  proxy.target = standby.port;
  expect(await writes).toEqual([undefined, true, 1]);
  expect(await store.get(["k"])).toBe("new");
});

test("writes reject if there is no primary, and were not carried out", async () => {
  const { store } = await connected(1_500);
  await demote();
  const errors = await Promise.all(
    [
      () => store.set(["k"], "new"),
      () => store.cas(key(1), "old", "new"),
      () => store.delete(key(2)),
      () => store.clear(["l"]),
    ].map((call) => rejection(call)),
  );
  for (const { code, message } of errors) {
    expect(code).toMatch(/^ERR_KV_(BACKEND|CONNECTION)$/);
    expect(message).toMatch(/read-only|does not allow writes/);
    expect(message).not.toContain("unknown");
  }
  expect(await store.get(["k"])).toBe("old");
});

test("a write waits for the successor of a primary that has crashed", async () => {
  const { store } = await connected();
  await primary.kill();
  const write = store.set(["k"], "new");
  await standby.promote();
  proxy.target = standby.port;
  await write;
  expect(await store.get(["k"])).toBe("new");
});
