// Numbered entries, for tests that need many.
import { numbers } from "../support/entries.mts";
import type { Store } from "./fixture.mts";

/** The result of `next()` after the last entry. */
export const end = { value: undefined, done: true };

/** The key of a number. Up to a million, keys sort like their numbers. */
export const keyOf = (i: number) => ["k", String(i).padStart(6, "0")] as const;

/** Sets `count` entries. The value of each is its number. */
export async function fill(store: Store, count: number): Promise<void> {
  await Promise.all(numbers(count).map((i) => store.set(keyOf(i), i)));
}
