// Where a store's operations run: on Node's event loop, or on the store's thread.
// The thread is used in Bun and Deno, and where FEDIFY_KV_HOST says so. The
// project "thread" in vitest.config.mts repeats tests with that variable.

/** Whether these tests run on the thread. */
export const onThread = process.env.FEDIFY_KV_HOST === "thread";

/** Whether to test a store here: on the thread, only those that have a choice. */
export const isTested = (store: string) =>
  !onThread || /^(redis|postgres|mysql)(kvstore)?$/i.test(store);
