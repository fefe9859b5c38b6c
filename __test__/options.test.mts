// The options of the constructors and of openKvStore: unknown ones are refused
// by name, in all stores alike.
import { describe, expect, test } from "vitest";
import {
  DenoKvStore,
  MemoryKvStore,
  MysqlKvStore,
  PostgresKvStore,
  RedisKvStore,
  SqliteKvStore,
  openKvStore,
} from "../index.js";
import type { KvError } from "./support/rejection.mts";

/** How a store is constructed, with a value for each of its options. */
interface Row {
  construct: (options?: unknown) => unknown;
  url: string;
  options: Record<string, unknown>;
  encryptedUrl?: string;
}

const served = {
  connectTimeout: 1,
  queueLimit: 1,
  user: "u",
  password: () => "p",
};
const sql = { tableName: "t", initialized: true, queryTimeout: 1, ...served };

// Nothing connects before the first operation, so no server is needed.
const rows: Record<string, Row> = {
  MemoryKvStore: {
    construct: (options) =>
      new (MemoryKvStore as new (options: unknown) => unknown)(options),
    url: "memory:",
    options: {},
  },
  SqliteKvStore: {
    construct: (options) => new SqliteKvStore(":memory:", options as object),
    url: "sqlite::memory:",
    options: {
      tableName: "t",
      initialized: true,
      durability: "full",
      relaxed: [["a"]],
      busyTimeout: 1,
    },
  },
  RedisKvStore: {
    construct: (options) =>
      new RedisKvStore("rediss://localhost", options as object),
    url: "rediss://localhost",
    options: {
      keyPrefix: "p",
      index: true,
      commandTimeout: 1,
      maxConnections: 1,
      maxLifetime: 1,
      idleTimeout: 1,
      natMap: {},
      ...served,
    },
    encryptedUrl: "rediss://localhost",
  },
  PostgresKvStore: {
    construct: (options) =>
      new PostgresKvStore("postgres://localhost/a", options as object),
    url: "postgres://localhost/a",
    options: {
      unlogged: true,
      preparedStatements: true,
      maxConnections: 1,
      maxLifetime: 1,
      idleTimeout: 1,
      relaxed: [["a"]],
      maxAnswerBytes: 1,
      ...sql,
    },
    encryptedUrl: "postgres://localhost/a",
  },
  MysqlKvStore: {
    construct: (options) =>
      new MysqlKvStore("mysql://localhost/a", options as object),
    url: "mysql://localhost/a",
    options: {
      maxConnections: 1,
      maxLifetime: 1,
      idleTimeout: 1,
      allowPublicKeyRetrieval: true,
      ...sql,
    },
    encryptedUrl: "mysql://localhost/a",
  },
  DenoKvStore: {
    construct: (options) => new DenoKvStore(":memory:", options as object),
    url: "denokv::memory:",
    options: {
      accessToken: () => "x",
      busyTimeout: 1,
      commandTimeout: 1,
      queueLimit: 1,
    },
  },
};

const open = (url: string) => (options?: unknown) =>
  openKvStore(url, options as object);

/** The error that a constructor throws for its options. */
function refusal(construct: () => unknown): KvError {
  try {
    construct();
  } catch (error) {
    const refused = error as KvError;
    expect(refused).toBeInstanceOf(TypeError);
    expect(refused.code).toBe("ERR_KV_INVALID_OPTION");
    return refused;
  }
  throw new Error("the options were accepted");
}

for (const [name, row] of Object.entries(rows)) {
  for (const [how, construct] of [
    ["constructor", row.construct],
    ["openKvStore", open(row.url)],
  ] as const) {
    describe(`${name}, ${how}`, () => {
      test("known options are accepted", () => {
        for (const options of [undefined, null, {}, row.options]) {
          construct(options);
        }
      });

      test("undefined is the same as no option", () => {
        const names = Object.keys(row.options);
        construct(Object.fromEntries(names.map((known) => [known, undefined])));
      });

      test("an unknown option is refused by its name", () => {
        for (const unknown of ["tabelName", "TABLENAME", "0", "", "tls "]) {
          const { message } = refusal(() =>
            construct({ ...row.options, [unknown]: undefined }),
          );
          expect(message).toContain(`${name} has no option "${unknown}"`);
          for (const known of Object.keys(row.options)) {
            expect(message).toContain(known);
          }
        }
      });

      test("a long name is shortened", () => {
        const { message } = refusal(() => construct({ ["x".repeat(1e6)]: 1 }));
        expect(message.length).toBeLessThan(300);
      });

      test("symbols and inherited properties are no unknown options", () => {
        const inherited = Object.create({ tabelName: "t" }) as object;
        construct(Object.assign(inherited, row.options));
        construct({ ...row.options, [Symbol("x")]: 1 });
      });

      test("options that are no object are refused", () => {
        for (const options of [1, "tableName", true, Symbol("x"), () => 1]) {
          const { message } = refusal(() => construct(options));
          expect(message).toMatch(/must be an object, not a [a-z]+$/);
        }
      });

      test("a Proxy that refuses to list its properties is refused", () => {
        const options = new Proxy(row.options, {
          ownKeys() {
            throw new Error("not today");
          },
        });
        expect(refusal(() => construct(options)).message).toContain(
          "not today",
        );
      });
    });
  }
}

test("a getter that throws is named", () => {
  const options = {
    get tableName(): never {
      throw new Error("not today");
    },
  };
  const { message } = refusal(() => new SqliteKvStore(":memory:", options));
  expect(message).toBe("invalid option: tableName can't be read: not today");
});

test("a wrong value is shown, but no key or certificate", () => {
  const sqlite = (options: object) =>
    refusal(() => new SqliteKvStore(":memory:", options)).message;
  expect(sqlite({ busyTimeout: "1s" })).toContain('not "1s"');
  expect(sqlite({ busyTimeout: -1 })).toContain("not -1");
  expect(sqlite({ durability: "off" })).toContain(
    'durability must be "full" or "normal", not "off"',
  );
  expect(sqlite({ tableName: 1n })).toContain("not a BigInt");
  const { message } = refusal(
    () =>
      new RedisKvStore("rediss://localhost", {
        tls: { rejectUnauthorized: "secret" as never },
      }),
  );
  expect(message).toContain("tls.rejectUnauthorized must be a boolean");
  expect(message).not.toContain("secret");
});

/** Expects that an option with a secret accepts these values, and no others. */
function expectSecret(
  construct: (options: object) => unknown,
  name: string,
  good: readonly unknown[],
): void {
  for (const secret of good) construct({ [name]: secret });
  for (const [secret, kind] of [
    [12345, "a number"],
    [null, "null"],
    [{ secret: 1 }, "an object"],
    [Promise.resolve("secret"), "an object"],
    ["secret \ud800", "a string with a lone surrogate"],
  ] as const) {
    const { message } = refusal(() => construct({ [name]: secret }));
    expect(message).toBe(
      `invalid option: ${name} must be a string or a function that returns one, not ${kind}`,
    );
  }
}

test("DenoKvStore: a wrong accessToken is refused, and not shown", () => {
  const good = ["p", () => 1, async () => "p"];
  expectSecret(open("denokv:https://localhost"), "accessToken", good);
});

for (const [name, row] of Object.entries(rows)) {
  const { encryptedUrl } = row;
  if (!encryptedUrl) continue;
  test(`${name}: a wrong user or password is refused, and no password shown`, () => {
    const construct = open(encryptedUrl);
    expectSecret(construct, "password", ["p", "", () => 1, async () => "p"]);
    expect(refusal(() => construct({ user: 1 })).message).toContain(
      "user must be a string",
    );
  });

  test(`${name}: an unknown option of tls is refused by its name`, () => {
    const construct = open(encryptedUrl);
    construct({ tls: {} });
    construct({ tls: undefined });
    construct({ tls: { ca: undefined, rejectUnauthorized: false } });
    const { message } = refusal(() => construct({ tls: { caFile: "x" } }));
    expect(message).toContain(
      'tls has no option "caFile"; its options are ca, cert, key, rejectUnauthorized',
    );
    expect(refusal(() => construct({ tls: true })).message).toContain(
      "the options of tls must be an object, not a boolean",
    );
  });
}

test("openKvStore refuses the options of another store", () => {
  const { message } = refusal(() => open("memory:")({ tableName: "t" }));
  expect(message).toContain('MemoryKvStore has no option "tableName"');
});
