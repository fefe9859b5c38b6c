// What the tests need from the system: Debian's redis-server and valkey-server,
// installed when they are missing and we may. Each test file starts servers of
// its own.
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

function has(command: string): boolean {
  return spawnSync(command, ["--version"]).error === undefined;
}

function apt(...words: string[]): boolean {
  return spawnSync("apt-get", words, { stdio: "ignore" }).status === 0;
}

function install(name: string): void {
  const words = ["install", "--yes", name];
  if (!apt(...words)) {
    apt("update");
    if (!apt(...words)) {
      installBackport(name);
    }
  }
}

/** What came after the system's release, if that has backports. */
function installBackport(name: string): void {
  const format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
  const words = ["indextargets", "--format", format, "Created-By: Packages"];
  const targets = String(spawnSync("apt-get", words).stdout);
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

export default function setup(): void {
  for (const name of ["redis-server", "valkey-server"]) {
    if (!has(name) && process.getuid?.() === 0 && has("apt-get")) {
      install(name);
    }
    if (!has(name)) {
      throw new Error(`the tests need ${name} on the PATH: please install it`);
    }
  }
}
