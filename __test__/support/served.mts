// Stores on servers, for tests that all of them pass: a row for each.
import { onTestFinished } from "vitest";
import { MysqlKvStore, PostgresKvStore } from "../../index.js";
import { MysqlServer } from "../services/mysql.mts";
import { pause } from "../services/pause.mts";
import { PostgresServer } from "../services/postgres.mts";
import { TcpProxy } from "../services/proxy.mts";

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
  /** Locks an entry until `body` ends. */
  withLock(key: readonly string[], body: () => Promise<void>): Promise<void>;
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
  ): PostgresKvStore | MysqlKvStore;
  /**
   * Whether `cas` and `clear` are transactions of several round trips: a network
   * that stalls stops them before they are committed.
   */
  readonly transactions: boolean;
  /** Whether a server's bytes say that it has accepted a login. */
  acceptsLogin(bytes: Buffer): boolean;
}

interface PoolOptions {
  readonly maxConnections?: number;
}

export const servedRows: readonly ServedRow[] = [
  {
    store: "PostgresKvStore",
    transactions: false,
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
    transactions: true,
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
