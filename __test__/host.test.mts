// Which host a store's operations run on, so that the tests that run twice can't
// silently run on the same one.
import { expect, test } from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import { expectGoodEnd, runChild } from "./support/child.mts";
import { onThread } from "./support/hosts.mts";

test.each([
  [
    "PostgresKvStore",
    () => PostgresServer.start({ settings: { fsync: "off" } }),
  ],
  ["MysqlKvStore", () => MysqlServer.start()],
  ["RedisKvStore", () => RedisServer.start()],
] as const)(
  `operations of %s run on ${onThread ? "a thread" : "the event loop"}`,
  async (name, start) => {
    const server = await start();
    try {
      // The event loop polls the store's socket.
      const ran = await runChild(
        `
          const { ${name} } = require(addon);
          const store = new ${name}(data);
          await store.set(["k"], 1);
          const handles = process.report.getReport().libuv;
          report(handles.some(({ type }) => type === "poll"));
          await store.close();
        `,
        server.url,
      );
      expectGoodEnd(ran);
      expect(ran.reports).toEqual([!onThread]);
    } finally {
      await server.stop();
    }
  },
);
