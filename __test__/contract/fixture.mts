// The fixtures of the contract suite. Each test gets a store of its row, with
// data that no other test uses.
import { test as base } from "vitest";
import type { MemoryKvStore } from "../../index.js";

/**
 * The shape that all stores share. Additional methods of a class are tested in
 * the store's own test file.
 */
export type Store = MemoryKvStore;

/**
 * The timeout of stores on servers, in milliseconds. Some tests call thousands of
 * operations on one key at once.
 */
export const PATIENCE = 60_000;

/**
 * The parts of the contract from which a row may be excepted, with a reason.
 */
export type Clause =
  /** Two handles reach the same data. */
  | "second handle"
  /** An expired entry is invisible from its millisecond on. */
  | "exact expiry"
  /** Parts of 1 KB and keys with many parts are ordinary. */
  | "long keys"
  /** NUL is ordinary in values. */
  | "NUL in values"
  /** Lone surrogates are ordinary in values. */
  | "lone surrogates"
  /** Values with 1,000 levels are ordinary. */
  | "deep values"
  /** NUL is ordinary in parts of keys. */
  | "NUL in keys"
  /** Values of 100 KB and more are ordinary. */
  | "large values";

/** The data of one test, and how to open and remove it. */
export interface Data {
  store: Store;
  /** Opens another handle to the same data. */
  openAnother?: () => Store;
  /** Closes all handles and deletes the data, unless `open` arranged that. */
  remove?: () => Promise<void>;
}

/** A store that the contract suite runs against. */
export interface Row {
  name: string;
  /**
   * Starts the servers that all tests of the row use; `tearDown` stops them.
   */
  setUp?: () => Promise<void>;
  tearDown?: () => Promise<void>;
  open: () => Promise<Data>;
  /** The clauses that don't hold for this row, each with the reason. */
  except?: Partial<Record<Clause, string>>;
}

/** vitest's `test`, extended with the fixtures of a row. */
export function contractTest(row: Row) {
  return base
    .extend("data", async ({ onTestFinished }) => {
      const data = await row.open();
      onTestFinished(() => data.remove?.());
      return data;
    })
    .extend("store", ({ data }): Store => data.store)
    .extend("another", ({ data, skip }): Store => {
      return data.openAnother?.() ?? skip(row.except?.["second handle"]);
    })
    .extend("unless", ({ skip }) => {
      return (clause: Clause) => {
        const reason = row.except?.[clause];
        skip(reason !== undefined, reason);
      };
    });
}

export type ContractTest = ReturnType<typeof contractTest>;
