// Installs what the tests need. Each test file starts its own servers.
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
}
