// The official package on a pool of mysql2. It writes with `CAST(? AS JSON)`,
// which is a syntax error in MariaDB, so a wrapper around the pool removes the
// cast. In MySQL the result is the same, since the column's type is JSON.
import { MysqlKvStore as OfficialStore } from "@fedify/mysql";
import type { Pool, PoolConnection } from "mysql2/promise";

const withoutCast = (sql: string) => sql.replaceAll("CAST(? AS JSON)", "?");

type OfficialPool = ConstructorParameters<typeof OfficialStore>[0];

function wrap<T extends Pool | PoolConnection>(target: T): T {
  return new Proxy(target, {
    get(_, name) {
      const value = Reflect.get(target, name, target) as unknown;
      if (name === "query" || name === "execute") {
        const call = value as (...words: unknown[]) => Promise<unknown>;
        return (sql: string, values?: unknown) =>
          call.call(target, withoutCast(sql), values);
      }
      if (name === "getConnection") {
        return async () => wrap(await (target as Pool).getConnection());
      }
      return typeof value === "function"
        ? (value as (...rest: unknown[]) => unknown).bind(target)
        : value;
    },
  });
}

export function officialStore(
  pool: Pool,
  options: ConstructorParameters<typeof OfficialStore>[1] = {},
): OfficialStore {
  return new OfficialStore(wrap(pool) as unknown as OfficialPool, options);
}
