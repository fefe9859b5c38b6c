// Installs programs that the tests need and that are missing, if this is Debian
// and we are root. It installs only the programs: no system service is started.
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const runs = (command: string): boolean =>
  spawnSync(command, ["--version"]).error === undefined;

/**
 * Installs a Debian package if its programs are missing; throws if it can't.
 */
export function need(name: string, isThere: () => boolean): void {
  if (!isThere() && process.getuid?.() === 0 && runs("apt-get")) {
    withoutServices(() => install(name));
  }
  if (!isThere()) {
    throw new Error(`the tests need ${name}: please install it`);
  }
}

function apt(...args: string[]): boolean {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  return spawnSync("apt-get", args, { stdio: "ignore", env }).status === 0;
}

function install(name: string): void {
  // A machine that has just booted may hold the lock while it updates itself.
  const lockTimeout = ["-o", "DPkg::Lock::Timeout=120"];
  const args = [...lockTimeout, "install", "--yes", name];
  if (!apt(...args)) {
    apt("update");
    if (!apt(...args)) {
      installBackport(name);
    }
  }
}

/** Installs a package from the backports of the system's release, if any. */
function installBackport(name: string): void {
  const format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
  const args = ["indextargets", "--format", format, "Created-By: Packages"];
  const targets = String(spawnSync("apt-get", args).stdout);
  const main = /^(\S+) ([a-z]+) main$/m.exec(targets);
  if (main === null) {
    return;
  }
  const [, from, release] = main;
  const sources = mkdtempSync(join(tmpdir(), "fedify-kv-apt-"));
  try {
    const usual = "/etc/apt/sources.list.d";
    if (existsSync(usual)) {
      cpSync(usual, sources, { recursive: true });
    }
    const line = `deb ${from} ${release}-backports main\n`;
    writeFileSync(join(sources, "backports.list"), line);
    const option = ["-o", `Dir::Etc::sourceparts=${sources}`];
    apt(...option, "update");
    apt(...option, "install", "--yes", "-t", `${release}-backports`, name);
  } finally {
    rmSync(sources, { recursive: true });
  }
}

/**
 * Runs `body`. Meanwhile Debian starts no service and creates no PostgreSQL
 * cluster.
 */
function withoutServices(body: () => void): void {
  const policy = "/usr/sbin/policy-rc.d";
  const isOurs = !existsSync(policy);
  if (isOurs) {
    writeFileSync(policy, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  }
  const clusters = "/etc/postgresql-common/createcluster.conf";
  if (!existsSync(clusters)) {
    mkdirSync("/etc/postgresql-common", { recursive: true });
    writeFileSync(clusters, "create_main_cluster = false\n");
  }
  try {
    body();
  } finally {
    if (isOurs) {
      rmSync(policy);
    }
  }
}
