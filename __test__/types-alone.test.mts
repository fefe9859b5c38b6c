// index.d.ts compiles without Fedify, @types/node and the DOM's types, for users
// who check their libraries.
import { execFile } from "node:child_process";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const run = promisify(execFile);
const tsc = join(
  dirname(createRequire(import.meta.url).resolve("typescript/package.json")),
  "bin/tsc",
);

const user = `
import { type KvStore, MemoryKvStore, openKvStore } from "./index.js";
const kv: KvStore = new MemoryKvStore();
await kv.set(["k"], 1, { ttl: { total: () => 1 } });
await using store = openKvStore("memory:");
for await (const { key } of store.list({ prefix: ["k"] })) key.join();
const signal = { aborted: false, addEventListener() {}, removeEventListener() {} };
store.list({ signal });
`;

test.each(["es2022", "es2022,dom", "esnext"])("with lib %s", async (lib) => {
  const folder = await mkdtemp(join(tmpdir(), "fedify-kv-types-"));
  try {
    const declarations = new URL("../index.d.ts", import.meta.url);
    await cp(declarations, join(folder, "index.d.ts"));
    await writeFile(join(folder, "package.json"), '{ "type": "module" }');
    await writeFile(join(folder, "user.ts"), user);
    const options = ["--strict", "--noEmit", "--skipLibCheck", "false"];
    options.push("--target", "es2022", "--module", "nodenext", "--lib", lib);
    // The folder has no @types, so no global types come from there.
    const done = run(process.execPath, [tsc, ...options, "user.ts"], {
      cwd: folder,
    });
    const { stdout } = await done.catch((failed: { stdout: string }) => failed);
    expect(stdout).toBe("");
  } finally {
    await rm(folder, { recursive: true });
  }
});
