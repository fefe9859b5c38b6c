// PostgreSQL as rows of the contract, each on a server of its own.
import { PostgresKvStore } from "../../index.js";
import { PostgresServer, type ServerOptions } from "../services/postgres.mts";
import { type Options, ownTable } from "../support/postgres.mts";
import type { Row, Store } from "./fixture.mts";

function postgres(
  name: string,
  options: Options,
  serverOptions?: ServerOptions,
): Row {
  let server: PostgresServer;
  return {
    name,
    setUp: async () => {
      server = await PostgresServer.start(serverOptions);
    },
    tearDown: () => server.stop(),
    open: async () => {
      const handles: Store[] = [];
      const tableName = ownTable();
      const openAnother = () => {
        const handle = new PostgresKvStore(server.url, {
          tableName,
          ...options,
        });
        handles.push(handle);
        return handle;
      };
      const store = openAnother();
      return {
        store,
        openAnother,
        remove: async () => {
          await store.drop().catch(() => {});
          await Promise.all(handles.map((handle) => handle.close()));
        },
      };
    },
    except: {
      "NUL in values": "jsonb holds none",
      "lone surrogates": "jsonb holds none",
      "NUL in keys": "text in PostgreSQL can't hold NUL",
    },
  };
}

export const postgresRows: readonly Row[] = [
  postgres("postgres", {}),
  postgres("postgres, logged, one connection", {
    unlogged: false,
    maxConnections: 1,
  }),
  postgres(
    "postgres, nothing prepared, in the order of another language",
    { preparedStatements: false },
    { initdb: ["--locale-provider=icu", "--icu-locale=de-AT", "--locale=C"] },
  ),
];
