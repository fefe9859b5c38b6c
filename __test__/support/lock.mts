// Other processes that hold a lock on a database file.
import { expect } from "vitest";
import { type Child, startChild } from "./child.mts";

/** Starts another process that locks the file until `released` is called. */
export async function lockedBy(
  path: string,
  ...statements: string[]
): Promise<Child> {
  const child = startChild(
    `
      const { DatabaseSync } = await import("node:sqlite");
      const database = new DatabaseSync(data.path, { timeout: 10_000 });
      for (const statement of data.statements) database.exec(statement);
      report("locked");
      await told();
      database.exec("ROLLBACK");
      database.close();
    `,
    { path, statements },
  );
  expect(await child.next()).toBe("locked");
  return child;
}

/** Ends the process of `lockedBy`, and so its lock. */
export async function released(child: Child): Promise<void> {
  child.tell("release");
  expect((await child.exit).code).toBe(0);
}
