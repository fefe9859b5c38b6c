// Prepares a fresh clone for tests, demo and benchmark: installs packages and
// tools, and builds the addon (unless --no-build). Skips steps that are already
// done. It must run on any version of Node, because the right version is one of
// the packages.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  writeFileSync,
} from "node:fs";
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

/** A hash of the contents of files, and of some words. */
function hash(files, words = []) {
  const sum = createHash("sha256");
  for (const file of files) {
    sum.update(`${file}\n`).update(readFileSync(join(root, file)));
  }
  return sum.update(words.join("\n")).digest("hex");
}

/** Whether a step was done with exactly these inputs. */
function isDone(step, inputs) {
  const stamp = join(stamps, step);
  return existsSync(stamp) && readFileSync(stamp, "utf8") === inputs;
}

function setDone(step, inputs) {
  mkdirSync(stamps, { recursive: true });
  writeFileSync(join(stamps, step), inputs);
}

/** Whether a command exists and succeeds. */
const works = (command, ...args) => spawnSync(command, args).status === 0;

if (!works("cargo", "--version")) {
  fail("Rust is missing: install it from https://rustup.rs and run this again");
}

const lock = hash(["package-lock.json"]);
if (!existsSync(join(root, "node_modules")) || !isDone("packages", lock)) {
  // Not `npm ci`: it refuses a lock file that lacks the binaries for other
  // platforms, and npm omits those from the lock file if the registry doesn't
  // have them.
  run("npm", [
    "install",
    "--no-save",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
  ]);
  setDone("packages", lock);
}

const requirements = hash(["scripts/requirements.txt"]);
if (process.platform !== "win32" && !isDone("requirements", requirements)) {
  // Debian has Python's own venv in a package of its own.
  const hasVenv = () => works("python3", "-c", "import ensurepip, venv");
  if (!hasVenv() && process.getuid() === 0 && works("apt-get", "--version")) {
    run("apt-get", ["update", "--quiet=2"]);
    run("apt-get", ["install", "--quiet=2", "--yes", "python3-venv"]);
  }
  if (!hasVenv()) {
    fail("Python's venv is missing: install python3-venv and run this again");
  }
  const tools = join(stamps, "tools");
  run("python3", ["-m", "venv", tools]);
  run(join(tools, "bin/pip"), [
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--requirement",
    "scripts/requirements.txt",
  ]);
  setDone("requirements", requirements);
}

/**
 * A hash of everything that the addon is built from and that its build writes.
 */
function addon() {
  const sources = readdirSync(join(root, "src"), { recursive: true })
    .filter((name) => /\.(rs|js)$/.test(name))
    .map((name) => join("src", name))
    .sort();
  const others = [
    ".cargo/config.toml",
    "Cargo.lock",
    "Cargo.toml",
    "build.rs",
    "scripts/build.sh",
    "scripts/requirements.txt",
  ];
  const types = ["scripts/index.d.ts.header", "index.d.ts"];
  const settings = Object.entries(process.env)
    .filter(([name]) => /^(CARGO_|RUSTFLAGS$)/.test(name))
    .map(([name, value]) => `${name}=${value}`)
    .sort();
  const compiler = String(spawnSync("rustc", ["-vV"]).stdout);
  return hash([...sources, ...others, ...types], [compiler, ...settings]);
}

// Cargo could detect what is stale. But the build generates the types each
// time, and for that it compiles the crate again.
const isBuilt = readdirSync(root).some((name) => name.endsWith(".node"));
const mayBuild = !process.argv.includes("--no-build");
if (mayBuild && (!isBuilt || !isDone("addon", addon()))) {
  run("npm", ["run", "--silent", "build"]);
  setDone("addon", addon());
}
