// A value as long as a string can be: what `get` reads, a list yields too,
// though the text of a whole page would be longer than that.
import { expect, test } from "vitest";
import { runChild, expectGoodEnd } from "./support/child.mts";

test("is listed", { timeout: 300_000 }, async () => {
  const ran = await runChild(
    `
        const { MemoryKvStore } = require(addon);
        const store = new MemoryKvStore();
        const length = 2 ** 29 - 30;
        await store.set(["a"], "short");
        {
          const value = "x".repeat(length);
          await store.set(["b"], value);
        }
        await store.set(["c"], "short");
        report((await store.get(["b"])).length === length);
        const list = store.list();
        for await (const { key, value } of list) {
          report([key[0], value.length === length || value]);
        }
        report(list.skipped);
        await store.close();
      `,
  );
  expectGoodEnd(ran);
  expect(ran.reports).toEqual([
    true,
    ["a", "short"],
    ["b", true],
    ["c", "short"],
    0,
  ]);
});
