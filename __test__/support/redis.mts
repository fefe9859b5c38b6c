// Redis stores for a test.
import { randomUUID } from "node:crypto";
import { onTestFinished } from "vitest";
import { RedisKvStore } from "../../index.js";

export type Options = NonNullable<
  ConstructorParameters<typeof RedisKvStore>[1]
>;

/** A key prefix that no other test uses. */
export function ownPrefix(): string {
  return `${randomUUID()}::`;
}

/** A store that is closed when the test is over. */
export function openStore(
  url: string | readonly string[],
  options?: Options,
): RedisKvStore {
  const store = new RedisKvStore(url, options);
  onTestFinished(() => store.close());
  return store;
}
