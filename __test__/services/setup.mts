// What the tests need from the system. Each test file starts servers of its own.
import { need, runs } from "./apt.mts";
import { installDenokv } from "./denokv.mts";
import { postgresBinary } from "./postgres-binary.mts";
import { installRuntimes } from "./runtimes.mts";

export default function setup(): void {
  installRuntimes();
  installDenokv();
  for (const name of ["redis-server", "valkey-server", "pgbouncer"]) {
    need(name, () => runs(name));
  }
  need("mariadb-server", () => runs("mariadbd"));
  need("postgresql", () => runs(postgresBinary("postgres")));
  need("mariadb-server", () => runs("mariadbd"));
}
