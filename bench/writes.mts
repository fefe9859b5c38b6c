// The writes that Fedify makes: a mark for each activity, and documents that it
// caches. Nearly all have a ttl, and most come alone.
import type { KvKey, KvStore, KvStoreSetOptions } from "@fedify/fedify";
import { Temporal } from "@js-temporal/polyfill";
import { randomUUID } from "node:crypto";
import { document } from "./data.mts";
import type { PreparedCall } from "./patterns.mts";

type Ttl = NonNullable<KvStoreSetOptions["ttl"]>;

/** A day, of the polyfill that Fedify uses where the runtime has no Temporal. */
const day = () => Temporal.Duration.from({ days: 1 }) as unknown as Ttl;
const kept = { ttl: day() };

type Write = (store: KvStore) => PreparedCall;

/**
 * The mark of an activity that is processed: a new key, with a new Duration.
 * The Duration is made before the call, which is timed without it.
 */
const setMark: Write = (store) => ({
  async prepare() {
    const [key, options] = [markKey(), { ttl: day() }];
    return () => store.set(key, true, options);
  },
});

/** A new revision of one of 500 documents. */
const setDocument: Write = (store) => ({
  async prepare(index) {
    const [key, value] = [documentKey(index), revised()];
    return () => store.set(key, value, kept);
  },
});

const casDocument: Write = (store) => ({
  async prepare() {
    const [key, before, after] = [markKey(), revised(), revised()];
    await store.set(key, before, kept);
    return async () => {
      const won = await store.cas!(key, before, after, kept);
      if (!won) throw new Error("cas: the value isn't the one that was set");
    };
  },
});

const deleteMark: Write = (store) => ({
  async prepare() {
    const key = markKey();
    await store.set(key, true, kept);
    return () => store.delete(key);
  },
});

export const WRITES = {
  "set a mark": setMark,
  "set a document": setDocument,
  "cas of a document": casDocument,
  delete: deleteMark,
} satisfies Record<string, Write>;

export type WriteName = keyof typeof WRITES;

export function markKey(): KvKey {
  const activity = `https://remote.example/activities/${randomUUID()}`;
  const id = `https://example.com\n${activity}\ninbox\nalice`;
  return ["_fedify", "activityIdempotence", id];
}

export function documentKey(index: number): KvKey {
  const url = `https://remote.example/users/${index % 500}`;
  return ["_fedify", "remoteDocument", url];
}

let revision = 0;

export function revised(): object {
  return document(revision++);
}
