// URLs and paths from files with secrets, which often end with a line break.
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import {
  DenoKvStore,
  MysqlKvStore,
  PostgresKvStore,
  RedisKvStore,
  SqliteKvStore,
  openKvStore,
} from "../index.js";
import { temporaryDirectory } from "./support/sqlite.mts";

/** The same with white space around it. */
const spaced = (url: string) => [`${url}\n`, `\ufeff \t${url}\r\n`];

test("white space around the URL of a server is ignored", () => {
  const accessToken = "token";
  // Nothing connects before the first operation, so no server is needed.
  for (const url of spaced("redis://localhost:6379/0")) {
    new RedisKvStore(url);
    new RedisKvStore([url, "redis://localhost:6380"]);
    openKvStore(url);
  }
  for (const url of spaced("unix:///run/redis.sock?db=1"))
    new RedisKvStore(url);
  for (const url of spaced("postgres://localhost/app")) {
    new PostgresKvStore(url);
    openKvStore(url);
  }
  for (const url of spaced("mysql://localhost/app")) {
    new MysqlKvStore(url);
    openKvStore(url);
  }
  for (const url of spaced("mysql://localhost/app?ssl-mode=REQUIRED")) {
    new MysqlKvStore(url);
  }
  for (const url of spaced("https://localhost")) {
    new DenoKvStore(url, { accessToken });
    openKvStore(`denokv:${url.trim()}\n`, { accessToken });
  }
});

test("white space around a URL names no other file", async () => {
  for (const scheme of ["sqlite", "denokv"]) {
    const directory = await temporaryDirectory();
    const url = `${scheme}:${join(directory, "app.db")}`;
    for (const [count, text] of [url, ...spaced(url)].entries()) {
      const store = openKvStore(text);
      expect(await store.get(["k"])).toBe(count === 0 ? undefined : 1);
      await store.set(["k"], 1);
      await store.close();
    }
    const files = await readdir(directory);
    expect(files.filter((name) => !name.startsWith("app.db"))).toEqual([]);
    expect(files.filter((name) => /\s/.test(name))).toEqual([]);
  }
  for (const text of spaced("memory:")) await openKvStore(text).close();
});

test("a path is taken literally, but not with a line break around it", async () => {
  const directory = await temporaryDirectory();
  for (const [Store, name] of [
    [SqliteKvStore, " sqlite app.db "],
    [DenoKvStore, " deno app.db "],
  ] as const) {
    const path = join(directory, name);
    for (const bad of [`${path}\n`, `${path}\r\n`, `\n${path}`, ":memory:\n"]) {
      expect(() => new Store(bad)).toThrow(
        expect.objectContaining({
          code: "ERR_KV_INVALID_OPTION",
          message: expect.stringContaining("line break"),
        }),
      );
    }
    const store = new Store(path);
    onTestFinished(() => store.close());
    await store.set(["k"], 1);
    expect(await readdir(directory)).toContain(name);
  }
});
