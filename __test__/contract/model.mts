// Any sequence of operations has the same results as on a plain map.
import * as fc from "fast-check";
import { expect } from "vitest";
import { collect, inTextOrder } from "../support/collect.mts";
import { asJson, hostileParts } from "../support/hostile.mts";
import type { ContractTest, Store } from "./fixture.mts";

type Key = readonly [string, ...string[]];

interface Model {
  entries: Map<string, unknown>;
}

// Most parts come from a small set, so that keys collide. The others may be any
// string.
const part = fc.oneof(
  { arbitrary: fc.constantFrom("", "a", "A", "%", ":", '"', "\\"), weight: 6 },
  { arbitrary: fc.constantFrom(...hostileParts), weight: 2 },
  { arbitrary: fc.string({ unit: "binary", maxLength: 8 }), weight: 1 },
);
// Keys with NUL have their own test, because PostgreSQL can't store them.
const key = fc
  .array(
    part.filter((part) => !part.includes("\0")),
    { minLength: 1, maxLength: 3 },
  )
  .map((parts) => parts as unknown as Key);
const value = fc.oneof(fc.constantFrom<unknown>(null, 0, {}), fc.jsonValue());

type Command = fc.AsyncCommand<Model, Store>;

function command(name: string, run: Command["run"]): Command {
  return { check: () => true, run, toString: () => name };
}

function get(key: Key): Command {
  return command(`get(${text(key)})`, async ({ entries }, store) => {
    expect(await store.get(key)).toStrictEqual(entries.get(text(key)));
  });
}

function set(key: Key, value: unknown): Command {
  return command(`set(${text(key)}, ${text(value)})`, async (model, store) => {
    await store.set(key, value);
    model.entries.set(text(key), asJson(value));
  });
}

function del(key: Key): Command {
  return command(`delete(${text(key)})`, async ({ entries }, store) => {
    await store.delete(key);
    entries.delete(text(key));
  });
}

function cas(key: Key, right: boolean, value: unknown): Command {
  const name = `cas(${text(key)}, ${right}, ${text(value)})`;
  return command(name, async ({ entries }, store) => {
    const current = entries.get(text(key));
    const expected = right ? current : [current, "wrong"];
    expect(await store.cas(key, expected, value)).toBe(right);
    if (right && value !== undefined) {
      entries.set(text(key), asJson(value));
    } else if (right) {
      entries.delete(text(key));
    }
  });
}

function clear(prefix: Key): Command {
  return command(`clear(${text(prefix)})`, async ({ entries }, store) => {
    const under = [...entries.keys()].filter((name) =>
      isUnder(prefix, JSON.parse(name)),
    );
    expect(await store.clear(prefix)).toBe(under.length);
    under.forEach((name) => entries.delete(name));
  });
}

function list(prefix: readonly string[], pageSize: number): Command {
  return command(`list(${text(prefix)}, ${pageSize})`, (model, store) =>
    compare(model, store, prefix, pageSize),
  );
}

const commands = fc.commands(
  [
    key.map(get),
    fc.tuple(key, value).map(([k, v]) => set(k, v)),
    key.map(del),
    fc
      .tuple(key, fc.boolean(), fc.option(value, { nil: undefined }))
      .map(([k, right, v]) => cas(k, right, v)),
    key.map(clear),
    fc
      .tuple(fc.array(part, { maxLength: 2 }), fc.integer({ min: 1, max: 5 }))
      .map(([prefix, pageSize]) => list(prefix, pageSize)),
  ],
  { maxCommands: 60, size: "max" },
);

export function describeModel(test: ContractTest): void {
  test("a store behaves like a map", async ({ store }) => {
    await fc.assert(
      fc.asyncProperty(commands, async (run) => {
        await store.drop();
        const model: Model = { entries: new Map() };
        await fc.asyncModelRun(() => ({ model, real: store }), run);
        await compareAll(model, store);
      }),
      { numRuns: 60 },
    );
  });
}

/** Expects each prefix of each key to list the same entries as in the model. */
async function compareAll(model: Model, store: Store): Promise<void> {
  const prefixes = new Map<string, readonly string[]>([["[]", []]]);
  for (const name of model.entries.keys()) {
    const parts: string[] = JSON.parse(name);
    for (let length = 1; length <= parts.length; length += 1) {
      const prefix = parts.slice(0, length);
      prefixes.set(text(prefix), prefix);
    }
  }
  for (const prefix of prefixes.values()) {
    await compare(model, store, prefix, 7);
  }
}

async function compare(
  { entries }: Model,
  store: Store,
  prefix: readonly string[],
  pageSize: number,
): Promise<void> {
  const listed = await collect(store.list({ prefix: prefix as [], pageSize }));
  const expected = [...entries]
    .map(([name, value]) => ({ key: JSON.parse(name) as string[], value }))
    .filter((entry) => isUnder(prefix, entry.key));
  expect(byKey(listed)).toStrictEqual(byKey(expected));
}

function byKey<T extends { key: readonly string[] }>(entries: T[]): T[] {
  const order = inTextOrder(entries.map((entry) => text(entry.key)));
  return entries.toSorted(
    (a, b) => order.indexOf(text(a.key)) - order.indexOf(text(b.key)),
  );
}

function isUnder(prefix: readonly string[], key: readonly string[]): boolean {
  return prefix.every((part, i) => key[i] === part);
}

function text(value: unknown): string {
  return JSON.stringify(value) ?? "undefined";
}
