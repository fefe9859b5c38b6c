// What is special about RedisKvStore: URLs, options, connections.
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import { RedisKvStore, openKvStore } from "../index.js";
import { RedisServer } from "./services/redis.mts";
import { collect } from "./support/collect.mts";
import { openStore } from "./support/redis.mts";
import { expectRejection } from "./support/rejection.mts";

let server: RedisServer;

beforeAll(async () => {
  server = await RedisServer.start();
});
afterAll(() => server.stop());
beforeEach(async () => {
  await server.client().flushall();
});

describe("URLs", () => {
  test("openKvStore opens them", async () => {
    for (const url of [
      server.url,
      server.url.replace("redis:", "valkey:"),
      `redis+unix://${server.socket}`,
      `unix://${server.socket}`,
    ]) {
      await using store = openKvStore(url);
      expect(store).toBeInstanceOf(RedisKvStore);
      expect(await store.cas(["k"], undefined, 1)).toBe(true);
      await store.drop();
    }
    await using store = openKvStore(server.url, { keyPrefix: "mine/" });
    await store.set(["k"], 1);
    expect(await server.client().keys("*")).toEqual(["mine/k"]);
  });

  test("the path is the database", async () => {
    const zero = openStore(server.url);
    const three = openStore(`${server.url}/3`);
    const socket = openStore(`unix://${server.socket}?db=3`);
    await three.set(["k"], 3);
    expect(await zero.get(["k"])).toBeUndefined();
    expect(await socket.get(["k"])).toBe(3);
    await zero.drop();
    expect(await three.get(["k"])).toBe(3);
    const none = openStore(`${server.url}/999`);
    await expectRejection(() => none.get(["k"]), "ERR_KV_CONNECTION");
  });

  test.each([
    "",
    "redis:",
    "redis://",
    "http://user:secret@host",
    "redis://user:secret@host/x",
    "redis://user:secret@host:x",
    "redis://user:secret@host?db=1",
    "redis://user:secret@host#1",
    "redis+cluster://user:secret@host/1",
    [],
    [1],
    ["redis://a", "rediss://user:secret@b"],
    ["redis://a", "unix:///b"],
    undefined,
    null,
    7,
  ])("%o is refused", (url) => {
    let thrown: unknown;
    try {
      openStore(url as string);
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toMatchObject({ code: "ERR_KV_INVALID_OPTION" });
    expect(String(thrown)).not.toContain("secret");
  });
});

test.each([
  { keyPrefix: 1 },
  { keyPrefix: "\ud800" },
  { index: 1 },
  { connectTimeout: 0 },
  { connectTimeout: "1" },
  { commandTimeout: -1 },
  { commandTimeout: NaN },
  { queueLimit: 0 },
  { queueLimit: 1.5 },
  { tls: 1 },
  { tls: {} },
  7,
])("invalid options are refused: %o", (options) => {
  expect(() => openStore(server.url, options as object)).toThrow(
    expect.objectContaining({ code: "ERR_KV_INVALID_OPTION" }),
  );
});

describe("passwords", () => {
  const password = "s3cr:et/ @#?%";

  test("a user with a password can log in, a wrong password rejects", async () => {
    const client = server.client();
    const rights = ["~fedify::*", "+@all", "-@dangerous", "-@admin"];
    await client.call("ACL", "SETUSER", "kv", "on", `>${password}`, ...rights);
    const { host } = new URL(server.url);
    const right = openStore(
      `redis://kv:${encodeURIComponent(password)}@${host}`,
    );
    await right.set(["k"], 1);
    expect(await right.cas(["k"], 1, 2)).toBe(true);
    expect(await collect(right.list())).toEqual([{ key: ["k"], value: 2 }]);
    const wrong = openStore(`redis://kv:wr0ngpass@${host}`);
    const begin = performance.now();
    for (const call of [
      () => wrong.get(["k"]),
      () => wrong.set(["k"], 1),
      () => wrong.cas(["k"], 1, 2),
      () => wrong.initialize(),
      () => wrong.list().next(),
    ]) {
      const error = await expectRejection(call, "ERR_KV_CONNECTION");
      expect(error.message).not.toContain("wr0ngpass");
    }
    expect(performance.now() - begin).toBeLessThan(3_000);
    expect(await right.get(["k"])).toBe(2);
  });

  test("a server may require a password", async () => {
    const client = server.client();
    await client.config("SET", "requirepass", password);
    try {
      const { host } = new URL(server.url);
      const none = openStore(server.url);
      const error = await expectRejection(
        () => none.get(["k"]),
        "ERR_KV_CONNECTION",
      );
      expect(error.message).toContain("uthentication required");
      const right = openStore(
        `redis://:${encodeURIComponent(password)}@${host}`,
      );
      await right.set(["k"], 1);
    } finally {
      await client.config("SET", "requirepass", "");
    }
  });

  test("operations without the right reject, others work", async () => {
    const client = server.client();
    const rights = ["nopass", "~fedify::*", "+get", "+client"];
    await client.call("ACL", "SETUSER", "reader", "on", ...rights);
    const { host } = new URL(server.url);
    const store = openStore(`redis://reader:any@${host}`);
    expect(await store.get(["k"])).toBeUndefined();
    const error = await expectRejection(
      () => store.set(["k"], 1),
      "ERR_KV_BACKEND",
    );
    expect(error.message).toContain("NOPERM");
  });
});

test("the store opens few connections, at its first operation", async () => {
  const client = server.client();
  const ids = async () => {
    const list = String(await client.call("CLIENT", "LIST", "TYPE", "normal"));
    return Array.from(list.matchAll(/^id=\d+/gm), String);
  };
  // Connections of earlier tests may take a moment to end.
  const before = await ids();
  const connections = async () =>
    (await ids()).filter((id) => !before.includes(id));
  const store = openStore(server.url, { maxConnections: 2 });
  store.list();
  expect(await connections()).toEqual([]);
  await Promise.all([
    ...Array.from({ length: 100 }, (_, i) => store.set(["k", String(i)], i)),
    collect(store.list()),
    store.initialize(),
  ]);
  expect((await connections()).length).toBeOneOf([1, 2]);
  await store.close();
  await expect.poll(connections).toEqual([]);
});

test("lists are in the order of the names in Redis", async () => {
  const store = openStore(server.url);
  const parts = ["b", "a", "B", "é", "😀", "", ":", "_", "a!", "10", "9"];
  await Promise.all(parts.map((part) => store.set(["k", part], part)));
  await store.set(["k"], "itself");
  const values = (await collect(store.list(["k"]))).map(({ value }) => value);
  const names = ["itself", ...parts].map((value) => ({
    value,
    name: Buffer.from(
      value === "itself" ? "k" : `k::${value.replaceAll(":", "_:")}`,
    ),
  }));
  names.sort((a, b) => a.name.compare(b.name));
  expect(values).toEqual(names.map(({ value }) => value));
});

test("100 values of a megabyte can be listed", async () => {
  const store = openStore(server.url);
  const value = "x".repeat(2 ** 20);
  for (let i = 0; i < 100; i += 1) {
    await store.set(["k", String(i)], value);
  }
  let count = 0;
  for await (const entry of store.list({ prefix: ["k"], pageSize: 4 })) {
    expect(entry.value).toHaveLength(2 ** 20);
    count += 1;
  }
  expect(count).toBe(100);
});
