// The stores in which the two servers of the demo keep their data.
import { randomUUID } from "node:crypto";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openKvStore, SqliteKvStore } from "../../index.js";
import { cleanUpAtEnd } from "./cleanup.mts";
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
    [Symbol.asyncDispose]: cleanUpAtEnd(async () => {
      await Promise.all([alice.close(), bob.close()]);
      await rm(directory, { recursive: true });
    }),
  };
}

/**
 * A namespace for each in one store in the database at `url`. The store has a
 * table or a prefix of its own, which is removed when the demo ends. Everything
 * else in the database stays as it is.
 */
export async function sharedStore(url: string): Promise<Stores> {
  const id = randomUUID().slice(0, 8);
  const place = placeOf(url, id);
  const file = await newFile(url);
  const kv = openKvStore(url, place.options);
  const ours = ["fedify-kv-demo", id] as const;

  const cleanUp = cleanUpAtEnd(async () => {
    // What the servers still do must not create the table again.
    await kv.close();
    if (file !== undefined) {
      const files = ["", "-wal", "-shm", "-journal"];
      const remove = (end: string) => rm(`${file}${end}`, { force: true });
      await Promise.all(files.map(remove));
      return;
    }
    const again = openKvStore(url, place.options);
    try {
      if (place.isShared) await again.clear(ours);
      else await again.drop();
    } catch (cause) {
      throw new Error(`The demo could not remove ${place.name}`, { cause });
    } finally {
      await again.close();
    }
  });
  try {
    // Connects now, so that an unreachable database fails first.
    await kv.initialize();
  } catch (error) {
    // Usually there is nothing to remove, and no way to do it.
    await cleanUp().catch(() => {});
    throw error;
  }
  return {
    description: `a namespace for each, in ${place.name}`,
    alice: namespace(kv, [...ours, "alice"]),
    bob: namespace(kv, [...ours, "bob"]),
    [Symbol.asyncDispose]: cleanUp,
  };
}

interface Place {
  readonly name: string;
  readonly options?: { tableName?: string; keyPrefix?: string };
  /** Whether there may be other entries in the same store. */
  readonly isShared: boolean;
}

/** Where the demo's entries are in the database at `url`. */
function placeOf(url: string, id: string): Place {
  const scheme = schemeOf(url);
  if (/^(sqlite|postgres(ql)?|mysql|mariadb)$/.test(scheme)) {
    const tableName = `fedify_kv_demo_${id}`;
    return {
      name: `the table ${tableName}`,
      options: { tableName },
      isShared: false,
    };
  }
  if (/^(unix|redis|valkey)/.test(scheme)) {
    const keyPrefix = `{fedify-kv-demo-${id}}::`;
    return {
      name: `the keys that start with ${keyPrefix}`,
      options: { keyPrefix },
      isShared: false,
    };
  }
  const name = `the keys under ["fedify-kv-demo", "${id}"]`;
  return { name, isShared: true };
}

const schemeOf = (url: string) => url.split(":", 1)[0]!.toLowerCase();

/** Creates the file that `url` names; undefined if it exists or isn't a file. */
async function newFile(url: string): Promise<string | undefined> {
  const scheme = schemeOf(url);
  const rest = url.slice(scheme.length + 1);
  if (!/^(sqlite|denokv)$/.test(scheme) || /^(:|https?:|$)/i.test(rest)) {
    return undefined;
  }
  try {
    const path = decodeURIComponent(rest.replace(/^\/\/(?=\/)/, ""));
    const file = await open(path, "wx");
    await file.close();
    return path;
  } catch {
    return undefined;
  }
}
