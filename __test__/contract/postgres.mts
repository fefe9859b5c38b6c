// The contract suite's rows for PostgreSQL. Each row has its own server.
import { PostgresKvStore } from "../../index.js";
import { PostgresServer, type ServerOptions } from "../services/postgres.mts";
import { type Options, ownTable } from "../support/postgres.mts";
import { PATIENCE, type Row, type Store } from "./fixture.mts";

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
          queryTimeout: PATIENCE,
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
      "NUL in values": "jsonb can't hold NUL",
      "lone surrogates": "jsonb can't hold lone surrogates",
      "NUL in keys": "text in PostgreSQL can't hold NUL",
    },
  };
}

export const postgresRows: readonly Row[] = [
  postgres("postgres", {}),
  postgres("postgres, unlogged, one connection", {
    unlogged: true,
    maxConnections: 1,
  }),
  postgres(
    "postgres, no prepared statements, Austrian German collation",
    { preparedStatements: false },
    { initdb: ["--locale-provider=icu", "--icu-locale=de-AT", "--locale=C"] },
  ),
];
