// Entries by number, for the tests that need many and care about none.
import { numbers } from "../support/entries.mts";
import type { Store } from "./fixture.mts";

/** What `next()` answers once there is nothing more. */
export const end = { value: undefined, done: true };

/** A key in whose order the numbers up to a million are in theirs. */
export const keyOf = (i: number) => ["k", String(i).padStart(6, "0")] as const;

/** Sets so many entries, each to its number. */
export async function fill(store: Store, count: number): Promise<void> {
  await Promise.all(numbers(count).map((i) => store.set(keyOf(i), i)));
}
