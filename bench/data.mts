// The keys and values that the stores are filled with.
import type { KvKey } from "@fedify/fedify";

/** The number of entries of a prefix: the spans of a trace. */
export const PER_PREFIX = 50;

/**
 * The key of entry `i` in a store that a benchmark has filled. The entries of a
 * prefix are written together.
 */
export function key(i: number): readonly [string, string, string] {
  return ["traces", String(Math.floor(i / PER_PREFIX)), String(i)];
}

/** One of `entries` keys. The order is far from theirs. */
export function anyKey(i: number, entries: number): KvKey {
  return key((i * 7919) % entries);
}

/** One of the prefixes of `entries` entries, another one for each `i`. */
export function anyPrefix(i: number, entries: number): KvKey {
  return ["traces", String((i * 17) % (entries / PER_PREFIX))];
}

export const ALL: KvKey = ["traces"];

/**
 * A document of 490 bytes, like those that Fedify caches. Each revision
 * differs, because SQLite doesn't write a page that an update didn't change.
 */
export function document(revision: number): object {
  return {
    "@context": [
      "https://www.w3.org/ns/activitystreams",
      "https://w3id.org/security/v1",
    ],
    id: "https://example.com/users/alice",
    type: "Person",
    preferredUsername: "alice",
    inbox: "https://example.com/users/alice/inbox",
    outbox: "https://example.com/users/alice/outbox",
    followers: "https://example.com/users/alice/followers",
    summary: String(revision).padStart(140, "x"),
  };
}
