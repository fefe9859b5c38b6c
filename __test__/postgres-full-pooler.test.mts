// Stores behind a real PgBouncer in session mode, all of whose connections are in
// use: it lets clients log in, and then says nothing.
import type { ReservedSql } from "postgres";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { PgBouncer, PostgresServer } from "./services/postgres.mts";
import { key, numbers } from "./support/entries.mts";
import { recovers } from "./support/faults.mts";
import { openStore, ownTable } from "./support/postgres.mts";
import { rejection } from "./support/rejection.mts";
import { startProxy } from "./support/served.mts";

let server: PostgresServer;
beforeAll(async () => {
  server = await PostgresServer.start();
});
afterAll(() => server.stop());

test.each([true, false])(
  "gets leave no connections behind, preparedStatements: %s",
  async (preparedStatements) => {
    const pooler = await PgBouncer.start(server, { mode: "session", size: 2 });
    onTestFinished(() => pooler.stop());
    const proxy = await startProxy(pooler);
    const store = openStore(proxy.url(pooler), {
      maxConnections: 2,
      queryTimeout: 1_000,
      preparedStatements,
      tableName: ownTable(),
    });
    // PgBouncer now knows the server, and accepts logins by itself.
    await recovers(() => store.set(["k"], 1));
    proxy.cut();
    await proxy.until(() => proxy.connections.size === 0);
    const other = server.client({ port: pooler.port, max: 2 });
    const sessions: ReservedSql[] = [];
    for (const _ of numbers(2)) {
      const session = await other.reserve();
      await session`SELECT 1`;
      sessions.push(session);
    }
    for (const round of numbers(6)) {
      const gets = numbers(5).map((i) =>
        rejection(() => store.get(key(5 * round + i))),
      );
      for (const { code } of await Promise.all(gets)) {
        expect(code).toMatch(/^ERR_KV_(CONNECTION|TIMEOUT)$/);
      }
    }
    await expect.poll(() => proxy.connections.size).toBeLessThanOrEqual(2);
    for (const session of sessions) session.release();
    await other.end({ timeout: 0 });
    await recovers(() => store.get(["k"]));
    expect(await store.get(["k"])).toBe(1);
    await expect.poll(() => proxy.connections.size).toBeLessThanOrEqual(2);
  },
);
