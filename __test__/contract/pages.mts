// Lists read entries in pages. The limits of pages must not affect the result.
import { setImmediate } from "node:timers/promises";
import { expect } from "vitest";
import { collect, inTextOrder, keysOf } from "../support/collect.mts";
import { expectRejection } from "../support/rejection.mts";
import { numbers } from "../support/entries.mts";
import { end, fill, keyOf } from "./entries.mts";
import type { ContractTest, Store } from "./fixture.mts";

export function describePages(test: ContractTest): void {
  for (const count of [0, 1, 2, 63, 64, 65, 128, 129, 1_000]) {
    test(`${count} entries are listed with every page size`, async ({
      store,
    }) => {
      await fill(store, count);
      await store.set(["j"], "before");
      await store.set(["k!"], "beside");
      await store.set(["l"], "after");
      const expected = numbers(count);
      for (const pageSize of [undefined, 1, 2, 7, 63, 64, 65, 1_000, 1_024]) {
        const options = pageSize === undefined ? {} : { pageSize };
        const own = await collect(store.list({ prefix: ["k"], ...options }));
        expect(own.map(({ value }) => value)).toEqual(expected);
        expect(await collect(store.list(options))).toHaveLength(count + 3);
      }
    });
  }

  test("a page size is an integer from 1 to 1,024", async ({ store }) => {
    await fill(store, 3);
    const bad = [0, -1, 1.5, NaN, Infinity, 1_025, 2 ** 32 + 1, "10", [], {}];
    for (const pageSize of bad) {
      const list = store.list({ pageSize: pageSize as never });
      await expectRejection(() => list.next(), "ERR_KV_INVALID_OPTION");
      expect(await list.next()).toEqual(end);
    }
  });

  test("large values are listed with every page size", async ({
    store,
    unless,
  }) => {
    unless("large values");
    const value = (i: number) => `${i}${"漢x".repeat(25_000)}`;
    for (let i = 0; i < 30; i += 1) {
      await store.set(keyOf(i), value(i));
    }
    for (const pageSize of [1, 64]) {
      const got = await collect(store.list({ pageSize }));
      expect(
        got.map((entry) => entry.value === value(got.indexOf(entry))),
      ).toEqual(Array(30).fill(true));
    }
  });

  test("entries that stay are listed once during other writes", async ({
    store,
  }) => {
    await listUnderWrites(store, store);
  });

  test("entries that stay are listed once during another handle's writes", async ({
    store,
    another,
  }) => {
    await listUnderWrites(store, another);
  });

  test("each entry can be deleted when it is yielded", async ({ store }) => {
    await fill(store, 500);
    const seen: unknown[] = [];
    for await (const { key, value } of store.list({ pageSize: 16 })) {
      seen.push(value);
      await store.delete(key);
    }
    expect(seen).toEqual(numbers(500));
    expect(await keysOf(store.list())).toEqual([]);
  });

  test("later entries can be deleted while iterating", async ({ store }) => {
    await fill(store, 500);
    const seen: number[] = [];
    for await (const { value } of store.list({ pageSize: 16 })) {
      const n = value as number;
      seen.push(n);
      if (n % 2 === 0) {
        await store.delete(keyOf(n + 1));
        await store.delete(keyOf(499 - n));
      }
    }
    // Entries that were read ahead may be yielded, but none twice, and all in
    // order.
    expect(seen).toEqual([...new Set(seen)].toSorted((a, b) => a - b));
    expect(seen).toContain(0);
  });

  test("clearing while iterating ends it", async ({ store }) => {
    await fill(store, 1_000);
    let seen = 0;
    for await (const _ of store.list({ pageSize: 1 })) {
      seen += 1;
      if (seen === 10) {
        await store.clear(["k"]);
      }
    }
    expect(seen).toBeGreaterThanOrEqual(10);
    expect(seen).toBeLessThan(1_000);
  });

  test("writes of earlier keys do not lengthen a list", async ({ store }) => {
    await fill(store, 200);
    let seen = 0;
    for await (const { key } of store.list({ prefix: ["k"], pageSize: 8 })) {
      seen += 1;
      await store.set(["a", `${key[1]}`], "behind");
    }
    expect(seen).toBe(200);
  });

  test("entries that expire during a list hide no others", async ({
    store,
  }) => {
    await fill(store, 300);
    await Promise.all(
      numbers(300).map((i) =>
        store.set([...keyOf(i), "brief"], "brief", {
          ttl: { milliseconds: 1 + (i % 20) },
        }),
      ),
    );
    const stayed: unknown[] = [];
    for await (const { value } of store.list({ pageSize: 5 })) {
      if (value !== "brief") {
        stayed.push(value);
      }
    }
    expect(stayed).toEqual(numbers(300));
  });

  test("lists do not block the event loop", async ({ store }) => {
    await fill(store, 5_000);
    let turns = 0;
    let counting = true;
    const counted = (async () => {
      while (counting) {
        await setImmediate();
        turns += 1;
      }
    })();
    const until = performance.now() + 250;
    while (performance.now() < until) {
      expect(await collect(store.list())).toHaveLength(5_000);
    }
    counting = false;
    await counted;
    // At least every 25 ms. A store that answers on the calling thread must
    // yield to the event loop.
    expect(turns).toBeGreaterThanOrEqual(10);
  });

  test("many lists can be read at once", async ({ store }) => {
    await fill(store, 300);
    const lists = await Promise.all(
      numbers(40).map((i) =>
        collect(store.list({ prefix: ["k"], pageSize: 1 + i })),
      ),
    );
    for (const entries of lists) {
      expect(entries.map(({ value }) => value)).toEqual(numbers(300));
    }
  });
}

/**
 * Lists 400 entries repeatedly while they are overwritten, and while other
 * entries between them are created and deleted.
 */
async function listUnderWrites(store: Store, writer: Store): Promise<void> {
  await fill(store, 400);
  const expected = inTextOrder(numbers(400).map(keyOf));
  let writing = true;
  let round = 0;
  const write = async () => {
    while (writing) {
      round += 1;
      const i = (round * 37) % 400;
      await Promise.all([
        writer.set([...keyOf(i), "between"], round),
        writer.set([...keyOf(399 - i), "brief"], round, {
          ttl: { milliseconds: 2 },
        }),
        writer.set(keyOf(i), round),
        writer.delete([...keyOf((i + 200) % 400), "between"]),
      ]);
      // A store that answers on the calling thread would block the list.
      await setImmediate();
    }
  };
  const written = write();
  try {
    const pageSizes = [1, 3, 16, 64, 400];
    for (let i = 0; i < pageSizes.length || round < 50; i += 1) {
      const pageSize = pageSizes[i % pageSizes.length] ?? 1;
      const keys = await keysOf(store.list({ prefix: ["k"], pageSize }));
      const stable = keys.filter((key) => key.length === 2);
      expect(stable, `pages of ${pageSize}`).toEqual(expected);
      await setImmediate();
    }
  } finally {
    writing = false;
    await written;
  }
}
