// Concurrent writers: exactly one wins, and no update is lost.
import { expect } from "vitest";
import type { ContractTest, Store } from "./fixture.mts";

const times = <T,>(count: number, make: (i: number) => T): T[] =>
  Array.from({ length: count }, (_, i) => make(i));

/** Increments the counter at `key` `count` times. Retries lost races. */
async function increment(store: Store, key: [string], count: number) {
  for (let done = 0; done < count;) {
    const value = await store.get<{ n: number }>(key);
    const next = { n: (value?.n ?? 0) + 1 };
    if (await store.cas(key, value, next)) {
      done += 1;
    }
  }
}

async function createAtOnce(stores: Store[]) {
  const won = await Promise.all(
    times(100, (i) => {
      const store = stores[i % stores.length] as Store;
      return store.cas(["lock"], undefined, { owner: i });
    }),
  );
  const winners = won.flatMap((yes, i) => (yes ? [i] : []));
  expect(winners).toHaveLength(1);
  for (const store of stores) {
    expect(await store.get(["lock"])).toEqual({ owner: winners[0] });
  }
}

async function countAtOnce(stores: Store[]) {
  const loops = 8;
  await Promise.all(
    times(loops, (i) =>
      increment(stores[i % stores.length] as Store, ["counter"], 25),
    ),
  );
  for (const store of stores) {
    expect(await store.get(["counter"])).toEqual({ n: loops * 25 });
  }
}

export function describeRaces(test: ContractTest): void {
  test("exactly one of many concurrent creates wins", async ({ store }) => {
    await createAtOnce([store]);
  });

  test("exactly one of many concurrent creates wins, with two handles", async ({
    store,
    another,
  }) => {
    await createAtOnce([store, another]);
  });

  test("exactly one of many concurrent cas deletions wins", async ({
    store,
  }) => {
    await store.set(["job"], { state: "free" });
    const taken = await Promise.all(
      times(50, () => store.cas(["job"], { state: "free" }, undefined)),
    );
    expect(taken.filter(Boolean)).toHaveLength(1);
    expect(await store.get(["job"])).toBeUndefined();
  });

  test("a counter loses no increment", async ({ store }) => {
    await countAtOnce([store]);
  });

  test("a counter loses no increment, with two handles", async ({
    store,
    another,
  }) => {
    await countAtOnce([store, another]);
  });

  test("a handle reads what another handle wrote", async ({
    store,
    another,
  }) => {
    for (let i = 0; i < 50; i += 1) {
      const [writer, reader] =
        i % 2 === 0 ? [store, another] : [another, store];
      await writer.set(["k"], i);
      expect(await reader.get(["k"])).toBe(i);
      expect(await writer.get(["k"])).toBe(i);
    }
    await another.delete(["k"]);
    expect(await store.get(["k"])).toBeUndefined();
  });

  test("a summary that is updated with get and cas loses no update", async ({
    store,
  }) => {
    const record = async (id: number) => {
      await store.set(["span", String(id)], { id });
      for (;;) {
        const summary = await store.get<{ ids: number[] }>(["summary"]);
        const ids = [...(summary?.ids ?? []), id];
        if (await store.cas(["summary"], summary, { ids })) {
          return;
        }
      }
    };
    await Promise.all(times(30, record));
    const summary = await store.get<{ ids: number[] }>(["summary"]);
    expect(summary?.ids.toSorted((a, b) => a - b)).toEqual(times(30, (i) => i));
  });
}
