// The runtime's own Temporal, which some versions of Node have behind a flag.
import { expect, test } from "vitest";
import { runChild } from "./support/child.mts";

test("a ttl may be a Temporal.Duration of the runtime", async ({ skip }) => {
  const flags = "Temporal" in globalThis ? [] : ["--harmony-temporal"];
  const { reports, code, stderr } = await runChild(
    `
      const { MemoryKvStore, SqliteKvStore } = require(addon);
      const { Duration } = Temporal;
      for (const store of [new MemoryKvStore(), new SqliteKvStore(":memory:")]) {
        for (const ttl of [{ hours: 1 }, { months: 1 }, { years: 1, days: 1 }]) {
          await store.set(["stays", JSON.stringify(ttl)], 1, {
            ttl: Duration.from(ttl),
          });
        }
        await store.set(["zero"], 1, { ttl: new Duration() });
        await store.set(["negative"], 1, { ttl: Duration.from("-PT1H") });
        const started = Date.now();
        await store.set(["goes"], 1, { ttl: Duration.from("PT0.06S") });
        while (await store.get(["goes"])) await new Promise(setImmediate);
        report([
          (await Array.fromAsync(store.list())).length,
          Date.now() - started >= 60,
        ]);
      }
    `,
    null,
    flags,
  );
  skip(code === 9, "this runtime has no Temporal");
  expect(stderr).toBe("");
  expect(reports).toEqual([
    [3, true],
    [3, true],
  ]);
});
