// Written by `npm run build` from the doc comments in src/binding and from
// scripts/index.d.ts.header. Change it there.
import type { KvKey, KvStoreListEntry } from "@fedify/fedify";

export type { KvKey, KvStore, KvStoreListEntry, KvStoreSetOptions } from "@fedify/fedify";

/**
 * A duration as an object, as `Temporal.Duration.from` accepts it. At least one
 * field is required. All fields must have the same sign; years and months must
 * be whole numbers.
 */
export interface DurationLike {
  years?: number;
  months?: number;
  weeks?: number;
  days?: number;
  hours?: number;
  minutes?: number;
  seconds?: number;
  milliseconds?: number;
  microseconds?: number;
  nanoseconds?: number;
}

/**
 * Any `Temporal.Duration`: the runtime's own, a polyfill's, or another object
 * with a method `total`.
 */
export interface Duration {
  total(options: any): number;
}

/** Options of `set` and `cas`. */
export interface SetOptions {
  /**
   * The time to live. Fractions of a millisecond round up. If it is zero or
   * negative, the entry expires at once.
   *
   * @default The entry never expires.
   */
  ttl?: Duration | DurationLike;
}

/** Options of `list`. */
export interface ListOptions {
  /**
   * Lists only the entry with this key, and entries whose keys extend it by
   * whole parts.
   *
   * @default All entries.
   */
  prefix?: KvKey | readonly [];
  /**
   * The number of entries that are read at a time, from 1 to 1024. A page also
   * ends after 32 KiB.
   *
   * @default 64
   */
  pageSize?: number;
  /** Aborts the list. The pending `next()` rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Options of {@link SqliteKvStore}. */
export interface SqliteKvStoreOptions {
  /**
   * The table's name: a letter or `_`, then up to 63 letters, digits or `_`.
   *
   * @default "fedify_kv"
   */
  tableName?: string;
  /**
   * Whether the table exists already. If `true`, the store never creates it,
   * and operations fail if it doesn't exist.
   *
   * @default false
   */
  initialized?: boolean;
  /**
   * With `"full"`, an awaited write survives a power loss. With `"normal"`, it
   * survives a crash of the process, but a power loss may lose the last writes;
   * the database stays intact. `"normal"` saves a sync to disk for each group
   * of writes.
   *
   * @default "full"
   */
  durability?: "full" | "normal";
  /**
   * Prefixes of keys that need less: with `durability: "full"`, writes under
   * these are as with `"normal"`. What is written after them with a sync makes
   * them safe too: after a power loss, the database has all writes up to some
   * moment. A write that waits together with others that need a sync waits for
   * it too.
   *
   * Fedify keeps caches and marks under `["_fedify"]`. Without the last of them,
   * it fetches a document again, or handles an activity twice if it is delivered
   * twice.
   *
   * @default []
   * @example
   * ```ts
   * const kv = new SqliteKvStore("app.db", { relaxed: [["_fedify"]] });
   * ```
   */
  relaxed?: readonly KvKey[];
  /**
   * The time in milliseconds that an operation waits for another process's
   * lock, before it rejects with `ERR_KV_TIMEOUT`.
   *
   * @default 5000
   */
  busyTimeout?: number;
}

/** Options of {@link RedisKvStore}. */
export interface RedisKvStoreOptions {
  /**
   * The prefix of all keys in Redis. `drop()` deletes every key with this
   * prefix, of any type. Characters that are special in Redis patterns have no
   * special meaning here.
   *
   * @default "fedify::"
   */
  keyPrefix?: string | Uint8Array;
  /**
   * Whether to keep an index of the keys: a sorted set that is updated
   * atomically with each write. With an index, `list` and `clear` read only the
   * matching entries instead of scanning the whole database. A write costs
   * about twice as much.
   *
   * Every writer must maintain the index. Entries that were written without it
   * (by `@fedify/redis`, for example) are found by `get` and `cas`, but not by
   * `list` and `clear` until `reindex()` is called. Entries that were deleted
   * without it vanish from lists at once.
   *
   * In a cluster the index needs a `keyPrefix` with a hash tag, like
   * `"{fedify}::"`, which puts all entries on one server.
   *
   * @default false
   */
  index?: boolean;
  /**
   * The time in milliseconds that an attempt to connect may take. If a server
   * that was never reached refuses, operations reject with `ERR_KV_CONNECTION`
   * at once. If a connection is lost later, they wait up to `commandTimeout`
   * for a new one.
   *
   * @default 5000
   */
  connectTimeout?: number;
  /**
   * The time in milliseconds that an operation waits for a connection, and then
   * for its answer, before it rejects with `ERR_KV_TIMEOUT` (or with
   * `ERR_KV_CONNECTION` if the reason for the missing connection is known). The
   * outcome of a write is then unknown.
   *
   * @default 5000
   */
  commandTimeout?: number;
  /**
   * The number of operations that may wait. Further operations reject with
   * `ERR_KV_BACKEND`, as do those with which the queue would exceed 256 MiB.
   *
   * @default 100000
   */
  queueLimit?: number;
  /** TLS options for `rediss:` URLs. */
  tls?: {
    /**
     * Trusted certificates in PEM.
     *
     * @default The certificates that the system trusts.
     */
    ca?: string | Uint8Array;
    /** The client's certificate chain in PEM. */
    cert?: string | Uint8Array;
    /** The private key of `cert`, in PEM. */
    key?: string | Uint8Array;
    /**
     * Whether to verify the server's certificate, and to refuse servers whose
     * certificate is not valid.
     *
     * @default true
     */
    rejectUnauthorized?: boolean;
  };
}

/** Options of {@link PostgresKvStore}. */
export interface PostgresKvStoreOptions {
  /**
   * The table's name, or `schema.table`. The name is case-sensitive.
   *
   * @default "fedify_kv_v2"
   */
  tableName?: string;
  /**
   * Whether the table exists already. If `true`, the store never creates it and
   * needs no right to do so, and operations fail if it doesn't exist.
   *
   * @default false
   */
  initialized?: boolean;
  /**
   * Whether a table that the store creates is unlogged, like the official
   * package's. Writes are cheaper then, but the server empties the table when
   * it restarts after a crash. With `false`, an awaited write survives a crash.
   *
   * @default true
   */
  unlogged?: boolean;
  /**
   * The maximum number of open connections. They are opened on demand.
   *
   * @default 10
   */
  maxConnections?: number;
  /**
   * The time in milliseconds that an attempt to connect may take. If a server
   * that was never reached refuses, operations reject with `ERR_KV_CONNECTION`
   * at once. If a connection is lost later, they wait up to `queryTimeout` for
   * a new one.
   *
   * @default 5000
   */
  connectTimeout?: number;
  /**
   * The time in milliseconds that an operation waits for a connection, and then
   * for its answer. After that its statement is cancelled on the server, and it
   * rejects with `ERR_KV_TIMEOUT` (or with `ERR_KV_CONNECTION` if the reason
   * for the missing connection is known).
   *
   * @default 5000
   */
  queryTimeout?: number;
  /**
   * The number of operations that may wait. Further operations reject with
   * `ERR_KV_BACKEND`, as do those with which the queue would exceed 256 MiB.
   *
   * @default 100000
   */
  queueLimit?: number;
  /**
   * Encrypts connections, as `sslmode` in the URL does. `require`, `verify-ca`
   * and `verify-full` require a trusted certificate with the host's name.
   * `no-verify` accepts any certificate. `prefer` also accepts a server without
   * encryption.
   */
  tls?: {
    /**
     * Trusted certificates in PEM.
     *
     * @default The certificates that the system trusts.
     */
    ca?: string | Uint8Array;
    /** The client's certificate chain in PEM. */
    cert?: string | Uint8Array;
    /** The private key of `cert`, in PEM. */
    key?: string | Uint8Array;
    /**
     * Whether to verify the server's certificate, and to refuse servers whose
     * certificate is not valid.
     *
     * @default true
     */
    rejectUnauthorized?: boolean;
  };
  /**
   * Whether to prepare statements. Use `false` behind a pooler that can run
   * each transaction on a different connection (PgBouncer in transaction mode).
   * Each connection then runs one statement at a time, which some poolers need.
   *
   * @default true
   */
  preparedStatements?: boolean;
}

/** Options of {@link MysqlKvStore}. */
export interface MysqlKvStoreOptions {
  /**
   * The table's name: a letter or `_`, then up to 49 letters, digits or `_`.
   *
   * @default "fedify_kv"
   */
  tableName?: string;
  /**
   * Whether the table exists already. If `true`, the store never creates it,
   * and operations fail if it doesn't exist. Use it for database users without
   * the right to create tables.
   *
   * @default false
   */
  initialized?: boolean;
  /**
   * The maximum number of open connections, apart from a short-lived one that
   * stops a statement. Waiting operations share statements, so more connections
   * help little.
   *
   * @default 4
   */
  maxConnections?: number;
  /**
   * The time in milliseconds that an attempt to connect may take. If a server
   * that was never reached refuses, operations reject with `ERR_KV_CONNECTION`
   * at once. If a connection is lost later, they wait up to `queryTimeout` for
   * a new one.
   *
   * @default 5000
   */
  connectTimeout?: number;
  /**
   * The time in milliseconds that an operation waits for a connection, and then
   * for its answer. After that its statement is stopped on the server, and it
   * rejects with `ERR_KV_TIMEOUT`.
   *
   * @default 5000
   */
  queryTimeout?: number;
  /**
   * The number of operations that may wait. Further operations reject with
   * `ERR_KV_BACKEND`, as do those with which the queue would exceed 256 MiB.
   *
   * @default 100000
   */
  queueLimit?: number;
  /** Encrypts the connections. */
  tls?: {
    /**
     * Trusted certificates in PEM.
     *
     * @default The certificates that the system trusts.
     */
    ca?: string | Uint8Array;
    /** The client's certificate chain in PEM. */
    cert?: string | Uint8Array;
    /** The private key of `cert`, in PEM. */
    key?: string | Uint8Array;
    /**
     * Whether to verify the server's certificate, and to refuse servers whose
     * certificate is not valid.
     *
     * @default true
     */
    rejectUnauthorized?: boolean;
  };
}

/** Options of {@link DenoKvStore}. */
export interface DenoKvStoreOptions {
  /**
   * The access token for the server.
   *
   * @default The environment variable `DENO_KV_ACCESS_TOKEN`.
   */
  accessToken?: string;
  /**
   * The time in milliseconds that an operation waits for another process's lock
   * on the file, before it rejects with `ERR_KV_TIMEOUT`.
   *
   * @default 5000
   */
  busyTimeout?: number;
  /**
   * The time in milliseconds that an operation waits for a server's answer,
   * before it rejects with `ERR_KV_TIMEOUT`. The outcome of a write is then
   * unknown.
   *
   * @default 5000
   */
  commandTimeout?: number;
}

/** The `code` of the errors that stores throw or reject with. */
export type KvErrorCode =
  | "ERR_KV_INVALID_KEY"
  | "ERR_KV_INVALID_VALUE"
  | "ERR_KV_INVALID_TTL"
  | "ERR_KV_INVALID_OPTION"
  | "ERR_KV_KEY_TOO_LONG"
  | "ERR_KV_VALUE_TOO_LARGE"
  | "ERR_KV_CONNECTION"
  | "ERR_KV_TIMEOUT"
  | "ERR_KV_CLOSED"
  | "ERR_KV_CORRUPT"
  | "ERR_KV_BACKEND";

/**
 * Keeps entries in a Deno KV database: a file that `Deno.openKv(path)` may
 * have open at the same time in other processes, or a server that speaks KV
 * Connect, such as `denokv`. Works in Node.js and Bun too.
 *
 * For Deno programs a key is an array of strings, and a value is an ordinary
 * value. Values that they wrote come back as JSON has them (a `Date` as its ISO
 * string). `get` of a value without a JSON form (a `BigInt`, a `Map`, a
 * `Deno.KvU64`, binary data) rejects with `ERR_KV_CORRUPT`. Lists skip such
 * values, and keys with parts that are not strings.
 *
 * Values may have 65,536 bytes when serialized, and keys about 2,040, as in Deno
 * itself. All writes that wait are committed together; an awaited write to a
 * file survives a power loss. This store does not see expired entries of a
 * file; Deno programs see them until they are removed, about a second later.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { DenoKvStore } from "fedify-kv";
 *
 * const kv = new DenoKvStore("deno-kv.db");
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class DenoKvStore {
  /**
   * @param place The file's path, which is created if there is none, or
   *              `":memory:"`, or the `http:` or `https:` URL of a server.
   *              Nothing is opened before the first operation.
   * @param options The options.
   * @throws `ERR_KV_INVALID_OPTION`
   */
  constructor(place: string, options?: DenoKvStoreOptions)
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns The value, or `undefined` if there is none or it has
   *          expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if what is
   *         stored is not JSON.
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the
   * entry lives until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Any value with a JSON form, `null` included.
   *              `undefined` does nothing.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for
   *         BigInts, cycles, functions and symbols;
   *         `ERR_KV_INVALID_TTL`. The store is unchanged then.
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the present one is
   * what you expect. It is atomic with respect to all other writers,
   * those in other processes included.
   *
   * Values are compared deeply as JSON; the order of an object's
   * keys doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The value you expect; `undefined` for none,
   *                      missing or expired.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether it was swapped. A lost race is `false`.
   *
   * @example
   * ```ts
   * const first = await store.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries whose keys start with a prefix: the prefix
   * itself, and all keys that extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. The order is
   * that of the store's encoded keys, and is the same each time. You
   * may delete entries while you list them.
   *
   * @param prefix A prefix; missing or `[]` for all entries. Or
   *               options.
   * @throws Nothing. The first `next()` rejects with
   *         `ERR_KV_INVALID_KEY` or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of store.list(["traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes a prefix and all keys under it.
   *
   * Large numbers of entries are deleted in several steps, so that
   * other writes don't have to wait for all of them. An entry that
   * is written meanwhile may remain.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()`
   *               deletes everything.
   * @returns How many entries were deleted.
   *
   * @example
   * ```ts
   * await store.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Connects, and creates the store's table if it needs one. Without
   * this call the first operation does it.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data. The next operation starts with an
   * empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with
   * `ERR_KV_CLOSED`. Calling `close()` again is harmless.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * An async iterator over the entries of a store, from `list()`.
 *
 * It reads a page of entries at a time, and at most a few pages ahead. Nothing
 * runs before the first `next()`. Leaving a `for await` loop early stops the
 * work in the store.
 *
 * @example
 * ```ts
 * for await (const { key, value } of store.list(["traces", traceId])) {
 *   console.log(key, value);
 * }
 * ```
 */
export declare class KvListIterator {
  /**
   * The next entry. You may call it again before the last call has resolved;
   * calls resolve in their order.
   */
  next(): Promise<IteratorResult<KvStoreListEntry, undefined>>
  /**
   * Ends the iterator. Work in the store stops at once.
   *
   * @param value The value of the result; a promise is awaited.
   */
  return(value?: unknown): Promise<IteratorResult<KvStoreListEntry, undefined>>
  /** Ends the iterator and rejects with the given error. */
  throw(error?: unknown): Promise<IteratorResult<KvStoreListEntry, undefined>>
  /**
   * How many unreadable entries were skipped so far. `get` of their keys
   * rejects with `ERR_KV_CORRUPT`.
   */
  get skipped(): number
  [globalThis.Symbol.asyncIterator](): this
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in this process's memory. For tests, demos and caches that may
 * be lost.
 *
 * Unlike Fedify's own `MemoryKvStore`, it removes expired entries, returns
 * copies instead of the objects that were passed in, and finds a prefix without
 * looking at every entry. It runs on the calling thread.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { MemoryKvStore } from "fedify-kv";
 *
 * const federation = createFederation<void>({ kv: new MemoryKvStore() });
 * ```
 */
export declare class MemoryKvStore {
  /** @throws `ERR_KV_INVALID_OPTION`, because this store has no options. */
  constructor()
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns The value, or `undefined` if there is none or it has
   *          expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if what is
   *         stored is not JSON.
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the
   * entry lives until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Any value with a JSON form, `null` included.
   *              `undefined` does nothing.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for
   *         BigInts, cycles, functions and symbols;
   *         `ERR_KV_INVALID_TTL`. The store is unchanged then.
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the present one is
   * what you expect. It is atomic with respect to all other writers,
   * those in other processes included.
   *
   * Values are compared deeply as JSON; the order of an object's
   * keys doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The value you expect; `undefined` for none,
   *                      missing or expired.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether it was swapped. A lost race is `false`.
   *
   * @example
   * ```ts
   * const first = await store.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries whose keys start with a prefix: the prefix
   * itself, and all keys that extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. The order is
   * that of the store's encoded keys, and is the same each time. You
   * may delete entries while you list them.
   *
   * @param prefix A prefix; missing or `[]` for all entries. Or
   *               options.
   * @throws Nothing. The first `next()` rejects with
   *         `ERR_KV_INVALID_KEY` or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of store.list(["traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes a prefix and all keys under it.
   *
   * Large numbers of entries are deleted in several steps, so that
   * other writes don't have to wait for all of them. An entry that
   * is written meanwhile may remain.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()`
   *               deletes everything.
   * @returns How many entries were deleted.
   *
   * @example
   * ```ts
   * await store.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Connects, and creates the store's table if it needs one. Without
   * this call the first operation does it.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data. The next operation starts with an
   * empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with
   * `ERR_KV_CLOSED`. Calling `close()` again is harmless.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in MySQL (8.0 or later) or MariaDB (10.7 or later), where other
 * processes may use them at the same time, `@fedify/mysql` among them: the
 * format is the same.
 *
 * Operations that wait share statements: some hundred reads or writes take one
 * round trip. After a connection is lost, operations are repeated where that is
 * safe; a `cas` whose outcome is unknown rejects.
 *
 * A key may have 768 characters as JSON text; a longer one rejects with
 * `ERR_KV_KEY_TOO_LONG`. A value may be as large as the server's
 * `max_allowed_packet` (`ERR_KV_VALUE_TOO_LARGE`), and must be JSON that the
 * server accepts (`ERR_KV_INVALID_VALUE`): neither accepts lone surrogates in
 * strings; MySQL allows 100 levels and MariaDB 10 allows 31.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { MysqlKvStore } from "fedify-kv";
 *
 * const kv = new MysqlKvStore("mysql://user:password@localhost/fedify");
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class MysqlKvStore {
  /**
   * @param url The database's URL, such as
   *            `mysql://user:password@host:3306/database` (or `mariadb:`).
   *            `?ssl-mode=VERIFY_IDENTITY` encrypts and verifies the server,
   *            `?ssl-mode=REQUIRED` encrypts but does not verify it;
   *            `?socket=/run/mysqld/mysqld.sock` connects to a Unix socket.
   *            Nothing is connected before the first operation.
   * @param options The options.
   * @throws `ERR_KV_INVALID_OPTION`
   */
  constructor(url: string, options?: MysqlKvStoreOptions)
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns The value, or `undefined` if there is none or it has
   *          expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if what is
   *         stored is not JSON.
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the
   * entry lives until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Any value with a JSON form, `null` included.
   *              `undefined` does nothing.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for
   *         BigInts, cycles, functions and symbols;
   *         `ERR_KV_INVALID_TTL`. The store is unchanged then.
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the present one is
   * what you expect. It is atomic with respect to all other writers,
   * those in other processes included.
   *
   * Values are compared deeply as JSON; the order of an object's
   * keys doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The value you expect; `undefined` for none,
   *                      missing or expired.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether it was swapped. A lost race is `false`.
   *
   * @example
   * ```ts
   * const first = await store.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries whose keys start with a prefix: the prefix
   * itself, and all keys that extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. The order is
   * that of the store's encoded keys, and is the same each time. You
   * may delete entries while you list them.
   *
   * @param prefix A prefix; missing or `[]` for all entries. Or
   *               options.
   * @throws Nothing. The first `next()` rejects with
   *         `ERR_KV_INVALID_KEY` or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of store.list(["traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes a prefix and all keys under it.
   *
   * Large numbers of entries are deleted in several steps, so that
   * other writes don't have to wait for all of them. An entry that
   * is written meanwhile may remain.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()`
   *               deletes everything.
   * @returns How many entries were deleted.
   *
   * @example
   * ```ts
   * await store.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Connects, and creates the store's table if it needs one. Without
   * this call the first operation does it.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data. The next operation starts with an
   * empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with
   * `ERR_KV_CLOSED`. Calling `close()` again is harmless.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in a PostgreSQL table, which other processes may use at the
 * same time, `@fedify/postgres` among them: the format is the same.
 *
 * Operations that wait are sent together, gets in one statement and writes in
 * another, over a few connections. After a connection is lost, operations are
 * repeated where that is safe; a `cas` whose outcome is unknown rejects. Lists
 * read a range of the primary key, a page at a time.
 *
 * Values are stored as `jsonb`, which allows neither NUL characters nor lone
 * surrogates: such values reject with `ERR_KV_INVALID_VALUE`. Parts of keys may
 * not contain NUL either (`ERR_KV_INVALID_KEY`), and a key may have about 2,700
 * bytes after compression (`ERR_KV_KEY_TOO_LONG`).
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { PostgresKvStore } from "fedify-kv";
 *
 * const kv = new PostgresKvStore("postgres://user:password@localhost/app");
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class PostgresKvStore {
  /**
   * @param url The database's URL, such as
   *            `postgres://user:password@host:5432/database`, with
   *            `?sslmode=require` for an encrypted connection, or
   *            `postgres://user@%2Frun%2Fpostgresql/database` for a Unix
   *            socket. Nothing is connected before the first operation.
   * @param options The options.
   * @throws `ERR_KV_INVALID_OPTION`
   */
  constructor(url: string, options?: PostgresKvStoreOptions)
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns The value, or `undefined` if there is none or it has
   *          expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if what is
   *         stored is not JSON.
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the
   * entry lives until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Any value with a JSON form, `null` included.
   *              `undefined` does nothing.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for
   *         BigInts, cycles, functions and symbols;
   *         `ERR_KV_INVALID_TTL`. The store is unchanged then.
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the present one is
   * what you expect. It is atomic with respect to all other writers,
   * those in other processes included.
   *
   * Values are compared deeply as JSON; the order of an object's
   * keys doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The value you expect; `undefined` for none,
   *                      missing or expired.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether it was swapped. A lost race is `false`.
   *
   * @example
   * ```ts
   * const first = await store.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries whose keys start with a prefix: the prefix
   * itself, and all keys that extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. The order is
   * that of the store's encoded keys, and is the same each time. You
   * may delete entries while you list them.
   *
   * @param prefix A prefix; missing or `[]` for all entries. Or
   *               options.
   * @throws Nothing. The first `next()` rejects with
   *         `ERR_KV_INVALID_KEY` or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of store.list(["traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes a prefix and all keys under it.
   *
   * Large numbers of entries are deleted in several steps, so that
   * other writes don't have to wait for all of them. An entry that
   * is written meanwhile may remain.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()`
   *               deletes everything.
   * @returns How many entries were deleted.
   *
   * @example
   * ```ts
   * await store.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Connects, and creates the store's table if it needs one. Without
   * this call the first operation does it.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data. The next operation starts with an
   * empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with
   * `ERR_KV_CLOSED`. Calling `close()` again is harmless.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in Redis or Valkey (6.0 or later), on one server or in a
 * cluster, where other processes may use them at the same time,
 * `@fedify/redis` among them: the format is the same.
 *
 * Operations that wait are sent together, over one connection to each server.
 * After a connection is lost, operations are repeated where that is safe; a
 * `cas` whose outcome is unknown rejects. Values may have up to 512 MB, the
 * limit of Redis.
 *
 * Redis does not keep keys in order, so by default `list` and `clear` scan the
 * whole database, which takes a second for some million keys, and `list` holds
 * all matching keys in memory (never their values). With `index: true` their
 * cost depends only on the number of matches; see
 * {@link RedisKvStoreOptions.index}.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { RedisKvStore } from "fedify-kv";
 *
 * const kv = new RedisKvStore("redis://localhost");
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class RedisKvStore {
  /**
   * @param url The server's URL, such as `redis://user:password@host:6379/0`,
   *            `rediss://host` (encrypted) or `unix:///run/redis.sock?db=0`.
   *            Several URLs, or one like `redis+cluster://host`, name nodes
   *            of a cluster; the other nodes are found. Nothing is
   *            connected before the first operation.
   * @param options The options.
   * @throws `ERR_KV_INVALID_OPTION`
   */
  constructor(url: string | readonly string[], options?: RedisKvStoreOptions)
  /**
   * Rebuilds the index: for entries from before `index: true`, and from writers
   * that do not maintain the index. Others may write meanwhile.
   *
   * @returns How many entries there are.
   * @throws `ERR_KV_INVALID_OPTION` if the store has no index.
   */
  reindex(): Promise<number>
  /** How many entries the running or the last call of `reindex` has processed. */
  get reindexed(): number
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns The value, or `undefined` if there is none or it has
   *          expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if what is
   *         stored is not JSON.
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the
   * entry lives until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Any value with a JSON form, `null` included.
   *              `undefined` does nothing.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for
   *         BigInts, cycles, functions and symbols;
   *         `ERR_KV_INVALID_TTL`. The store is unchanged then.
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the present one is
   * what you expect. It is atomic with respect to all other writers,
   * those in other processes included.
   *
   * Values are compared deeply as JSON; the order of an object's
   * keys doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The value you expect; `undefined` for none,
   *                      missing or expired.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether it was swapped. A lost race is `false`.
   *
   * @example
   * ```ts
   * const first = await store.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries whose keys start with a prefix: the prefix
   * itself, and all keys that extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. The order is
   * that of the store's encoded keys, and is the same each time. You
   * may delete entries while you list them.
   *
   * @param prefix A prefix; missing or `[]` for all entries. Or
   *               options.
   * @throws Nothing. The first `next()` rejects with
   *         `ERR_KV_INVALID_KEY` or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of store.list(["traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes a prefix and all keys under it.
   *
   * Large numbers of entries are deleted in several steps, so that
   * other writes don't have to wait for all of them. An entry that
   * is written meanwhile may remain.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()`
   *               deletes everything.
   * @returns How many entries were deleted.
   *
   * @example
   * ```ts
   * await store.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Connects, and creates the store's table if it needs one. Without
   * this call the first operation does it.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data. The next operation starts with an
   * empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with
   * `ERR_KV_CLOSED`. Calling `close()` again is harmless.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in a SQLite file, which other processes may use at the same
 * time, `@fedify/sqlite` among them: the format is the same.
 *
 * All writes that wait are committed together, on a thread of the store. By
 * default an awaited write survives a power loss; the options `durability` and
 * `relaxed` choose less, and a lone write is then done on the calling thread.
 * Single keys are read on the calling thread, lists on another one.
 *
 * The database gets a write-ahead log (two files beside it, `-wal` and `-shm`,
 * while it is open), so it must be on a local disk. Values may be as large as
 * a string in JavaScript, and keys too.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { SqliteKvStore } from "fedify-kv";
 *
 * const kv = new SqliteKvStore("fedify.db");
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class SqliteKvStore {
  /**
   * @param path The file's path, which is created if there is none, or
   *             `":memory:"`. Nothing is opened before the first operation.
   * @param options The options.
   * @throws `ERR_KV_INVALID_OPTION`
   */
  constructor(path: string, options?: SqliteKvStoreOptions)
  /**
   * Gives the space that deleted and expired entries have left back to the
   * file system. Without it, a file keeps the largest size that it ever had,
   * and reuses the space for new entries.
   *
   * It rewrites the whole file (SQLite's `VACUUM`), or only moves what is at
   * its end where the file was made with `auto_vacuum = INCREMENTAL`. It runs
   * off the event loop and reads go on, but writes wait for it: about a second
   * for 200 MB on a fast disk. It needs up to twice the file's size of free
   * space meanwhile. A pause in the night is a good time.
   *
   * @throws `ERR_KV_TIMEOUT` if another process holds its lock for longer
   *         than `busyTimeout`; `ERR_KV_BACKEND` if the disk is full. No
   *         entry is changed then.
   *
   * @example
   * ```ts
   * await store.clear(["fedify", "traces"]);
   * await store.compact();
   * ```
   */
  compact(): Promise<void>
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns The value, or `undefined` if there is none or it has
   *          expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if what is
   *         stored is not JSON.
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the
   * entry lives until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Any value with a JSON form, `null` included.
   *              `undefined` does nothing.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for
   *         BigInts, cycles, functions and symbols;
   *         `ERR_KV_INVALID_TTL`. The store is unchanged then.
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the present one is
   * what you expect. It is atomic with respect to all other writers,
   * those in other processes included.
   *
   * Values are compared deeply as JSON; the order of an object's
   * keys doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The value you expect; `undefined` for none,
   *                      missing or expired.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether it was swapped. A lost race is `false`.
   *
   * @example
   * ```ts
   * const first = await store.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries whose keys start with a prefix: the prefix
   * itself, and all keys that extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. The order is
   * that of the store's encoded keys, and is the same each time. You
   * may delete entries while you list them.
   *
   * @param prefix A prefix; missing or `[]` for all entries. Or
   *               options.
   * @throws Nothing. The first `next()` rejects with
   *         `ERR_KV_INVALID_KEY` or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of store.list(["traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes a prefix and all keys under it.
   *
   * Large numbers of entries are deleted in several steps, so that
   * other writes don't have to wait for all of them. An entry that
   * is written meanwhile may remain.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()`
   *               deletes everything.
   * @returns How many entries were deleted.
   *
   * @example
   * ```ts
   * await store.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Connects, and creates the store's table if it needs one. Without
   * this call the first operation does it.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data. The next operation starts with an
   * empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with
   * `ERR_KV_CLOSED`. Calling `close()` again is harmless.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Opens the store that a URL names, so that an app can take its store from
 * one environment variable.
 *
 * - `memory:` — {@link MemoryKvStore}
 * - `sqlite:fedify.db`, `sqlite:///var/lib/app/fedify.db`,
 *   `sqlite::memory:` — {@link SqliteKvStore}. In the path, `%20` stands for a
 *   space, `%3F` for a question mark and so on.
 * - `redis://host:6379/0`, `rediss:` (encrypted), `redis+cluster:`,
 *   `rediss+cluster:`, `redis+unix:///run/redis.sock` — {@link RedisKvStore}
 * - `postgres://host:5432/database`, `postgresql:` — {@link PostgresKvStore}
 * - `mysql://host:3306/database`, `mariadb:` — {@link MysqlKvStore}
 * - `denokv:deno-kv.db`, `denokv::memory:` (paths as after `sqlite:`),
 *   `denokv:https://host` — {@link DenoKvStore}
 *
 * @param url The URL.
 * @param options The options of that store's constructor.
 * @throws `ERR_KV_INVALID_OPTION` for a URL that names no store.
 *
 * @example
 * ```ts
 * const kv = openKvStore(process.env.KV_URL ?? "sqlite:fedify.db");
 * ```
 */
export declare function openKvStore(url: string, options?: SqliteKvStoreOptions | RedisKvStoreOptions | PostgresKvStoreOptions | MysqlKvStoreOptions | DenoKvStoreOptions): MemoryKvStore | SqliteKvStore | RedisKvStore | PostgresKvStore | MysqlKvStore | DenoKvStore
