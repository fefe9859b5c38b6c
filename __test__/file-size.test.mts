// Files give room back: a log shrinks when the store is idle.
import { stat } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { type FileRow, fileRows, openFile } from "./support/databases.mts";
import { temporaryFile } from "./support/sqlite.mts";

const megabyte = 1024 * 1024;

describe.each(fileRows)("$name", (row: FileRow) => {
  const sizeOf = async (path: string) =>
    (await stat(path).catch(() => undefined))?.size ?? 0;

  test("the log shrinks after large writes", async () => {
    const path = await temporaryFile();
    const store = openFile(row, path);
    const value = "x".repeat(20_000);
    await Promise.all(
      Array.from({ length: 2_000 }, (_, i) =>
        store.set(["k", String(i)], value),
      ),
    );
    expect(await sizeOf(path)).toBeGreaterThan(0);
    await expect.poll(() => sizeOf(`${path}-wal`)).toBeLessThan(5 * megabyte);
    expect(await sizeOf(path)).toBeGreaterThan(35 * megabyte);
    expect(await store.get(["k", "1999"])).toBe(value);
    // Again, with a reader that has the file open.
    await store.list().next();
    await Promise.all(
      Array.from({ length: 2_000 }, (_, i) =>
        store.set(["l", String(i)], value),
      ),
    );
    await expect.poll(() => sizeOf(`${path}-wal`)).toBeLessThan(5 * megabyte);
    expect(await store.get(["l", "1999"])).toBe(value);
  });
});
