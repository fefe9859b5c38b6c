// Installs the packages as they are published, and uses them as users do.
import { spawnSync } from "node:child_process";
import {
  cpSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type Runtime,
  runtimes as allRuntimes,
  thisNode,
} from "./services/runtimes.mts";
import {
  install,
  kept,
  pack,
  type Packages,
  root,
  run,
  succeed,
} from "./support/packages.mts";

const isGlibc = process.platform === "linux";

let packages: Packages;
/** Folders of users. They are inside one that is removed at the end. */
let folders: string;
/** A user who has installed both packages. */
let user: string;

beforeAll(() => {
  packages = pack();
  folders = realpathSync(mkdtempSync(join(tmpdir(), "fedify-kv-users-")));
  user = join(folders, "user");
  install(user, [packages.main, packages.platform]);
});
afterAll(() => rmSync(folders, { recursive: true, force: true }));

const names = [
  "DenoKvStore",
  "KvListIterator",
  "MemoryKvStore",
  "MysqlKvStore",
  "PostgresKvStore",
  "RedisKvStore",
  "SqliteKvStore",
  "openKvStore",
];

const esm = `
import kv, { SqliteKvStore, openKvStore } from "fedify-kv";
import * as all from "fedify-kv";
const store = new SqliteKvStore(process.argv[2]);
await store.initialize();
await store.set(["_fedify", "publicKey"], 1);
const list = await Array.fromAsync(store.list());
await store.close();
const same = kv.SqliteKvStore === SqliteKvStore && all.openKvStore === openKvStore;
console.log(JSON.stringify({ list, same, names: Object.keys(kv).sort() }));
`;
const cjs = `
const { MemoryKvStore, ...others } = require("fedify-kv");
const store = new MemoryKvStore();
store.set(["_fedify"], 1).then(async () => {
  console.log(JSON.stringify([await store.get(["_fedify"]), Object.keys(others).length]));
});
`;

// The usual flags of Deno leave out package.json, which names the packages.
const isDeno = ({ name }: Runtime) => name === "Deno";
const denoFlags = ["--quiet", "--node-modules-dir=manual", "--no-lock"];
const runtimes = allRuntimes.map((runtime) =>
  isDeno(runtime)
    ? { ...runtime, flags: ["run", ...denoFlags, "--allow-all"] }
    : runtime,
);
const deno = runtimes.find(isDeno)!;

/** Runs a program in the folder of a user. */
function runProgram(
  folder: string,
  { command, flags }: Runtime,
  name: string,
  program: string,
  ...args: readonly string[]
) {
  writeFileSync(join(folder, name), program);
  return run(folder, command, [...flags, name, ...args]);
}

describe.each(runtimes)("$name", (runtime) => {
  test("imports the package in every way", () => {
    const path = join(folders, `${runtime.name}.db`);
    const ran = runProgram(user, runtime, "program.mjs", esm, path);
    expect(ran).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(ran.stdout)).toEqual({
      list: [{ key: ["_fedify", "publicKey"], value: 1 }],
      same: true,
      names,
    });
  });

  test("requires the package", () => {
    const ran = runProgram(user, runtime, "program.cjs", cjs);
    expect(ran).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(ran.stdout)).toEqual([1, names.length - 1]);
  });
});

describe.each(["5.9.3", "6.0.3", "7.0.2"])("TypeScript %s", (version) => {
  test.each(["node16", "nodenext", "bundler"])(
    "with module resolution %s",
    (resolution) => {
      const program = `
        import { openKvStore, SqliteKvStore } from "fedify-kv";
        import kv, { type KvStore } from "fedify-kv";
        const store = new SqliteKvStore("app.db", { durability: "full" });
        const asInterface: KvStore = store;
        await asInterface.delete(["_fedify"]);
        await store.set(["_fedify"], 1, { ttl: { hours: 1 } });
        for await (const { key, value } of openKvStore("memory:").list(["_fedify"])) {
          const first: string = key[0];
          void [first, value, kv.MemoryKvStore];
        }
        // @ts-expect-error: a key is not a string
        await store.get("_fedify");
      `;
      writeFileSync(join(user, "program.mts"), program);
      const tsc = join(kept("typescript", version), "bin/tsc");
      const words = [
        "--noEmit",
        "--strict",
        "--target esnext",
        `--module ${resolution === "bundler" ? "preserve" : resolution}`,
        `--moduleResolution ${resolution}`,
        // The browser's declarations take longest. Only some users have them.
        ...(resolution === "bundler" ? [] : ["--lib esnext"]),
      ].join(" ");
      const args = [tsc, ...words.split(" "), "program.mts"];
      expect(run(user, process.execPath, args)).toMatchObject({
        code: 0,
        stdout: "",
      });
    },
  );
});

describe("the packages", () => {
  const bin = (name: string) => join(root, "node_modules/.bin", name);
  const filesOf = (tarball: string) =>
    succeed(root, "tar", ["--list", "--file", tarball])
      .trim()
      .split("\n")
      .map((name) => name.replace("package/", ""))
      .sort();

  test("pass publint and attw", () => {
    for (const tarball of [packages.main, packages.platform]) {
      succeed(root, bin("publint"), ["run", tarball, "--strict"]);
    }
    succeed(root, bin("attw"), [packages.main]);
  });

  test("contain what users need, and nothing else", () => {
    expect(filesOf(packages.main)).toEqual([
      "CHANGELOG.md",
      "LICENSE",
      "README.md",
      "index.d.ts",
      "index.js",
      "package.json",
    ]);
    expect(filesOf(packages.platform)).toEqual([
      "LICENSE",
      "README.md",
      "THIRD-PARTY-NOTICES",
      expect.stringMatching(/^fedify-kv\..+\.node$/),
      "package.json",
    ]);
  });

  test("fit together", () => {
    const args = ["scripts/check-release.mjs", "--offline"];
    expect(run(root, process.execPath, args)).toMatchObject({
      code: 0,
      stderr: "",
    });
  });

  test.runIf(isGlibc)("need glibc 2.28 at most", () => {
    const addon = readFileSync(binaryOf(user), "latin1");
    const minors = [...addon.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) =>
      Number(minor),
    );
    expect(minors.length).toBeGreaterThan(0);
    expect(Math.max(...minors)).toBeLessThanOrEqual(28);
  });

  test("name every crate in the notices", () => {
    const notices = readFileSync(join(root, "THIRD-PARTY-NOTICES"), "utf8");
    const { napi } = JSON.parse(
      readFileSync(join(root, "package.json"), "utf8"),
    );
    const words = "tree --locked --edges normal,no-proc-macro --prefix none";
    const targets = napi.targets.flatMap((name: string) => ["--target", name]);
    const { stdout } = spawnSync("cargo", [...words.split(" "), ...targets], {
      cwd: root,
      encoding: "utf8",
    });
    const crates = [...stdout.matchAll(/^(\S+) v(\S+)(?: \(\*\))?$/gm)].map(
      ([, name, version]) => `${name} ${version}`,
    );
    expect(crates.length).toBeGreaterThan(100);
    const missing = crates.filter((crate) => !notices.includes(`${crate}\n`));
    expect(missing, "run `npm run notices`").toEqual([]);
  });

  test("are what the package on JSR exports", () => {
    const folder = join(folders, "jsr");
    cpSync(user, folder, { recursive: true });
    const exported = readFileSync(join(root, "jsr/mod.ts"), "utf8");
    // The version is not published yet: the installed package takes its place.
    const mod = exported.replace(/npm:fedify-kv@[\d.]+/, "fedify-kv");
    expect(mod).not.toBe(exported);
    writeFileSync(join(folder, "mod.ts"), mod);
    const program = `
      import { openKvStore } from "./mod.ts";
      const kv = openKvStore("memory:");
      await kv.set(["_fedify"], 1);
      console.log(await kv.get(["_fedify"]));
    `;
    const ran = runProgram(folder, deno, "program.ts", program);
    expect(ran).toMatchObject({ code: 0, stdout: "1\n", stderr: "" });
  });
});

describe("an addon that can't be loaded", () => {
  const program = `
    import("fedify-kv").then(
      () => console.log("{}"),
      ({ code, message, cause }) => {
        const [first] = message.split("\\n");
        console.log(JSON.stringify({ code, first, caused: cause !== undefined }));
      },
    );
  `;

  /** Loads the package in a folder, and returns the error's first line. */
  function failIn(
    folder: string,
    flags: readonly string[] = [],
    runtime = thisNode,
  ): string {
    const changed = { ...runtime, flags: [...runtime.flags, ...flags] };
    const ran = runProgram(folder, changed, "load.mjs", program);
    expect(ran).toMatchObject({ code: 0, signal: null });
    const error = JSON.parse(ran.stdout);
    expect(error.code).toBe("ERR_KV_NATIVE_LOAD");
    expect(error.first).toMatch(start);
    return error.first.replace(start, "");
  }
  const { platform, arch } = process;
  const start = new RegExp(
    `^fedify-kv can't load its native addon \\(${platform}-${arch}.*?\\): `,
  );

  /** A copy of the user's folder, in which something is changed. */
  function changed(name: string, change: (folder: string) => void): string {
    const folder = join(folders, name);
    cpSync(user, folder, { recursive: true });
    change(folder);
    return folder;
  }

  test("because its package is not installed", () => {
    const folder = join(folders, "omitted");
    install(folder, ["--omit=optional", packages.main]);
    expect(failIn(folder)).toBe(
      `the package ${packages.name} is not installed`,
    );
  });

  test("because its package has another version", () => {
    const folder = changed("version", (folder) => {
      const file = join(folder, "node_modules", packages.name, "package.json");
      const about = JSON.parse(readFileSync(file, "utf8"));
      writeFileSync(file, JSON.stringify({ ...about, version: "0.0.1" }));
    });
    const { version } = JSON.parse(
      readFileSync(join(root, "package.json"), "utf8"),
    );
    expect(failIn(folder)).toBe(
      `${packages.name} has version 0.0.1 instead of ${version}`,
    );
  });

  test("because there is none for the platform", () => {
    // The rest of Node.js still runs on this machine's processor.
    const other =
      "data:text/javascript,Object.defineProperty(process,'arch',{value:'mips'})";
    const folder = changed("mips", () => {});
    const runtime = { ...thisNode, flags: ["--import", other] };
    const ran = runProgram(folder, runtime, "load.mjs", program);
    const error = JSON.parse(ran.stdout);
    expect(error.code).toBe("ERR_KV_NATIVE_LOAD");
    expect(error.first).toContain(`(${platform}-mips`);
    expect(error.first).toContain("there is no binary for this platform");
  });

  test("because its file is too short", () => {
    const folder = changed("short", (folder) =>
      truncateSync(binaryOf(folder), 5_000_000),
    );
    expect(failIn(folder)).toBe(`${binaryOf(folder)} is damaged`);
  });

  test("because its file was overwritten", () => {
    const folder = changed("overwritten", (folder) => {
      const file = binaryOf(folder);
      writeFileSync(file, Buffer.alloc(readFileSync(file).length));
    });
    expect(failIn(folder)).toBe(`${binaryOf(folder)} is damaged`);
  });

  test.runIf(isGlibc)("because glibc is too old", () => {
    const folder = changed("glibc", (folder) => {
      const file = binaryOf(folder);
      const addon = readFileSync(file, "latin1");
      const newer = addon.replaceAll("GLIBC_2.28", "GLIBC_2.99");
      expect(newer).not.toBe(addon);
      writeFileSync(file, newer, "latin1");
    });
    expect(failIn(folder)).toBe("glibc 2.99 or later is needed");
  });

  test("because Node.js doesn't load addons", () => {
    expect(failIn(user, ["--no-addons"])).toBe("Node.js runs with --no-addons");
    expect(failIn(user, ["--permission", "--allow-fs-read=*"])).toBe(
      "Node.js runs with --permission, but without --allow-addons",
    );
  });

  test("because Deno doesn't load addons", () => {
    const without = { ...deno, flags: ["run", ...denoFlags] };
    const flags = ["--allow-read", "--allow-env", "--allow-sys"];
    expect(failIn(user, flags, without)).toBe("Deno runs without --allow-ffi");
  });
});

/** The path of the addon in a user's folder. */
function binaryOf(folder: string): string {
  const target = packages.name.replace("fedify-kv-", "");
  const file = `fedify-kv.${target}.node`;
  return join(folder, "node_modules", packages.name, file);
}
