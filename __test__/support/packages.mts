// Packs the packages as they are published, and installs them as a user would.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { runs } from "../services/apt.mts";

export const root = join(import.meta.dirname, "../..");

export interface Ran {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command without Rust in its PATH. */
export function run(
  folder: string,
  command: string,
  args: readonly string[],
): Ran {
  const path = (process.env["PATH"] ?? "")
    .split(delimiter)
    .filter((folder) => !runs(join(folder, "cargo")))
    .join(delimiter);
  const env = { ...process.env, PATH: path, DENO_NO_UPDATE_CHECK: "1" };
  const { error, status, ...rest } = spawnSync(command, args, {
    cwd: folder,
    encoding: "utf8",
    env,
  });
  if (error !== undefined) throw error;
  return { code: status, ...rest };
}

/** Runs a command that must succeed, and returns its output. */
export function succeed(
  folder: string,
  command: string,
  args: readonly string[],
): string {
  const { code, stdout, stderr } = run(folder, command, args);
  if (code !== 0) {
    throw new Error(`${command} ${args.join(" ")}\n${stdout}${stderr}`);
  }
  return stdout;
}

export interface Packages {
  /** The tarball of the main package. */
  readonly main: string;
  /** The tarball of the package for this platform. */
  readonly platform: string;
  /** The platform package's name. */
  readonly name: string;
}

export function pack(): Packages {
  succeed(root, process.execPath, ["scripts/package.mjs"]);
  const names = readdirSync(join(root, "packages")).sort();
  const [main = "", platform = ""] = names.map((name) =>
    join(root, "packages", name),
  );
  const name = /fedify-kv-\w+-\w+(-\w+)?/.exec(platform)?.[0] ?? "";
  return { main, platform, name };
}

/** Installs packages in a new folder. */
export function install(folder: string, packages: readonly string[]): void {
  mkdirSync(folder);
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  const flags = ["--no-audit", "--no-fund", "--loglevel=error"];
  succeed(folder, "npm", ["install", ...flags, ...packages]);
}

/** A folder that has a package from npm, kept for the next run. */
export function kept(name: string, version: string): string {
  const folder = join(root, ".setup/runtimes", `${name}-${version}`);
  const installed = join(folder, "node_modules", name);
  if (!existsSync(installed)) {
    const flags = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error"];
    const words = ["--prefix", folder, `${name}@${version}`];
    succeed(root, "npm", ["install", ...flags, ...words]);
  }
  return installed;
}
