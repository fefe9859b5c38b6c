// Lists of a store on a server: read ahead, but not more than fits into memory
// and into the time of an operation.
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { ask } from "./support/child.mts";
import { type Served, servedRows, startProxy } from "./support/served.mts";

const SMALL = 1_600;
const MIB = 1024 * 1024;

describe.each(servedRows)("$store", (row) => {
  const { store: name, start, open, large, options } = row;
  let server: Served;
  beforeAll(async () => {
    server = await start();
  });
  afterAll(() => server.stop());

  /** Many small entries, followed by large ones. */
  async function fill(count: number): Promise<void> {
    const store = open(server.url, 60_000);
    onTestFinished(() => store.close());
    await store.drop();
    await store.initialize();
    await server.fill("a", SMALL);
    await server.fill("b", count, large);
  }

  test("a list whose entries become large goes on over a slow link", async () => {
    const count = 15_000_000 / large;
    await fill(count);
    const proxy = await startProxy(server);
    proxy.rate = 3_000_000;
    // A page of as many large entries as there are small ones takes much longer.
    const store = open(proxy.url(server), 1_500);
    onTestFinished(() => store.close());
    let entries = 0;
    let bytes = 0;
    for await (const { value } of store.list()) {
      entries += 1;
      bytes += typeof value === "string" ? value.length : 0;
    }
    expect(entries).toBe(SMALL + count);
    expect(bytes).toBe(SMALL + count * large);
  });

  test("a list whose entries become large needs little memory", async () => {
    const count = 225_000_000 / large;
    await fill(count);
    const used = await ask<number>(
      `
        const store = new (require(addon)[data.name])(data.url, data.options);
        await store.get(["a", "0"]);
        // The largest size so far is the process's, not the store's.
        const peak = () => process.resourceUsage().maxRSS * 1024;
        const before = peak();
        let entries = 0;
        for await (const _ of store.list()) entries += 1;
        if (entries !== data.entries) throw new Error("entries: " + entries);
        report(peak() - before);
        await store.close();
      `,
      { name, url: server.url, options, entries: SMALL + count },
    );
    // All values together have 215 MiB.
    expect(used / MIB).toBeLessThan(120);
  });
});
