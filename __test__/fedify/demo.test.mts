// Runs the demo as `npm run demo` does.
import { execFile } from "node:child_process";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { openKvStore } from "../../index.js";
import { temporaryDirectory } from "./pair.mts";

const main = fileURLToPath(
  new URL("../../examples/demo/main.mts", import.meta.url),
);

/** What the demo prints. Rejects if it fails or prints something to stderr. */
async function demo(tmpdir: string, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    [main, ...args],
    { env: { ...process.env, TMPDIR: tmpdir, TEMP: tmpdir } },
  );
  expect(stderr).toBe("");
  return stdout;
}

function check(output: string) {
  const lines = output.split("\n").map((line) => line.trim());
  const deliveries = lines.filter((line) => line.includes(" → "));
  expect(deliveries.map((line) => line.split(/ {2,}/).slice(0, 3))).toEqual([
    ["alice → bob", "Follow", "202"],
    ["bob → alice", "Accept", "202"],
    ["alice → bob", "Follow", "202"],
    ["bob → alice", "Create", "202"],
  ]);
  const words = lines.map((line) => line.replace(/ {2,}/, ": "));
  expect(words).toContain("bob: processed the Follow once");
  expect(words).toContain("alice: read the post: Hello, fediverse!");
  expect(output).toMatch(/inbound +Follow +signature verified/);
  expect(output).toMatch(/outbound +Accept +to http/);
  expect(output).toMatch(/bob +http\S+\/alice#main-key/);
  expect(words).toContain("alice: 2 deleted");
  expect(words).toContain("alice: none left");
}

test("the demo runs with temporary files and removes them", async () => {
  await using stack = new AsyncDisposableStack();
  const directory = await temporaryDirectory(stack);

  check(await demo(directory));
  expect(await readdir(directory)).toEqual([]);
});

test("the demo runs in a shared store and keeps other entries", async () => {
  await using stack = new AsyncDisposableStack();
  const directory = await temporaryDirectory(stack);
  const url = `sqlite:${join(directory, "app.db")}`;
  const before = openKvStore(url);
  await before.set(["settings"], { theme: "dark" });
  await before.close();
  const tmpdir = join(directory, "tmp");
  await mkdir(tmpdir);

  check(await demo(tmpdir, url));

  const after = stack.use(openKvStore(url));
  const left = [];
  for await (const entry of after.list()) left.push(entry);
  expect(left).toEqual([{ key: ["settings"], value: { theme: "dark" } }]);
});
