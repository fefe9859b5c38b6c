// MySQL stores for a test.
import { randomUUID } from "node:crypto";
import { onTestFinished } from "vitest";
import { MysqlKvStore } from "../../index.js";

export type Options = NonNullable<
  ConstructorParameters<typeof MysqlKvStore>[1]
>;

/** A table that no other test uses. */
export function ownTable(): string {
  return `kv_${randomUUID().replaceAll("-", "")}`;
}

/** A store that is closed when the test is over. */
export function openStore(url: string, options?: Options): MysqlKvStore {
  const store = new MysqlKvStore(url, options);
  onTestFinished(() => store.close());
  return store;
}
