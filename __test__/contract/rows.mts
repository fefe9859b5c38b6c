// The rows of the contract suite: all stores of the package.
import { MemoryKvStore, SqliteKvStore } from "../../index.js";
import { isTested } from "../support/hosts.mts";
import { type Options, openStore, temporaryFile } from "../support/sqlite.mts";
import type { Data, Row, Store } from "./fixture.mts";
import { denoRows } from "./deno.mts";
import { mysqlRows } from "./mysql.mts";
import { postgresRows } from "./postgres.mts";
import { redisRows } from "./redis.mts";

const all: readonly Row[] = [
  {
    name: "memory",
    open: async () => onlyHandle(new MemoryKvStore()),
    except: { "second handle": "each memory store has its own data" },
  },
  {
    name: "sqlite, a file",
    open: () => sqliteFile(),
  },
  {
    name: "sqlite, a file, durability normal",
    open: () => sqliteFile({ durability: "normal" }),
  },
  {
    name: "sqlite, :memory:",
    open: async () => onlyHandle(new SqliteKvStore(":memory:")),
    except: { "second handle": "each :memory: database has its own data" },
  },
  ...redisRows,
  ...postgresRows,
  ...mysqlRows,
  ...denoRows,
];

export const rows = all.filter(({ name }) => isTested(name));

function onlyHandle(store: Store): Data {
  return { store, remove: () => store.close() };
}

async function sqliteFile(options?: Options): Promise<Data> {
  const path = await temporaryFile();
  // On a slow disk, writes of two handles may queue for a long time.
  const openAnother = () =>
    openStore(path, { busyTimeout: 60_000, ...options });
  return { store: openAnother(), openAnother };
}
