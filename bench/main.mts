// Compares our stores with the packages that a user would choose instead. The
// two sides of a row take turns, and a row shows the ratio of their medians, so
// that the result stays valid if the machine's speed drifts.
import { deno } from "./deno.mts";
import { memory } from "./memory.mts";
import { mysql } from "./mysql.mts";
import { postgres } from "./postgres.mts";
import { redis } from "./redis.mts";
import { sqlite } from "./sqlite.mts";

await sqlite();
await memory();
await redis();
await postgres();
await mysql();
await deno();
