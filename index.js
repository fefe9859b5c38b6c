// Loads the native addon: the local build if there is one, else the one in the
// package for this platform, which npm installs as an optional dependency.
"use strict";
const {
  closeSync,
  existsSync,
  openSync,
  readSync,
  statSync,
} = require("node:fs");
const { join } = require("node:path");
const { version } = require("./package.json");

// Each name is written out, so that tools that trace a program's files find the
// packages.
const packages = {
  "darwin-arm64": {
    about: () => require("fedify-kv-darwin-arm64/package.json"),
    file: () => require.resolve("fedify-kv-darwin-arm64"),
    addon: () => require("fedify-kv-darwin-arm64"),
  },
  "darwin-x64": {
    about: () => require("fedify-kv-darwin-x64/package.json"),
    file: () => require.resolve("fedify-kv-darwin-x64"),
    addon: () => require("fedify-kv-darwin-x64"),
  },
  "linux-arm64-gnu": {
    about: () => require("fedify-kv-linux-arm64-gnu/package.json"),
    file: () => require.resolve("fedify-kv-linux-arm64-gnu"),
    addon: () => require("fedify-kv-linux-arm64-gnu"),
  },
  "linux-arm64-musl": {
    about: () => require("fedify-kv-linux-arm64-musl/package.json"),
    file: () => require.resolve("fedify-kv-linux-arm64-musl"),
    addon: () => require("fedify-kv-linux-arm64-musl"),
  },
  "linux-x64-gnu": {
    about: () => require("fedify-kv-linux-x64-gnu/package.json"),
    file: () => require.resolve("fedify-kv-linux-x64-gnu"),
    addon: () => require("fedify-kv-linux-x64-gnu"),
  },
  "linux-x64-musl": {
    about: () => require("fedify-kv-linux-x64-musl/package.json"),
    file: () => require.resolve("fedify-kv-linux-x64-musl"),
    addon: () => require("fedify-kv-linux-x64-musl"),
  },
  "win32-x64-msvc": {
    about: () => require("fedify-kv-win32-x64-msvc/package.json"),
    file: () => require.resolve("fedify-kv-win32-x64-msvc"),
    addon: () => require("fedify-kv-win32-x64-msvc"),
  },
};

const addon = load();

exports.DenoKvStore = addon.DenoKvStore;
exports.KvListIterator = addon.KvListIterator;
exports.MemoryKvStore = addon.MemoryKvStore;
exports.MysqlKvStore = addon.MysqlKvStore;
exports.PostgresKvStore = addon.PostgresKvStore;
exports.RedisKvStore = addon.RedisKvStore;
exports.SqliteKvStore = addon.SqliteKvStore;
exports.openKvStore = addon.openKvStore;

function load() {
  const target = targetName();
  const local = join(__dirname, `fedify-kv.${target}.node`);
  if (existsSync(local)) return attempt(() => require(local), local);

  const found = packages[target];
  if (!found) {
    throw failure("there is no binary for this platform", [
      `There are binaries for ${Object.keys(packages).join(", ")}.`,
    ]);
  }
  const name = `fedify-kv-${target}`;
  const about = attempt(found.about, name);
  if (about.version !== version) {
    throw failure(
      `${name} has version ${about.version} instead of ${version}`,
      ["Install the packages again."],
    );
  }
  const file = attempt(found.file, name);
  // The system would end the process if a part of the file was missing.
  const { size } = attempt(() => statSync(file), file);
  if (size !== about.bytes) {
    throw failure(`${file} is damaged`, [
      `It has ${size} bytes instead of ${about.bytes}. Install the packages again.`,
    ]);
  }
  return attempt(found.addon, file);
}

/** The name of this platform in the names of the packages. */
function targetName() {
  const name = `${process.platform}-${process.arch}`;
  if (process.platform === "win32") return `${name}-msvc`;
  if (process.platform !== "linux") return name;
  return isMusl() ? `${name}-musl` : `${name}-gnu`;
}

/** Whether this runtime is linked with musl, as in Alpine Linux. */
function isMusl() {
  // The path of the dynamic linker is near the start of an executable.
  const start = Buffer.alloc(4096);
  let file;
  try {
    file = openSync(process.execPath, "r");
    readSync(file, start);
  } catch {
    // Without the right to read it. The report takes longer.
    return glibcVersion() === undefined;
  } finally {
    if (file !== undefined) closeSync(file);
  }
  return start.includes("/ld-musl-");
}

function glibcVersion() {
  return process.report.getReport().header.glibcVersionRuntime;
}

/** Calls `action`, and explains its error. */
function attempt(action, what) {
  try {
    return action();
  } catch (error) {
    const [why, advice] = explain(error, what);
    throw failure(why, advice, error);
  }
}

/** What an error means, and lines of advice. */
function explain(error, what) {
  const { code, message } = error;
  if (code === "MODULE_NOT_FOUND") {
    return [
      `the package ${what} is not installed`,
      [
        "It is an optional dependency. A package manager leaves it out",
        "- with an option like --omit=optional or --no-optional,",
        "- if node_modules or the lock file comes from another system.",
        "Install the packages on this system, with optional dependencies.",
      ],
    ];
  }
  if (code === "ERR_DLOPEN_DISABLED") {
    return process.permission
      ? ["Node.js runs with --permission, but without --allow-addons", []]
      : ["Node.js runs with --no-addons", []];
  }
  if (error.name === "NotCapable" && message.includes("ffi")) {
    return ["Deno runs without --allow-ffi", []];
  }
  const [, needed] =
    /version [`']GLIBC_([\d.]+)' not found/.exec(message) ?? [];
  if (needed) {
    return [
      `glibc ${needed} or later is needed`,
      ["Use a newer version of the operating system."],
    ];
  }
  if (/file too short|invalid ELF header|cannot read file data/.test(message)) {
    return [`${what} is damaged`, ["Install the packages again."]];
  }
  return [`${what} can't be opened: ${message}`, []];
}

function failure(why, advice, cause) {
  const first = `fedify-kv can't load its native addon (${platform()}): ${why}`;
  const error = new Error([first, ...advice].join("\n"), { cause });
  error.code = "ERR_KV_NATIVE_LOAD";
  return error;
}

/** The platform, in words. */
function platform() {
  const name = `${process.platform}-${process.arch}`;
  if (process.platform !== "linux") return name;
  if (isMusl()) return `${name}, musl`;
  // Deno always reports the same version.
  if (process.versions.deno) return `${name}, glibc`;
  return `${name}, glibc ${glibcVersion()}`;
}
