// Users of the server who lack rights: the error has the server's words, which
// name the right, and everything else works.
import { readFileSync } from "node:fs";
import type { Redis } from "ioredis";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  test,
} from "vitest";
import type { RedisKvStore } from "../index.js";
import { RedisCluster } from "./services/redis-cluster.mts";
import { type Program, RedisServer } from "./services/redis.mts";
import { collect, keysOf } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { type Options, openStore } from "./support/redis.mts";
import { expectRejection } from "./support/rejection.mts";

type Call = (store: RedisKvStore) => Promise<unknown>;

/** Each operation, in an order in which all of them can be carried out. */
const calls: Record<string, Call> = {
  initialize: (store) => store.initialize(),
  set: (store) => store.set(["k"], 1),
  "set with a ttl": (store) => store.set(["l"], 1, { ttl: { hours: 1 } }),
  sets: (store) => Promise.all(numbers(100).map((i) => store.set(key(i), i))),
  get: (store) => store.get(["k"]),
  gets: (store) => Promise.all(numbers(100).map((i) => store.get(key(i)))),
  cas: (store) => store.cas(["k"], 1, 2),
  list: (store) => collect(store.list(["k"])),
  delete: (store) => store.delete(["l"]),
  clear: (store) => store.clear(["k"]),
  drop: (store) => store.drop(),
};

/** The section of `docs/redis.md` about rights. */
const section = (() => {
  const path = new URL("../docs/redis.md", import.meta.url);
  const [, text = ""] = readFileSync(path, "utf8").split("\n## Rights\n");
  return text.split("\n## ")[0] ?? "";
})();
/** The rights in its example. */
const documented = [...new Set(section.match(/\+[a-z|]+/g))];
/** The rights in the first column of its table, where `|` is escaped. */
const inTable = section
  .split("\n| ")
  .flatMap((row) => row.split(" | ")[0]?.match(/`[a-z\\|]+`/g) ?? [])
  .map((command) => `+${command.replace(/[`\\]/g, "")}`);

async function expectAll(store: RedisKvStore): Promise<void> {
  for (const [name, call] of Object.entries(calls)) {
    const failed = await call(store).then(
      () => undefined,
      (error: unknown) => `${name}: ${String(error)}`,
    );
    expect(failed).toBeUndefined();
  }
}

describe.each<Program>(["redis-server", "valkey-server"])("%s", (program) => {
  let server: RedisServer;
  let redis: Redis;
  beforeAll(async () => {
    server = await RedisServer.start({}, program);
    redis = server.client();
  });
  afterAll(() => server.stop());
  beforeEach(async () => {
    await redis.flushall();
    await redis.acl("DELUSER", "kv");
  });

  async function openAs(
    rights: readonly string[],
    options: Options = {},
    path = "",
  ): Promise<RedisKvStore> {
    const user = ["on", ">secret", "~fedify::*", "~fedify:::index"];
    await redis.call("ACL", "SETUSER", "kv", ...user, ...rights);
    return openStore(`redis://kv:secret@127.0.0.1:${server.port}${path}`, {
      commandTimeout: 1_000,
      ...options,
    });
  }

  test.each([{ index: false }, { index: true }])(
    "the documented rights suffice: %o",
    async (options) => {
      expect(inTable).toEqual(expect.arrayContaining(documented));
      const store = await openAs(documented, options, "/1");
      await expectAll(store);
    },
  );

  test.each(["client", "info", "config", "hello", "ping", "mset"])(
    "everything works without %s",
    async (command) => {
      const store = await openAs(["+@all", `-${command}`]);
      await expectAll(store);
    },
  );

  test.each<[right: string, refused: readonly string[], options?: Options]>([
    ["get", ["get", "cas"]],
    ["set", ["set", "cas"]],
    ["eval", ["cas"]],
    ["mget", ["list"]],
    ["scan", ["list", "clear"]],
    ["zadd", ["set", "cas"], { index: true }],
    ["zrangebylex", ["list", "clear"], { index: true }],
    ["zrem", ["delete"], { index: true }],
  ])("without %s, %j reject and name it", async (right, refused, options) => {
    // Both are the same right for the store.
    const without = right === "eval" ? ["-eval", "-evalsha"] : [`-${right}`];
    const store = await openAs(["+@all", ...without], options);
    await redis.set("fedify::k", "1");
    await redis.zadd("fedify:::index", 0, "k");
    for (const name of refused) {
      const call = calls[name] ?? (() => store.get([name]));
      const error = await expectRejection(() => call(store), "ERR_KV_BACKEND");
      // What Redis says of a script does not name the command.
      expect(error.message).toMatch(/NOPERM|permission|executing the script/);
      expect(error.message).toMatch(new RegExp(`\\b${right}`, "i"));
      expect(error.message).not.toContain("unknown");
    }
    const works = ["initialize", "get", "list", "set", "delete"].filter(
      (name) => !refused.includes(name) && right !== "get",
    );
    for (const name of works) await calls[name]?.(store);
  });

  test.each([{ index: false }, { index: true }])(
    "keys that the user may not use: %o",
    async ({ index }) => {
      const store = await openAs(["+@all"], { index, keyPrefix: "other::" });
      for (const name of ["get", "set", "cas", "delete"]) {
        const call = calls[name] ?? (() => store.get([name]));
        const { message } = await expectRejection(
          () => call(store),
          "ERR_KV_BACKEND",
        );
        expect(message).toMatch(/NOPERM|access/);
        expect(message).toContain("key");
      }
    },
  );

  test("a database that the user may not select", async () => {
    const store = await openAs(["+@all", "-select"], {}, "/1");
    const error = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toContain("select");
  });

  test("a password that the server requires", async () => {
    await redis.config("SET", "requirepass", "secret");
    try {
      const url = `127.0.0.1:${server.port}`;
      const none = openStore(`redis://${url}`);
      const { message } = await expectRejection(
        () => none.get(["k"]),
        "ERR_KV_CONNECTION",
      );
      expect(message).toMatch(/NOAUTH|uthentication required/);
      const wrong = openStore(`redis://:wr0ng@${url}`);
      const refused = await expectRejection(
        () => wrong.get(["k"]),
        "ERR_KV_CONNECTION",
      );
      expect(refused.message).toContain("invalid username-password pair");
      await expectAll(openStore(`redis://:secret@${url}`));
    } finally {
      await redis.config("SET", "requirepass", "");
    }
  });
});

describe("a cluster", () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await RedisCluster.start();
  });
  afterAll(() => cluster.stop());

  async function openAs(rights: readonly string[]): Promise<RedisKvStore> {
    for (const node of cluster.nodes) {
      await cluster
        .clientOf(node)
        .call("ACL", "SETUSER", "kv", "reset", "on", ">secret", ...rights);
    }
    const urls = cluster.urls.map((url) => url.replace("//", "//kv:secret@"));
    return openStore(urls, { commandTimeout: 2_000 });
  }

  test("the documented rights suffice", async () => {
    const store = await openAs(["~fedify::*", ...inTable]);
    await expectAll(store);
    // Redirections need a right too.
    await Promise.all(numbers(20).map((i) => store.set(key(i), i)));
    const slot = await cluster.slotOf("fedify::k::7");
    const opened = await cluster.openSlot(slot);
    while ((await opened.moveKeys(10)) > 0);
    expect(await store.get(key(7))).toBe(7);
    expect(await keysOf(store.list())).toHaveLength(20);
    await opened.close();
    expect(await store.get(key(7))).toBe(7);
  });

  test("without the right to read the map, lists and clears reject and name it", async () => {
    const store = await openAs(["~fedify::*", "+@all", "-cluster"]);
    for (const call of [calls.list, calls.clear]) {
      const { message } = await expectRejection(
        () => call?.(store),
        "ERR_KV_BACKEND",
      );
      expect(message).toContain("cluster");
    }
  });
});
