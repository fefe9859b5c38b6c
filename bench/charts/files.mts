// The files that are made from the results: charts, and documents with tables
// between markers.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { format, resolveConfig } from "prettier";
import { charts } from "./charts.mts";
import { benchmarkTexts, readmeTexts, type Texts } from "./tables.mts";

const root = join(import.meta.dirname, "../..");

/** All files, by path, as the results say they should be. */
export async function files(): Promise<ReadonlyMap<string, string>> {
  const made = new Map<string, string>();
  for (const [name, draw] of Object.entries(await charts())) {
    for (const mode of ["light", "dark"] as const) {
      made.set(join(root, `docs/charts/${name}-${mode}.svg`), draw(mode));
    }
  }
  const documents = [
    ["docs/benchmarks.md", await benchmarkTexts()],
    ["README.md", await readmeTexts()],
  ] as const;
  for (const [name, texts] of documents) {
    const path = join(root, name);
    if (existsSync(path)) made.set(path, await filled(path, texts));
  }
  return made;
}

/** A document with new texts between its markers. Others are left alone. */
async function filled(path: string, texts: Texts): Promise<string> {
  const before = await readFile(path, "utf8");
  let text = before;
  for (const [name, inside] of texts) {
    const [start, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
    const [from, to] = [text.indexOf(start), text.indexOf(end)];
    if (from < 0 || to < from) continue;
    const head = text.slice(0, from + start.length);
    text = `${head}\n\n${inside}\n\n${text.slice(to)}`;
  }
  if (text === before) return before;
  const options = await resolveConfig(path);
  return format(text, { ...options, filepath: path });
}
