// The runtime's own Temporal, which some versions of Node have behind a flag.
import { expect, test } from "vitest";
import { runChild } from "./support/child.mts";
import { temporaryFile } from "./support/sqlite.mts";

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

test("a ttl may be a Temporal.Duration of another realm", async ({ skip }) => {
  const flags = "Temporal" in globalThis ? [] : ["--harmony-temporal"];
  const { reports, code, stderr } = await runChild(
    `
      const { SqliteKvStore } = require(addon);
      const { runInNewContext } = await import("node:vm");
      const { DatabaseSync } = await import("node:sqlite");
      const ttl = runInNewContext(\`Temporal.Duration.from("PT1H0.000000001S")\`);
      const store = new SqliteKvStore(data);
      await store.set(["new"], 1, { ttl });
      await store.set(["kept"], 1, { ttl });
      await store.close();
      report(new DatabaseSync(data)
        .prepare("SELECT expires - created AS length FROM fedify_kv")
        .all());
    `,
    await temporaryFile(),
    flags,
  );
  skip(code === 9, "this runtime has no Temporal");
  expect(stderr).toBe("");
  expect(reports).toEqual([[{ length: 3_600_001 }, { length: 3_600_001 }]]);
});
