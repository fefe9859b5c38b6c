// Installs the packages in `packages` into an empty folder, as a user would, and
// uses them there. It needs only Node.js and npm, so that it can also run in a
// container or on another machine.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const packages = join(import.meta.dirname, "../packages");

const program = `
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { SqliteKvStore, openKvStore } from "fedify-kv";

const require = createRequire(import.meta.url);
assert.equal(require("fedify-kv").SqliteKvStore, SqliteKvStore);

for (const kv of [new SqliteKvStore("app.db"), openKvStore("memory:")]) {
  await kv.initialize();
  const key = ["_fedify", "publicKey", "https://example.com/#key"];
  await kv.set(key, { id: "#key" }, { ttl: { hours: 1 } });
  assert.deepEqual(await kv.get(key), { id: "#key" });
  assert.equal(await kv.cas(key, undefined, 1), false);
  const entries = await Array.fromAsync(kv.list(["_fedify"]));
  assert.deepEqual(entries, [{ key, value: { id: "#key" } }]);
  await kv.close();
}
`;

function run(folder, command, args) {
  const { error, status } = spawnSync(command, args, {
    cwd: folder,
    stdio: "inherit",
    shell: process.platform === "win32",
  });
  if (error || status !== 0) {
    throw new Error(`${command} ${args.join(" ")} failed`, { cause: error });
  }
}

const folder = mkdtempSync(join(tmpdir(), "fedify-kv-package-"));
try {
  writeFileSync(join(folder, "package.json"), "{}");
  writeFileSync(join(folder, "program.mjs"), program);
  const files = readdirSync(packages).map((name) => join(packages, name));
  run(folder, "npm", ["install", "--no-audit", "--no-fund", ...files]);
  run(folder, process.execPath, ["program.mjs"]);
  console.log("The packages work in an empty folder.");
} finally {
  rmSync(folder, { recursive: true, force: true });
}
