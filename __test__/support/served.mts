// Stores on servers, for tests that all of them pass: a row for each.
import { onTestFinished } from "vitest";
import { DenoKvStore, MysqlKvStore, PostgresKvStore } from "../../index.js";
import { MysqlServer } from "../services/mysql.mts";
import { pause } from "../services/pause.mts";
import { PostgresServer } from "../services/postgres.mts";
import { TcpProxy } from "../services/proxy.mts";
import { numbers } from "./entries.mts";
import { KvConnectServer, token } from "./kv-connect.mts";

/** A server, and what a test does there without the store. */
export interface Served {
  readonly url: string;
  readonly port: number;
  /**
   * Adds entries with the keys `[prefix, "0"]`, `[prefix, "1"]`, … Their values
   * are texts of this length.
   */
  fill(prefix: string, count: number, length?: number): Promise<unknown>;
  /** The value of an entry. */
  read(key: readonly string[]): Promise<unknown>;
  /** Locks an entry until `body` ends, if the server has locks. */
  withLock?(key: readonly string[], body: () => Promise<void>): Promise<void>;
  /** Stops the processes that have the store's connections. */
  freeze(): Promise<{ thaw(): void }>;
  stop(): Promise<void>;
}

export interface ServedRow {
  readonly store: string;
  start(): Promise<Served>;
  /** A store whose operations have this much time, in milliseconds. */
  open(
    url: string,
    timeout: number,
    options?: PoolOptions,
  ): PostgresKvStore | MysqlKvStore | DenoKvStore;
  /**
   * What `cas` and `clear` are. A network that stalls stops the last two before they
   * are carried out: a transaction at any statement, a read before there is a write.
   */
  readonly swaps: "a statement" | "a transaction" | "a read and a write";
  /**
   * Whether a server's bytes say that it has accepted a login. Missing if there is
   * none, so that a connection's first bytes may be a write already.
   */
  acceptsLogin?(bytes: Buffer): boolean;
  /** So many entries that a `clear` of them takes long. */
  readonly many: number;
  /** The length of a large value. */
  readonly large: number;
  /** Options that every store needs. */
  readonly options?: object;
}

interface PoolOptions {
  readonly maxConnections?: number;
}

export const servedRows: readonly ServedRow[] = [
  {
    store: "PostgresKvStore",
    swaps: "a statement",
    many: 50_000,
    large: 150_000,
    open: (url, queryTimeout, options = {}) =>
      new PostgresKvStore(url, { queryTimeout, ...options }),
    // The message "ready for query".
    acceptsLogin: (bytes) => bytes.includes("Z\0\0\0\x05I", 0, "latin1"),
    async start() {
      const server = await PostgresServer.start();
      const sql = server.client();
      return {
        url: server.url,
        port: server.port,
        fill: (prefix, count, length = 1) => sql`
          INSERT INTO fedify_kv_v2 (key, value)
          SELECT ARRAY[${prefix}, i::text], to_jsonb(repeat('x', ${length}::int))
          FROM generate_series(0, ${count - 1}::int) AS i`,
        read: async (key) => {
          const rows = await sql`
            SELECT value FROM fedify_kv_v2 WHERE key = ${[...key]}`;
          return rows[0]?.value;
        },
        withLock: (key, body) =>
          sql.begin(async (sql) => {
            await sql`
              SELECT FROM fedify_kv_v2 WHERE key = ${[...key]} FOR UPDATE`;
            await body();
          }) as Promise<void>,
        freeze: async () => {
          const rows = await sql`
            SELECT pid FROM pg_stat_activity
            WHERE application_name = 'fedify-kv'`;
          const pids = rows.map(({ pid }) => pid as number);
          await Promise.all(pids.map(pause));
          return {
            thaw: () => pids.forEach((pid) => process.kill(pid, "SIGCONT")),
          };
        },
        stop: () => server.stop(),
      };
    },
  },
  {
    store: "MysqlKvStore",
    swaps: "a transaction",
    many: 50_000,
    large: 150_000,
    open: (url, queryTimeout, options = {}) =>
      new MysqlKvStore(url, { queryTimeout, ...options }),
    // The packet "OK".
    acceptsLogin: (bytes) => bytes.includes("\x07\0\0\x02\0", 0, "latin1"),
    async start() {
      const server = await MysqlServer.start();
      return {
        url: server.url,
        port: server.port,
        fill: (prefix, count, length = 1) =>
          server.sql(
            `INSERT INTO fedify_kv (\`key\`, value)
             SELECT JSON_ARRAY(?, CAST(seq AS CHAR)), JSON_QUOTE(REPEAT('x', ?))
             FROM seq_0_to_${count - 1}`,
            [prefix, length],
          ),
        read: async (key) => {
          const text = JSON.stringify(key);
          const [row] = await server.sql(
            "SELECT value FROM fedify_kv WHERE `key` = ?",
            [text],
          );
          return row?.value;
        },
        withLock: async (key, body) => {
          const root = await server.root();
          await root.query("BEGIN");
          await root.query(
            "SELECT * FROM fedify_kv WHERE `key` = ? FOR UPDATE",
            [JSON.stringify(key)],
          );
          await body().finally(() => root.end());
        },
        freeze: async () => {
          await server.pause();
          return { thaw: () => server.resume() };
        },
        stop: () => server.stop(),
      };
    },
  },
  {
    store: "DenoKvStore",
    swaps: "a read and a write",
    // The server sorts all entries for each request.
    many: 10_000,
    // Deno KV allows no values of more than 64 KiB.
    large: 60_000,
    options: { accessToken: token },
    // The HTTP client has as many connections as there are requests.
    open: (url, commandTimeout) =>
      new DenoKvStore(url, { commandTimeout, accessToken: token }),
    async start() {
      const server = await KvConnectServer.listen();
      return {
        url: server.url,
        port: server.port,
        fill: async (prefix, count, length = 1) => {
          const value = "x".repeat(length);
          for (const i of numbers(count)) server.put([prefix, `${i}`], value);
        },
        read: async (key) => server.read(key),
        freeze: async () => {
          const { promise, resolve } = Promise.withResolvers<void>();
          server.ready = promise;
          return { thaw: resolve };
        },
        stop: async () => server.stop(),
      };
    },
  },
];

/** A proxy that is stopped when the test is over. */
export async function startProxy(target: { port: number }): Promise<TcpProxy> {
  const proxy = await TcpProxy.start(target);
  onTestFinished(() => proxy.stop());
  return proxy;
}

/** From now on, no connection gets any answer. */
export function silence(proxy: TcpProxy): void {
  proxy.onConnection = (connection) => connection.stall();
  proxy.stall();
}
