// Failures of the server: every operation settles, a resolved write has
// happened, and the store works again when the server does.
import { spawnSync } from "node:child_process";
import { chown, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Sql } from "postgres";
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  expect,
  test,
} from "vitest";
import { pause } from "./services/pause.mts";
import { PostgresServer, owner } from "./services/postgres.mts";
import { collect, keysOf } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { recovers, writeThrough, writeThroughCuts } from "./support/faults.mts";
import { type Options, openStore } from "./support/postgres.mts";
import { expectRejection, rejection } from "./support/rejection.mts";
import { closing } from "./support/sockets.mts";

let server: PostgresServer;
let sql: Sql;

beforeAll(async () => {
  server = await PostgresServer.start({ settings: { max_connections: 20 } });
});
afterAll(() => server.stop());
beforeEach(async () => {
  if (!server.isRunning) {
    await server.start();
  }
  sql = server.client();
  await sql`DROP TABLE IF EXISTS fedify_kv_v2`;
});
afterEach(() => sql.end({ timeout: 0 }));

/** The stores' connections, which have a name of their own. */
const ours = () => sql`
  SELECT pid, client_port, state, query FROM pg_stat_activity
  WHERE application_name = 'fedify-kv'`;

const active = async () =>
  (await ours()).filter(({ state }) => state === "active");

const terminate = () => sql`
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE application_name = 'fedify-kv'`;

test.each(["SIGQUIT", "SIGINT"] as const)(
  "1,000 operations settle while the server is stopped by %s and restarted",
  async (signal) => {
    // Long, because the server's recovery may take some time.
    const store = openStore(server.url, { queryTimeout: 30_000 });
    await store.initialize();
    await writeThrough(store, async () => {
      await server.kill(signal);
      await server.start();
    });
  },
  120_000,
);

test("operations succeed while backends are terminated", async () => {
  const store = openStore(server.url);
  const cuts = await writeThroughCuts(
    store,
    50,
    async () => (await terminate()).length,
  );
  expect(cuts).toBeGreaterThan(25);
  expect(await collect(store.list(["k"]))).toHaveLength(51);
});

test("no operation fails because an idle connection was terminated", async () => {
  const store = openStore(server.url);
  for (let i = 0; i < 10; i += 1) {
    await store.set(["k"], i);
    const closed = await closing((await ours()).map((row) => row.client_port));
    await terminate();
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
    await terminate();
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
    await store.delete(["k", "0"]);
  }
});

test("operations reject while the server has no free connection", async () => {
  await sql`DROP ROLE IF EXISTS app`;
  await sql`CREATE ROLE app LOGIN PASSWORD 'secret'`;
  await sql`GRANT ALL ON SCHEMA public TO app`;
  const url = server.urlOf({ user: "app", password: "secret" });
  // Connections of earlier tests may take a moment to end.
  await expect.poll(ours).toHaveLength(0);
  const connected = openStore(url);
  await connected.set(["k"], 1);
  // The server has 17 connections for all users, and 3 for superusers.
  const others = numbers(17).map(() =>
    server.client({ max: 1, username: "app", password: "secret" }),
  );
  // The last connections of earlier tests may still occupy some.
  await expect
    .poll(async () => {
      await Promise.allSettled(others.map((other) => other`SELECT 1`));
      return sql`
        SELECT FROM pg_stat_activity WHERE backend_type = 'client backend'`;
    })
    .toHaveLength(17);
  const store = openStore(url);
  const error = await expectRejection(
    () => store.get(["k"]),
    "ERR_KV_CONNECTION",
  );
  expect(error.message).toMatch(/connection slots|too many clients/);
  expect(error.message).not.toContain("secret");
  // A store that has a connection still works.
  await Promise.all(numbers(500).map((i) => connected.set(key(i), i)));
  expect(await connected.get(["k"])).toBe(1);
  await Promise.all(others.map((other) => other.end({ timeout: 0 })));
  await recovers(() => store.get(["k"]));
  expect(await store.get(["k"])).toBe(1);
  await Promise.all([store.close(), connected.close()]);
  await sql`DROP OWNED BY app`;
  await sql`DROP ROLE app`;
});

test("writes reject in a read-only database, and reads work", async () => {
  const store = openStore(server.url, { queryTimeout: 1_000 });
  await store.set(["k"], "old");
  await sql`ALTER DATABASE postgres SET default_transaction_read_only = on`;
  try {
    await terminate();
    await recovers(() => store.get(["k"]));
    for (const call of [
      () => store.set(["k"], "new"),
      () => store.cas(["k"], "old", "new"),
      () => store.cas(["l"], undefined, "new"),
      () => store.delete(["k"]),
      () => store.clear(["k"]),
    ]) {
      const error = await expectRejection(call, "ERR_KV_BACKEND");
      expect(error.message).toContain("read-only transaction");
    }
    expect(await collect(store.list())).toEqual([{ key: ["k"], value: "old" }]);
  } finally {
    await sql.begin("READ WRITE", async (sql) => {
      await sql`ALTER DATABASE postgres RESET default_transaction_read_only`;
    });
  }
  await terminate();
  await recovers(() => store.set(["k"], "new"));
  expect(await store.get(["k"])).toBe("new");
});

test("operations without the privilege reject, others work", async () => {
  await sql`DROP ROLE IF EXISTS reader`;
  await sql`CREATE ROLE reader LOGIN PASSWORD 'secret'`;
  const url = server.urlOf({ user: "reader", password: "secret" });
  const store = openStore(url);
  for (const call of [
    () => store.get(["k"]),
    () => store.set(["k"], 1),
    () => store.initialize(),
  ]) {
    const error = await expectRejection(call, "ERR_KV_BACKEND");
    expect(error.message).toContain("permission denied");
  }
  await openStore(server.url).set(["k"], 1);
  await sql`GRANT SELECT ON fedify_kv_v2 TO reader`;
  const reader = openStore(url, { initialized: true });
  for (const each of [store, reader]) {
    await each.initialize();
    expect(await each.get(["k"])).toBe(1);
    expect(await keysOf(each.list())).toEqual([["k"]]);
    for (const call of [
      () => each.set(["k"], 2),
      () => each.cas(["k"], 1, 2),
      () => each.delete(["k"]),
    ]) {
      const error = await expectRejection(call, "ERR_KV_BACKEND");
      expect(error.message).toContain("permission denied");
    }
  }
  await sql`GRANT INSERT, UPDATE, DELETE ON fedify_kv_v2 TO reader`;
  expect(await reader.cas(["k"], 1, 2)).toBe(true);
  await sql`DROP OWNED BY reader`;
  await sql`DROP ROLE reader`;
});

test("initialized: true never creates the table", async () => {
  const store = openStore(server.url, { initialized: true });
  await store.initialize();
  for (const call of [() => store.get(["k"]), () => store.set(["k"], 1)]) {
    const error = await expectRejection(call, "ERR_KV_BACKEND");
    expect(error.message).toContain("does not exist");
  }
  await openStore(server.url).initialize();
  await store.set(["k"], 1);
  expect(await store.get(["k"])).toBe(1);
});

test("a table that another session dropped is created again", async () => {
  const store = openStore(server.url);
  await store.set(["k"], 1);
  for (const call of [
    () => store.get(["k"]),
    () => store.set(["k"], 1),
    () => Promise.all(numbers(100).map((i) => store.set(key(i), i))),
    () => store.cas(["k"], undefined, 1),
    () => store.delete(["k"]),
    () => collect(store.list()),
    () => store.clear(["k"]),
  ]) {
    await sql`DROP TABLE fedify_kv_v2`;
    await call();
    await store.initialize();
  }
});

test("statements that wait too long for a lock are cancelled on the server", async () => {
  const store = openStore(server.url, { queryTimeout: 1_200 });
  for (const i of numbers(20)) await store.set(key(i), "old");
  await sql.begin(async (sql) => {
    await sql`SELECT * FROM fedify_kv_v2 WHERE key = ${["k", "7"]} FOR UPDATE`;
    const begin = performance.now();
    const outcomes = await Promise.allSettled([
      ...numbers(20).map((i) => store.set(key(i), "new")),
      store.get(key(7)),
    ]);
    expect(performance.now() - begin).toBeLessThan(6_000);
    for (const [i, outcome] of outcomes.slice(0, 20).entries()) {
      // Writes of other keys succeed.
      expect(outcome.status, String(i)).toBe(
        i === 7 ? "rejected" : "fulfilled",
      );
    }
    expect(outcomes[7]).toMatchObject({ reason: { code: "ERR_KV_TIMEOUT" } });
    expect(outcomes[20]).toEqual({ status: "fulfilled", value: "old" });
    for (const call of [
      () => store.cas(key(7), "old", "new"),
      () => store.delete(key(7)),
      () => store.clear(["k"]),
    ]) {
      await expectRejection(call, "ERR_KV_TIMEOUT");
    }
    await expect.poll(active).toHaveLength(0);
  });
  expect(await store.get(key(7))).toBe("old");
  await store.set(key(7), "new");
  expect(await store.cas(key(7), "new", "at last")).toBe(true);
});

test("return() cancels a list's statement that waits for a lock", async () => {
  const store = openStore(server.url, { maxConnections: 1 });
  await store.set(["k"], 1);
  await sql.begin(async (sql) => {
    await sql`LOCK TABLE fedify_kv_v2 IN ACCESS EXCLUSIVE MODE`;
    const list = store.list();
    const next = list.next();
    await expect.poll(active).toHaveLength(1);
    await Promise.all([list.return?.(), next]);
    await expect.poll(active).toHaveLength(0);
  });
  // The connection still works.
  expect(await store.get(["k"])).toBe(1);
  expect(await ours()).toHaveLength(1);
});

test("deadlocks and serialization failures are repeated", async () => {
  await sql`ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'`;
  await sql`ALTER DATABASE postgres SET deadlock_timeout = '10ms'`;
  try {
    const stores = numbers(3).map(() =>
      openStore(server.url, { queryTimeout: 20_000 }),
    );
    await Promise.all(stores.map((store) => store.initialize()));
    for (let round = 0; round < 20; round += 1) {
      await Promise.all(
        stores.flatMap((store, n) => [
          ...numbers(40).map((i) => store.set(key((i * 7 + n * 13) % 40), n)),
          ...numbers(40).map((i) =>
            i % 2 === 0
              ? store.cas(["race", String(round), String(i)], undefined, n)
              : store.delete(key(i)),
          ),
        ]),
      );
    }
    const winners = await Promise.all(
      stores.map((store, n) => store.cas(["winner"], undefined, n)),
    );
    expect(winners.filter(Boolean)).toHaveLength(1);
  } finally {
    await sql`ALTER DATABASE postgres RESET ALL`;
  }
});

test("a connection whose backend does not answer is replaced", async () => {
  const store = openStore(server.url, {
    queryTimeout: 1_000,
    maxConnections: 1,
  });
  await store.set(["k"], "before");
  const [backend] = await ours();
  const pid: number = backend?.pid;
  await pause(pid);
  try {
    const write = await expectRejection(
      () => store.set(["k"], "during"),
      "ERR_KV_TIMEOUT",
    );
    expect(write.message).toContain("unknown");
  } finally {
    process.kill(pid, "SIGCONT");
  }
  await expect
    .poll(async () => (await ours()).some((row) => row.pid === pid))
    .toBe(false);
  await store.set(["k"], "after");
  expect(await store.get(["k"])).toBe("after");
});

test("a server that was never reached rejects at once", async () => {
  await server.kill();
  const store = openStore(server.url);
  const begin = performance.now();
  const calls: (() => Promise<unknown>)[] = [
    () => store.get(["k"]),
    () => store.set(["k"], 1),
    () => store.initialize(),
    () => store.list().next(),
    () => store.clear(["k"]),
  ];
  for (const call of calls) {
    const error = await expectRejection(call, "ERR_KV_CONNECTION");
    expect(error.message).toContain(`127.0.0.1:${server.port}`);
  }
  const many = await Promise.allSettled(
    numbers(2_000).map((i) => store.get(key(i))),
  );
  expect(many.every(({ status }) => status === "rejected")).toBe(true);
  expect(performance.now() - begin).toBeLessThan(4_000);
  await server.start();
  await store.set(["k"], 1);
  expect(await store.get(["k"])).toBe(1);
});

test("a failed login rejects with the reason, without secrets", async () => {
  const begin = performance.now();
  const failing: [string, Options, RegExp][] = [
    [server.urlOf({ password: "secret" }), {}, /authentication failed/],
    [
      server.urlOf({ user: "nobody", password: "secret" }),
      {},
      /authentication/,
    ],
    [server.urlOf({ database: "nowhere" }), {}, /"nowhere" does not exist/],
    ["postgres://u:secret@nowhere.invalid:1/x", {}, /nowhere\.invalid:1/],
    [`${server.url}?sslmode=require`, {}, /TLS/i],
  ];
  for (const [url, options, words] of failing) {
    const store = openStore(url, options);
    for (const call of [() => store.get(["k"]), () => store.set(["k"], 1)]) {
      const error = await expectRejection(call, "ERR_KV_CONNECTION");
      expect(error.message).toMatch(words);
      expect(error.message).not.toContain("secret");
      expect(error.message).not.toContain(server.password);
    }
  }
  expect(performance.now() - begin).toBeLessThan(10_000);
});

test("operations wait for a stopped server until the timeout", async () => {
  const store = openStore(server.url, { queryTimeout: 1_000 });
  await store.set(["k"], 1);
  await server.kill("SIGINT");
  const begin = performance.now();
  const calls = [
    () => store.get(["k"]),
    () => store.set(["k"], 2),
    () => store.cas(["k"], 1, 2),
    () => store.list().next(),
    () => store.clear(["k"]),
  ];
  for (const error of await Promise.all(calls.map((call) => rejection(call)))) {
    expect(["ERR_KV_CONNECTION", "ERR_KV_TIMEOUT"]).toContain(error.code);
  }
  expect(performance.now() - begin).toBeLessThan(3_000);
  await server.start();
  await recovers(() => store.set(["k"], 1));
});

test("operations wait for a server that is restarted", async () => {
  const store = openStore(server.url, { queryTimeout: 20_000 });
  await store.set(["k"], 1);
  await server.kill("SIGINT");
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
  const store = openStore(server.url, { queueLimit: 100, queryTimeout: 500 });
  await store.initialize();
  await sql.begin(async (sql) => {
    await sql`LOCK TABLE fedify_kv_v2 IN ACCESS EXCLUSIVE MODE`;
    const calls = numbers(150).map((i) => store.set(key(i), i));
    const outcomes = await Promise.allSettled(calls);
    const codes = outcomes.map((outcome) =>
      outcome.status === "rejected" ? outcome.reason.code : "",
    );
    expect(codes.slice(0, 100)).toEqual(Array(100).fill("ERR_KV_TIMEOUT"));
    expect(codes.slice(100)).toEqual(Array(50).fill("ERR_KV_BACKEND"));
  });
  await store.set(["k"], 1);
  expect(await store.get(["k"])).toBe(1);
});

test("close() resolves and disconnects even if the server does not answer", async () => {
  const store = openStore(server.url, { queryTimeout: 1_000 });
  await store.set(["k"], 1);
  await sql.begin(async (sql) => {
    await sql`LOCK TABLE fedify_kv_v2 IN ACCESS EXCLUSIVE MODE`;
    const write = expectRejection(() => store.set(["k"], 2), "ERR_KV_TIMEOUT");
    await store.close();
    await write;
  });
  await expect.poll(ours).toHaveLength(0);
});

test("writes reject while the disk is full", async ({
  skip,
  onTestFinished,
}) => {
  const place = join(server.directory, "small");
  const { uid, gid } = owner();
  skip(uid === undefined || gid === undefined, "only root may mount");
  await mkdir(place);
  const mounted = spawnSync("mount", [
    "-t",
    "tmpfs",
    "-o",
    "size=8m",
    "tmpfs",
    place,
  ]);
  skip(mounted.status !== 0, "this machine allows no mounts");
  await chown(place, uid ?? 0, gid ?? 0);
  onTestFinished(() => {
    spawnSync("umount", ["-l", place]);
  });
  await sql.unsafe(`CREATE TABLESPACE small LOCATION '${place}'`);
  await sql`ALTER DATABASE postgres SET default_tablespace = 'small'`;
  try {
    const store = openStore(server.url);
    await store.set(["kept"], "kept");
    // Space that the clean-up will need.
    const reserve = join(place, "reserve");
    await writeFile(reserve, new Uint8Array(1 << 20));
    // Random text, because the server would compress any other.
    const text = () =>
      numbers(2_000)
        .map(() => Math.random().toString(36))
        .join("");
    let full: Error | undefined;
    for (let i = 0; i < 1_000 && full === undefined; i += 1) {
      full = await store.set(key(i), text()).then(
        () => undefined,
        (error: Error) => error,
      );
    }
    expect(full).toMatchObject({ code: "ERR_KV_BACKEND" });
    expect(full?.message).toMatch(/No space left|could not extend/);
    expect(await store.get(["kept"])).toBe("kept");
    expect(await store.clear(["k"])).toBeGreaterThan(10);
    await rm(reserve);
    await sql`VACUUM fedify_kv_v2`;
    await store.set(key(0), text());
    await store.drop();
    await store.close();
  } finally {
    await sql`ALTER DATABASE postgres RESET default_tablespace`;
    await sql`DROP TABLE IF EXISTS fedify_kv_v2`;
    await sql`DROP TABLESPACE small`;
  }
});
