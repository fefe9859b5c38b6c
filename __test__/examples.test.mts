// The examples in the doc comments of index.d.ts: all of them compile, and those
// that need no server run.
import { execFile } from "node:child_process";
import {
  mkdir,
  mkdtemp,
  readFile,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));

const declarations = await readFile(join(root, "index.d.ts"), "utf8");
const examples = [
  ...new Set(
    [...declarations.matchAll(/```ts\n(.*?)```/gs)].map(([, code]) =>
      (code ?? "").replaceAll(/^ *\* ?/gm, "").trim(),
    ),
  ),
];

/** Short examples use these names without declaring them. */
const context = `
import { PostgresKvStore, RedisKvStore, SqliteKvStore } from "fedify-kv";
import type { KvErrorCode } from "fedify-kv";
const kv = new SqliteKvStore(":memory:");
const id = "1";
const traceId = "2";
`;

/** The example as a module. In a block, its own names hide the context's. */
function moduleOf(example: string): string {
  return example.startsWith("import")
    ? example
    : `${context}{\n${example}\n}\nexport {};`;
}

function needsServer(example: string): boolean {
  return /"(https?|rediss?|postgres|mysql):/.test(example);
}

test("examples compile, and run if they need no server", async () => {
  expect(examples.length).toBeGreaterThan(15);
  expect(examples.filter(needsServer)).toHaveLength(5);
  const folder = await mkdtemp(join(tmpdir(), "fedify-kv-examples-"));
  try {
    await mkdir(join(folder, "node_modules"));
    await symlink(root, join(folder, "node_modules/fedify-kv"));
    for (const name of ["@fedify", "@types"]) {
      const modules = join(root, "node_modules", name);
      await symlink(modules, join(folder, "node_modules", name));
    }
    const files = examples.map((_, index) => `example-${index}.mts`);
    for (const [index, example] of examples.entries()) {
      const file = join(folder, files[index] ?? "");
      await writeFile(file, moduleOf(example));
    }
    const runnable = files.filter((_, i) => !needsServer(examples[i] ?? ""));
    const imports = runnable.map((file) => `await import("./${file}");\n`);
    await writeFile(join(folder, "all.mjs"), imports.join(""));

    const tsc = join(root, "node_modules/typescript/bin/tsc");
    const options = ["--strict", "--noEmit", "--skipLibCheck"];
    options.push("--target", "esnext", "--module", "nodenext");
    options.push("--types", "node");
    const compiled = run(process.execPath, [tsc, ...options, ...files], {
      cwd: folder,
    });
    const { stdout } = await compiled.catch(
      (error: { stdout: string }) => error,
    );
    expect(stdout).toBe("");
    await run(process.execPath, ["all.mjs"], { cwd: folder });
  } finally {
    await rm(folder, { recursive: true });
  }
});
