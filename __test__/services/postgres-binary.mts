import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

const versions = "/usr/lib/postgresql";

/** Where a program of the newest installed version is. */
export function postgresBinary(name: string): string {
  const found = (existsSync(versions) ? readdirSync(versions) : [])
    .toSorted((a, b) => Number(b) - Number(a))
    .map((version) => join(versions, version, "bin", name))
    .find((path) => existsSync(path));
  // Elsewhere than on Debian they are on the PATH.
  return found ?? name;
}
