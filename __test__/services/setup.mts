// What the tests need from the system: Debian's redis-server, installed when it
// is missing and we may. Each test file starts servers of its own.
import { spawnSync } from "node:child_process";

function has(command: string): boolean {
  return spawnSync(command, ["--version"]).error === undefined;
}

export default function setup(): void {
  if (has("redis-server")) {
    return;
  }
  if (process.getuid?.() === 0 && has("apt-get")) {
    const options = { stdio: "ignore" } as const;
    const install = ["install", "--yes", "redis-server"];
    if (spawnSync("apt-get", install, options).status !== 0) {
      spawnSync("apt-get", ["update"], options);
      spawnSync("apt-get", install, options);
    }
  }
  if (!has("redis-server")) {
    throw new Error(
      "the tests need redis-server on the PATH: please install it",
    );
  }
}
