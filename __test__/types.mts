// Code that must compile, and code that must not. `tsc` checks this file.
import {
  type KvKey as FedifyKey,
  type KvStore as FedifyStore,
  type KvStoreListEntry as FedifyEntry,
  type KvStoreSetOptions as FedifySetOptions,
  MemoryKvStore as FedifyMemoryKvStore,
  createFederation,
} from "@fedify/fedify";
import { Temporal as JsTemporal } from "@js-temporal/polyfill";
import {
  type KvKey as OldKey,
  type KvStore as OldStore,
  type KvStoreListEntry as OldEntry,
  type KvStoreSetOptions as OldSetOptions,
  createFederation as createOldFederation,
} from "fedify-1.10";
import { Temporal as TemporalPolyfill } from "temporal-polyfill";
import {
  DenoKvStore,
  type KvErrorCode,
  type KvKey,
  type KvListIterator,
  type KvStore,
  type KvStoreListEntry,
  type KvStoreSetOptions,
  MemoryKvStore,
  MysqlKvStore,
  PostgresKvStore,
  RedisKvStore,
  type SetOptions,
  SqliteKvStore,
  type TlsOptions,
  openKvStore,
} from "../index.js";

const memory = new MemoryKvStore();
const sqlite = new SqliteKvStore("fedify.db");
const tls: TlsOptions = { ca: "", rejectUnauthorized: false };
const redis = new RedisKvStore("rediss://localhost", { index: true, tls });
new RedisKvStore("redis://localhost", { user: "u", password: "p" });
new PostgresKvStore("postgres://localhost", { password: () => "p" });
new MysqlKvStore("mysql://localhost/a", { password: async () => "p" });
// @ts-expect-error a password is text
new MysqlKvStore("mysql://localhost/a", { password: () => 1 });
const deno = new DenoKvStore("deno-kv.db", { busyTimeout: 1_000 });
const postgres = new PostgresKvStore("postgres://localhost/app", {
  unlogged: true,
  maxConnections: 4,
  preparedStatements: false,
  maxAnswerBytes: 1,
  tls,
});
const mysql = new MysqlKvStore("mysql://localhost/app", {
  tableName: "kv",
  maxConnections: 4,
  tls,
});
const opened = openKvStore("sqlite:fedify.db", { durability: "normal" });

/** Whether two types are identical. */
type Same<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2
    ? true
    : false;

function is<_ extends true>(): void {}

// Fedify 1.10 and 2.x accept every store.
const stores = [memory, sqlite, redis, postgres, mysql, deno, opened] as const;
export const asOurs: readonly KvStore[] = stores;
export const asFedifys: readonly FedifyStore[] = stores;
export const asOlds: readonly OldStore[] = stores;
for (const kv of stores) {
  createFederation<void>({ kv });
  createOldFederation<void>({ kv });
}

// Our types are Fedify's, in both directions. Fedify's own declarations are not
// needed for that.
is<Same<KvKey, FedifyKey>>();
is<Same<KvKey, OldKey>>();
is<Same<KvStoreListEntry, FedifyEntry>>();
export const oldEntry: OldEntry = { key: ["k"], value: 1 } as KvStoreListEntry;
export const entry: KvStoreListEntry = { key: ["k"], value: 1 } as OldEntry;
declare const ours: KvStore;
export const fedifys: FedifyStore = ours;
export const olds: OldStore = ours;
export const backFromFedifys: KvStore =
  new FedifyMemoryKvStore() as FedifyStore;
// In Fedify 1.10, `list` is optional.
export const backFromOlds: KvStore = {} as OldStore &
  Required<Pick<OldStore, "list">>;
export const setOptions: KvStoreSetOptions[] = [
  {} as FedifySetOptions,
  {} as OldSetOptions,
];
export const ownSetOptions: SetOptions[] = setOptions;

/** A user's store that implements our interface is one for Fedify too. */
class Wrapper implements KvStore {
  private readonly inner: KvStore;
  constructor(inner: KvStore) {
    this.inner = inner;
  }
  get<T = unknown>(key: KvKey): Promise<T | undefined> {
    return this.inner.get(key);
  }
  set(key: KvKey, value: unknown, options?: KvStoreSetOptions): Promise<void> {
    return this.inner.set(key, value, options);
  }
  delete(key: KvKey): Promise<void> {
    return this.inner.delete(key);
  }
  list(prefix?: KvKey): AsyncIterable<KvStoreListEntry> {
    return this.inner.list(prefix);
  }
}
export const wrapped: [FedifyStore, OldStore] = [
  new Wrapper(sqlite),
  new Wrapper(memory),
];

// `cas` and `list` are optional in Fedify's types, not in ours.
is<Same<ReturnType<typeof sqlite.cas>, Promise<boolean>>>();
is<Same<ReturnType<typeof sqlite.list>, KvListIterator>>();
is<Same<ReturnType<typeof memory.clear>, Promise<number>>>();

// All stores have the same shape.
export const asMemory: MemoryKvStore = sqlite;
export const asSqlite: Omit<SqliteKvStore, "compact"> = memory;
export const asPostgres: PostgresKvStore = memory;
export const asMysql: MysqlKvStore = memory;

interface Actor {
  name: string;
}

async function use(kv: MemoryKvStore | SqliteKvStore): Promise<void> {
  // The type of a value is unknown unless it is given.
  const unknown = await kv.get(["a"]);
  is<Same<typeof unknown, unknown>>();
  const actor = await kv.get<Actor>(["a", "b"]);
  is<Same<typeof actor, Actor | undefined>>();
  // @ts-expect-error it may be undefined
  actor.name satisfies string;

  // A key is an array of one or more strings, readonly or not.
  const key: KvKey = ["a", "b"];
  await kv.get(key);
  await kv.set(["a", "b", "c"] as const, null);
  const tuple: [string, ...string[]] = ["a"];
  await kv.delete(tuple);
  // @ts-expect-error a key is not a string
  await kv.get("a");
  // @ts-expect-error a key has at least one part
  await kv.get([]);
  // @ts-expect-error a part is a string
  await kv.get(["a", 1]);
  // @ts-expect-error this array type allows an empty array
  await kv.get(["a"] as string[]);
  // @ts-expect-error a prefix to clear is not empty
  await kv.clear([]);

  // Any duration is a ttl.
  await kv.set(key, 1, {});
  await kv.set(key, 1, { ttl: JsTemporal.Duration.from({ hours: 1 }) });
  await kv.set(key, 1, { ttl: TemporalPolyfill.Duration.from({ hours: 1 }) });
  await kv.set(key, 1, { ttl: { hours: 1, minutes: 30 } });
  await kv.cas(key, undefined, 1, { ttl: { total: () => 1 } });
  // @ts-expect-error a number has no unit
  await kv.set(key, 1, { ttl: 1_000 });
  // @ts-expect-error a string is not a duration
  await kv.set(key, 1, { ttl: "PT1H" });
  // @ts-expect-error there is no such unit
  await kv.set(key, 1, { ttl: { hour: 1 } });
  // @ts-expect-error a value is not optional
  await kv.set(key);
  // @ts-expect-error the new value is not optional
  await kv.cas(key, 1);

  // Both forms of `list`.
  kv.list();
  kv.list([]);
  kv.list(key);
  kv.list({});
  kv.list({ prefix: key, pageSize: 10, signal: AbortSignal.timeout(1) });
  // @ts-expect-error a prefix is not a string
  kv.list("a");
  // @ts-expect-error a part is a string
  kv.list([1]);
  // @ts-expect-error a page size is a number
  kv.list({ pageSize: "10" });
  // @ts-expect-error there is no such option
  kv.list({ limit: 10 });
  for await (const entry of kv.list(["a"])) {
    is<Same<typeof entry, KvStoreListEntry>>();
    entry.key satisfies KvKey;
    // @ts-expect-error a value is unknown
    entry.value satisfies string;
  }
  const entries: KvStoreListEntry[] = await Array.fromAsync(kv.list());
  entries.length satisfies number;
  const list = kv.list();
  list satisfies AsyncIterableIterator<KvStoreListEntry>;
  list.skipped satisfies number;
  // @ts-expect-error the property is read-only
  list.skipped = 1;
  const result = await list.next();
  if (result.done) {
    result.value satisfies undefined;
  } else {
    result.value.key satisfies KvKey;
  }
  {
    await using disposed = kv.list();
    await disposed.next();
  }

  is<Same<Awaited<ReturnType<typeof kv.initialize>>, void>>();
  is<Same<Awaited<ReturnType<typeof kv.drop>>, void>>();
  is<Same<Awaited<ReturnType<typeof kv.close>>, void>>();
  await using owned = kv;
  await owned.close();
}

export const used = use(opened);

// Only known options are allowed.
new SqliteKvStore(":memory:");
new SqliteKvStore("x", {});
new SqliteKvStore("x", {
  tableName: "other",
  initialized: true,
  durability: "full",
  busyTimeout: 1_000,
});
// @ts-expect-error a path is not optional
new SqliteKvStore();
// @ts-expect-error a path is a string
new SqliteKvStore(new URL("file:///x"));
// @ts-expect-error there is no such durability
new SqliteKvStore("x", { durability: "off" });
// @ts-expect-error a timeout is a number of milliseconds
new SqliteKvStore("x", { busyTimeout: "1s" });
// @ts-expect-error there is no such option
new SqliteKvStore("x", { table: "other" });
// @ts-expect-error a URL is not optional
new MysqlKvStore();
// @ts-expect-error there is no such option
new MysqlKvStore("mysql://localhost/app", { table: "kv" });
// @ts-expect-error there is no such option of tls
new RedisKvStore("rediss://localhost", { tls: { caFile: "ca.pem" } });
// @ts-expect-error this store has no options
new MemoryKvStore({});
// @ts-expect-error a URL is not optional
openKvStore();
// @ts-expect-error only list() creates iterators
new KvListIterator();

// The type has exactly these codes.
const codes: Record<KvErrorCode, true> = {
  ERR_KV_INVALID_KEY: true,
  ERR_KV_INVALID_VALUE: true,
  ERR_KV_INVALID_TTL: true,
  ERR_KV_INVALID_OPTION: true,
  ERR_KV_KEY_TOO_LONG: true,
  ERR_KV_VALUE_TOO_LARGE: true,
  ERR_KV_CONNECTION: true,
  ERR_KV_TIMEOUT: true,
  ERR_KV_CLOSED: true,
  ERR_KV_CORRUPT: true,
  ERR_KV_BACKEND: true,
  ERR_KV_NATIVE_LOAD: true,
};
export const codeNames = Object.keys(codes);
