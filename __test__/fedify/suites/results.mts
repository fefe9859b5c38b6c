// Runs one test file in a process of its own.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { nodeOptions } from "./checkout.mts";
import type { Result } from "./reporter.mts";

/** The path of each test, and why it failed; `undefined` if it passed. */
export type Results = Map<string, string | undefined>;

export async function runFile(
  file: string,
  environment: Record<string, string>,
): Promise<Results> {
  const reporter = join(import.meta.dirname, "reporter.mts");
  const child = spawn(
    process.execPath,
    [...nodeOptions, `--test-reporter=${reporter}`, file],
    {
      env: { ...process.env, ...environment },
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  const exited = once(child, "exit");
  const results: Results = new Map();
  for await (const line of createInterface({ input: child.stdout })) {
    const { name, why } = JSON.parse(line) as Result;
    let unique = name;
    for (let i = 2; results.has(unique); i += 1) unique = `${name} (${i})`;
    results.set(unique, why);
  }
  const [code, signal] = await exited;
  const failed = [...results.values()].some((why) => why !== undefined);
  if (signal !== null || (code !== 0 && !failed)) {
    results.set("the whole file", `ended with ${signal ?? code}`);
  }
  return results;
}
