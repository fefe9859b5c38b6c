// Where the two servers of the demo keep their data.
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openKvStore, SqliteKvStore } from "../../index.js";
import { type ClearableKvStore, namespace } from "./namespace.mts";

export interface Stores extends AsyncDisposable {
  /** For people to read. Never the URL, which may hold a password. */
  readonly description: string;
  readonly alice: ClearableKvStore;
  readonly bob: ClearableKvStore;
}

/** A SQLite file each, in a directory that goes when the demo ends. */
export async function temporaryFiles(): Promise<Stores> {
  const directory = await mkdtemp(join(tmpdir(), "fedify-kv-demo-"));
  const alice = new SqliteKvStore(join(directory, "alice.db"));
  const bob = new SqliteKvStore(join(directory, "bob.db"));
  return {
    description: `a SQLite file each, in ${directory}`,
    alice,
    bob,
    async [Symbol.asyncDispose]() {
      await Promise.all([alice.close(), bob.close()]);
      await rm(directory, { recursive: true });
    },
  };
}

/**
 * A namespace each in the one store at `url`. What else that store holds stays
 * as it is, and what the demo put there goes when the demo ends.
 */
export async function sharedStore(url: string): Promise<Stores> {
  const kv = openKvStore(url);
  // A store that can't be reached says so here, where nothing is to be undone.
  await kv.initialize();
  const ours = ["fedify-kv-demo", randomUUID()] as const;
  return {
    description: `a namespace each, in one ${new URL(url).protocol} store`,
    alice: namespace(kv, [...ours, "alice"]),
    bob: namespace(kv, [...ours, "bob"]),
    async [Symbol.asyncDispose]() {
      await kv.clear(ours);
      await kv.close();
    },
  };
}
