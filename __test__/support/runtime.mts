// Runs a program in another runtime.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Runtime } from "../services/runtimes.mts";

const root = join(import.meta.dirname, "../..");

/**
 * @returns How it ended, and how many milliseconds passed between its last
 *          output and its end.
 */
export async function runIn(
  { command, flags }: Runtime,
  args: readonly string[],
  variables: Record<string, string> = {},
) {
  const child = spawn(command, [...flags, ...args], {
    cwd: root,
    env: { ...process.env, DENO_NO_UPDATE_CHECK: "1", ...variables },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  let last = performance.now();
  child.stdout.setEncoding("utf8").on("data", (text) => {
    stdout += text;
    last = performance.now();
  });
  child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
  const exited = once(child, "exit").then(() => performance.now());
  const [code, signal] = await once(child, "close");
  return { code, signal, stdout, stderr, ending: (await exited) - last };
}
