// Runs one test file in a process of its own.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { nodeOptions } from "./checkout.mts";
import type { Result } from "./reporter.mts";

/** The path of each test, and why it failed; `undefined` if it passed. */
export type Results = Map<string, string | undefined>;

export async function runFile(
  file: string,
  environment: Record<string, string>,
): Promise<Results> {
  const directory = await mkdtemp(join(tmpdir(), "fedify-kv-results-"));
  try {
    // Not stdout, because the tests print to it.
    const report = join(directory, "report");
    const code = await runInto(report, file, environment);
    return resultsIn(await readFile(report, "utf8"), code);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Returns the exit code, or the signal that ended the process. */
async function runInto(
  report: string,
  file: string,
  environment: Record<string, string>,
): Promise<number | NodeJS.Signals> {
  const reporter = [
    `--test-reporter=${join(import.meta.dirname, "reporter.mts")}`,
    `--test-reporter-destination=${report}`,
  ];
  const child = spawn(process.execPath, [...nodeOptions, ...reporter, file], {
    env: { ...process.env, ...environment },
    stdio: "ignore",
  });
  const [code, signal] = await once(child, "exit");
  return signal ?? code;
}

function resultsIn(report: string, code: number | NodeJS.Signals): Results {
  const results: Results = new Map();
  for (const line of report.split("\n").filter((line) => line !== "")) {
    const { name, why } = JSON.parse(line) as Result;
    let unique = name;
    for (let i = 2; results.has(unique); i += 1) unique = `${name} (${i})`;
    results.set(unique, why);
  }
  const failed = [...results.values()].some((why) => why !== undefined);
  if (typeof code === "string" || (code !== 0 && !failed)) {
    results.set("the whole file", `ended with ${code}`);
  }
  return results;
}
