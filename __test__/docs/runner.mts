// Runs examples one after the other, each in the folder that it is given with.
// Sends a message for each that fails, and then ends with code 1.
import { setTimeout } from "node:timers/promises";

type Example = readonly [place: string, file: string, folder: string];

/** An example that waits longer waits for something that never comes. */
const longest = 20_000;

const examples: readonly Example[] = JSON.parse(process.argv[2] ?? "[]");
for (const [place, file, folder] of examples) {
  process.chdir(folder);
  const late = new AbortController();
  try {
    await Promise.race([
      import(file),
      setTimeout(longest, undefined, late).then(() => {
        throw new Error("it did not end");
      }),
    ]);
  } catch (error) {
    const why = error instanceof Error ? error.stack : error;
    process.send?.(`${place}: ${why}`);
    process.exitCode = 1;
  }
  late.abort();
}
// Some examples keep a server or a queue running.
process.disconnect?.();
process.exit();
