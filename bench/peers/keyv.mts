// Keyv with its adapters, what many take for a key–value store by default.
// Fedify can't use it directly: a small class joins the key and gives the ttl
// in milliseconds. Keyv has neither `cas` nor a list by prefix.
import type { KvKey, KvStore, KvStoreSetOptions } from "@fedify/fedify";
import { Temporal } from "@js-temporal/polyfill";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { versionOf } from "../machine.mts";

/** What we use of a Keyv. */
interface Keyv {
  get(key: string): Promise<unknown>;
  set(key: string, value: unknown, ttl?: number): Promise<unknown>;
  setMany(
    entries: readonly { key: string; value: unknown }[],
  ): Promise<unknown>;
  delete(key: string): Promise<unknown>;
  disconnect(): Promise<void>;
  on(event: "error", listener: (error: unknown) => void): unknown;
}

export type Engine = "sqlite" | "redis" | "postgres";

const folder = import.meta.dirname;

/**
 * Installs Keyv when it is first needed. It isn't a dependency of the root,
 * because its SQLite adapter brings a package that compiles SQLite.
 */
export function installKeyv(): void {
  if (existsSync(join(folder, "node_modules/.package-lock.json"))) return;
  console.error("Installing Keyv, which compiles SQLite, takes some minutes");
  const words = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error"];
  const { status } = spawnSync("npm", ["install", ...words], {
    cwd: folder,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (status !== 0) throw new Error("Keyv can't be installed, see above");
}

export function keyvVersion(name: string): string {
  return versionOf(name, "peers/node_modules");
}

/** The modules' types aren't there before they are installed. */
function load(name: string): Promise<{ default: new (arg: unknown) => never }> {
  return import(name);
}

/** Opens a Keyv as its documentation does. */
export async function openKeyv(
  engine: Engine,
  url: string,
): Promise<KeyvStore> {
  const { default: Adapter } = await load(`@keyv/${engine}`);
  const { default: Keyv } = await load("keyv");
  const keyv: Keyv = new Keyv({ store: new Adapter(url) });
  keyv.on("error", (error) => {
    throw error;
  });
  return new KeyvStore(keyv);
}

export class KeyvStore implements KvStore {
  readonly #keyv: Keyv;

  constructor(keyv: Keyv) {
    this.#keyv = keyv;
  }

  async get<T>(key: KvKey): Promise<T | undefined> {
    return (await this.#keyv.get(name(key))) as T | undefined;
  }

  async set(
    key: KvKey,
    value: unknown,
    options?: KvStoreSetOptions,
  ): Promise<void> {
    await this.#keyv.set(name(key), value, milliseconds(options));
  }

  async delete(key: KvKey): Promise<void> {
    await this.#keyv.delete(name(key));
  }

  list(): never {
    throw new Error("Keyv has no list by prefix");
  }

  async fill(keys: readonly KvKey[], value: unknown): Promise<void> {
    await this.#keyv.setMany(keys.map((key) => ({ key: name(key), value })));
  }

  async close(): Promise<void> {
    await this.#keyv.disconnect();
  }
}

function name(key: KvKey): string {
  return key.join("::");
}

function milliseconds(options?: KvStoreSetOptions): number | undefined {
  if (options?.ttl === undefined) return undefined;
  return Temporal.Duration.from(String(options.ttl)).total("milliseconds");
}
