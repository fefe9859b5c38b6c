// Stores of both sides in SQLite files.
import { SqliteKvStore as FedifySqliteKvStore } from "@fedify/sqlite";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { SqliteKvStore, type SqliteKvStoreOptions } from "../index.js";

/** Makes the peer about as durable as `durability: "normal"`. */
export const WAL_NORMAL =
  "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL";

/** The options of an app that relaxes Fedify's own entries. */
export const RELAXED: SqliteKvStoreOptions = { relaxed: [["_fedify"]] };

export interface Peer {
  readonly store: FedifySqliteKvStore;
  readonly database: DatabaseSync;
}

export interface Files extends AsyncDisposable {
  /** Opens a store of ours on a new file. The caller closes it. */
  ours(options?: SqliteKvStoreOptions): SqliteKvStore;
  /** Opens a store of the peer on a new file. It is closed with the files. */
  peer(pragmas?: string): Peer;
}

/** Files in a directory that is removed at the end. */
export async function temporaryFiles(): Promise<Files> {
  const directory = await mkdtemp(join(tmpdir(), "fedify-kv-bench-"));
  const databases: DatabaseSync[] = [];
  let count = 0;
  const newFile = () => join(directory, `${count++}.db`);
  return {
    ours: (options = {}) => new SqliteKvStore(newFile(), options),
    peer(pragmas = "") {
      const database = new DatabaseSync(newFile());
      database.exec(pragmas);
      databases.push(database);
      return { store: new FedifySqliteKvStore(database), database };
    },
    async [Symbol.asyncDispose]() {
      for (const database of databases) database.close();
      await rm(directory, { recursive: true });
    },
  };
}
