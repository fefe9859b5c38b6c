// The writes that Fedify makes: a mark for each activity, and documents that it
// caches. Nearly all have a ttl, and most come alone.
import type { KvKey, KvStore, KvStoreSetOptions } from "@fedify/fedify";
import { Temporal } from "@js-temporal/polyfill";
import { randomUUID } from "node:crypto";
import {
  type Case,
  compareAll,
  concurrent,
  document,
  lone,
  type PreparedOperation,
  sequential,
} from "./measure.mts";

/** How many calls a round makes. */
export interface Scale {
  readonly inARow: number;
  /** Batches of 64 calls. */
  readonly batches: number;
  readonly rounds?: number;
}

/** The options of a call that Fedify makes. */
export type Options = () => KvStoreSetOptions | undefined;

/** A day, of the polyfill that Fedify uses where the runtime has no Temporal. */
const day = () =>
  Temporal.Duration.from({ days: 1 }) as unknown as NonNullable<
    KvStoreSetOptions["ttl"]
  >;
const kept = { ttl: day() };
const withoutTtl: Options = () => undefined;
const keptDuration: Options = () => kept;
// As for the marks. It is made before the call, which is timed without it.
const newDuration: Options = () => ({ ttl: day() });

/** Measures `set` with and without a ttl. */
export async function compareSets(
  ours: KvStore,
  peer: KvStore,
  scale: Scale,
): Promise<void> {
  const variants = {
    "set a mark": setMark(withoutTtl),
    "set a mark, kept Duration": setMark(keptDuration),
    "set a mark, new Duration": setMark(newDuration),
    "set a document": setDocument(withoutTtl),
    "set a document, kept Duration": setDocument(keptDuration),
  };
  await compareWrites(variants, ours, peer, scale);
}

/** Measures `cas` and `delete`. */
export async function compareOtherWrites(
  ours: KvStore,
  peer: KvStore,
  scale: Scale,
): Promise<void> {
  const variants = { "cas of a document": casDocument, delete: deleteMark };
  await compareWrites(variants, ours, peer, scale);
}

/** Measures writes that come alone, in a row, and 64 at a time. */
export async function compareWrites(
  variants: Record<string, PreparedOperation>,
  ours: KvStore,
  peer: KvStore,
  { inARow, batches, rounds }: Scale,
): Promise<void> {
  const patterns: ((name: string, operation: PreparedOperation) => Case)[] = [
    (name, operation) => lone(`${name}, 3 ms apart`, 20, operation),
    (name, operation) =>
      sequential(`${name}, one at a time`, inARow, operation),
    (name, operation) =>
      concurrent(`${name}, 64 in flight`, 64, batches, operation),
  ];
  for (const pattern of patterns) {
    const cases = Object.entries(variants).map((each) => pattern(...each));
    await compareAll(cases, ours, peer, rounds);
  }
}

/** The mark of an activity that is processed: a new key. */
export function setMark(options: Options): PreparedOperation {
  return {
    async prepare(store) {
      const [key, given] = [markKey(), options()];
      return () => store.set(key, true, given);
    },
  };
}

/** A new revision of one of 500 documents. */
function setDocument(options: Options): PreparedOperation {
  return {
    async prepare(store, index) {
      const [key, value, given] = [documentKey(index), revised(), options()];
      return () => store.set(key, value, given);
    },
  };
}

const casDocument: PreparedOperation = {
  async prepare(store) {
    const [key, before, after] = [markKey(), revised(), revised()];
    await store.set(key, before, kept);
    return async () => {
      const won = await store.cas!(key, before, after, kept);
      if (!won) throw new Error("cas: the value isn't the one that was set");
    };
  },
};

const deleteMark: PreparedOperation = {
  async prepare(store) {
    const key = markKey();
    await store.set(key, true, kept);
    return () => store.delete(key);
  },
};

function markKey(): KvKey {
  const activity = `https://remote.example/activities/${randomUUID()}`;
  const id = `https://example.com\n${activity}\ninbox\nalice`;
  return ["_fedify", "activityIdempotence", id];
}

function documentKey(index: number): KvKey {
  const url = `https://remote.example/users/${index % 500}`;
  return ["_fedify", "remoteDocument", url];
}

let revision = 0;

function revised(): object {
  return document(revision++);
}
