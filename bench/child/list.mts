// A child process that reads a list of everything. Reports the growth of its
// memory, the longest stall of its event loop and the time to the first entry.
import { readFileSync } from "node:fs";
import { ALL, anyPrefix } from "../data.mts";
import { collectGarbage, longestStall } from "../delay.mts";
import { loader } from "./stores.mts";

const [name = "", location = "", count = "0"] = process.argv.slice(2);
const entries = Number(count);

/** Memory of this process alone, in bytes, without the pages of files. */
function ownMemory(): number {
  const status = readFileSync("/proc/self/status", "utf8");
  return Number(status.match(/RssAnon:\s*(\d+) kB/)![1]) * 1024;
}

const open = await loader(name)();
const store = await open(location);
// Compiles the code that a list runs.
for (let i = 0; i < 3; i++) {
  for await (const _ of store.list!(anyPrefix(i, entries)));
}
collectGarbage();
const before = ownMemory();
let peak = before;
let first = 0;
let read = 0;
const stall = await longestStall(async () => {
  const start = performance.now();
  for await (const _ of store.list!(ALL)) {
    if (read === 0) first = (performance.now() - start) / 1000;
    if (read % 2000 === 0) peak = Math.max(peak, ownMemory());
    read++;
  }
});
if (read !== entries) throw new Error(`${name}: ${read} entries`);
console.log(JSON.stringify({ memory: peak - before, stall, first }));
process.exit();
