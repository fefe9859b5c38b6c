// The committed charts and tables are those of the committed results.
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { expect, test } from "vitest";
import { files } from "../bench/charts/files.mts";

test("charts and tables match bench/results/ (npm run charts makes them)", async () => {
  const made = await files();
  expect(made.size).toBeGreaterThan(2);
  for (const [path, text] of made) {
    expect(await readFile(path, "utf8"), basename(path)).toBe(text);
  }
});
