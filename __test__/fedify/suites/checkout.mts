// Prepares a checkout of Fedify's repository: the packages from npm that its
// tests import, and the vocabulary classes, which its build generates.
//
// The packages are installed in a folder of ours, so that the checkout's own
// node_modules stay as they are.
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface Checkout {
  /** The repository. */
  readonly path: string;
  /** The folder whose node_modules have the packages from npm. */
  readonly packages: string;
}

/** The packages of the repository that the tests import, also indirectly. */
const ours = [
  "fedify",
  "fixture",
  "uri-template",
  "vocab",
  "vocab-runtime",
  "vocab-tools",
  "webfinger",
];

const root = join(import.meta.dirname, "../../..");

export async function prepare(path: string): Promise<Checkout> {
  const packages = join(root, "node_modules/.cache/fedify-suites");
  mkdirSync(packages, { recursive: true });
  const dependencies = dependenciesOf(path);
  writeFileSync(
    join(packages, "package.json"),
    JSON.stringify({ private: true, dependencies }),
  );
  run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund"], {
    cwd: packages,
  });
  run(
    process.execPath,
    [...nodeOptions, join(import.meta.dirname, "vocab.mts")],
    {
      env: { ...process.env, FEDIFY_CHECKOUT: path, FEDIFY_PACKAGES: packages },
    },
  );
  return { path, packages };
}

/** Fedify's sources are TypeScript, partly with syntax that has to be compiled. */
export const nodeOptions = [
  "--experimental-transform-types",
  "--disable-warning=ExperimentalWarning",
  "--import",
  join(import.meta.dirname, "preload.mts"),
];

/** All packages from npm, with the versions that the repository asks for. */
function dependenciesOf(path: string): Record<string, string> {
  const catalog = catalogOf(path);
  const all: Record<string, string> = { "fetch-mock": "catalog:" };
  for (const name of ours) {
    const file = join(path, "packages", name, "package.json");
    Object.assign(all, JSON.parse(readFileSync(file, "utf8")).dependencies);
  }
  return Object.fromEntries(
    Object.entries(all)
      .filter(([, version]) => !version.startsWith("workspace:"))
      .map(([name, version]) =>
        version === "catalog:" ? [name, catalog[name] ?? "*"] : [name, version],
      ),
  );
}

/** The versions in pnpm-workspace.yaml, one in a line below `catalog:`. */
function catalogOf(path: string): Record<string, string> {
  const text = readFileSync(join(path, "pnpm-workspace.yaml"), "utf8");
  const lines = text.split(/^catalog:$/m)[1] ?? "";
  const versions = lines.matchAll(/^ {2}"?(@?[^":\s]+)"?: *"?([^"\n]+)"?$/gm);
  return Object.fromEntries(
    Array.from(versions, ([, name, version]) => [name, version]),
  );
}

function run(command: string, args: readonly string[], options: object): void {
  const done = spawnSync(command, args, { stdio: "inherit", ...options });
  if (done.status !== 0)
    throw new Error(`${command} failed`, { cause: done.error });
}
