import type { KvKey, KvStoreListEntry } from "@fedify/fedify";
import { PostgresKvStore } from "@fedify/postgres";
import type { Sql } from "postgres";
import type { Client } from "../jobs.mts";

/**
 * The official store. The installed version has no list, so this adds the query
 * of a later one, which compares a slice of each key with the prefix.
 */
export class OfficialPostgres extends PostgresKvStore {
  readonly #sql: Sql;

  constructor(sql: Sql) {
    super(sql);
    this.#sql = sql;
  }

  async *list(prefix: KvKey): AsyncGenerator<KvStoreListEntry> {
    const sql = this.#sql;
    const rows = await sql`
      SELECT key, value FROM fedify_kv_v2
      WHERE array_length(key, 1) >= ${prefix.length}
        AND key[1:${prefix.length}::int] = ${prefix as unknown as string[]}::text[]
        AND (ttl IS NULL OR created + ttl > CURRENT_TIMESTAMP)
      ORDER BY key`;
    for (const row of rows) {
      yield { key: row.key, value: row.value };
    }
  }
}

/** The client alone, on the entries of the official store. */
export class BarePostgres implements Client {
  readonly #sql: Sql;

  constructor(sql: Sql) {
    this.#sql = sql;
  }

  async get<T>(key: KvKey): Promise<T> {
    const sql = this.#sql;
    const rows = await sql`
      SELECT value FROM fedify_kv_v2 WHERE key = ${key as unknown as string[]}`;
    return rows[0]!.value as T;
  }
}
