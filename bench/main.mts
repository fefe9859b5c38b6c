// Compares our stores with the packages that a user would choose instead.
import { parseArgs } from "node:util";
import { Bench } from "./bench.mts";
import { describe, machine } from "./machine.mts";
import { deno } from "./parts/deno.mts";
import { federation } from "./parts/federation.mts";
import { lists } from "./parts/lists.mts";
import { memory } from "./parts/memory.mts";
import { mysql } from "./parts/mysql.mts";
import { postgres } from "./parts/postgres.mts";
import { redis } from "./parts/redis.mts";
import { sqlite } from "./parts/sqlite.mts";
import { stalls } from "./parts/stalls.mts";
import { startup } from "./parts/startup.mts";
import { installKeyv } from "./peers/keyv.mts";
import { RESULTS, SCRATCH, writeResults } from "./results.mts";

const PARTS = new Map<string, (bench: Bench) => Promise<void>>([
  ["memory", memory],
  ["sqlite", sqlite],
  ["redis", redis],
  ["postgres", postgres],
  ["mysql", mysql],
  ["deno", deno],
  ["lists", lists],
  ["stalls", stalls],
  ["federation", federation],
  ["startup", startup],
]);

const WITH_KEYV = ["sqlite", "redis", "postgres", "federation", "startup"];

const USAGE = `npm run bench -- [PART...] [--quick] [--rows TEXT] [--save]

  PART         ${[...PARTS.keys()].join(", ")}; all if none is named
  --quick      fewer rounds: 3 minutes for all instead of 15
  --rows TEXT  only rows whose table or name contains TEXT
  --save       write a run of --quick to bench/results/, where it replaces the
               committed results`;

const { values, positionals } = options();
const unknown = positionals.filter((name) => !PARTS.has(name));
if (unknown.length > 0) {
  fail(`no such part: ${unknown.join(", ")}`);
}
if (values.save && values.rows !== "") {
  fail("--rows leaves rows out, so its results can't be saved");
}
if (values.help) {
  console.log(USAGE);
  process.exit();
}

const choice = { quick: values.quick, rows: values.rows };
const names = positionals.length > 0 ? positionals : [...PARTS.keys()];
if (names.some((name) => WITH_KEYV.includes(name))) installKeyv();
const partial = values.quick || values.rows !== "";
const folder = partial && !values.save ? SCRATCH : RESULTS;
const start = performance.now();
let rows = 0;
console.log(describe(machine()));
for (const [index, name] of names.entries()) {
  const place = `part ${index + 1} of ${names.length}`;
  const bench = new Bench(name, place, choice);
  await PARTS.get(name)!(bench);
  bench.clear();
  const results = bench.results();
  rows += results.tables.reduce((sum, table) => sum + table.rows.length, 0);
  if (results.tables.length > 0) await writeResults(folder, results);
}
if (rows === 0) fail(`no row contains "${values.rows}"`);
const minutes = (performance.now() - start) / 60_000;
console.log(`\n${minutes.toFixed(1)} minutes. The results are in ${folder}`);

function options() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        quick: { type: "boolean", default: false },
        rows: { type: "string", default: "" },
        save: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    });
  } catch (error) {
    return fail((error as Error).message);
  }
}

function fail(why: string): never {
  console.error(`bench: ${why}\n\n${USAGE}`);
  process.exit(1);
}
