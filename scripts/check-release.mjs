// Runs before the main package is published, and in the tests with --offline.
// Refuses a release whose parts don't fit together, so that no version of the
// main package is ever without its platform packages.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const isOffline = process.argv.includes("--offline");
const text = (name) => readFileSync(join(root, name), "utf8");

const { version, napi, optionalDependencies } = JSON.parse(
  text("package.json"),
);
const names = Object.keys(optionalDependencies).sort();
const problems = [];
function check(isRight, problem) {
  if (!isRight) problems.push(problem);
}

for (const [name, wanted] of Object.entries(optionalDependencies)) {
  check(wanted === version, `package.json wants ${name} ${wanted}`);
}
check(
  names.length === napi.targets.length,
  "optionalDependencies and napi.targets in package.json differ",
);
const loader = text("index.js");
for (const name of names) {
  check(loader.includes(`require("${name}")`), `index.js doesn't load ${name}`);
}
check(
  text("Cargo.toml").includes(`\nversion = "${version}"\n`),
  `the version in Cargo.toml is not ${version}`,
);
const jsr = JSON.parse(text("jsr/jsr.json"));
check(jsr.version === version, `the version in jsr/jsr.json is not ${version}`);
check(
  text("jsr/mod.ts").includes(`"npm:fedify-kv@${version}"`),
  `jsr/mod.ts doesn't export fedify-kv ${version}`,
);

if (!isOffline) {
  check(
    new RegExp(`^## ${version.replaceAll(".", "\\.")} \\(\\d`, "m").test(
      text("CHANGELOG.md"),
    ),
    `CHANGELOG.md has no date for ${version}`,
  );
  for (const name of names) {
    const { status } = spawnSync(
      "npm",
      ["view", `${name}@${version}`, "name"],
      {
        shell: process.platform === "win32",
      },
    );
    check(status === 0, `${name} ${version} is not published`);
  }
}

for (const problem of problems) console.error(`check-release: ${problem}`);
process.exitCode = problems.length === 0 ? 0 : 1;
