// Our stores beside the ones a user would pick instead, in one run. The two
// sides of a row take turns, and a row shows the ratio of their medians: that
// holds on a machine whose speed drifts.
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
