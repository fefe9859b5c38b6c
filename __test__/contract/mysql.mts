// The contract suite's rows for MySQL. The server is MariaDB, because Debian
// has no MySQL.
import { MysqlKvStore } from "../../index.js";
import { MysqlServer } from "../services/mysql.mts";
import { type Options, ownTable } from "../support/mysql.mts";
import { PATIENCE, type Row, type Store } from "./fixture.mts";

function oneServer(name: string, options: Options): Row {
  let server: MysqlServer;
  return {
    name,
    setUp: async () => {
      server = await MysqlServer.start({ "innodb-flush-log-at-trx-commit": 0 });
    },
    tearDown: () => server.stop(),
    open: async () => {
      const handles: Store[] = [];
      const tableName = ownTable();
      const openAnother = () => {
        const handle = new MysqlKvStore(server.url, {
          tableName,
          queryTimeout: PATIENCE,
          ...options,
        });
        handles.push(handle);
        return handle;
      };
      return {
        store: openAnother(),
        openAnother,
        remove: async () => {
          await Promise.all(handles.map((handle) => handle.close()));
          await server.sql(`DROP TABLE IF EXISTS ${tableName}`);
        },
      };
    },
    except: {
      "long keys": "the format's key column has 768 characters",
      "lone surrogates": "JSON columns of MySQL and MariaDB can't hold them",
      "deep values":
        "JSON columns are limited to 31 levels in MariaDB 10, 100 in MySQL",
    },
  };
}

export const mysqlRows: readonly Row[] = [
  oneServer("mysql", {}),
  oneServer("mysql, one connection", { maxConnections: 1 }),
];
