// Another process that counts the rows of a table whenever it is asked.
import { setTimeout } from "node:timers/promises";
import { type Child, startChild } from "./child.mts";

/** Starts the process. */
export function rowCounter(path: string, table: string): Child {
  return startChild(
    `
      const { DatabaseSync } = await import("node:sqlite");
      const database = new DatabaseSync(data.path, { timeout: 10_000 });
      const count = database.prepare("SELECT count(*) AS n FROM " + data.table);
      while (await told()) report(count.get().n);
    `,
    { path, table },
  );
}

export async function count(counter: Child): Promise<number> {
  counter.tell("count");
  return counter.next<number>();
}

/** Waits until no more rows than these are left. */
export async function rowsGone(counter: Child, left: number): Promise<void> {
  while ((await count(counter)) > left) {
    await setTimeout(50);
  }
}
