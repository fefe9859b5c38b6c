// Files that can't be used, full disks, and locks of other processes.
import { spawnSync } from "node:child_process";
import {
  chmod,
  mkdir,
  open,
  readFile,
  rm,
  stat,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import {
  type TestContext,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { lockedBy, released } from "./support/lock.mts";
import { collect, keysOf } from "./support/collect.mts";
import { expectRejection, rejection } from "./support/rejection.mts";
import {
  insertRow,
  type Options,
  officialTable,
  openStore,
  query,
  sql,
  temporaryDirectory,
  temporaryFile,
} from "./support/sqlite.mts";

describe("a path that is not a usable database", () => {
  test("a file with other contents is refused and not changed", async () => {
    const path = await temporaryFile();
    const text = "This is a letter, and not a database.\n".repeat(500);
    await writeFile(path, text);
    const store = openStore(path);
    for (const call of [
      () => store.get(["k"]),
      () => store.set(["k"], 1),
      () => store.list().next(),
      () => store.initialize(),
    ]) {
      const error = await expectRejection(call, "ERR_KV_CONNECTION");
      expect(error.message).toMatch(/not a database/);
    }
    expect(await readFile(path, "utf8")).toBe(text);
  });

  test("a directory is refused", async () => {
    const store = openStore(await temporaryDirectory());
    const error = await expectRejection(
      () => store.set(["k"], 1),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toMatch(/not a regular file/);
  });

  test("a path in a missing directory is refused until it exists", async () => {
    const path = join(await temporaryDirectory(), "no/such/fedify.db");
    const store = openStore(path);
    const error = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toMatch(/unable to open/);
    // The next operation tries again to open the file.
    await mkdir(join(path, ".."), { recursive: true });
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  });

  test("if the file can't be opened, all concurrent operations reject", async () => {
    const path = join(await temporaryDirectory(), "no/such/fedify.db");
    const store = openStore(path);
    const settled = await Promise.allSettled([
      store.get(["k"]),
      store.set(["k"], 1),
      store.cas(["k"], undefined, 1),
      store.list().next(),
      store.clear(["k"]),
      store.drop(),
    ]);
    for (const outcome of settled) {
      expect(outcome).toMatchObject({
        status: "rejected",
        reason: { code: "ERR_KV_CONNECTION" },
      });
    }
    await store.close();
  });

  test("an empty file is an empty database", async () => {
    const path = await temporaryFile();
    await writeFile(path, "");
    const store = openStore(path);
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  });

  test("a table of the same name with other columns is refused", async () => {
    const path = await temporaryFile();
    await sql(
      path,
      "CREATE TABLE fedify_kv (id INTEGER PRIMARY KEY, data TEXT)",
      "INSERT INTO fedify_kv VALUES (1, 'theirs')",
    );
    const store = openStore(path);
    for (const call of [
      () => store.get(["k"]),
      () => store.set(["k"], 1),
      () => store.cas(["k"], undefined, 1),
      () => store.list().next(),
    ]) {
      const error = await expectRejection(call, "ERR_KV_BACKEND");
      expect(error.message).toMatch(/fedify_kv.*\bexpires\b/);
    }
    expect(await query(path, "SELECT * FROM fedify_kv")).toEqual([
      { id: 1, data: "theirs" },
    ]);
  });
});

/**
 * Mounts a file system for one test. Skips the test if that isn't permitted.
 */
async function mounted(
  { skip }: TestContext,
  options: string,
): Promise<{ directory: string; remount: (options: string) => void }> {
  const directory = await temporaryDirectory();
  const mount = (flags: string) =>
    spawnSync("mount", ["-t", "tmpfs", "-o", flags, "tmpfs", directory]);
  skip(mount(options).status !== 0, "mounting is not permitted here");
  onTestFinished(() => {
    spawnSync("umount", ["--lazy", directory]);
  });
  return {
    directory,
    remount: (flags) => {
      const { status, stderr } = mount(`remount,${flags}`);
      expect(status, String(stderr)).toBe(0);
    },
  };
}

describe("a directory that can't be written", () => {
  /**
   * Makes a directory read-only. Permissions don't stop root, so for root it is
   * a file system that is mounted read-only.
   */
  async function locked(context: TestContext, path: string) {
    if (process.getuid?.() === 0) {
      const { directory, remount } = await mounted(context, "size=1m");
      return { directory, lock: () => remount("ro,size=1m") };
    }
    const directory = join(path, "..");
    onTestFinished(() => chmod(directory, 0o755));
    return { directory, lock: () => chmod(directory, 0o555) };
  }

  test("it is an error to create a database there", async (context) => {
    const { directory, lock } = await locked(context, await temporaryFile());
    await lock();
    const store = openStore(join(directory, "fedify.db"));
    const error = await expectRejection(
      () => store.set(["k"], 1),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toMatch(/unable to open|readonly/);
    await expectRejection(() => store.get(["k"]), "ERR_KV_CONNECTION");
  });

  test("it is an error with a reason to write to a database there", async (context) => {
    const { directory, lock } = await locked(context, await temporaryFile());
    const path = join(directory, "fedify.db");
    await sql(path, officialTable, insertRow('["k"]', "1"));
    await lock();
    const store = openStore(path);
    const error = await rejection(() => store.set(["k"], 2));
    expect(error.code).toMatch(/^ERR_KV_(CONNECTION|BACKEND)$/);
    expect(error.message).toMatch(/readonly|read-only|unable to open/);
  });
});

describe("a full disk", () => {
  test("only writes reject, and they work again when there is space", async (context) => {
    const { directory } = await mounted(context, "size=4m");
    const path = join(directory, "fedify.db");
    const ballast = join(directory, "ballast");
    await writeFile(ballast, Buffer.alloc(2_400_000));
    const store = openStore(path);
    const value = (i: number) => `${i}:${"x".repeat(20_000)}`;
    const key = (i: number) => ["k", String(i).padStart(4, "0")] as const;
    const stored: (readonly string[])[] = [];
    let error: (Error & { code: string }) | undefined;
    for (let i = 0; i < 500 && error === undefined; i += 1) {
      try {
        await store.set(key(i), value(i));
        stored.push(key(i));
      } catch (reason) {
        error = reason as typeof error;
      }
    }
    expect(error?.code).toBe("ERR_KV_BACKEND");
    expect(error?.message).toMatch(/full|disk I\/O/);
    expect(stored.length).toBeGreaterThan(5);
    // All accepted writes are stored, and no rejected one.
    const entries = await collect(store.list());
    expect(entries.map((entry) => entry.key)).toEqual(stored);
    for (const [i, entry] of entries.entries()) {
      expect(entry.value === value(i)).toBe(true);
    }
    expect((await store.get(key(0))) === value(0)).toBe(true);
    // A batch fails as a whole, and each of its operations rejects.
    const batch = await Promise.allSettled(
      Array.from({ length: 20 }, (_, i) => store.set(key(900 + i), value(i))),
    );
    expect(batch.some(({ status }) => status === "rejected")).toBe(true);
    for (const [i, { status }] of batch.entries()) {
      const there = (await store.get(key(900 + i))) !== undefined;
      expect(there).toBe(status === "fulfilled");
    }
    await rm(ballast);
    await store.set(["after"], "space was freed");
    expect(await store.get(["after"])).toBe("space was freed");
    await store.close();
    const reopened = openStore(path);
    expect(await reopened.get(["after"])).toBe("space was freed");
    expect(await keysOf(reopened.list(["k"]))).toEqual(
      expect.arrayContaining(stored),
    );
  });

  test("a disk that is full from the start rejects the first write", async (context) => {
    const { directory } = await mounted(context, "size=1m");
    const ballast = await open(join(directory, "ballast"), "w");
    const room = Buffer.alloc(4_096);
    for (let full = false; !full;) {
      full = await ballast.write(room).then(
        () => false,
        () => true,
      );
    }
    await ballast.close();
    expect((await stat(join(directory, "ballast"))).size).toBeGreaterThan(0);
    const store = openStore(join(directory, "fedify.db"));
    const error = await rejection(() => store.set(["k"], 1));
    expect(error.code).toMatch(/^ERR_KV_(BACKEND|CONNECTION)$/);
    expect(error.message).toMatch(/full|disk I\/O|unable to open/);
    await rm(join(directory, "ballast"));
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  });
});

describe("a lock that another process holds", () => {
  test("a write times out, and reads still work", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { busyTimeout: 300 });
    await store.set(["k"], 1);
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    const started = performance.now();
    let ticks = 0;
    const timer = setInterval(() => (ticks += 1), 10);
    const error = await expectRejection(
      () => store.set(["k"], 2),
      "ERR_KV_TIMEOUT",
    );
    clearInterval(timer);
    expect(error.message).toMatch(/locked|busy/);
    expect(performance.now() - started).toBeGreaterThanOrEqual(295);
    // The event loop was not blocked while the write waited.
    expect(ticks).toBeGreaterThan(0);
    await expectRejection(() => store.cas(["k"], 1, 2), "ERR_KV_TIMEOUT");
    await expectRejection(() => store.delete(["k"]), "ERR_KV_TIMEOUT");
    await expectRejection(() => store.clear(["k"]), "ERR_KV_TIMEOUT");
    expect(await store.get(["k"])).toBe(1);
    expect(await keysOf(store.list())).toEqual([["k"]]);
    await released(child);
    await store.set(["k"], 2);
    expect(await store.get(["k"])).toBe(2);
  });

  const unsynced: Record<string, Options> = {
    "durability normal": { durability: "normal" },
    "a relaxed key": { relaxed: [["k"]] },
  };
  for (const [name, options] of Object.entries(unsynced)) {
    test(`a write never holds the calling thread, ${name}`, async () => {
      const path = await temporaryFile();
      const store = openStore(path, { busyTimeout: 20_000, ...options });
      for (let i = 0; i < 3; i += 1) await store.set(["k"], i);
      const calls = [
        () => store.set(["k"], 3),
        () => store.cas(["k"], 3, 4),
        () => store.delete(["k"]),
      ];
      const results = [];
      for (const call of calls) {
        const child = await lockedBy(path, "BEGIN IMMEDIATE");
        const locked = performance.now();
        const result = call();
        // The call itself, while the lock is held for a second.
        expect(performance.now() - locked).toBeLessThan(500);
        const first = await Promise.race([
          result,
          new Promise((resolve) => setTimeout(resolve, 1_000, "waiting")),
        ]);
        expect(first).toBe("waiting");
        await released(child);
        results.push(await result);
      }
      expect(results).toEqual([undefined, true, undefined]);
      expect(await store.get(["k"])).toBeUndefined();
    });
  }

  test("writes wait until it is released", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { busyTimeout: 20_000 });
    await store.set(["k"], 1);
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    const written = [store.set(["k"], 2), store.cas(["k"], 2, 3)];
    const first = await Promise.race([
      Promise.race(written).then(() => "written"),
      new Promise((resolve) => setTimeout(resolve, 100, "waiting")),
    ]);
    expect(first).toBe("waiting");
    await released(child);
    expect(await Promise.all(written)).toEqual([undefined, true]);
    expect(await store.get(["k"])).toBe(3);
  });

  test("each kind of operation times out if it is the first", async () => {
    const path = await temporaryFile();
    await sql(path, officialTable, insertRow('["k"]', "1"));
    const child = await lockedBy(
      path,
      "PRAGMA locking_mode = EXCLUSIVE",
      "BEGIN EXCLUSIVE",
    );
    let ticks = 0;
    const timer = setInterval(() => (ticks += 1), 10);
    const calls: Record<string, (store: typeof fresh) => Promise<unknown>> = {
      get: (store) => store.get(["k"]),
      set: (store) => store.set(["k"], 2),
      cas: (store) => store.cas(["k"], 1, 2),
      list: (store) => store.list().next(),
      initialize: (store) => store.initialize(),
    };
    const fresh = openStore(path, { busyTimeout: 300 });
    for (const [name, call] of Object.entries(calls)) {
      const store = openStore(path, { busyTimeout: 300 });
      ticks = 0;
      const error = await rejection(() => call(store));
      expect(error.code, `${name}: ${error.message}`).toBe("ERR_KV_TIMEOUT");
      expect(ticks, name).toBeGreaterThan(0);
    }
    clearInterval(timer);
    await expectRejection(() => fresh.get(["k"]), "ERR_KV_TIMEOUT");
    await released(child);
    expect(await fresh.get(["k"])).toBe(1);
    await fresh.set(["k"], 2);
    expect(await fresh.get(["k"])).toBe(2);
  });

  test("a busyTimeout of zero rejects without waiting", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { busyTimeout: 0 });
    await store.set(["k"], 1);
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    await expectRejection(() => store.set(["k"], 2), "ERR_KV_TIMEOUT");
    await released(child);
    await store.set(["k"], 2);
  });

  test("close waits no longer than a write", async () => {
    const path = await temporaryFile();
    const store = openStore(path, { busyTimeout: 300 });
    await store.set(["k"], 1);
    const child = await lockedBy(path, "BEGIN IMMEDIATE");
    const write = store.set(["k"], 2);
    const closed = store.close();
    const [outcome] = await Promise.allSettled([write]);
    expect(outcome).toMatchObject({ reason: { code: "ERR_KV_TIMEOUT" } });
    await closed;
    await released(child);
    expect(await query(path, "SELECT value FROM fedify_kv")).toEqual([
      { value: "1" },
    ]);
  });

  test("a long read by another process does not block writes", async () => {
    const path = await temporaryFile();
    const store = openStore(path, {
      busyTimeout: 300,
      durability: "normal",
    });
    await store.set(["k"], 1);
    const child = await lockedBy(path, "BEGIN", "SELECT * FROM fedify_kv");
    for (let i = 0; i < 200; i += 1) {
      await store.set(["k"], i);
    }
    expect(await store.get(["k"])).toBe(199);
    await released(child);
  });
});
