// Database files of both stores that keep one, as tests of files need them.
import { onTestFinished } from "vitest";
import { DenoKvStore, SqliteKvStore } from "../../index.js";
import { ask } from "./child.mts";
import { sql } from "./sqlite.mts";

export type FileStore = SqliteKvStore | DenoKvStore;

export interface FileRow {
  readonly name: string;
  readonly store: "SqliteKvStore" | "DenoKvStore";
  readonly options?: object;
}

export const fileRows: readonly FileRow[] = [
  { name: "sqlite, durability full", store: "SqliteKvStore" },
  {
    name: "sqlite, durability normal",
    store: "SqliteKvStore",
    options: { durability: "normal" },
  },
  { name: "Deno KV", store: "DenoKvStore" },
];

/** A store that is closed when the test is over. */
export function openFile(
  { store, options }: FileRow,
  path: string,
  more?: { busyTimeout?: number },
): FileStore {
  const Store = { SqliteKvStore, DenoKvStore }[store];
  const opened = new Store(path, { ...options, ...more });
  onTestFinished(() => opened.close());
  return opened;
}

type Entries = Record<string, unknown>;

/** Another process writes entries `[name]` into a file, and closes it. */
export async function writeFileOf(
  { store }: FileRow,
  path: string,
  entries: Entries,
): Promise<void> {
  await ask(
    `
      const store = new (require(addon)[data.store])(data.path);
      await Promise.all(Object.entries(data.entries)
        .map(([name, value]) => store.set([name], value)));
      await store.close();
      report("written");
    `,
    { store, path, entries },
  );
}

/** What another process finds in a sound file: its entries `[name]`. */
export async function readFileOf(
  { store }: FileRow,
  path: string,
): Promise<Entries> {
  const [check] = await sql(path, "PRAGMA integrity_check");
  if (check?.[0]?.integrity_check !== "ok") {
    throw new Error(`the file is damaged: ${JSON.stringify(check)}`);
  }
  return ask(
    `
      const store = new (require(addon)[data.store])(data.path);
      const entries = await Array.fromAsync(store.list());
      await store.close();
      report(Object.fromEntries(
        entries.map(({ key, value }) => [key.join("/"), value])));
    `,
    { store, path },
  );
}
