// A database whose encoding doesn't have all characters.
import { afterAll, beforeAll, expect, test } from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import { openStore, ownTable } from "./support/postgres.mts";
import { expectRejection } from "./support/rejection.mts";

let server: PostgresServer;
beforeAll(async () => {
  server = await PostgresServer.start();
  await server.client().unsafe(
    `CREATE DATABASE latin TEMPLATE template0
     ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'`,
  );
});
afterAll(() => server.stop());

const emoji = "😀";

test.each([{}, { preparedStatements: false }])(
  "keys and values that the encoding doesn't have are told apart, %j",
  async (options) => {
    const store = openStore(server.urlOf({ database: "latin" }), {
      tableName: ownTable(),
      ...options,
    });
    await store.set(["é"], "é");
    expect(await store.get(["é"])).toBe("é");
    for (const impossible of [[emoji], ["a", emoji, "b"]] as const) {
      for (const call of [
        () => store.get(impossible),
        () => store.set(impossible, 1),
        () => store.set(impossible, emoji),
        () => store.delete(impossible),
        () => store.cas(impossible, undefined, 1),
        () => store.cas(impossible, undefined, undefined),
        () => store.cas(impossible, 1, 2),
        () => store.cas(impossible, 1, undefined),
        () => store.clear(impossible),
        () => store.list(impossible).next(),
      ]) {
        await expectRejection(call, "ERR_KV_INVALID_KEY");
      }
    }
    for (const call of [
      () => store.set(["k"], emoji),
      () => store.set(["k"], { [emoji]: 1 }),
      () => store.cas(["k"], undefined, emoji),
      () => store.cas(["é"], "é", emoji),
    ]) {
      const error = await expectRejection(call, "ERR_KV_INVALID_VALUE");
      expect(error.message).toMatch(/, for \["[ké]"\]$/);
    }
    expect(await store.get(["é"])).toBe("é");
    expect(await store.get(["k"])).toBeUndefined();
  },
);

test("they fail alone among calls at the same time", async () => {
  const store = openStore(server.urlOf({ database: "latin" }), {
    tableName: ownTable(),
  });
  await store.initialize();
  const code = (call: Promise<unknown>) =>
    call.then(
      () => "done",
      (error: { code: string }) => error.code,
    );
  const keys = Array.from({ length: 50 }, (_, i) => String(i));
  const codes = await Promise.all([
    ...keys.map((key) => code(store.set(["k", key], "ÿ"))),
    code(store.set([emoji], 1)),
    code(store.set(["v"], emoji)),
    code(store.delete(["gone", emoji])),
    code(store.cas(["c", emoji], undefined, 1)),
    code(store.cas(["cv"], undefined, emoji)),
  ]);
  expect(codes).toEqual([
    ...keys.map(() => "done"),
    "ERR_KV_INVALID_KEY",
    "ERR_KV_INVALID_VALUE",
    "ERR_KV_INVALID_KEY",
    "ERR_KV_INVALID_KEY",
    "ERR_KV_INVALID_VALUE",
  ]);
  const found = await Promise.all([
    ...keys.map((key) => store.get(["k", key])),
    code(store.get([emoji])),
  ]);
  expect(found).toEqual([...keys.map(() => "ÿ"), "ERR_KV_INVALID_KEY"]);
});
