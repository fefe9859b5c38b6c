// Failures of the server: every operation settles, a resolved write has
// happened, and the store works again when the server does.
import type { Redis } from "ioredis";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Program, RedisServer } from "./services/redis.mts";
import { collect, keysOf } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { recovers, writeThrough, writeThroughCuts } from "./support/faults.mts";
import { openStore } from "./support/redis.mts";
import { expectRejection, rejection } from "./support/rejection.mts";
import { closing } from "./support/sockets.mts";

describe.each<Program>(["redis-server", "valkey-server"])("%s", (program) => {
  let server: RedisServer;
  let redis: Redis;

  beforeEach(async () => {
    // With these settings, acknowledged writes survive a crash of the server.
    server = await RedisServer.start(
      { appendonly: "yes", appendfsync: "always" },
      program,
    );
    redis = server.client();
  });
  afterEach(() => server.stop());

  test.each([{ index: false }, { index: true }])(
    "1,000 operations settle while the server is killed and restarted: %o",
    async (options) => {
      const store = openStore(server.url, options);
      await store.initialize();
      await writeThrough(store, async () => {
        await server.kill();
        await server.start();
      });
      expect(await keysOf(store.list(["k"]))).not.toHaveLength(0);
    },
  );

  test("operations time out while the server is paused, then recover", async () => {
    const store = openStore(server.url, { commandTimeout: 200 });
    await store.set(["k"], "before");
    await server.pause();
    const calls = [
      () => store.get(["k"]),
      () => store.set(["k"], "during"),
      () => store.cas(["k"], "before", "during"),
      () => store.delete(["k"]),
      () => store.list().next(),
      () => store.clear(["k"]),
    ];
    for (const call of calls) {
      const error = await rejection(call);
      expect(["ERR_KV_TIMEOUT", "ERR_KV_CONNECTION"]).toContain(error.code);
    }
    const late = store.set(["k"], "after");
    server.resume();
    await late.catch(() => {});
    await recovers(() => store.set(["k"], "at last"));
    // A write that timed out must not be carried out later.
    for (let i = 0; i < 100; i += 1) {
      expect(await store.get(["k"])).toBe("at last");
    }
  });

  test("a write that times out says that its outcome is unknown", async () => {
    const store = openStore(server.url, { commandTimeout: 100 });
    // There is a connection for it.
    await store.get(["k"]);
    await server.pause();
    const write = await expectRejection(
      () => store.set(["k"], 1),
      "ERR_KV_TIMEOUT",
    );
    expect(write.message).toContain("unknown");
    server.resume();
  });

  test("operations succeed while connections are killed", async () => {
    const store = openStore(server.url);
    const cuts = await writeThroughCuts(store, 100, async () =>
      Number(
        await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
      ),
    );
    expect(cuts).toBeGreaterThan(50);
    expect(await collect(store.list(["k"]))).toHaveLength(51);
  });

  test("no operation fails because an idle connection was killed", async () => {
    const store = openStore(server.url);
    for (let i = 0; i < 20; i += 1) {
      await store.set(["k"], i);
      const own = await redis.client("ID");
      const clients = String(await redis.client("LIST")).split("\n");
      const others = clients.filter((line) => !line.startsWith(`id=${own} `));
      const closed = await closing(
        others.map((line) => Number(/ addr=.*?:(\d+)/.exec(line)?.[1])),
      );
      await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      await closed();
      expect(await store.cas(["k"], i, "mine")).toBe(true);
    }
  });

  test("a cas with an unknown outcome rejects and says so", async () => {
    const store = openStore(server.url);
    await store.set(["k"], 0);
    let unknown = 0;
    for (let i = 0; unknown === 0; i += 1) {
      const value = await store.get(["k"]);
      const settled = Promise.allSettled([
        store.cas(["k"], value, i + 1),
        ...numbers(50).map((n) => store.cas(["k", String(n)], undefined, i)),
      ]);
      await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      const outcomes = await settled;
      for (const outcome of outcomes) {
        if (outcome.status === "rejected") {
          unknown += 1;
          expect(outcome.reason.code).toBe("ERR_KV_CONNECTION");
          expect(outcome.reason.message).toContain("unknown");
        }
      }
      const [first] = outcomes;
      if (first?.status === "fulfilled") {
        expect(first.value).toBe(true);
        expect(await store.get(["k"])).toBe(i + 1);
      }
      await store.clear(["k", "0"]);
    }
  });

  test.each([{ index: false }, { index: true }])(
    "writes reject while the server is out of memory: %o",
    async (options) => {
      const store = openStore(server.url, options);
      await store.set(["k"], "old");
      await redis.config("SET", "maxmemory", "1");
      const calls = [
        () => store.set(["k"], "new"),
        () => store.cas(["k"], "old", "new"),
        () => store.cas(["l"], undefined, "new"),
      ];
      for (const call of calls) {
        const error = await expectRejection(call, "ERR_KV_BACKEND");
        expect(error.message).toContain("OOM");
      }
      expect(await collect(store.list())).toEqual([
        { key: ["k"], value: "old" },
      ]);
      await store.delete(["k"]);
      expect(await store.get(["k"])).toBeUndefined();
      await redis.config("SET", "maxmemory", "0");
      expect(await store.cas(["k"], undefined, "new")).toBe(true);
    },
  );

  test("a replica refuses writes until it is promoted", async () => {
    const replica = await RedisServer.start({}, program);
    try {
      await redis.set("fedify::k", "1");
      const other = replica.client();
      await other.call("REPLICAOF", "127.0.0.1", server.port);
      await expect
        .poll(() => other.get("fedify::k"), { timeout: 15_000 })
        .toBe("1");
      const store = openStore(replica.url, { commandTimeout: 1_000 });
      expect(await store.get(["k"])).toBe(1);
      for (const call of [
        () => store.set(["k"], 2),
        () => store.cas(["k"], 1, 2),
        () => store.delete(["k"]),
      ]) {
        const error = await expectRejection(call, "ERR_KV_TIMEOUT");
        expect(error.message).toContain("READONLY");
        expect(error.message).not.toContain("unknown");
      }
      expect(await store.get(["k"])).toBe(1);
      await other.call("REPLICAOF", "NO", "ONE");
      expect(await store.cas(["k"], 1, 2)).toBe(true);
    } finally {
      await replica.stop();
    }
  });

  test("a server that was never reached rejects at once", async () => {
    await server.kill();
    const store = openStore(server.url);
    const begin = performance.now();
    const error = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toContain(`127.0.0.1:${server.port}`);
    await expectRejection(() => store.initialize(), "ERR_KV_CONNECTION");
    await expectRejection(() => store.list().next(), "ERR_KV_CONNECTION");
    await expectRejection(() => store.clear(["k"]), "ERR_KV_CONNECTION");
    expect(performance.now() - begin).toBeLessThan(4_000);
    await server.start();
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  });

  test("an unknown host rejects, without secrets", async () => {
    const store = openStore("redis://user:secret@nowhere.invalid:1");
    const error = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toContain("nowhere.invalid:1");
    expect(error.message).not.toContain("secret");
  });

  test("operations wait for a stopped server until the timeout", async () => {
    const store = openStore(server.url, { commandTimeout: 300 });
    await store.set(["k"], 1);
    await server.kill();
    const begin = performance.now();
    const calls = [
      () => store.get(["k"]),
      () => store.set(["k"], 2),
      () => store.cas(["k"], 1, 2),
    ];
    await Promise.all(
      calls.map((call) => expectRejection(call, "ERR_KV_CONNECTION")),
    );
    await expectRejection(() => store.list().next(), "ERR_KV_CONNECTION");
    expect(performance.now() - begin).toBeLessThan(3_000);
    await server.start();
    await recovers(() => store.get(["k"]));
    expect(await store.get(["k"])).toBe(1);
  });

  test("operations wait for a server that is restarted", async () => {
    const store = openStore(server.url);
    await store.set(["k"], 1);
    await server.kill();
    const answers = Promise.all([
      store.get(["k"]),
      store.set(["l"], 2),
      collect(store.list(["l"])),
      // The cas may have been sent on the connection that was just closed. Its
      // outcome is then unknown.
      store
        .cas(["m"], undefined, 3)
        .catch((error: { code: string }) => error.code),
    ]);
    await server.start();
    const [got, set, listed, swapped] = await answers;
    expect([got, set, listed]).toEqual([
      1,
      undefined,
      [{ key: ["l"], value: 2 }],
    ]);
    expect([true, "ERR_KV_CONNECTION"]).toContain(swapped);
  });

  test("calls beyond queueLimit reject", async () => {
    const store = openStore(server.url, {
      queueLimit: 100,
      commandTimeout: 500,
    });
    await store.initialize();
    await server.pause();
    const calls = numbers(150).map((i) => store.set(key(i), i));
    const outcomes = await Promise.allSettled(calls);
    const codes = outcomes.map((outcome) =>
      outcome.status === "rejected" ? outcome.reason.code : "",
    );
    expect(codes.slice(0, 100)).toEqual(Array(100).fill("ERR_KV_TIMEOUT"));
    expect(codes.slice(100)).toEqual(Array(50).fill("ERR_KV_BACKEND"));
    server.resume();
    await recovers(() => store.set(["k"], 1));
    expect(await store.get(["k"])).toBe(1);
  });

  test("close() resolves even if the server does not answer", async () => {
    const store = openStore(server.url, { commandTimeout: 200 });
    await store.set(["k"], 1);
    await server.pause();
    const write = expectRejection(() => store.set(["k"], 2), "ERR_KV_TIMEOUT");
    await store.close();
    await write;
    server.resume();
  });

  test("scripts are loaded again after SCRIPT FLUSH", async () => {
    const store = openStore(server.url, { index: true });
    for (let i = 0; i < 20; i += 1) {
      await redis.script("FLUSH");
      const [, first, , second, swapped] = await Promise.all([
        store.set(["k"], i),
        store.get(["k"]),
        store.set(["k"], [i]),
        store.get(["k"]),
        store.cas(["k"], [i], "mine"),
      ]);
      expect([first, second, swapped]).toEqual([i, [i], true]);
      await redis.script("FLUSH");
      expect(await store.clear(["k"])).toBe(1);
    }
  });

  test("operations wait while the server loads its data", async () => {
    // The server loads slowly, and answers LOADING meanwhile.
    const slow = await RedisServer.start(
      {
        "key-load-delay": 1_000,
        "loading-process-events-interval-bytes": 1024,
      },
      program,
    );
    try {
      const store = openStore(slow.url, { commandTimeout: 20_000 });
      await Promise.all(numbers(2_000).map((i) => store.set(key(i), i)));
      await slow.client().save();
      await slow.kill();
      const started = slow.start();
      const other = slow.client({ enableReadyCheck: false });
      await expect
        .poll(async () => String(await other.ping().catch(String)))
        .toContain("LOADING");
      // New stores, so that each connects while the server loads.
      const opened = () => openStore(slow.url, { commandTimeout: 20_000 });
      const outcomes = await Promise.all([
        store.get(key(7)),
        opened().get(key(7)),
        opened().set(key(6), "new"),
        collect(opened().list(["k", "8"])),
        opened().clear(["k", "9"]),
        opened().cas(key(10), 10, "new"),
      ]);
      expect(outcomes).toEqual([
        7,
        7,
        undefined,
        [{ key: key(8), value: 8 }],
        1,
        true,
      ]);
      await started;
      expect(await other.info("errorstats")).toContain("errorstat_LOADING");
    } finally {
      await slow.stop();
    }
  });
});
