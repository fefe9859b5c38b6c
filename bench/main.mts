// Compares our stores with the packages that a user would choose instead. The
// two sides of a row take turns, and a row shows the ratio of their medians, so
// that the result stays valid if the machine's speed drifts.
//
//     npm run bench                        all parts
//     npm run bench -- memory sqlite-sets  only these
import { deno } from "./deno.mts";
import { federation } from "./federation.mts";
import { memory, memorySets } from "./memory.mts";
import { mysql, mysqlSets } from "./mysql.mts";
import { postgres, postgresSets } from "./postgres.mts";
import { redis, redisSets } from "./redis.mts";
import { sqlite, sqliteSets } from "./sqlite.mts";
import { timers } from "./timers.mts";

const parts = new Map([
  ["sqlite", sqlite],
  ["sqlite-sets", sqliteSets],
  ["memory", memory],
  ["memory-sets", memorySets],
  ["redis", redis],
  ["redis-sets", redisSets],
  ["postgres", postgres],
  ["postgres-sets", postgresSets],
  ["mysql", mysql],
  ["mysql-sets", mysqlSets],
  ["deno", deno],
  ["timers", timers],
  ["federation", federation],
]);

const names = process.argv.slice(2);
const unknown = names.filter((name) => !parts.has(name));
if (unknown.length > 0) {
  console.error(`bench: no such part: ${unknown.join(", ")}`);
  console.error(`The parts are: ${[...parts.keys()].join(", ")}`);
  process.exit(1);
}
for (const [name, run] of parts) {
  if (names.length === 0 || names.includes(name)) await run();
}
