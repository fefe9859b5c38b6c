import type { openKv } from "@deno/kv";
import type { KvKey, KvStore, KvStoreListEntry } from "@fedify/fedify";

type Kv = Awaited<ReturnType<typeof openKv>>;

/**
 * The same calls as Fedify's own store for Deno, on Deno KV's Node.js package.
 */
export class OfficialDeno implements KvStore {
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
