// What every test of the contract gets: a row's store with data of its own.
import { test as base } from "vitest";
import type { MemoryKvStore } from "../../index.js";

/** All stores have one shape; what else a class has is its own file's matter. */
export type Store = MemoryKvStore;

/** What a row may be excepted from, giving its reason. */
export type Clause =
  /** Two handles reach the same data. */
  | "second handle"
  /** An expired entry is invisible from its millisecond on. */
  | "exact expiry"
  /** A part of 1 KB, and keys of many parts, are ordinary. */
  | "long keys"
  /** NUL is ordinary in values. */
  | "NUL in values"
  /** So are lone surrogates. */
  | "lone surrogates"
  /** So are values of 1,000 levels. */
  | "deep values"
  /** NUL is ordinary in a part. */
  | "NUL in keys"
  /** Values of 100 KB and more are ordinary. */
  | "large values";

/** Data that no other test sees, and the handles on it. */
export interface Data {
  store: Store;
  /** Makes a handle of its own on the same data. */
  openAnother?: () => Store;
  /** Closes all handles and leaves nothing behind, if nobody else does. */
  remove?: () => Promise<void>;
}

/** One store under the contract. */
export interface Row {
  name: string;
  /** Starts what all of the row's tests need, and stops it in the end. */
  setUp?: () => Promise<void>;
  tearDown?: () => Promise<void>;
  open: () => Promise<Data>;
  /** What does not hold for this row, and why. */
  except?: Partial<Record<Clause, string>>;
}

/** `test` with a row's fixtures: a test that names one gets it. */
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
