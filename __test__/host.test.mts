// Which host a store's operations run on, so that the tests that run twice can't
// silently run on the same one.
import { expect, test } from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import { expectGoodEnd, runChild } from "./support/child.mts";
import { onThread } from "./support/hosts.mts";

test(`operations run on ${onThread ? "a thread" : "the event loop"}`, async () => {
  const server = await PostgresServer.start({ settings: { fsync: "off" } });
  try {
    // The event loop polls the store's socket.
    const ran = await runChild(
      `
        const { PostgresKvStore } = require(addon);
        const store = new PostgresKvStore(data);
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
});
