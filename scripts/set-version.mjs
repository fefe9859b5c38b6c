// Copies the version in package.json to all other places. `npm version` calls it.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");

function edit(name, change) {
  const file = join(root, name);
  writeFileSync(file, change(readFileSync(file, "utf8")));
}

const toJson = (value) => `${JSON.stringify(value, null, 2)}\n`;

let version;
edit("package.json", (text) => {
  const about = JSON.parse(text);
  ({ version } = about);
  for (const name of Object.keys(about.optionalDependencies)) {
    about.optionalDependencies[name] = version;
  }
  return toJson(about);
});
edit("jsr/jsr.json", (text) => toJson({ ...JSON.parse(text), version }));
edit("jsr/mod.ts", (text) =>
  text.replace(/npm:fedify-kv@[^"]+/, `npm:fedify-kv@${version}`),
);
// The first version in these files is the package's own.
const own = /(name = "fedify-kv"\nversion = )"[^"]+"/;
for (const name of ["Cargo.toml", "Cargo.lock"]) {
  edit(name, (text) => text.replace(own, `$1"${version}"`));
}
// So that package-lock.json has the version of the optional dependencies too.
const words = [
  "install",
  "--package-lock-only",
  "--ignore-scripts",
  "--no-audit",
];
const { status } = spawnSync("npm", words, {
  cwd: root,
  stdio: "inherit",
  shell: process.platform === "win32",
});
process.exitCode = status;
