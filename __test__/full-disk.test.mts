// A disk that is full: writes are rejected, reads go on, and all works again
// when there is room. On a file system in memory, which only root can mount.
import { spawnSync } from "node:child_process";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import {
  type TestContext,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { type Child, expectGoodEnd, startChild } from "./support/child.mts";
import { type FileRow, fileRows, readFileOf } from "./support/databases.mts";
import { temporaryDirectory } from "./support/sqlite.mts";

/** A directory on a disk of this size; without one the test is skipped. */
async function smallDisk({ skip }: TestContext, size: string): Promise<string> {
  const directory = await temporaryDirectory();
  const options = ["-t", "tmpfs", "-o", `size=${size}`];
  const { status } = spawnSync("mount", [...options, "tmpfs", directory]);
  skip(status !== 0, "mounting a file system is not permitted here");
  onTestFinished(() => {
    spawnSync("umount", ["--lazy", directory]);
  });
  return directory;
}

/** What every script has: the store's class, and a way to fill the disk. */
const prelude = `
  const { strict: assert } = await import("node:assert");
  const fs = await import("node:fs");
  const Store = require(addon)[data.store];
  const fillDisk = () => {
    const ballast = fs.openSync(data.ballast, "a");
    for (const size of [65_536, 4_096, 1]) {
      try {
        for (;;) fs.writeSync(ballast, Buffer.alloc(size));
      } catch (error) {
        assert.equal(error.code, "ENOSPC");
      }
    }
    fs.closeSync(ballast);
  };
  const settle = (promise) => promise.then(
    (value) => ({ value: value ?? null }),
    ({ code, message }) => ({ code, message }),
  );
`;

interface Outcome {
  value?: unknown;
  code?: string;
  message?: string;
}

function expectFull({ code, message }: Outcome): void {
  expect(code, message).toMatch(/^ERR_KV_(BACKEND|CONNECTION)$/);
  expect(message).toMatch(/full|disk I\/O|unable to open|space/);
}

describe.each(fileRows)("$name", (row: FileRow) => {
  function start(directory: string, script: string) {
    const path = join(directory, "fedify.db");
    const ballast = join(directory, "ballast");
    return startChild(prelude + script, { ...row, path, ballast });
  }

  async function expectEnd(child: Child) {
    child.end();
    expect(await child.rest()).toEqual(["closed"]);
    expectGoodEnd(await child.exit);
  }

  test("writes are rejected, and nothing else", async (context) => {
    const directory = await smallDisk(context, "24m");
    const child = start(
      directory,
      `
        const store = new Store(data.path, data.options);
        const value = (i) => i + ":" + "x".repeat(60_000);
        const key = (i) => ["k", String(i)];
        const stored = [];
        for (let i = 0; i < 20; i += 1) {
          await store.set(key(i), value(i));
          stored.push(i);
        }
        fillDisk();
        const writes = [
          (i) => [i, store.set(key(i), value(i))],
          (i) => [i, store.cas(key(i), undefined, value(i))],
          (i) => [i, store.set(key(i), value(i), { ttl: { hours: 1 } })],
        ];
        let next = 20;
        for (let round = 0; round < 6; round += 1) {
          // The log has some room left, and again after a checkpoint.
          let failure;
          while (failure === undefined) {
            const calls = Array.from({ length: 1 + round % 3 },
              () => writes[round % 3](next++));
            for (const [i, call] of calls) {
              const outcome = await settle(call);
              if (outcome.code === undefined) stored.push(i);
              else failure = outcome;
            }
          }
          report(failure);
          // Reads still work, and see the entries that were written, no others.
          for (let i = 0; i < next; i += 1) {
            const expected = stored.includes(i) ? value(i) : undefined;
            assert.equal(await store.get(key(i)), expected);
          }
          const entries = await Array.fromAsync(store.list(["k"]));
          assert.equal(entries.length, stored.length);
        }
        fs.rmSync(data.ballast);
        assert.equal(await store.clear(["k"]), stored.length);
        await store.set(["after"], 1);
        assert.equal(await store.get(["after"]), 1);
        assert.equal((await Array.fromAsync(store.list())).length, 1);
        await store.close();
        report("closed");
      `,
    );
    for (let round = 0; round < 6; round += 1) {
      expectFull(await child.next());
    }
    await expectEnd(child);
    const entries = await readFileOf(row, join(directory, "fedify.db"));
    expect(entries).toEqual({ after: 1 });
  });

  test("it is full from the start", async (context) => {
    const directory = await smallDisk(context, "4m");
    const child = start(
      directory,
      `
        fillDisk();
        const store = new Store(data.path, data.options);
        report(await Promise.all([
          settle(store.set(["k"], 1)),
          settle(store.cas(["k"], undefined, 1)),
          settle(store.clear(["k"])),
          settle(store.initialize()),
        ]));
        report(await settle(store.get(["k"])));
        report(await settle(Array.fromAsync(store.list())));
        fs.rmSync(data.ballast);
        await store.set(["k"], 1);
        assert.equal(await store.get(["k"]), 1);
        assert.equal((await Array.fromAsync(store.list())).length, 1);
        await store.close();
        report("closed");
      `,
    );
    (await child.next<Outcome[]>()).forEach(expectFull);
    // There may be no database to read from.
    for (const empty of [null, []]) {
      const read = await child.next<Outcome>();
      if (read.code === undefined) expect(read.value).toEqual(empty);
      else expectFull(read);
    }
    await expectEnd(child);
    const entries = await readFileOf(row, join(directory, "fedify.db"));
    expect(entries).toEqual({ k: 1 });
  });

  test("it becomes full again and again", async (context) => {
    const directory = await smallDisk(context, "16m");
    const child = start(
      directory,
      `
        const store = new Store(data.path, data.options);
        const expected = new Map();
        const large = (i) => i + "x".repeat(60_000);
        for (let round = 0; round < 6; round += 1) {
          await store.set(["k", String(round)], large(round));
          expected.set(String(round), large(round));
          fillDisk();
          // Each outcome says what is stored afterwards.
          for (let i = 0; i < 10; i += 1) {
            const key = String(i);
            const { code } = i % 2
              ? await settle(store.set(["k", key], large(round * 100 + i)))
              : await settle(store.delete(["k", key]));
            if (code === undefined) {
              if (i % 2) expected.set(key, large(round * 100 + i));
              else expected.delete(key);
            }
            assert.equal(await store.get(["k", key]), expected.get(key));
          }
          await new Promise((resolve) => setTimeout(resolve, 300));
          fs.rmSync(data.ballast);
        }
        const entries = await Array.fromAsync(store.list(["k"]));
        assert.deepEqual(
          entries.map(({ key, value }) => [key[1], value]).sort(),
          [...expected].sort(),
        );
        await store.close();
        report("closed");
      `,
    );
    await expectEnd(child);
    await readFileOf(row, join(directory, "fedify.db"));
    await rm(join(directory, "fedify.db"));
  });
});
