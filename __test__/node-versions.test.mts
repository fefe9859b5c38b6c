// Runs tests of this project in other versions of Node.js, and in worker threads.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type Runtime, otherNodes, thisNode } from "./services/runtimes.mts";
import { runIn } from "./support/runtime.mts";
import { temporaryDirectory } from "./support/sqlite.mts";

/** Returns how many tests passed. */
async function runVitest(
  runtime: Runtime,
  words: readonly string[],
): Promise<number> {
  const report = join(await temporaryDirectory(), "report.json");
  const ran = await runIn(runtime, [
    "node_modules/vitest/vitest.mjs",
    "run",
    ...words,
    "--reporter=dot",
    "--reporter=json",
    `--outputFile.json=${report}`,
  ]);
  expect(ran.code, ran.stdout + ran.stderr).toBe(0);
  const result = JSON.parse(await readFile(report, "utf8"));
  return result.numPassedTests;
}

describe.each(otherNodes)("$name", (runtime) => {
  // With one store: the others use the binding in the same way, and the tests of the
  // event loop use it in all others.
  test("the contract suite passes", { timeout: 600_000 }, async () => {
    const passed = await runVitest(runtime, [
      "__test__/contract",
      "--project=default",
      "--testNamePattern=^memory ",
    ]);
    expect(passed).toBeGreaterThan(200);
  });

  // All but the longest, which are about time and not about the version.
  test("the event loop's tests pass", { timeout: 600_000 }, async () => {
    const passed = await runVitest(runtime, [
      "__test__/event-loop.test.mts",
      "--project=default",
      "--testNamePattern=^(worker threads|the end of the process|turns of the event loop|continuations) ",
    ]);
    expect(passed).toBeGreaterThan(20);
  });
});

test("tests pass in worker threads", { timeout: 120_000 }, async () => {
  const files = ["sqlite.test", "sqlite-list.test", "temporal.test"];
  const passed = await runVitest(thisNode, [
    ...files.map((name) => `__test__/${name}.mts`),
    "--pool=threads",
  ]);
  expect(passed).toBeGreaterThan(40);
});
