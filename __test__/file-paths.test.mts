// Paths that are no regular file's: a clear message, and no hang.
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdir, readdir } from "node:fs/promises";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { type FileRow, fileRows, openFile } from "./support/databases.mts";
import { expectRejection } from "./support/rejection.mts";
import { temporaryDirectory } from "./support/sqlite.mts";

const places: Record<string, () => Promise<string>> = {
  "a directory": async () => {
    const path = join(await temporaryDirectory(), "directory");
    await mkdir(path);
    return path;
  },
  "/dev/null": async () => "/dev/null",
  "/dev/zero": async () => "/dev/zero",
  "a FIFO": async () => {
    const path = join(await temporaryDirectory(), "fifo");
    expect(spawnSync("mkfifo", [path]).status).toBe(0);
    return path;
  },
  "a socket": async () => {
    const path = join(await temporaryDirectory(), "socket");
    const server = createServer().listen(path);
    onTestFinished(() => {
      server.close();
    });
    await once(server, "listening");
    return path;
  },
};

describe.skipIf(process.platform === "win32").each(fileRows)(
  "$name",
  (row: FileRow) => {
    test.each(Object.entries(places))("%s", async (_, place) => {
      const path = await place();
      const store = openFile(row, path);
      for (const call of [
        () => store.get(["k"]),
        () => store.set(["k"], 1),
        () => store.list().next(),
        () => store.initialize(),
        () => store.clear(["k"]),
        () => store.drop(),
      ]) {
        const error = await expectRejection(call, "ERR_KV_CONNECTION");
        expect(error.message).toContain(path);
        expect(error.message).toMatch(
          /not a (regular )?file|is a directory|unable to open/,
        );
        expect(error.message).not.toMatch(/in this process/);
      }
      await store.close();
      if (!path.startsWith("/dev/")) {
        const beside = await readdir(dirname(path));
        expect(
          beside.filter((name) => /-(wal|shm|journal)$/.test(name)),
        ).toEqual([]);
      }
    });
  },
);
