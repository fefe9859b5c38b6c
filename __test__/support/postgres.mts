// PostgreSQL stores for a test.
import { randomUUID } from "node:crypto";
import { onTestFinished } from "vitest";
import { PostgresKvStore } from "../../index.js";

export type Options = NonNullable<
  ConstructorParameters<typeof PostgresKvStore>[1]
>;

/** A table that no other test uses. */
export function ownTable(): string {
  return `kv_${randomUUID()}`;
}

/** A store that is closed when the test is over. */
export function openStore(url: string, options?: Options): PostgresKvStore {
  const store = new PostgresKvStore(url, options);
  onTestFinished(() => store.close());
  return store;
}
