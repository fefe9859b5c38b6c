// How long the event loop stood still.
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
export const collectGarbage = runInNewContext("gc") as () => void;

/**
 * How late a timer of 1 ms was at worst during `work`, in seconds. Node's
 * `monitorEventLoopDelay` doesn't record the interval in which it is enabled or
 * reset, and the calls of a burst are made in this one.
 */
export async function longestStall(
  work: () => Promise<unknown>,
): Promise<number> {
  let worst = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    worst = Math.max(worst, now - last - 1);
    last = now;
  }, 1);
  // The garbage of earlier work is not this work's.
  collectGarbage();
  await sleep(20);
  worst = 0;
  await work();
  // The timer fires once more, late by what `work` held it up at its end.
  await sleep(20);
  clearInterval(timer);
  return worst / 1000;
}
