// Methods need their store, and constructors need `new`. Mistakes reject, with
// words that say what to do.
import { describe, expect, test } from "vitest";
import {
  DenoKvStore,
  MemoryKvStore,
  MysqlKvStore,
  PostgresKvStore,
  RedisKvStore,
  SqliteKvStore,
} from "../index.js";
import { end } from "./contract/entries.mts";
import { expectRejection } from "./support/rejection.mts";

const classes = {
  DenoKvStore: [DenoKvStore, ":memory:"],
  MemoryKvStore: [MemoryKvStore, undefined],
  MysqlKvStore: [MysqlKvStore, "mysql://localhost/kv"],
  PostgresKvStore: [PostgresKvStore, "postgres://localhost"],
  RedisKvStore: [RedisKvStore, "redis://localhost"],
  SqliteKvStore: [SqliteKvStore, ":memory:"],
} as const;

type Call = (this: unknown, ...args: unknown[]) => unknown;

/** All methods of a class, with arguments that would do for the real thing. */
const storeMethods: Record<string | symbol, readonly unknown[]> = {
  get: [["k"]],
  set: [["k"], 1],
  delete: [["k"]],
  cas: [["k"], undefined, 1],
  clear: [["k"]],
  initialize: [],
  drop: [],
  close: [],
  [Symbol.asyncDispose]: [],
};
const iteratorMethods: Record<string | symbol, readonly unknown[]> = {
  next: [],
  return: [1],
  throw: [new Error("mine")],
  [Symbol.asyncDispose]: [],
};

/** Receivers that a method may be called on by mistake. */
function wrongReceivers(right: object): [what: string, receiver: unknown][] {
  const memory = new MemoryKvStore();
  const sqlite = new SqliteKvStore(":memory:");
  const others = [memory, sqlite, memory.list()];
  const kind = (object: object) => Object.getPrototypeOf(object) as unknown;
  return [
    ["nothing", undefined],
    ["null", null],
    ["a proxy", new Proxy(right, {})],
    ["what inherits from it", Object.create(right)],
    ["the prototype", Object.getPrototypeOf(right)],
    ["an object", {}],
    ["a function", () => 1],
    ["a string", "store"],
    ["a map", new Map()],
    ...others
      .filter((other) => kind(other) !== kind(right))
      .map((other): [string, unknown] => [other.constructor.name, other]),
  ];
}

function methodOf(object: object, name: string | symbol): Call {
  return (object as Record<string | symbol, unknown>)[name] as Call;
}

for (const [name, [Class, argument]] of Object.entries(classes)) {
  const make = () => new (Class as new (a: unknown) => MemoryKvStore)(argument);

  describe(name, () => {
    test("without new it throws a TypeError that says so", () => {
      const call = Class as unknown as Call;
      for (const receiver of [undefined, {}, globalThis, make().list()]) {
        expect(() => call.call(receiver, argument)).toThrow(
          expect.objectContaining({
            constructor: TypeError,
            code: "ERR_KV_INVALID_OPTION",
            message: expect.stringContaining(`${name} must be called with new`),
          }),
        );
      }
    });

    test("a class that extends it works", async () => {
      class Mine extends (Class as typeof MemoryKvStore) {
        own = 1;
      }
      const store = new (Mine as new (a: unknown) => Mine)(argument);
      expect(store.own).toBe(1);
      expect(store).toBeInstanceOf(Class);
      await store.close();
      await expectRejection(() => store.get(["k"]), "ERR_KV_CLOSED");
    });

    test("its methods keep their names", () => {
      for (const method of Reflect.ownKeys(storeMethods)) {
        if (typeof method === "string") {
          expect(methodOf(make(), method).name).toBe(method);
        }
      }
    });

    for (const method of Reflect.ownKeys(storeMethods)) {
      test(`${String(method)} on a wrong receiver rejects`, async () => {
        const store = make();
        const call = methodOf(store, method);
        for (const [what, receiver] of wrongReceivers(store)) {
          const error = await expectRejection(
            () => call.call(receiver, ...(storeMethods[method] ?? [])),
            "ERR_KV_INVALID_OPTION",
          );
          expect(error.message, what).toContain(`${name}.prototype.`);
          expect(error.message, what).toMatch(/bind it|on the store itself/);
        }
      });
    }

    test("list on a wrong receiver rejects, from the first next()", async () => {
      const store = make();
      for (const [what, receiver] of wrongReceivers(store)) {
        const list = (store.list as Call).call(receiver) as ReturnType<
          typeof store.list
        >;
        const error = await expectRejection(
          () => list.next(),
          "ERR_KV_INVALID_OPTION",
        );
        expect(error.message, what).toContain(`${name}.prototype.list`);
        expect(await list.next()).toEqual(end);
      }
    });

    for (const method of Reflect.ownKeys(iteratorMethods)) {
      test(`${String(method)} of its iterator on a wrong receiver rejects`, async () => {
        const list = make().list();
        const call = methodOf(list, method);
        for (const [what, receiver] of wrongReceivers(list)) {
          const error = await expectRejection(
            () => call.call(receiver, ...(iteratorMethods[method] ?? [])),
            "ERR_KV_INVALID_OPTION",
          );
          expect(error.message, what).toMatch(/bind it|on the iterator itself/);
        }
      });
    }
  });
}

test("skipped and reindexed of something else throw a TypeError", () => {
  const list = new MemoryKvStore().list();
  for (const [prototype, name] of [
    [Object.getPrototypeOf(list), "skipped"],
    [RedisKvStore.prototype, "reindexed"],
  ] as const) {
    expect(() => Reflect.get(prototype, name, {})).toThrow(TypeError);
  }
});
