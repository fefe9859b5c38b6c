// A store inside another store: the same operations on the keys under a prefix.
// Two servers can then share a database without seeing each other's data.
import type { KvKey, KvStore, KvStoreSetOptions } from "@fedify/fedify";

/** A store with `list`, which Fedify makes optional, and `clear`. */
export interface ClearableKvStore extends Required<KvStore> {
  /** Deletes all entries under a prefix, and returns their number. */
  clear(prefix: KvKey): Promise<number>;
}

/** The part of `kv` under `prefix`. */
export function namespace(
  kv: ClearableKvStore,
  prefix: KvKey,
): ClearableKvStore {
  const inner = (key: KvKey): KvKey => [...prefix, ...key] as unknown as KvKey;
  const outer = (key: KvKey) => key.slice(prefix.length) as unknown as KvKey;
  return {
    get: (key) => kv.get(inner(key)),
    set: (key, value, options?: KvStoreSetOptions) =>
      kv.set(inner(key), value, options),
    delete: (key) => kv.delete(inner(key)),
    cas: (key, expected, value, options) =>
      kv.cas(inner(key), expected, value, options),
    async *list(under) {
      const entries = kv.list(under === undefined ? prefix : inner(under));
      for await (const { key, value } of entries) {
        yield { key: outer(key), value };
      }
    },
    clear: (under) => kv.clear(inner(under)),
  };
}
