// The commands in shell examples of the documents.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { RedisServer } from "../services/redis.mts";
import { type Block, root } from "./markdown.mts";

/** The words of each command, without variables, comments and quotes. */
export function commands({ code }: Block): string[][] {
  return code
    .replaceAll("\\\n", " ")
    .split("\n")
    .map((line) => line.replace(/(^| +)#.*/, "").trim())
    .filter((line) => line !== "")
    .map((line) =>
      (line.match(/'[^']*'|\S+/g) ?? [])
        .map((word) => word.replaceAll("'", ""))
        .filter((word, i) => i > 0 || !/^[A-Z_]+=/.test(word)),
    );
}

const manifest = JSON.parse(
  readFileSync(join(root, "package.json"), "utf8"),
) as {
  scripts: Record<string, string>;
  devDependencies: Record<string, string>;
};

function isPackage(name: string): boolean {
  const plain = name.replace(/^npm:/, "");
  return (
    ["fedify-kv", "jsr:@fedify-kv/fedify-kv"].includes(plain) ||
    plain in manifest.devDependencies
  );
}

/** Whether what looks like a file of the repository is one. */
function isFound(word: string): boolean {
  return (
    !/^(__test__|bench|docs|examples|scripts|src)\//.test(word) ||
    existsSync(join(root, word))
  );
}

const repositories = [
  "https://github.com/fedify-kv/fedify-kv",
  "https://github.com/fedify-dev/fedify",
];

/**
 * Whether a command can be used as it is written. Commands for Redis are run.
 */
export function exists(
  [program = "", ...words]: string[],
  redis: RedisServer,
): boolean {
  const [first = "", second = ""] = words;
  if (!words.every(isFound)) return false;
  switch (program) {
    case "npm":
      if (first === "run") return second in manifest.scripts;
      if (first === "install") return words.slice(1).every(isPackage);
      return first === "test";
    case "pnpm":
    case "yarn":
    case "bun":
    case "deno":
      return first === "add" && words.slice(1).every(isPackage);
    case "npx":
      return existsSync(join(root, "node_modules/.bin", first));
    case "node":
    case "bash":
      return existsSync(join(root, first));
    case "git":
      return first === "clone" && repositories.includes(second);
    case "cd":
      return repositories.some((url) => url.endsWith(`/${first}`));
    case "redis-cli": {
      const said = execFileSync(
        program,
        ["-p", String(redis.port), "-e", ...words],
        { encoding: "utf8" },
      );
      return said.trim() !== "";
    }
    default:
      return false;
  }
}
