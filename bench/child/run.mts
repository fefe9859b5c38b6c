import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Runs a script of this folder. Returns the JSON that it prints. */
export async function runChild<T>(
  script: string,
  ...words: readonly string[]
): Promise<T> {
  const path = join(import.meta.dirname, script);
  const { stdout } = await run(process.execPath, [path, ...words]);
  return JSON.parse(stdout) as T;
}
