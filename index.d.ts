/// <reference lib="esnext.disposable" />
// Written by `npm run build` from the doc comments in src/binding and from
// scripts/index.d.ts.header. Change it there.

/**
 * A key: an array of one or more strings. It is the type of the same name in
 * Fedify.
 *
 * Any string is allowed as a part, the empty one too, unless it has a lone
 * surrogate. Each engine limits the length of keys; see the stores.
 */
export type KvKey = readonly [string] | readonly [string, ...string[]];

/** An entry of a list. It is the type of the same name in Fedify. */
export interface KvStoreListEntry {
  /** The entry's key. */
  readonly key: KvKey;
  /** The entry's value: a copy, as `JSON.parse` returns it. */
  readonly value: unknown;
}

/** The options that Fedify passes to `set` and `cas`. */
export interface KvStoreSetOptions {
  /**
   * The time to live.
   *
   * @default The entry never expires.
   */
  ttl?: Duration;
}

/**
 * Fedify's interface for key–value stores, as Fedify 2 declares it. All stores of
 * this package implement it. It is declared here so that the package can be used
 * without Fedify.
 */
export interface KvStore {
  /** Gets the value of a key; `undefined` if there is none. */
  get<T = unknown>(key: KvKey): Promise<T | undefined>;
  /** Sets the value of a key. */
  set(key: KvKey, value: unknown, options?: KvStoreSetOptions): Promise<void>;
  /** Deletes the entry of a key. */
  delete(key: KvKey): Promise<void>;
  /** Sets the value if the current one equals the expected one. */
  cas?(
    key: KvKey,
    expectedValue: unknown,
    newValue: unknown,
    options?: KvStoreSetOptions,
  ): Promise<boolean>;
  /** Lists the entries under a prefix, or all entries. */
  list(prefix?: KvKey): AsyncIterable<KvStoreListEntry>;
}

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
  /**
   * The length in a unit. It is called with `{ unit: "millisecond", relativeTo }`,
   * where `relativeTo` is today's date, such as `"2026-01-31"`.
   */
  total(options: unknown): number;
}

/**
 * Options of `set` and `cas`. Unknown options are ignored, because later versions
 * of Fedify may pass some.
 */
export interface SetOptions {
  /**
   * The time to live, from now. Fractions of a millisecond round up. If it is
   * zero or negative, the entry expires at once.
   *
   * @default The entry never expires.
   * @example
   * ```ts
   * await kv.set(["session", "1"], { user: "alice" }, { ttl: { hours: 1 } });
   * ```
   */
  ttl?: Duration | DurationLike;
}

/** What `list` needs of an `AbortSignal`. Any `AbortSignal` has it. */
export interface AbortSignalLike {
  readonly aborted: boolean;
  readonly reason?: unknown;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/**
 * Options of `list`. Unknown options are ignored, because later versions of
 * Fedify may pass some.
 */
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
  signal?: AbortSignalLike;
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
   * and operations reject with `ERR_KV_BACKEND` if it doesn't exist.
   *
   * @default false
   */
  initialized?: boolean;
  /**
   * What an awaited write survives.
   *
   * - `"full"`: a power loss. All waiting writes share a sync to disk.
   * - `"normal"`: a crash of the process. There is no sync, so a power loss may
   *   take the last writes. The database is not damaged.
   *
   * @default "full"
   */
  durability?: "full" | "normal";
  /**
   * Prefixes of keys that are written with `durability: "normal"`, while others
   * are written with `"full"`. The next `"full"` write makes earlier writes under
   * these prefixes safe too. A write that shares a commit with a `"full"` one
   * waits for its sync.
   *
   * Fedify keeps caches and marks under `["_fedify"]`. If a power loss takes the
   * last of them, Fedify fetches a document again, or handles an activity again
   * if it is delivered again.
   *
   * @default []
   * @example
   * ```ts
   * const kv = new SqliteKvStore("fedify.db", { relaxed: [["_fedify"]] });
   * ```
   */
  relaxed?: readonly KvKey[];
  /**
   * How long an operation waits for another process's lock, in milliseconds,
   * from 0. After that it rejects with `ERR_KV_TIMEOUT`.
   *
   * @default 5000
   */
  busyTimeout?: number;
}

/** Options of the stores that connect to a server with its own protocol. */
export interface ServerOptions {
  /**
   * How long an attempt to connect may take, in milliseconds, from 1.
   *
   * If the server was never reached, operations reject with `ERR_KV_CONNECTION`
   * at once when it refuses. If a connection is lost later, they wait for a new
   * one until their own timeout.
   *
   * @default 5000
   */
  connectTimeout?: number;
  /**
   * How many operations may wait for the server, from 1 to 10,000,000. Further
   * operations reject with `ERR_KV_BACKEND`. The same happens if the waiting
   * operations would exceed 256 MiB.
   *
   * @default 100000
   */
  queueLimit?: number;
  /**
   * The user to log in as. It wins over the URL.
   *
   * @default The URL's user.
   */
  user?: string;
  /**
   * The password, which wins over the URL's. A function is called for each new
   * connection, so that it can return a token that expires, or a secret that
   * is replaced. It has `connectTimeout` to return a string, or a promise of
   * one. If it fails, operations reject with `ERR_KV_CONNECTION` and its
   * message. If the server refuses a login, the function may be asked again
   * until the operation's timeout is over.
   *
   * The store keeps the function until it is closed or collected. A store that
   * the function itself refers to is not collected before it is closed.
   *
   * @default The URL's password.
   */
  password?: string | (() => string | PromiseLike<string>);
  /**
   * Certificates, and whether to verify the server's. See the store's own
   * options for when connections are encrypted.
   */
  tls?: TlsOptions;
}

/** Options for encrypted connections. */
export interface TlsOptions {
  /**
   * Trusted certificates in PEM, in place of the default. A server's own
   * certificate may be among them.
   *
   * @default The certificates that the system trusts, or Mozilla's if it has
   * none, and those in the file that `NODE_EXTRA_CA_CERTS` names.
   */
  ca?: string | Uint8Array;
  /** The client's certificate chain in PEM. It needs `key`. */
  cert?: string | Uint8Array;
  /** The private key of `cert`, in PEM. It needs `cert`. */
  key?: string | Uint8Array;
  /**
   * Whether to refuse servers whose certificate is not valid. `false` encrypts
   * but does not verify the server.
   *
   * @default true
   */
  rejectUnauthorized?: boolean;
}

/** Options of {@link RedisKvStore}. */
export interface RedisKvStoreOptions extends ServerOptions {
  /**
   * The prefix of all keys in Redis. `drop()` deletes every key with this
   * prefix, of any type, and rejects with `ERR_KV_INVALID_OPTION` if the prefix
   * is empty. Characters that are special in Redis patterns have no special
   * meaning here.
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
   * without it vanish from lists at once. Expired entries are removed from the
   * index in the background, by one process at a time.
   *
   * The server must not evict keys of its own choice: if it has a `maxmemory`
   * and an `allkeys-*` policy, operations reject with `ERR_KV_INVALID_OPTION`.
   * `noeviction` and the `volatile-*` policies are safe.
   *
   * In a cluster the index needs a `keyPrefix` with a hash tag, such as
   * `"{fedify}::"`, which keeps all entries on one server.
   *
   * @default false
   */
  index?: boolean;
  /**
   * The maximum number of open connections to each server, from 1 to 1,000.
   * They are opened on demand. What is called together shares one.
   *
   * @default 4
   */
  maxConnections?: number;
  /**
   * How long a connection is used at most, in milliseconds, from 1. It is then
   * replaced when it is idle, so that servers and balancers that have changed are
   * found. The time of each is up to a tenth shorter, at random.
   *
   * @default 1800000
   */
  maxLifetime?: number;
  /**
   * After how long an unused connection is closed, in milliseconds, from 1.
   *
   * @default 600000
   */
  idleTimeout?: number;
  /**
   * How long an operation may take, in milliseconds, from 1: its wait for
   * earlier ones on the same key, for a connection, and for the answer. After
   * that it rejects with `ERR_KV_TIMEOUT`, or with `ERR_KV_CONNECTION` if the
   * reason for the missing connection is known. If the server was asked, the
   * outcome of a write is then unknown. `list`, `clear` and `drop` have this time
   * for each of their steps.
   *
   * @default 5000
   */
  commandTimeout?: number;
  /**
   * Where the nodes of a cluster are reached that announce addresses which can't
   * be reached from here: a record from `host:port` to `host:port` or
   * `{ host, port }`, or a function that is called with `host:port` and returns
   * one of these, or a promise. What it has no answer for stays as it is. An IPv6
   * address is in brackets in `host:port`. If the function fails, operations
   * reject with `ERR_KV_CONNECTION` and its message. Only allowed for clusters.
   *
   * @default {}
   */
  natMap?: RedisNatMap;
  /**
   * Certificates, and whether to verify the server's. Only allowed with
   * `rediss:` and `rediss+cluster:` URLs, which encrypt connections.
   */
  tls?: TlsOptions;
}

/** An address in {@link RedisKvStoreOptions.natMap}. */
export type RedisAddress = string | { host: string; port: number };

/** See {@link RedisKvStoreOptions.natMap}. */
export type RedisNatMap =
  | Readonly<Record<string, RedisAddress>>
  | ((
      address: string,
    ) =>
      | RedisAddress
      | undefined
      | null
      | PromiseLike<RedisAddress | undefined | null>);

/**
 * Options of {@link PostgresKvStore}. The URL may say something about
 * `tableName` (`schema`), `maxConnections` (`connection_limit`),
 * `connectTimeout` (`connect_timeout`), `preparedStatements` (`pgbouncer`) and
 * `tls` (`sslmode` and others). The options win over the URL.
 */
export interface PostgresKvStoreOptions extends ServerOptions {
  /**
   * The table's name, or `schema.table`. The name is case-sensitive, and each
   * part has 1 to 63 bytes.
   *
   * @default "fedify_kv_v2"
   */
  tableName?: string;
  /**
   * Whether the table exists already. If `true`, the store never creates or
   * changes or converts it and needs no right to do so, and operations reject
   * with `ERR_KV_BACKEND` if it doesn't exist.
   *
   * @default false
   */
  initialized?: boolean;
  /**
   * Whether the table may be unlogged. Writes are cheaper then, but a crash of
   * the server empties the table, and it is not replicated. A table that the
   * store creates is unlogged if this is `true`.
   *
   * If this is `false`, an awaited write survives a crash. A table that is
   * unlogged already (Fedify's own store made such tables before 2.4) is
   * converted by `initialize()`, or else by the first operation. Only the
   * table's owner may do that. The server rewrites the table, and nobody can use
   * it in the meantime: `initialize()` waits until that is done, other
   * operations reject with `ERR_KV_TIMEOUT` after `queryTimeout`.
   *
   * With `initialized: true`, no table is created or converted.
   *
   * @default false
   */
  unlogged?: boolean;
  /**
   * The maximum number of open connections, from 1 to 1,000. They are opened on
   * demand.
   *
   * @default 10
   */
  maxConnections?: number;
  /**
   * How long a connection is used at most, in milliseconds, from 1. It is then
   * replaced when it is idle, so that servers and balancers that have changed are
   * found. The time of each is up to a tenth shorter, at random.
   *
   * @default 1800000
   */
  maxLifetime?: number;
  /**
   * After how long an unused connection is closed, in milliseconds, from 1.
   *
   * @default 600000
   */
  idleTimeout?: number;
  /**
   * How long an operation may take, in milliseconds, from 1: waiting for others
   * on the same key, for a connection and for the answer. Its statement is
   * cancelled on the server shortly before, and it rejects with `ERR_KV_TIMEOUT`,
   * or with `ERR_KV_CONNECTION` if the reason for the missing connection is known.
   * The message says if the outcome is unknown.
   *
   * @default 5000
   */
  queryTimeout?: number;
  /**
   * Prefixes under which `set`, `delete` and `cas` don't wait until they are on
   * disk, as with `synchronous_commit = off`: they are seen at once, and a crash
   * of the server may lose those of the last moments, but nothing else. Not even
   * a synchronous standby is waited for.
   *
   * @default []
   * @example
   * ```ts
   * const kv = new PostgresKvStore("postgres://localhost/app", {
   *   relaxed: [["_fedify"]],
   * });
   * ```
   */
  relaxed?: readonly KvKey[];
  /**
   * Whether to prepare statements. A pooler that may run each transaction on
   * another connection (PgBouncer in transaction mode) doesn't keep them. The
   * store notices that by itself, and goes on without them. `false` saves it the
   * attempts.
   *
   * Without prepared statements, and behind any pooler, each connection runs one
   * statement at a time, which some poolers need.
   *
   * @default true
   */
  preparedStatements?: boolean;
  /**
   * The most bytes of a server's answer to one statement, from 1 to
   * 4,294,967,295. A larger answer ends the connection. Gets that were together
   * in a statement are then repeated one by one; an operation whose own answer is
   * too large rejects with `ERR_KV_BACKEND`. A page of a list is one answer.
   *
   * The limit is for servers that misbehave: `jsonb` holds 256 MiB at most.
   *
   * @default 536870912 (512 MiB)
   */
  maxAnswerBytes?: number;
  /**
   * Encrypts connections, as `sslmode` in the URL does. `require` and
   * `verify-full` require a trusted certificate with the host's name.
   * `verify-ca` does not verify the name, if you say whom to trust with `ca`
   * or with `sslrootcert` in the URL. `no-verify` accepts any certificate.
   * `prefer` also accepts a server without encryption. Connections to a Unix
   * socket are never encrypted.
   *
   * @default Connections are not encrypted, unless the URL or the environment says so.
   */
  tls?: TlsOptions;
}

/** Options of {@link MysqlKvStore}. */
export interface MysqlKvStoreOptions extends ServerOptions {
  /**
   * The table's name: a letter or `_`, then up to 49 letters, digits or `_`.
   *
   * @default "fedify_kv"
   */
  tableName?: string;
  /**
   * Whether the table exists already. If `true`, the store never creates it and
   * needs no right to do so, and operations reject with `ERR_KV_BACKEND` if it
   * doesn't exist.
   *
   * @default false
   */
  initialized?: boolean;
  /**
   * The maximum number of open connections, from 1 to 1,000, apart from a
   * short-lived one that stops a statement. Waiting operations share statements,
   * so more connections help little.
   *
   * @default 4
   */
  maxConnections?: number;
  /**
   * How long a connection is used at most, in milliseconds, from 1. It is then
   * replaced when it is idle, so that servers and balancers that have changed are
   * found. The time of each is up to a tenth shorter, at random.
   *
   * @default 1800000
   */
  maxLifetime?: number;
  /**
   * After how long an unused connection is closed, in milliseconds, from 1.
   *
   * @default 600000
   */
  idleTimeout?: number;
  /**
   * How long an operation waits for a connection, and then for its answer, in
   * milliseconds, from 1. After that its statement is stopped on the server, and
   * it rejects with `ERR_KV_TIMEOUT`.
   *
   * @default 5000
   */
  queryTimeout?: number;
  /**
   * Whether the password may be encrypted by an RSA key that the server sends, on a
   * connection that is not encrypted. MySQL's `caching_sha2_password` and
   * `sha256_password` may need that. It doesn't protect the password from someone
   * who can take the server's place. If `false`, such a login rejects with
   * `ERR_KV_CONNECTION`, unless `tls` encrypts the connection or it is a Unix
   * socket.
   *
   * @default false
   */
  allowPublicKeyRetrieval?: boolean;
  /**
   * Encrypts connections, as `ssl-mode` in the URL does.
   *
   * @default Connections are not encrypted, unless `ssl-mode` in the URL says so.
   */
  tls?: TlsOptions;
}

/** Options of {@link DenoKvStore}. */
export interface DenoKvStoreOptions {
  /**
   * The access token for the server, or a function that returns it: for tokens
   * that expire. The function is called for each exchange of the token for
   * metadata, which is with the first operation and then before the metadata
   * expires. It has three quarters of `commandTimeout` to return. If it throws or
   * rejects, or returns a token that an HTTP header can't contain, operations that
   * need it reject with `ERR_KV_CONNECTION` and its message. Not used for files.
   *
   * The store keeps the function until it is closed or collected. A store that
   * the function itself refers to is not collected before it is closed.
   *
   * @default The environment variable `DENO_KV_ACCESS_TOKEN`.
   */
  accessToken?: string | (() => string | PromiseLike<string>);
  /**
   * For files: how long an operation waits for another process's lock, in
   * milliseconds, from 0. After that it rejects with `ERR_KV_TIMEOUT`.
   *
   * @default 5000
   */
  busyTimeout?: number;
  /**
   * For servers: the whole time of an operation, in milliseconds, from 1. After
   * that it rejects with `ERR_KV_TIMEOUT`, or with `ERR_KV_CONNECTION` if the
   * store knows why there is no answer. If a write may have been carried out, the
   * message says that the outcome is unknown.
   *
   * @default 5000
   */
  commandTimeout?: number;
  /**
   * For servers: how many operations may wait, from 1 to 10,000,000. Further
   * operations reject with `ERR_KV_BACKEND`. The same happens if the waiting
   * operations would exceed 256 MiB.
   *
   * @default 100000
   */
  queueLimit?: number;
}

/**
 * The `code` of the errors that constructors throw and that operations reject
 * with.
 *
 * A rejected operation has changed nothing, unless its message says that the
 * outcome is unknown.
 *
 * - `ERR_KV_INVALID_KEY` (`TypeError`): the key is not an array of one or more
 *   strings, or a part has a lone surrogate, or (PostgreSQL) a NUL character.
 * - `ERR_KV_INVALID_VALUE` (`TypeError`): `JSON.stringify` can't represent the
 *   value, or the engine can't store its JSON.
 * - `ERR_KV_INVALID_TTL` (`RangeError`): the `ttl` is not a duration.
 * - `ERR_KV_INVALID_OPTION` (`TypeError`): an option, path or URL is invalid, or
 *   there is no such option.
 * - `ERR_KV_KEY_TOO_LONG` (`RangeError`): the engine doesn't allow keys of this
 *   length.
 * - `ERR_KV_VALUE_TOO_LARGE` (`RangeError`): the engine doesn't allow values of
 *   this size.
 * - `ERR_KV_CONNECTION` (`Error`): the file can't be opened, or the server can't
 *   be reached.
 * - `ERR_KV_TIMEOUT` (`Error`): another process held its lock for too long, or
 *   the server didn't answer in time.
 * - `ERR_KV_CLOSED` (`Error`): the store is closed.
 * - `ERR_KV_CORRUPT` (`Error`): the stored bytes don't follow the format. The
 *   message names the key; other entries can be read.
 * - `ERR_KV_BACKEND` (`Error`): any other error of the engine, with its message.
 * - `ERR_KV_NATIVE_LOAD` (`Error`): the package's native addon can't be loaded.
 *   `import` and `require` of the package throw it; its message says why.
 *
 * @example
 * ```ts
 * try {
 *   await kv.set(["k"], 1);
 * } catch (error) {
 *   const { code } = error as { code?: KvErrorCode };
 *   if (code !== "ERR_KV_TIMEOUT") throw error;
 * }
 * ```
 */
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
  | "ERR_KV_BACKEND"
  | "ERR_KV_NATIVE_LOAD";

/**
 * Keeps entries in a Deno KV database: in a file, which other processes may
 * have open with `Deno.openKv(path)` at the same time, or on a server for KV
 * Connect, such as `denokv`. It works in Node.js and Bun too.
 *
 * In Deno programs a key is an array of strings, and a value is an ordinary
 * value. Values that Deno programs wrote are returned as JSON has them: a `Date`
 * as its ISO string. `get` of a value without a JSON form (a `BigInt`, a `Map`,
 * a `Deno.KvU64`, binary data) rejects with `ERR_KV_CORRUPT`. Lists skip such
 * values, and keys with parts that are not strings.
 *
 * Writes that wait are committed together. An awaited write to a file survives a
 * power loss. This store does not see expired entries of a file;
 * Deno programs see them until they are removed, about a second later. Entries
 * on a server are visible until the server removes them.
 *
 * A value may have 65,536 bytes when serialized (`ERR_KV_VALUE_TOO_LARGE`), and
 * a key about 2,040 (`ERR_KV_KEY_TOO_LONG`), as in Deno itself.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { DenoKvStore } from "fedify-kv";
 *
 * const kv = new DenoKvStore("deno-kv.db");
 * await kv.initialize();
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class DenoKvStore {
  /**
   * @param place The file's path, or `":memory:"`, or the `http:` or `https:`
   *              URL of a server. A missing file is created, a missing folder is
   *              not. Nothing is opened before the first operation.
   * @param options The options.
   * @throws `ERR_KV_INVALID_OPTION`
   */
  constructor(place: string, options?: DenoKvStoreOptions)
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns A copy of the value, or `undefined` if there is no entry or
   *          it has expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if the stored value is
   *         not JSON. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * const actor = await kv.get<{ name: string }>(["actors", "alice"]);
   * ```
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the entry
   * stays until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Anything that `JSON.stringify` can represent, `null`
   *              included. If it is `undefined`, nothing happens.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for BigInts,
   *         cycles, functions and symbols; `ERR_KV_INVALID_TTL`;
   *         `ERR_KV_KEY_TOO_LONG`; `ERR_KV_VALUE_TOO_LARGE`. See
   *         {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.set(["actors", "alice"], { name: "Alice" }, { ttl: { days: 1 } });
   * ```
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the current one equals the
   * expected one. It is atomic with respect to all other writers, in other
   * processes too.
   *
   * Values are compared deeply as JSON; the order of an object's keys
   * doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The expected value; `undefined` if there should be
   *                      no entry, or an expired one.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether the value was swapped. If another writer was first, it
   *          is `false`.
   * @throws The same as `set`. If a connection is lost, it may reject with
   *         `ERR_KV_CONNECTION` and say that the outcome is unknown.
   *
   * @example
   * ```ts
   * const isFirst = await kv.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. You may delete
   * entries while you list them.
   *
   * Entries come in key order: in the order of the keys as the store
   * encodes them, which is the same each time. Keys that differ only
   * in timestamps of equal length come in the order of time.
   * PostgreSQL compares by the database's collation.
   *
   * @param prefix A prefix, or options. Without it, or with `[]`, all
   *               entries are listed.
   * @returns An async iterator. Nothing is read before its first `next()`.
   * @throws Nothing. The first `next()` rejects with `ERR_KV_INVALID_KEY`
   *         or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of kv.list(["fedify", "traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes all entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * Large numbers of entries are deleted in several steps, so that other
   * writes don't have to wait for all of them. An entry that is written
   * meanwhile may remain. If a step fails, earlier steps are not undone.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()` deletes
   *               everything.
   * @returns The number of deleted entries.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Opens the file or connects to the server, and creates the table if it
   * doesn't exist. Without this call the first operation does it. Call it at
   * start-up, so that a wrong path or URL is noticed at once.
   *
   * @throws `ERR_KV_CONNECTION`; `ERR_KV_TIMEOUT`; `ERR_KV_BACKEND` if the
   *         table can't be created or has other columns.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data: its table, all keys with its
   * `keyPrefix` in Redis, all entries of the database in Deno KV. The next
   * operation starts with an empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with `ERR_KV_CLOSED`.
   * Calling `close()` again is harmless.
   *
   * An open store does not keep the process alive.
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
 * for await (const { key, value } of kv.list(["fedify", "traces", traceId])) {
 *   console.log(key, value);
 * }
 * ```
 */
export declare class KvListIterator {
  /**
   * The next entry. You may call it again before the last call has resolved;
   * calls resolve in their order.
   *
   * @throws `ERR_KV_CLOSED` if the store was closed; the reason of an aborted
   *         `signal`. See {@link KvErrorCode} for the others.
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
   * The number of unreadable entries that were skipped so far. `get` of their
   * keys rejects with `ERR_KV_CORRUPT`.
   */
  get skipped(): number
  /** Returns the iterator itself, for `for await`. */
  [globalThis.Symbol.asyncIterator](): this
  /** Ends the iterator at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in this process's memory. For tests, demos and caches that may
 * be lost.
 *
 * Unlike Fedify's own `MemoryKvStore`, it removes expired entries, returns
 * copies instead of the objects that were passed in, and finds the entries under
 * a prefix without looking at the others. All operations run on the calling
 * thread. Keys and values may be as long as a string in JavaScript.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { MemoryKvStore } from "fedify-kv";
 *
 * const kv = new MemoryKvStore();
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class MemoryKvStore {
  /** @throws `ERR_KV_INVALID_OPTION`, because this store has no options. */
  constructor()
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns A copy of the value, or `undefined` if there is no entry or
   *          it has expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if the stored value is
   *         not JSON. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * const actor = await kv.get<{ name: string }>(["actors", "alice"]);
   * ```
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the entry
   * stays until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Anything that `JSON.stringify` can represent, `null`
   *              included. If it is `undefined`, nothing happens.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for BigInts,
   *         cycles, functions and symbols; `ERR_KV_INVALID_TTL`;
   *         `ERR_KV_KEY_TOO_LONG`; `ERR_KV_VALUE_TOO_LARGE`. See
   *         {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.set(["actors", "alice"], { name: "Alice" }, { ttl: { days: 1 } });
   * ```
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the current one equals the
   * expected one. It is atomic with respect to all other writers, in other
   * processes too.
   *
   * Values are compared deeply as JSON; the order of an object's keys
   * doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The expected value; `undefined` if there should be
   *                      no entry, or an expired one.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether the value was swapped. If another writer was first, it
   *          is `false`.
   * @throws The same as `set`. If a connection is lost, it may reject with
   *         `ERR_KV_CONNECTION` and say that the outcome is unknown.
   *
   * @example
   * ```ts
   * const isFirst = await kv.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. You may delete
   * entries while you list them.
   *
   * Entries come in key order: in the order of the keys as the store
   * encodes them, which is the same each time. Keys that differ only
   * in timestamps of equal length come in the order of time.
   * PostgreSQL compares by the database's collation.
   *
   * @param prefix A prefix, or options. Without it, or with `[]`, all
   *               entries are listed.
   * @returns An async iterator. Nothing is read before its first `next()`.
   * @throws Nothing. The first `next()` rejects with `ERR_KV_INVALID_KEY`
   *         or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of kv.list(["fedify", "traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes all entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * Large numbers of entries are deleted in several steps, so that other
   * writes don't have to wait for all of them. An entry that is written
   * meanwhile may remain. If a step fails, earlier steps are not undone.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()` deletes
   *               everything.
   * @returns The number of deleted entries.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Opens the file or connects to the server, and creates the table if it
   * doesn't exist. Without this call the first operation does it. Call it at
   * start-up, so that a wrong path or URL is noticed at once.
   *
   * @throws `ERR_KV_CONNECTION`; `ERR_KV_TIMEOUT`; `ERR_KV_BACKEND` if the
   *         table can't be created or has other columns.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data: its table, all keys with its
   * `keyPrefix` in Redis, all entries of the database in Deno KV. The next
   * operation starts with an empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with `ERR_KV_CLOSED`.
   * Calling `close()` again is harmless.
   *
   * An open store does not keep the process alive.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in a table of MySQL (8.0 or later) or MariaDB (10.7 or later).
 * Other processes may use it at the same time, also with `@fedify/mysql`: the
 * format is the same.
 *
 * Waiting operations share statements: up to 512 reads or writes take one round
 * trip. After a connection is lost, what was not carried out is repeated; a write
 * whose outcome is unknown rejects and says so.
 *
 * A key may have 768 characters as JSON text (`ERR_KV_KEY_TOO_LONG`). A value
 * may be as large as the server's `max_allowed_packet`
 * (`ERR_KV_VALUE_TOO_LARGE`). It must be JSON that the server accepts
 * (`ERR_KV_INVALID_VALUE`): without lone surrogates, and with up to 100 levels
 * in MySQL, 31 in MariaDB 10.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { MysqlKvStore } from "fedify-kv";
 *
 * const kv = new MysqlKvStore("mysql://user:password@localhost/fedify");
 * await kv.initialize();
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
   * @returns A copy of the value, or `undefined` if there is no entry or
   *          it has expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if the stored value is
   *         not JSON. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * const actor = await kv.get<{ name: string }>(["actors", "alice"]);
   * ```
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the entry
   * stays until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Anything that `JSON.stringify` can represent, `null`
   *              included. If it is `undefined`, nothing happens.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for BigInts,
   *         cycles, functions and symbols; `ERR_KV_INVALID_TTL`;
   *         `ERR_KV_KEY_TOO_LONG`; `ERR_KV_VALUE_TOO_LARGE`. See
   *         {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.set(["actors", "alice"], { name: "Alice" }, { ttl: { days: 1 } });
   * ```
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the current one equals the
   * expected one. It is atomic with respect to all other writers, in other
   * processes too.
   *
   * Values are compared deeply as JSON; the order of an object's keys
   * doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The expected value; `undefined` if there should be
   *                      no entry, or an expired one.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether the value was swapped. If another writer was first, it
   *          is `false`.
   * @throws The same as `set`. If a connection is lost, it may reject with
   *         `ERR_KV_CONNECTION` and say that the outcome is unknown.
   *
   * @example
   * ```ts
   * const isFirst = await kv.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. You may delete
   * entries while you list them.
   *
   * Entries come in key order: in the order of the keys as the store
   * encodes them, which is the same each time. Keys that differ only
   * in timestamps of equal length come in the order of time.
   * PostgreSQL compares by the database's collation.
   *
   * @param prefix A prefix, or options. Without it, or with `[]`, all
   *               entries are listed.
   * @returns An async iterator. Nothing is read before its first `next()`.
   * @throws Nothing. The first `next()` rejects with `ERR_KV_INVALID_KEY`
   *         or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of kv.list(["fedify", "traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes all entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * Large numbers of entries are deleted in several steps, so that other
   * writes don't have to wait for all of them. An entry that is written
   * meanwhile may remain. If a step fails, earlier steps are not undone.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()` deletes
   *               everything.
   * @returns The number of deleted entries.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Opens the file or connects to the server, and creates the table if it
   * doesn't exist. Without this call the first operation does it. Call it at
   * start-up, so that a wrong path or URL is noticed at once.
   *
   * @throws `ERR_KV_CONNECTION`; `ERR_KV_TIMEOUT`; `ERR_KV_BACKEND` if the
   *         table can't be created or has other columns.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data: its table, all keys with its
   * `keyPrefix` in Redis, all entries of the database in Deno KV. The next
   * operation starts with an empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with `ERR_KV_CLOSED`.
   * Calling `close()` again is harmless.
   *
   * An open store does not keep the process alive.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in a PostgreSQL table. Other processes may use it at the same
 * time, also with `@fedify/postgres`: the format is the same.
 *
 * Waiting operations are sent together, gets in one statement and writes in
 * another, over a few connections. After a connection is lost, what was not
 * carried out is repeated; a write whose outcome is unknown rejects and says so.
 * Lists read a range of the primary key, a page at a time.
 *
 * Values are stored as `jsonb`, which allows neither NUL characters nor lone
 * surrogates: such values reject with `ERR_KV_INVALID_VALUE`. Parts of keys
 * must not contain NUL either (`ERR_KV_INVALID_KEY`). A key may have about 2,700
 * bytes after compression (`ERR_KV_KEY_TOO_LONG`).
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { PostgresKvStore } from "fedify-kv";
 *
 * const kv = new PostgresKvStore("postgres://user:password@localhost/app");
 * await kv.initialize();
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class PostgresKvStore {
  /**
   * @param url The database's URL, such as
   *            `postgres://user:password@host:5432/database`, with
   *            `?sslmode=require` for an encrypted connection, or
   *            `postgres://user@%2Frun%2Fpostgresql/database` for a Unix
   *            socket. It may name several hosts. What it leaves out comes
   *            from the variables of PostgreSQL's own clients (`PGHOST`,
   *            `PGPASSWORD` and so on) and from `~/.pgpass`. Nothing is
   *            connected before the first operation.
   * @param options The options.
   * @throws `ERR_KV_INVALID_OPTION`
   */
  constructor(url: string, options?: PostgresKvStoreOptions)
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns A copy of the value, or `undefined` if there is no entry or
   *          it has expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if the stored value is
   *         not JSON. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * const actor = await kv.get<{ name: string }>(["actors", "alice"]);
   * ```
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the entry
   * stays until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Anything that `JSON.stringify` can represent, `null`
   *              included. If it is `undefined`, nothing happens.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for BigInts,
   *         cycles, functions and symbols; `ERR_KV_INVALID_TTL`;
   *         `ERR_KV_KEY_TOO_LONG`; `ERR_KV_VALUE_TOO_LARGE`. See
   *         {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.set(["actors", "alice"], { name: "Alice" }, { ttl: { days: 1 } });
   * ```
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the current one equals the
   * expected one. It is atomic with respect to all other writers, in other
   * processes too.
   *
   * Values are compared deeply as JSON; the order of an object's keys
   * doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The expected value; `undefined` if there should be
   *                      no entry, or an expired one.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether the value was swapped. If another writer was first, it
   *          is `false`.
   * @throws The same as `set`. If a connection is lost, it may reject with
   *         `ERR_KV_CONNECTION` and say that the outcome is unknown.
   *
   * @example
   * ```ts
   * const isFirst = await kv.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. You may delete
   * entries while you list them.
   *
   * Entries come in key order: in the order of the keys as the store
   * encodes them, which is the same each time. Keys that differ only
   * in timestamps of equal length come in the order of time.
   * PostgreSQL compares by the database's collation.
   *
   * @param prefix A prefix, or options. Without it, or with `[]`, all
   *               entries are listed.
   * @returns An async iterator. Nothing is read before its first `next()`.
   * @throws Nothing. The first `next()` rejects with `ERR_KV_INVALID_KEY`
   *         or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of kv.list(["fedify", "traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes all entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * Large numbers of entries are deleted in several steps, so that other
   * writes don't have to wait for all of them. An entry that is written
   * meanwhile may remain. If a step fails, earlier steps are not undone.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()` deletes
   *               everything.
   * @returns The number of deleted entries.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Opens the file or connects to the server, and creates the table if it
   * doesn't exist. Without this call the first operation does it. Call it at
   * start-up, so that a wrong path or URL is noticed at once.
   *
   * @throws `ERR_KV_CONNECTION`; `ERR_KV_TIMEOUT`; `ERR_KV_BACKEND` if the
   *         table can't be created or has other columns.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data: its table, all keys with its
   * `keyPrefix` in Redis, all entries of the database in Deno KV. The next
   * operation starts with an empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with `ERR_KV_CLOSED`.
   * Calling `close()` again is harmless.
   *
   * An open store does not keep the process alive.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in Redis or Valkey (6.0 or later), on one server or in a
 * cluster. Other processes may use them at the same time, also with
 * `@fedify/redis`: the format is the same.
 *
 * What is called together is sent together, over a few connections to each
 * server. What was certainly not carried out is repeated; a write whose outcome
 * is unknown rejects and says so. The server's configuration (`appendfsync`)
 * decides what a crash of the server loses.
 *
 * Redis does not keep keys in order, so by default `list` and `clear` scan the
 * whole database, which takes a second for some million keys, and `list` holds
 * all matching keys in memory (never their values). With `index: true` their
 * cost depends only on the number of matches; see
 * {@link RedisKvStoreOptions.index}.
 *
 * Keys and values may have up to 512 MB, the limit of Redis.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { RedisKvStore } from "fedify-kv";
 *
 * const kv = new RedisKvStore("redis://localhost");
 * await kv.initialize();
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
   * Rebuilds the index, so that it has the entries from before `index: true`,
   * and those of writers that do not maintain it. Others may write meanwhile.
   * It scans the whole database.
   *
   * @returns The number of entries.
   * @throws `ERR_KV_INVALID_OPTION` if the store was made without
   *         `index: true`.
   *
   * @example
   * ```ts
   * const kv = new RedisKvStore("redis://localhost", { index: true });
   * await kv.reindex();
   * ```
   */
  reindex(): Promise<number>
  /** The number of entries that the running or the last `reindex()` has processed. */
  get reindexed(): number
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns A copy of the value, or `undefined` if there is no entry or
   *          it has expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if the stored value is
   *         not JSON. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * const actor = await kv.get<{ name: string }>(["actors", "alice"]);
   * ```
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the entry
   * stays until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Anything that `JSON.stringify` can represent, `null`
   *              included. If it is `undefined`, nothing happens.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for BigInts,
   *         cycles, functions and symbols; `ERR_KV_INVALID_TTL`;
   *         `ERR_KV_KEY_TOO_LONG`; `ERR_KV_VALUE_TOO_LARGE`. See
   *         {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.set(["actors", "alice"], { name: "Alice" }, { ttl: { days: 1 } });
   * ```
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the current one equals the
   * expected one. It is atomic with respect to all other writers, in other
   * processes too.
   *
   * Values are compared deeply as JSON; the order of an object's keys
   * doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The expected value; `undefined` if there should be
   *                      no entry, or an expired one.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether the value was swapped. If another writer was first, it
   *          is `false`.
   * @throws The same as `set`. If a connection is lost, it may reject with
   *         `ERR_KV_CONNECTION` and say that the outcome is unknown.
   *
   * @example
   * ```ts
   * const isFirst = await kv.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. You may delete
   * entries while you list them.
   *
   * Entries come in key order: in the order of the keys as the store
   * encodes them, which is the same each time. Keys that differ only
   * in timestamps of equal length come in the order of time.
   * PostgreSQL compares by the database's collation.
   *
   * @param prefix A prefix, or options. Without it, or with `[]`, all
   *               entries are listed.
   * @returns An async iterator. Nothing is read before its first `next()`.
   * @throws Nothing. The first `next()` rejects with `ERR_KV_INVALID_KEY`
   *         or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of kv.list(["fedify", "traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes all entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * Large numbers of entries are deleted in several steps, so that other
   * writes don't have to wait for all of them. An entry that is written
   * meanwhile may remain. If a step fails, earlier steps are not undone.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()` deletes
   *               everything.
   * @returns The number of deleted entries.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Opens the file or connects to the server, and creates the table if it
   * doesn't exist. Without this call the first operation does it. Call it at
   * start-up, so that a wrong path or URL is noticed at once.
   *
   * @throws `ERR_KV_CONNECTION`; `ERR_KV_TIMEOUT`; `ERR_KV_BACKEND` if the
   *         table can't be created or has other columns.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data: its table, all keys with its
   * `keyPrefix` in Redis, all entries of the database in Deno KV. The next
   * operation starts with an empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with `ERR_KV_CLOSED`.
   * Calling `close()` again is harmless.
   *
   * An open store does not keep the process alive.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Keeps entries in a SQLite file. Other processes may use the file at the same
 * time, also with `@fedify/sqlite`: the format is the same.
 *
 * By default an awaited write survives a power loss; see
 * {@link SqliteKvStoreOptions.durability}. All waiting writes are committed
 * together, on a thread of the store. Single keys are read on the calling
 * thread, lists on another one. A lone write that needs no sync is done on the
 * calling thread too.
 *
 * The file must be on a local disk, because the database gets a write-ahead
 * log: two files beside it, `-wal` and `-shm`, while it is open. Don't open the
 * file in the same process with another SQLite library, such as `node:sqlite`;
 * the store refuses a file that is open in that way already.
 *
 * Keys and values may be as long as a string in JavaScript. A `":memory:"`
 * database may have up to 1 GiB.
 *
 * @example
 * ```ts
 * import { createFederation } from "@fedify/fedify";
 * import { SqliteKvStore } from "fedify-kv";
 *
 * const kv = new SqliteKvStore("fedify.db");
 * await kv.initialize();
 * const federation = createFederation<void>({ kv });
 * ```
 */
export declare class SqliteKvStore {
  /**
   * @param path The file's path, or `":memory:"`. A missing file is created, a
   *             missing folder is not. Nothing is opened before the first
   *             operation.
   * @param options The options.
   * @throws `ERR_KV_INVALID_OPTION`
   */
  constructor(path: string, options?: SqliteKvStoreOptions)
  /**
   * Gives the space of deleted and expired entries back to the file system.
   * Without it, a file never shrinks, and new entries use the free space.
   *
   * It rewrites the whole file (SQLite's `VACUUM`). If the file was made with
   * `auto_vacuum = INCREMENTAL`, it only moves the end of the file. It runs off
   * the event loop and reads go on, but writes wait: about a second for 200 MB
   * on a fast disk. It needs up to twice the file's size of free disk space.
   * Call it when few writes are expected.
   *
   * @throws `ERR_KV_TIMEOUT` if another process holds its lock for longer
   *         than `busyTimeout`; `ERR_KV_BACKEND` if the disk is full. No
   *         entry is changed then.
   *
   * @example
   * ```ts
   * await kv.clear(["fedify", "traces"]);
   * await kv.compact();
   * ```
   */
  compact(): Promise<void>
  /**
   * Gets the value of a key.
   *
   * @param key One or more strings.
   * @returns A copy of the value, or `undefined` if there is no entry or
   *          it has expired.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if the stored value is
   *         not JSON. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * const actor = await kv.get<{ name: string }>(["actors", "alice"]);
   * ```
   */
  get<T = unknown>(key: KvKey): Promise<T | undefined>
  /**
   * Sets the value of a key and its time to live. Without `ttl` the entry
   * stays until it is deleted, even if it had a `ttl` before.
   *
   * @param key One or more strings.
   * @param value Anything that `JSON.stringify` can represent, `null`
   *              included. If it is `undefined`, nothing happens.
   * @param options The time to live.
   * @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for BigInts,
   *         cycles, functions and symbols; `ERR_KV_INVALID_TTL`;
   *         `ERR_KV_KEY_TOO_LONG`; `ERR_KV_VALUE_TOO_LARGE`. See
   *         {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.set(["actors", "alice"], { name: "Alice" }, { ttl: { days: 1 } });
   * ```
   */
  set(key: KvKey, value: unknown, options?: SetOptions): Promise<void>
  /**
   * Deletes the entry of a key, if there is one.
   *
   * @param key One or more strings.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   */
  delete(key: KvKey): Promise<void>
  /**
   * Compares and swaps: sets the value only if the current one equals the
   * expected one. It is atomic with respect to all other writers, in other
   * processes too.
   *
   * Values are compared deeply as JSON; the order of an object's keys
   * doesn't count.
   *
   * @param key One or more strings.
   * @param expectedValue The expected value; `undefined` if there should be
   *                      no entry, or an expired one.
   * @param newValue The new value; `undefined` deletes the entry.
   * @param options The time to live.
   * @returns Whether the value was swapped. If another writer was first, it
   *          is `false`.
   * @throws The same as `set`. If a connection is lost, it may reject with
   *         `ERR_KV_CONNECTION` and say that the outcome is unknown.
   *
   * @example
   * ```ts
   * const isFirst = await kv.cas(["seen", id], undefined, true);
   * ```
   */
  cas(key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions): Promise<boolean>
  /**
   * Lists the entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * An entry that exists during the whole list is listed exactly once,
   * even if others are written or deleted meanwhile. You may delete
   * entries while you list them.
   *
   * Entries come in key order: in the order of the keys as the store
   * encodes them, which is the same each time. Keys that differ only
   * in timestamps of equal length come in the order of time.
   * PostgreSQL compares by the database's collation.
   *
   * @param prefix A prefix, or options. Without it, or with `[]`, all
   *               entries are listed.
   * @returns An async iterator. Nothing is read before its first `next()`.
   * @throws Nothing. The first `next()` rejects with `ERR_KV_INVALID_KEY`
   *         or `ERR_KV_INVALID_OPTION`.
   *
   * @example
   * ```ts
   * for await (const { key, value } of kv.list(["fedify", "traces"])) {
   *   console.log(key, value);
   * }
   * ```
   */
  list(prefix?: KvKey | readonly [] | ListOptions): KvListIterator
  /**
   * Deletes all entries under a prefix: the entry of the prefix itself, and
   * all entries whose keys extend it by whole parts.
   *
   * Large numbers of entries are deleted in several steps, so that other
   * writes don't have to wait for all of them. An entry that is written
   * meanwhile may remain. If a step fails, earlier steps are not undone.
   *
   * @param prefix One or more strings. `[]` is refused; `drop()` deletes
   *               everything.
   * @returns The number of deleted entries.
   * @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
   *
   * @example
   * ```ts
   * await kv.clear(["_fedify", "remoteDocument"]);
   * ```
   */
  clear(prefix: KvKey): Promise<number>
  /**
   * Opens the file or connects to the server, and creates the table if it
   * doesn't exist. Without this call the first operation does it. Call it at
   * start-up, so that a wrong path or URL is noticed at once.
   *
   * @throws `ERR_KV_CONNECTION`; `ERR_KV_TIMEOUT`; `ERR_KV_BACKEND` if the
   *         table can't be created or has other columns.
   */
  initialize(): Promise<void>
  /**
   * Deletes all of the store's data: its table, all keys with its
   * `keyPrefix` in Redis, all entries of the database in Deno KV. The next
   * operation starts with an empty store.
   */
  drop(): Promise<void>
  /**
   * Finishes all earlier writes, and then releases all files and
   * connections. Open lists and later calls reject with `ERR_KV_CLOSED`.
   * Calling `close()` again is harmless.
   *
   * An open store does not keep the process alive.
   */
  close(): Promise<void>
  /** Closes the store at the end of an `await using` block. */
  [globalThis.Symbol.asyncDispose](): Promise<void>
}

/**
 * Opens the store that a URL names, so that an app can take its store from
 * one environment variable. Like the constructors, it does no I/O.
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
 * @param url The URL. Percent-encode special characters in user names,
 *            passwords and paths. White space around it is ignored.
 * @param options The options of that store's constructor. An option of another
 *                store is refused.
 * @returns The store.
 * @throws `ERR_KV_INVALID_OPTION` for a URL that names no store, and for
 *         invalid options.
 *
 * @example
 * ```ts
 * import { openKvStore } from "fedify-kv";
 *
 * const kv = openKvStore(process.env.KV_URL ?? "sqlite:fedify.db");
 * await kv.initialize();
 * ```
 */
export declare function openKvStore(url: string, options?: SqliteKvStoreOptions | RedisKvStoreOptions | PostgresKvStoreOptions | MysqlKvStoreOptions | DenoKvStoreOptions): MemoryKvStore | SqliteKvStore | RedisKvStore | PostgresKvStore | MysqlKvStore | DenoKvStore
