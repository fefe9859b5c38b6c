import { openKv } from "@deno/kv";
import type { KvKey, KvStore, KvStoreListEntry } from "@fedify/fedify";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DenoKvStore } from "../index.js";
import {
  compare,
  concurrent,
  document,
  heading,
  key,
  listing,
  sequential,
} from "./measure.mts";

const ENTRIES = 100_000;

type Kv = Awaited<ReturnType<typeof openKv>>;

/**
 * The same calls as Fedify's own store for Deno, on Deno KV's Node.js package.
 */
class Peer implements KvStore {
  readonly #kv: Kv;

  constructor(kv: Kv) {
    this.#kv = kv;
  }

  async get<T>(key: KvKey): Promise<T | undefined> {
    const entry = await this.#kv.get<T>(key);
    return entry.value ?? undefined;
  }

  async set(key: KvKey, value: unknown): Promise<void> {
    await this.#kv.set(key, value);
  }

  async delete(key: KvKey): Promise<void> {
    await this.#kv.delete(key);
  }

  async *list(prefix: KvKey): AsyncGenerator<KvStoreListEntry> {
    for await (const { key, value } of this.#kv.list({ prefix })) {
      yield { key: key as unknown as KvKey, value };
    }
  }
}

export async function deno(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "fedify-kv-bench-"));
  const ours = new DenoKvStore(join(folder, "ours.db"));
  const kv = await openKv(join(folder, "peer.db"));
  const peer = new Peer(kv);
  try {
    // 2,000 prefixes of 50 entries.
    for (let i = 0; i < ENTRIES; i += 5000) {
      const some = Array.from({ length: 5000 }, (_, j) => key(i + j));
      await Promise.all(some.map((key) => ours.set(key, document(0))));
      await Promise.all(some.map((key) => peer.set(key, document(0))));
    }

    heading("Deno KV, a file, beside @deno/kv");
    const get = (store: KvStore, i: number) =>
      store.get(key((i * 7919) % ENTRIES));
    const set = (store: KvStore, i: number) =>
      store.set(key((i * 7919) % ENTRIES), document(i + 1));
    await compare(sequential("get, one at a time", 1000, get), ours, peer);
    await compare(concurrent("get, 64 in flight", 64, 20, get), ours, peer);
    await compare(concurrent("get, 1,000 in flight", 1000, 2, get), ours, peer);
    await compare(sequential("set, one at a time", 200, set), ours, peer);
    await compare(concurrent("set, 64 in flight", 64, 10, set), ours, peer);
    await compare(concurrent("set, 1,000 in flight", 1000, 1, set), ours, peer);
    const few = listing(
      "list of 50 among 100,000, the list",
      (i) => ["traces", String((i * 17) % (ENTRIES / 50))],
      50,
      "list",
      20,
    );
    const all = listing(
      "list of all 100,000, an entry",
      () => ["traces"],
      ENTRIES,
      "entry",
      1,
    );
    await compare(few, ours, peer);
    await compare(all, ours, peer, 3);
  } finally {
    await ours.close();
    kv.close();
    await rm(folder, { recursive: true });
  }
}
