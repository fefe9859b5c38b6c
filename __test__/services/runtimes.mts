// The runtimes that the addon is tested in. Node.js 24, Deno and Bun are
// devDependencies. Other versions of Node.js are installed once in folders of
// their own, because one node_modules can't hold two versions of a package.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "../..");
const bin = join(root, "node_modules/.bin");

/** The other versions of Node.js, pinned. */
const versions = ["22.23.3", "26.10.0"] as const;

const system = process.platform === "win32" ? "win" : process.platform;
const packageName = `node-${system}-${process.arch}`;
const file = process.platform === "win32" ? "node.exe" : "node";

const folderOf = (version: string) =>
  join(root, ".setup/runtimes", `node-${version}`);

const nodeOf = (version: string) =>
  join(folderOf(version), "node_modules", packageName, "bin", file);

export interface Runtime {
  readonly name: string;
  readonly command: string;
  /** The arguments before the path of a script. */
  readonly flags: readonly string[];
}

const node = (version: string, command: string): Runtime => ({
  name: `Node.js ${version}`,
  command,
  flags: ["--disable-warning=ExperimentalWarning"],
});

/** The runtimes that also run the contract suite. */
export const otherNodes: readonly Runtime[] = versions.map((version) =>
  node(version, nodeOf(version)),
);

export const thisNode = node(process.versions.node, process.execPath);

export const runtimes: readonly Runtime[] = [
  ...otherNodes,
  thisNode,
  {
    name: "Deno",
    command: join(bin, "deno"),
    flags: [
      "run",
      "--quiet",
      "--allow-all",
      "--no-remote",
      "--no-lock",
      "--no-config",
      "--no-check",
    ],
  },
  { name: "Bun", command: join(bin, "bun"), flags: ["run"] },
];

/** Installs the versions of Node.js that are missing. */
export function installRuntimes(): void {
  for (const version of versions) {
    if (existsSync(nodeOf(version))) {
      continue;
    }
    const { status } = spawnSync(
      "npm",
      [
        "install",
        "--no-save",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--prefix",
        folderOf(version),
        `${packageName}@${version}`,
      ],
      { stdio: "inherit", shell: process.platform === "win32" },
    );
    if (status !== 0) {
      throw new Error(`the tests need ${packageName}@${version} from npm`);
    }
  }
}
