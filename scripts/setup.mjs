// Brings a fresh clone to where tests, demo and benchmark can run: packages
// installed, addon built. Does nothing that is already done. Runs on whatever
// Node the machine has, because the right one is among the packages.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const stamps = join(root, ".setup");

function run(command, args) {
  const { error, status } = spawnSync(command, args, {
    cwd: root,
    stdio: "inherit",
    shell: process.platform === "win32",
  });
  if (error?.code === "ENOENT") {
    fail(`${command} is not installed`);
  }
  if (status !== 0) {
    fail(`${command} ${args.join(" ")} failed`);
  }
}

function fail(why) {
  console.error(`setup: ${why}`);
  process.exit(1);
}

function hash(file) {
  return createHash("sha256")
    .update(readFileSync(join(root, file)))
    .digest("hex");
}

if (spawnSync("cargo", ["--version"]).error) {
  fail("Rust is missing: install it from https://rustup.rs and run this again");
}

const packages = join(stamps, "packages");
const lock = hash("package-lock.json");
const installed =
  existsSync(join(root, "node_modules")) &&
  existsSync(packages) &&
  readFileSync(packages, "utf8") === lock;
if (!installed) {
  // Not `npm ci`: it refuses a lock file without the binaries for other
  // platforms, which npm leaves out where a registry doesn't have them.
  run("npm", [
    "install",
    "--no-save",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
  ]);
  mkdirSync(stamps, { recursive: true });
  writeFileSync(packages, lock);
}

// Cargo knows what is stale; with nothing to do this takes a second.
run("npm", ["run", "--silent", "build"]);
