// The stores in which the two servers of the demo keep their data.
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openKvStore, SqliteKvStore } from "../../index.js";
import { type ClearableKvStore, namespace } from "./namespace.mts";

export interface Stores extends AsyncDisposable {
  /** A text for the user. It omits the URL, which may contain a password. */
  readonly description: string;
  readonly alice: ClearableKvStore;
  readonly bob: ClearableKvStore;
}

/**
 * A SQLite file for each, in a directory that is removed when the demo ends.
 */
export async function temporaryFiles(): Promise<Stores> {
  const directory = await mkdtemp(join(tmpdir(), "fedify-kv-demo-"));
  const alice = new SqliteKvStore(join(directory, "alice.db"));
  const bob = new SqliteKvStore(join(directory, "bob.db"));
  return {
    description: `a SQLite file for each, in ${directory}`,
    alice,
    bob,
    async [Symbol.asyncDispose]() {
      await Promise.all([alice.close(), bob.close()]);
      await rm(directory, { recursive: true });
    },
  };
}

/**
 * A namespace for each in the store at `url`. The demo's entries are deleted
 * when it ends; other entries in that store are not touched.
 */
export async function sharedStore(url: string): Promise<Stores> {
  const kv = openKvStore(url);
  // Connects now, so that an unreachable store fails before there is any data
  // to delete.
  await kv.initialize();
  const ours = ["fedify-kv-demo", randomUUID()] as const;
  return {
    description: `a namespace for each, in one ${new URL(url).protocol} store`,
    alice: namespace(kv, [...ours, "alice"]),
    bob: namespace(kv, [...ours, "bob"]),
    async [Symbol.asyncDispose]() {
      await kv.clear(ours);
      await kv.close();
    },
  };
}
