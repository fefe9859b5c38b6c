// What a KV Connect server, or a proxy before it, may answer. The server of these
// tests has carried out what it answers wrongly.
import { serialize } from "node:v8";
import { describe, expect, test } from "vitest";
import type { DenoKvStore } from "../index.js";
import { collect, keysOf } from "./support/collect.mts";
import { type Options, openDenoStore } from "./support/deno.mts";
import { numbers } from "./support/entries.mts";
import {
  type Answer,
  type Entry,
  KvConnectServer,
  answerOf,
  conflict,
  encodeKey,
  token,
  writeDisabled,
} from "./support/kv-connect.mts";
import { expectRejection, rejection } from "./support/rejection.mts";
import { startProxy } from "./support/served.mts";

async function start(options: Options = {}) {
  const server = await KvConnectServer.start();
  const store = openDenoStore(server.url, { accessToken: token, ...options });
  return { server, store };
}

/** Answers that don't say whether a write was carried out. */
const unclear: Record<string, (good: Answer) => Answer> = {
  "a proxy's 502": () => ({ status: 502, body: "<h1>Bad Gateway</h1>" }),
  "a proxy's 504": () => ({ status: 504 }),
  "a 500": () => ({ status: 500, body: "An internal server error occurred." }),
  "a 503": () => ({ status: 503 }),
  "a 429": () => ({ status: 429 }),
  "a 408": () => ({ status: 408 }),
  "an empty 200": () => ({ status: 200 }),
  "a garbled 200": () => ({ status: 200, body: "<!doctype html>" }),
  "a 200 without versionstamp": () => ({ status: 200, body: "\x08\x01" }),
  "a 204": () => ({ status: 204 }),
  "a 302": () => ({ status: 302, headers: { location: "/login" } }),
  "a 307": () => ({ status: 307, headers: { location: "/login" } }),
  "a 400": () => ({ status: 400, body: "This database is read only." }),
  "a 401": () => ({ status: 401 }),
  "a 403": () => ({ status: 403 }),
  "a 404": () => ({ status: 404 }),
  "half an answer": (good) => ({ ...good, truncated: true }),
  "no answer": () => ({}),
};

describe.each(Object.entries(unclear))("a write is answered by %s", (_, to) => {
  type Write = (store: DenoKvStore, key: string) => Promise<unknown>;
  const writes: Record<string, [Write, value: unknown]> = {
    set: [(store, key) => store.set([key], 1), 1],
    delete: [(store, key) => store.delete([key]), undefined],
    cas: [(store, key) => store.cas([key], 0, 1), 1],
  };
  const keys = numbers(25).map(String);

  async function prepare() {
    const { server, store } = await start();
    for (const key of keys) server.put([key], 0);
    expect(await store.get(["0"])).toBe(0);
    server.answerWrite = to;
    return { server, store };
  }

  test.each(Object.entries(writes))("%s", async (_, [write, value]) => {
    const { server, store } = await prepare();
    // Alone, and with others at the same time.
    for (const some of [keys.slice(0, 1), keys.slice(1)]) {
      const errors = await Promise.all(
        some.map((key) =>
          expectRejection(() => write(store, key), "ERR_KV_CONNECTION"),
        ),
      );
      for (const { message } of errors) {
        expect(message).toContain("the outcome is unknown");
      }
    }
    expect(server.written.size).toBe(keys.length);
    expect(new Set(server.written.values())).toEqual(new Set([1]));
    for (const key of keys) expect(server.read([key])).toBe(value);
  });

  test("clear", async () => {
    const { server, store } = await prepare();
    const call = () => store.clear(["1"]);
    const error = await expectRejection(call, "ERR_KV_CONNECTION");
    expect(error.message).toContain("the outcome is unknown");
    expect(server.count.writes).toBe(1);
    expect(server.read(["1"])).toBeUndefined();
  });

  test("reads go on after it", async () => {
    const { server, store } = await prepare();
    await rejection(() => store.set(["0"], 1));
    expect(await store.get(["0"])).toBe(1);
    server.answerWrite = (good) => good;
    await store.set(["0"], 2);
    expect(server.read(["0"])).toBe(2);
  });
});

describe("what was certainly not written is repeated", () => {
  test("at an endpoint that takes no writes now", async () => {
    const { server, store } = await start();
    let refusals = 3;
    server.instead = (path) =>
      path.endsWith("/atomic_write") && (refusals -= 1) >= 0
        ? { status: 200, body: writeDisabled }
        : undefined;
    expect(await store.cas(["k"], undefined, 1)).toBe(true);
    expect(await store.get(["k"])).toBe(1);
  });

  test("if the server can't be reached", async () => {
    const { server } = await start();
    const proxy = await startProxy(server);
    const open = (commandTimeout: number) =>
      openDenoStore(proxy.url(server), { accessToken: token, commandTimeout });
    const [store, impatient] = [open(20_000), open(300)];
    expect(await store.get(["k"])).toBeUndefined();
    expect(await impatient.get(["k"])).toBeUndefined();
    proxy.refuse();
    proxy.cut();
    await proxy.until(() => proxy.connections.size === 0);
    // Once, so that the stores have noticed it.
    await rejection(() => impatient.get(["k"]));
    const written = Promise.all([
      store.set(["s"], 1),
      store.cas(["c"], undefined, 1),
      store.delete(["d"]),
    ]);
    const error = await rejection(() => impatient.set(["i"], 1));
    expect(error.code).toBe("ERR_KV_CONNECTION");
    expect(error.message).not.toContain("unknown");
    await proxy.accept();
    expect(await written).toEqual([undefined, true, undefined]);
    expect(server.read(["s"])).toBe(1);
    expect(new Set(server.written.values())).toEqual(new Set([1]));
  });

  test("if the entry has changed", async () => {
    const { server, store } = await start();
    server.put(["k"], { n: 1 });
    let changes = 2;
    server.answerRead = (good) => {
      if ((changes -= 1) >= 0) server.put(["k"], { n: 1 });
      return good;
    };
    expect(await store.cas(["k"], { n: 1 }, 2)).toBe(true);
    changes = 1;
    server.answerRead = (good) => {
      if ((changes -= 1) >= 0) server.put(["k"], 3);
      return good;
    };
    expect(await store.cas(["k"], 2, 4)).toBe(false);
  });
});

describe("entries that keep changing", () => {
  /** Another client changes an entry between each read and write. */
  async function changing() {
    const { server, store } = await start({ commandTimeout: 1_000 });
    for (const key of ["k", "l", "m"]) server.put([key], 0);
    server.answerRead = (good) => {
      server.put(["k"], 0);
      return good;
    };
    return { server, store };
  }

  test("end a cas at its deadline, and hold up no other", async () => {
    const { server, store } = await changing();
    const rejected = expectRejection(
      () => store.cas(["k"], 0, 1),
      "ERR_KV_TIMEOUT",
    );
    const others = [
      store.cas(["l"], 0, 1),
      store.cas(["m"], 0, 1),
      store.get(["m"]),
      store.set(["n"], 1),
    ];
    expect(await Promise.all(others)).toEqual([true, true, 1, undefined]);
    const error = await rejected;
    expect(error.message).toContain("other programs");
    expect(server.read(["k"])).toBe(0);
    expect(server.count.writes).toBeLessThan(200);
  });

  test("end a clear at its deadline", async () => {
    const { server, store } = await changing();
    const rejected = expectRejection(
      () => store.clear(["k"]),
      "ERR_KV_TIMEOUT",
    );
    expect(await store.get(["l"])).toBe(0);
    expect((await rejected).message).not.toContain("unknown");
    expect(server.read(["k"])).toBe(0);
    expect(server.count.writes).toBeLessThan(200);
  });

  test("don't hold up close", async () => {
    const { server, store } = await changing();
    const rejected = expectRejection(
      () => store.cas(["k"], 0, 1),
      "ERR_KV_TIMEOUT",
    );
    await store.close();
    await rejected;
    expect(server.count.writes).toBeLessThan(200);
  });

  test("even if the server says so without a reason", async () => {
    const { server, store } = await start({ commandTimeout: 1_000 });
    server.put(["k"], 0);
    server.instead = (path) =>
      path.endsWith("/atomic_write")
        ? { status: 200, body: conflict }
        : undefined;
    await expectRejection(() => store.cas(["k"], 0, 1), "ERR_KV_TIMEOUT");
    // A blind write can't meet a conflict.
    const error = await expectRejection(
      () => store.set(["k"], 1),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toContain("unknown");
  });
});

test("a cas that arrives late does not undo a newer write", async () => {
  const { server } = await start();
  const proxy = await startProxy(server);
  const store = openDenoStore(proxy.url(server), {
    accessToken: token,
    commandTimeout: 1_000,
  });
  server.put(["k"], "old");
  server.answerRead = (good) => {
    // Its write is held back.
    proxy.onConnection = (connection) => connection.stall("toServer");
    proxy.stall("toServer");
    return good;
  };
  const { message } = await rejection(() => store.cas(["k"], "old", "late"));
  expect(message).toContain("the outcome is unknown");
  server.put(["k"], "newer");
  expect(server.count.writes).toBe(0);
  proxy.resume();
  await expect.poll(() => server.count.writes).toBe(1);
  expect(server.read(["k"])).toBe("newer");
});

const stranger: Entry = {
  key: encodeKey(["stranger"]),
  value: serialize("theirs"),
  encoding: 1,
  stamp: Buffer.alloc(10, 1),
};

/** Answers to reads that don't belong to the question. */
const wrong: Record<string, (found: Entry[][]) => Answer> = {
  "fewer ranges": (found) => answerOf(found.slice(1)),
  "more ranges": (found) => answerOf([...found, []]),
  "no ranges": () => answerOf([]),
  "keys that were not asked for": (found) =>
    answerOf([[stranger], ...found.slice(1)]),
  "entries twice": (found) =>
    answerOf(found.map((entries) => [...entries, ...entries])),
  "entries in another order": (found) =>
    answerOf(found.map((entries) => [...entries, stranger].toReversed())),
  "entries without versionstamps": (found) =>
    answerOf(
      found.map((entries) =>
        entries.map((entry) => ({ ...entry, stamp: Buffer.alloc(3) })),
      ),
    ),
  nothing: () => ({ status: 200 }),
  "a page": () => ({ status: 200, body: "<!doctype html>" }),
  "a page with another status": () => ({
    status: 404,
    body: "<!doctype html>",
  }),
  "a redirect": () => ({ status: 302, headers: { location: "/login" } }),
};

describe.each(Object.entries(wrong))("a read is answered by %s", (_, to) => {
  async function prepare() {
    const { server, store } = await start();
    await store.set(["ready"], 1);
    for (const i of numbers(25)) server.put(["n", String(i)], i);
    server.answerRead = (_, found) => to(found);
    return store;
  }

  test("gets", async () => {
    const store = await prepare();
    const gets = numbers(25).map((i) =>
      expectRejection(() => store.get(["n", String(i)]), "ERR_KV_BACKEND"),
    );
    await Promise.all(gets);
  });

  test("a list", async () => {
    const store = await prepare();
    await expectRejection(() => collect(store.list(["n"])), "ERR_KV_BACKEND");
  });

  test("a cas and a clear, which write nothing", async () => {
    const store = await prepare();
    const errors = await Promise.all([
      expectRejection(() => store.cas(["n", "1"], 1, 2), "ERR_KV_BACKEND"),
      expectRejection(() => store.clear(["n"]), "ERR_KV_BACKEND"),
    ]);
    for (const { message } of errors) expect(message).not.toContain("unknown");
  });
});

describe("reads are repeated", () => {
  const passing: Record<string, (good: Answer) => Answer> = {
    "after a 502": () => ({ status: 502 }),
    "after a 429": () => ({ status: 429 }),
    "after half an answer": (good) => ({ ...good, truncated: true }),
    "after none": () => ({}),
  };
  test.each(Object.entries(passing))("%s", async (_, to) => {
    const { server, store } = await start({ commandTimeout: 20_000 });
    server.put(["k"], 1);
    let failures = 3;
    server.answerRead = (good) => ((failures -= 1) >= 0 ? to(good) : good);
    expect(await store.get(["k"])).toBe(1);
    failures = 3;
    expect(await keysOf(store.list())).toEqual([["k"]]);
    failures = 3;
    expect(await store.cas(["k"], 1, 2)).toBe(true);
  });

  test("and rejected with the server's reason in the end", async () => {
    const { server, store } = await start({ commandTimeout: 2_000 });
    server.answerRead = () => ({ status: 503, body: "out of order" });
    const error = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toContain("503 Service Unavailable: out of order");
  });

  test("not before the server wants them", async () => {
    const { server, store } = await start({ commandTimeout: 20_000 });
    const times: number[] = [];
    server.answerRead = (good) => {
      times.push(performance.now());
      const headers = { "retry-after": "1" };
      return times.length === 1 ? { status: 429, headers } : good;
    };
    await store.get(["k"]);
    const [first = 0, second = 0] = times;
    // The store's clock is not exactly ours.
    expect(second - first).toBeGreaterThan(950);
  });
});

test("one value in an unknown encoding hides no other", async () => {
  const { server, store } = await start();
  server.put(["a"], 1);
  server.put(["b"], 2);
  server.answerRead = (_, found) => {
    const isA = ({ key }: Entry) => key.equals(encodeKey(["a"]));
    const strange = (entry: Entry) =>
      isA(entry) ? { ...entry, encoding: 2 } : entry;
    return answerOf(found.map((entries) => entries.map(strange)));
  };
  const both = Promise.all([
    expectRejection(() => store.get(["a"]), "ERR_KV_CORRUPT"),
    store.get(["b"]),
  ]);
  expect((await both)[1]).toBe(2);
  expect(await keysOf(store.list())).toEqual([["b"]]);
});

test("drop deletes everything, in many steps", async () => {
  const { server, store } = await start();
  for (const i of numbers(700)) server.put(["n", String(i)], i);
  await store.drop();
  expect(server.entries.size).toBe(0);
  expect(await store.get(["n", "1"])).toBeUndefined();
});
