import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const versions = "/usr/lib/postgresql";

/** The path of a program of the newest PostgreSQL that is installed. */
export function postgresBinary(name: string): string {
  const found = (existsSync(versions) ? readdirSync(versions) : [])
    .toSorted((a, b) => Number(b) - Number(a))
    .map((version) => join(versions, version, "bin", name))
    .find((path) => existsSync(path));
  // On systems other than Debian, the programs are on the PATH.
  return found ?? name;
}
