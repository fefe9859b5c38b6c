// A child process with a store. Prepares and runs rounds for its parent.
import { key } from "../data.mts";
import { collectGarbage } from "../delay.mts";
import { workOf } from "../jobs.mts";
import type { Round } from "../patterns.mts";
import type { Request } from "./remote.mts";
import { loader } from "./stores.mts";

const [name = "", location = ""] = process.argv.slice(2);
const open = await loader(name)();
const store = await open(location);
let round: Round;

process.on("message", async (request: Request) => {
  if (request === "run") {
    process.send!(await round());
    return;
  }
  const { job, first, steps } = request;
  // The garbage of earlier rows is not this row's.
  if (first === 0) collectGarbage();
  round = await workOf(store, job).prepare(first, steps);
  process.send!("prepared");
});

// The first call connects, which is no part of a row.
await store.get(key(0));
process.send!("open");
