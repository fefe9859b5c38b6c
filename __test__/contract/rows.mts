// Every store that the package has, as a row of the contract.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemoryKvStore, SqliteKvStore } from "../../index.js";
import type { Options } from "../support/sqlite.mts";
import type { Data, Row, Store } from "./fixture.mts";
import { redisRows } from "./redis.mts";

export const rows: readonly Row[] = [
  {
    name: "memory",
    open: async () => alone(new MemoryKvStore()),
    except: { "second handle": "each memory store is its own data" },
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
    open: async () => alone(new SqliteKvStore(":memory:")),
    except: { "second handle": "each :memory: database is its own data" },
  },
  ...redisRows,
];

function alone(store: Store): Data {
  return { store, remove: () => store.close() };
}

async function sqliteFile(options?: Options): Promise<Data> {
  const directory = await mkdtemp(join(tmpdir(), "fedify-kv-contract-"));
  const handles: Store[] = [];
  const openAnother = () => {
    const handle = new SqliteKvStore(join(directory, "fedify.db"), options);
    handles.push(handle);
    return handle;
  };
  return {
    store: openAnother(),
    openAnother,
    remove: async () => {
      await Promise.all(handles.map((handle) => handle.close()));
      await rm(directory, { recursive: true });
    },
  };
}
