// Database files that are replaced, moved or removed while a store has them
// open: operations say so, nothing is created, and no file is damaged.
import { existsSync } from "node:fs";
import {
  link,
  mkdir,
  readFile,
  readdir,
  rename,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { expectGoodEnd, runChild, startChild } from "./support/child.mts";
import { collect } from "./support/collect.mts";
import {
  type FileRow,
  type FileStore,
  fileRows,
  openFile,
  readFileOf,
  writeFileOf,
} from "./support/databases.mts";
import { expectRejection } from "./support/rejection.mts";
import { sql, temporaryDirectory } from "./support/sqlite.mts";

const calls: Record<string, (store: FileStore) => Promise<unknown>> = {
  get: (store) => store.get(["before"]),
  "get of nothing": (store) => store.get(["nothing"]),
  set: (store) => store.set(["after"], 1),
  "set with a ttl": (store) => store.set(["after"], 1, { ttl: { hours: 1 } }),
  delete: (store) => store.delete(["before"]),
  cas: (store) => store.cas(["before"], 1, 2),
  "cas that would fail": (store) => store.cas(["before"], "no", 2),
  list: (store) => collect(store.list()),
  "list of a prefix": (store) => collect(store.list(["before"])),
  clear: (store) => store.clear(["before"]),
  initialize: (store) => store.initialize(),
  drop: (store) => store.drop(),
};

/** It says that the file is not the one that was opened. */
async function expectNoFile(store: FileStore, path: string): Promise<void> {
  for (const [name, call] of Object.entries(calls)) {
    const rejected = expectRejection(() => call(store), "ERR_KV_CONNECTION");
    const error = await rejected.catch((cause: unknown) => {
      throw new Error(`${name}: ${cause}`, { cause });
    });
    expect(error.message, name).toMatch(/replaced|removed|moved|renamed/);
    expect(error.message, name).toContain(basename(path));
  }
}

/** What becomes of a store's file. */
interface Event {
  readonly name: string;
  happen(files: Files): Promise<void>;
  /** Whether a new file is at the path then. */
  readonly replaces: boolean;
  /** How the old file comes back, if it can. */
  undo?(files: Files): Promise<void>;
}

interface Files {
  /** The path that the store was given. */
  readonly path: string;
  /** The store's file by another name, once the event has happened. */
  readonly old: string;
  /** Another database, ready to be moved to the path. */
  readonly backup: string;
}

const events: Event[] = [
  {
    name: "a backup is moved over it",
    replaces: true,
    async happen({ path, old, backup }) {
      await link(path, old);
      await rename(backup, path);
    },
  },
  {
    name: "it is moved away, and a backup to its place",
    replaces: true,
    async happen({ path, old, backup }) {
      await rename(path, old);
      await rename(backup, path);
    },
    async undo({ path, old, backup }) {
      await rename(path, backup);
      await rename(old, path);
    },
  },
  {
    name: "it is removed",
    replaces: false,
    async happen({ path, old }) {
      await link(path, old);
      await rm(path);
    },
  },
  {
    name: "it is moved away",
    replaces: false,
    async happen({ path, old }) {
      await rename(path, old);
    },
    async undo({ path, old }) {
      await rename(old, path);
    },
  },
  {
    name: "its folder is renamed",
    replaces: false,
    async happen({ path }) {
      await rename(dirname(path), `${dirname(path)}-moved`);
    },
    async undo({ path }) {
      await rename(`${dirname(path)}-moved`, dirname(path));
    },
  },
];

describe.each(fileRows)("$name", (row: FileRow) => {
  /**
   * A store with one entry that is in the database itself, and one that may be
   * in its log alone; and a backup with another entry.
   */
  async function prepare(folderMoves: boolean) {
    const directory = await temporaryDirectory();
    const folder = join(directory, "folder");
    await mkdir(folder);
    const path = join(folder, "fedify.db");
    const old = folderMoves
      ? join(`${folder}-moved`, "fedify.db")
      : join(directory, "old.db");
    const backup = join(directory, "backup.db");
    await writeFileOf(row, backup, { backup: "another file" });
    await writeFileOf(row, path, { before: 1 });
    const store = openFile(row, path);
    expect(await store.get(["before"])).toBe(1);
    await store.set(["late"], 1);
    expect(await collect(store.list())).toHaveLength(2);
    return { store, files: { path, old, backup } };
  }

  /** The old file is sound, and has nothing that was not written to it. */
  async function expectOld({ old }: Files) {
    const entries = await readFileOf(row, old);
    // The log may have been left behind, and the last entry with it.
    expect({ late: 1, ...entries }).toEqual({ before: 1, late: 1 });
  }

  for (const event of events) {
    describe(event.name, () => {
      const folderMoves = event.name.includes("folder");

      test("all operations say so", async () => {
        const { store, files } = await prepare(folderMoves);
        await event.happen(files);
        await expectNoFile(store, files.path);
        // And again, some time after a checkpoint was due.
        await new Promise((resolve) => setTimeout(resolve, 400));
        await expectNoFile(store, files.path);
        expect(existsSync(files.path)).toBe(event.replaces);
        await store.close();
        expect(existsSync(files.path)).toBe(event.replaces);
        if (event.replaces) {
          // They would be taken for the new file's.
          expect(existsSync(`${files.path}-wal`)).toBe(false);
          expect(existsSync(`${files.path}-shm`)).toBe(false);
          expect(await readFileOf(row, files.path)).toEqual({
            backup: "another file",
          });
        } else if (existsSync(dirname(files.path))) {
          expect(await readdir(dirname(files.path))).not.toContain("fedify.db");
        }
        await expectOld(files);
      });

      test("in the middle of work", async () => {
        const { store, files } = await prepare(folderMoves);
        const reasons: unknown[] = [];
        let count = 0;
        const half = Promise.withResolvers<void>();
        // Each works until it is rejected, which all are after the event.
        const work = async () => {
          while (count < 1_000_000) {
            count += 1;
            if (count === 2_000) half.resolve();
            try {
              await store.set(["before"], 1, { ttl: { hours: 1 } });
            } catch (reason) {
              reasons.push(reason);
              return;
            }
          }
        };
        const working = Promise.all(Array.from({ length: 50 }, work));
        await half.promise;
        await event.happen(files);
        await working;
        expect(reasons).toHaveLength(50);
        for (const reason of reasons) {
          expect(reason).toMatchObject({ code: "ERR_KV_CONNECTION" });
        }
        await new Promise((resolve) => setTimeout(resolve, 400));
        await store.close();
        expect(existsSync(files.path)).toBe(event.replaces);
        if (event.replaces) {
          expect(await readFileOf(row, files.path)).toEqual({
            backup: "another file",
          });
        }
        await expectOld(files);
      });

      test("the process ends", async () => {
        const { store, files } = await prepare(folderMoves);
        await store.close();
        const child = startChild(
          `
            const store = new (require(addon)[data.store])(
              data.path, data.options);
            await store.set(["late"], 1);
            report("ready");
            await told();
            const settled = await Promise.allSettled([
              store.get(["before"]),
              store.set(["after"], 1),
              Array.fromAsync(store.list()),
            ]);
            report(settled.map(({ reason }) => reason?.code));
            if (data.closes) await store.close();
          `,
          { ...row, path: files.path, closes: event.replaces },
        );
        expect(await child.next()).toBe("ready");
        await event.happen(files);
        child.tell(event.name);
        child.end();
        expect(await child.rest()).toEqual([
          Array(3).fill("ERR_KV_CONNECTION"),
        ]);
        expectGoodEnd(await child.exit);
        await expectOld(files);
      });

      if (event.undo !== undefined) {
        test("all works when it is back", async () => {
          const { store, files } = await prepare(folderMoves);
          for (let round = 0; round < 3; round += 1) {
            await event.happen(files);
            await expectNoFile(store, files.path);
            await event.undo?.(files);
            expect(await store.get(["before"])).toBe(1);
            expect(await store.get(["late"])).toBe(1);
            expect(await store.get(["after"])).toBeUndefined();
            await store.set(["back"], round);
            expect(await store.get(["back"])).toBe(round);
            expect(await store.cas(["back"], round, "swapped")).toBe(true);
            expect(await store.clear(["back"])).toBe(1);
            expect(await collect(store.list())).toHaveLength(2);
            await store.initialize();
          }
          await store.close();
          expect(await readFileOf(row, files.path)).toEqual({
            before: 1,
            late: 1,
          });
          expect(await readdir(dirname(files.path))).toEqual(["fedify.db"]);
        });
      }
    });
  }

  test("a log that is another file's is left alone", async () => {
    const { store, files } = await prepare(false);
    const { path, old, backup } = files;
    // Moved as a whole, as it should be done.
    await rename(path, old);
    await rename(`${path}-wal`, `${old}-wal`);
    await rename(`${path}-shm`, `${old}-shm`);
    await rename(backup, path);
    await writeFile(`${path}-wal`, "of another process");
    await expectNoFile(store, path);
    await store.close();
    expect(await readFile(`${path}-wal`, "utf8")).toBe("of another process");
    await rm(`${path}-wal`);
    expect(await readFileOf(row, path)).toEqual({ backup: "another file" });
    expect(await readFileOf(row, old)).toEqual({ before: 1, late: 1 });
  });

  test("another process has the new file open", async () => {
    const { store, files } = await prepare(false);
    const { path, old, backup } = files;
    await link(path, old);
    await rename(backup, path);
    await rm(`${path}-wal`);
    await rm(`${path}-shm`);
    const theirs = await runChild(
      `
        const store = new (require(addon)[data.store])(data.path);
        await store.set(["theirs"], 1);
        report(await store.get(["theirs"]));
        // An exit without close leaves the log.
        process.exit(0);
      `,
      { store: row.store, path },
    );
    expect(theirs.reports).toEqual([1]);
    await expectNoFile(store, path);
    await store.close();
    expect(await readFileOf(row, path)).toEqual({
      backup: "another file",
      theirs: 1,
    });
    await expectOld(files);
  });

  test("a symbolic link points to another file", async () => {
    const { store: other, files } = await prepare(false);
    await other.close();
    const { path, backup } = files;
    const name = `${path}.link`;
    await symlink(path, name);
    const store = openFile(row, name);
    expect(await store.get(["before"])).toBe(1);
    await store.set(["late"], 2);
    await rm(name);
    await symlink(backup, name);
    await expectNoFile(store, name);
    await rm(name);
    await symlink(path, name);
    expect(await store.get(["late"])).toBe(2);
    await store.close();
    expect(await readFileOf(row, path)).toEqual({ before: 1, late: 2 });
    expect(await readFileOf(row, backup)).toEqual({ backup: "another file" });
  });

  test("a new store opens the new file", async () => {
    const { store, files } = await prepare(false);
    const { path, old, backup } = files;
    await link(path, old);
    await rename(backup, path);
    await expectNoFile(store, path);
    await store.close();
    const fresh = openFile(row, path);
    expect(await fresh.get(["backup"])).toBe("another file");
    await fresh.set(["fresh"], 1);
    expect(await collect(fresh.list())).toHaveLength(2);
    await fresh.close();
    await expectOld(files);
  });

  test("a file that another process rewrites in place is the same", async () => {
    const { store, files } = await prepare(false);
    await sql(files.path, "PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM");
    expect(await store.get(["late"])).toBe(1);
    await store.set(["after"], 1);
    expect(await collect(store.list())).toHaveLength(3);
  });
});
