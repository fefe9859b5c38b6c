// What SQLite itself takes: prepared statements of node:sqlite in a loop, with
// JSON in and out, and no store around them.
import type { KvKey } from "@fedify/fedify";
import type { DatabaseSync } from "node:sqlite";
import {
  type Pattern,
  perEntry,
  synchronous,
  type Work,
} from "../patterns.mts";
import { documentKey, markKey, revised } from "../writes.mts";

/** Reads one value for each call. */
export function gets(
  database: DatabaseSync,
  key: (index: number) => KvKey,
): Work {
  const select = database.prepare("SELECT value FROM fedify_kv WHERE key = ?");
  return synchronous((index) => {
    const row = select.get(JSON.stringify(key(index)))!;
    return JSON.parse(row.value as string);
  });
}

/** Reads all entries with a prefix for each call. */
export function lists(
  database: DatabaseSync,
  prefix: (index: number) => KvKey,
  entries: number,
): Work {
  const select = database.prepare(
    "SELECT key, value FROM fedify_kv WHERE key >= ? AND key < ? ORDER BY key",
  );
  return synchronous((index) => {
    // The keys under a prefix begin with its JSON and a comma.
    const start = JSON.stringify(prefix(index)).slice(0, -1);
    let count = 0;
    for (const row of select.iterate(`${start},`, `${start}-`)) {
      JSON.parse(row.key as string);
      JSON.parse(row.value as string);
      count++;
    }
    if (count !== entries) throw new Error(`A list had ${count} entries`);
  });
}

/** Writes as Fedify makes them. Those in flight together share a transaction. */
export function sets(
  database: DatabaseSync,
  write: string,
  pattern: Pattern,
): Work | undefined {
  const rows: Record<string, (index: number) => readonly [KvKey, unknown]> = {
    "set a mark": () => [markKey(), true],
    "set a document": (index) => [documentKey(index), revised()],
  };
  const row = rows[write];
  if (row === undefined || pattern === "3 ms apart") return undefined;
  const insert = database.prepare(
    `INSERT INTO fedify_kv VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE
     SET value = excluded.value, created = excluded.created, expires = excluded.expires`,
  );
  const set = (index: number) => {
    const [key, value] = row(index);
    const now = Date.now();
    const texts = [JSON.stringify(key), JSON.stringify(value)] as const;
    insert.run(...texts, now, now + 86_400_000);
  };
  if (pattern === "one at a time") return synchronous(set);
  const batch = synchronous((index) => {
    database.exec("BEGIN");
    for (let i = 0; i < 64; i++) set(index * 64 + i);
    database.exec("COMMIT");
  });
  return perEntry(batch, 64);
}
