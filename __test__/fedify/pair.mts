// Alice and Bob: two of the demo's servers, each with its own store. Servers
// and data are removed when the test ends. Also the rows of the tests in this
// folder.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import * as fedify1 from "fedify-1.10";
import * as otel1 from "fedify-1.10/otel";
import * as vocab1 from "fedify-1.10/vocab";
import { afterAll } from "vitest";
import { type Fedify, installedFedify } from "../../examples/demo/fedify.mts";
import { type Server, startServer } from "../../examples/demo/server.mts";
import {
  DenoKvStore,
  MemoryKvStore,
  MysqlKvStore,
  PostgresKvStore,
  RedisKvStore,
  SqliteKvStore,
} from "../../index.js";
import { MysqlServer } from "../services/mysql.mts";
import { PostgresServer } from "../services/postgres.mts";
import { RedisServer } from "../services/redis.mts";

export type Store = MemoryKvStore | SqliteKvStore;

export interface StoreRow {
  readonly store: string;
  /** Opens a store. The same directory and name open the same data. */
  open(directory: string, name: string): Store | Promise<Store>;
  /** Whether the data outlives the store object. */
  readonly durable: boolean;
}

/** Database servers. The first row that needs one starts it. */
let mysql: Promise<MysqlServer> | undefined;
let postgres: Promise<PostgresServer> | undefined;
let redis: Promise<RedisServer> | undefined;
afterAll(async () => {
  await (await mysql)?.stop();
  await (await postgres)?.stop();
  await (await redis)?.stop();
});

export const stores: readonly StoreRow[] = [
  {
    store: "SqliteKvStore",
    open: (directory, name) => new SqliteKvStore(join(directory, `${name}.db`)),
    durable: true,
  },
  {
    store: "MysqlKvStore",
    open: async (directory, name) => {
      mysql ??= MysqlServer.start({ "innodb-flush-log-at-trx-commit": 0 });
      const { url } = await mysql;
      const tableName = `${basename(directory)}_${name}`.replaceAll(/\W/g, "_");
      return new MysqlKvStore(url, { tableName });
    },
    durable: true,
  },
  {
    store: "MemoryKvStore",
    open: () => new MemoryKvStore(),
    durable: false,
  },
  {
    store: "PostgresKvStore",
    open: async (directory, name) => {
      postgres ??= PostgresServer.start();
      const { url } = await postgres;
      const tableName = `${basename(directory)}_${name}`;
      return new PostgresKvStore(url, { tableName });
    },
    durable: true,
  },
  {
    store: "RedisKvStore",
    open: async (directory, name) => {
      redis ??= RedisServer.start();
      const { url } = await redis;
      const keyPrefix = `${basename(directory)}_${name}::`;
      return new RedisKvStore(url, { keyPrefix });
    },
    durable: true,
  },
  {
    store: "DenoKvStore",
    open: (directory, name) => new DenoKvStore(join(directory, `${name}.kv`)),
    durable: true,
  },
];

export interface FedifyRow {
  readonly version: string;
  readonly fedify: Fedify;
}

// To TypeScript the classes of the two versions are different types, but the
// parts that the server uses have the same shape.
const oldFedify = { ...fedify1, ...otel1, vocab: vocab1 } as unknown as Fedify;

export const versions: readonly FedifyRow[] = [
  { version: "2.3.6", fedify: installedFedify },
  { version: "1.10.12", fedify: oldFedify },
];

/** Each store with each version of Fedify. */
export const rows = stores.flatMap((store) =>
  versions.map((version) => ({ ...store, ...version })),
);

export interface Pair extends AsyncDisposable {
  readonly alice: Server;
  readonly bob: Server;
  readonly aliceKv: Store;
  readonly bobKv: Store;
  readonly directory: string;
}

export async function startPair({
  fedify,
  open,
}: StoreRow & FedifyRow): Promise<Pair> {
  await using stack = new AsyncDisposableStack();
  const directory = await temporaryDirectory(stack);
  const aliceKv = stack.use(await open(directory, "alice"));
  const bobKv = stack.use(await open(directory, "bob"));
  const alice = stack.use(
    await startServer({ fedify, kv: aliceKv, name: "alice" }),
  );
  const bob = stack.use(await startServer({ fedify, kv: bobKv, name: "bob" }));
  const started = stack.move();
  return {
    alice,
    bob,
    aliceKv,
    bobKv,
    directory,
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}

/** A new directory that is removed with `stack`. */
export async function temporaryDirectory(
  stack: AsyncDisposableStack,
): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "fedify-kv-test-"));
  stack.defer(() => rm(directory, { recursive: true }));
  return directory;
}

/** All keys under `prefix`, without the prefix. */
export async function keysUnder(
  kv: Store,
  prefix: readonly [string, ...string[]],
): Promise<string[][]> {
  const keys = [];
  for await (const { key } of kv.list(prefix)) {
    keys.push(key.slice(prefix.length));
  }
  return keys;
}
