// Stores of all sides in SQLite files.
import type { KvKey } from "@fedify/fedify";
import { SqliteKvStore as FedifySqliteKvStore } from "@fedify/sqlite";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { SqliteKvStore, type SqliteKvStoreOptions } from "../index.js";
import { type KeyvStore, openKeyv } from "./peers/keyv.mts";

/** Makes the peer about as durable as `durability: "normal"`. */
export const WAL_NORMAL =
  "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL";

/** As durable as our default, with SQLite's faster log. */
export const WAL_FULL = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL";

/** The options of an app that relaxes Fedify's own entries. */
export const RELAXED: SqliteKvStoreOptions = { relaxed: [["_fedify"]] };

/** Stores in new files of a directory, which is removed at the end. */
export class Files implements AsyncDisposable {
  readonly #directory: string;
  readonly #close: (() => unknown)[] = [];
  #count = 0;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async create(): Promise<Files> {
    return new Files(await mkdtemp(join(tmpdir(), "fedify-kv-bench-")));
  }

  path(): string {
    return join(this.#directory, `${this.#count++}.db`);
  }

  ours(options: SqliteKvStoreOptions = {}, path = this.path()): SqliteKvStore {
    const store = new SqliteKvStore(path, options);
    this.#close.push(() => store.close());
    return store;
  }

  database(path: string, pragmas = ""): DatabaseSync {
    const database = new DatabaseSync(path);
    database.exec(pragmas);
    this.#close.push(() => database.close());
    return database;
  }

  official(pragmas = "", path = this.path()): FedifySqliteKvStore {
    const store = new FedifySqliteKvStore(this.database(path, pragmas));
    store.initialize();
    return store;
  }

  async keyv(path = this.path()): Promise<KeyvStore> {
    const store = await openKeyv("sqlite", `sqlite://${path}`);
    this.#close.push(() => store.close());
    return store;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const close of this.#close.toReversed()) await close();
    await rm(this.#directory, { recursive: true });
  }
}

/** Fills a table of the official package in one transaction. */
export function fill(
  path: string,
  keys: Iterable<KvKey>,
  value: unknown,
): void {
  const text = JSON.stringify(value);
  inBulk(path, "INSERT INTO fedify_kv VALUES (?, ?, 0, NULL)", keys, (key) => [
    JSON.stringify(key),
    text,
  ]);
}

/** Fills the table of a Keyv with copies of the only entry, that of `like`. */
export function fillKeyv(
  path: string,
  keys: Iterable<KvKey>,
  like: KvKey,
): void {
  const database = new DatabaseSync(path);
  const row = database.prepare("SELECT key, value FROM keyv").get()!;
  database.close();
  const [key, value] = [String(row.key), String(row.value)];
  const prefix = key.slice(0, -like.join("::").length);
  inBulk(path, "INSERT OR IGNORE INTO keyv VALUES (?, ?)", keys, (key) => [
    prefix + key.join("::"),
    value,
  ]);
}

function inBulk(
  path: string,
  sql: string,
  keys: Iterable<KvKey>,
  row: (key: KvKey) => readonly [string, string],
): void {
  const database = new DatabaseSync(path);
  const insert = database.prepare(sql);
  database.exec("BEGIN");
  for (const key of keys) insert.run(...row(key));
  database.exec("COMMIT");
  database.close();
}
