// Makes charts and tables from the results in bench/results/.
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, relative } from "node:path";
import { files } from "./files.mts";

for (const [path, text] of await files()) {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
  console.log(relative(process.cwd(), path));
}
