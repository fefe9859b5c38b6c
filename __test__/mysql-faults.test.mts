// Failures of the server: every operation settles, a resolved write has
// happened, and the store works again when the server does.
import type { Connection, PoolConnection } from "mysql2/promise";
import {
  afterAll,
  beforeAll,
  beforeEach,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { MysqlServer, password } from "./services/mysql.mts";
import { collect } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { recovers, writeThrough, writeThroughCuts } from "./support/faults.mts";
import { openStore } from "./support/mysql.mts";
import { expectRejection, rejection } from "./support/rejection.mts";

let server: MysqlServer;

beforeAll(async () => {
  server = await MysqlServer.start();
});
afterAll(() => server.stop());
beforeEach(async () => {
  if (!server.isRunning) {
    await server.start();
  }
  server.resume();
  // A failed test may leave a lock behind. It should not block later tests for
  // long.
  await server.sql("SET lock_wait_timeout = 5; DROP TABLE IF EXISTS fedify_kv");
});

const big = "x".repeat(400_000);

/** The thread ids of the stores' connections. */
async function threads(root: Connection): Promise<number[]> {
  const [rows] = await root.query(
    "SELECT ID AS id FROM information_schema.PROCESSLIST WHERE USER = 'fedify'",
  );
  return (rows as { id: number }[]).map(({ id }) => id);
}

/** The value of one of the server's status counters. */
async function status(name: string): Promise<number> {
  const [row] = await server.sql(`SHOW GLOBAL STATUS LIKE '${name}'`);
  return Number(row?.Value);
}

/** A query for the threads that wait in COMMIT. */
const commits =
  "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO = 'COMMIT'";

test("1,000 operations settle while the server is killed and restarted", async () => {
  const store = openStore(server.url, { queryTimeout: 20_000 });
  await store.initialize();
  await writeThrough(store, async () => {
    await server.kill();
    await server.start();
  });
});

test("sets that are not under way at a shutdown wait for the restart", async () => {
  const store = openStore(server.url, { queryTimeout: 20_000 });
  await store.set(["k"], 0);
  const writes = Promise.allSettled(
    numbers(500).map((i) => store.set(key(i), i)),
  );
  await server.kill("SIGTERM");
  const later = numbers(500).map((i) => store.set(key(500 + i), i));
  await server.start();
  await Promise.all(later);
  for (const [i, outcome] of (await writes).entries()) {
    if (outcome.status === "rejected") {
      expect(outcome.reason.message).toContain("the outcome is unknown");
    } else {
      expect(await store.get(key(i))).toBe(i);
    }
  }
});

test("operations succeed, or say that they may have, while connections are killed", async () => {
  const store = openStore(server.url);
  const root = await server.root();
  const cuts = await writeThroughCuts(store, 30, async () => {
    let cuts = 0;
    for (const id of await threads(root)) {
      await root.query(`KILL CONNECTION ${id}`).then(
        () => (cuts += 1),
        () => {},
      );
    }
    return cuts;
  });
  await root.end();
  expect(cuts).toBeGreaterThan(15);
  expect(await collect(store.list(["k"]))).toHaveLength(51);
});

test("no operation fails because an idle connection was killed", async () => {
  const store = openStore(server.url);
  const root = await server.root();
  for (const i of numbers(10)) {
    await store.set(["k"], i);
    for (const id of await threads(root)) {
      await root.query(`KILL CONNECTION ${id}`).catch(() => {});
    }
    expect(await store.cas(["k"], i, "mine")).toBe(true);
    for (const id of await threads(root)) {
      await root.query(`KILL CONNECTION ${id}`).catch(() => {});
    }
    expect(await store.get(["k"])).toBe("mine");
  }
  await root.end();
});

test("a write on an idle connection that has ended is not sent there", async () => {
  const store = openStore(server.url);
  const root = await server.root();
  const end = async () => {
    for (const id of await threads(root)) {
      await root.query(`KILL CONNECTION ${id}`).catch(() => {});
    }
    await expect.poll(() => threads(root)).toEqual([]);
  };
  for (const i of numbers(10)) {
    await store.set(["k"], i);
    await end();
    await store.set(["k"], "mine");
    await end();
    await store.delete(["k"]);
    await end();
    expect(await store.get(["k"])).toBeUndefined();
  }
  await root.end();
});

test("a cas with an unknown outcome rejects and says so", async () => {
  const store = openStore(server.url, { queryTimeout: 20_000 });
  await store.initialize();
  const root = await server.root();
  // Ends the block of commits, so that later tests are not blocked.
  onTestFinished(() => root.destroy());
  root.on("error", () => {});
  await root.query("BACKUP STAGE START; BACKUP STAGE BLOCK_COMMIT");
  const settled = Promise.allSettled(
    numbers(8).map((i) => store.cas(key(i), undefined, i)),
  );
  await expect
    .poll(async () => (await server.sql(commits)).length)
    .toBeGreaterThan(0);
  await server.kill();
  await server.start();
  const outcomes = await settled;
  for (const [i, outcome] of outcomes.entries()) {
    if (outcome.status === "rejected") {
      expect(outcome.reason.code).toBe("ERR_KV_CONNECTION");
      expect(outcome.reason.message).toContain("unknown");
    } else {
      expect(outcome.value).toBe(true);
      expect(await store.get(key(i))).toBe(i);
    }
  }
  expect(outcomes.map(({ status }) => status)).toContain("rejected");
});

test("operations time out while the server is paused, then recover", async () => {
  const store = openStore(server.url, { queryTimeout: 1_000 });
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
    const begin = performance.now();
    const error = await rejection(call);
    expect(["ERR_KV_TIMEOUT", "ERR_KV_CONNECTION"]).toContain(error.code);
    expect(performance.now() - begin).toBeLessThan(5_000);
  }
  server.resume();
  await recovers(() => store.set(["k"], "at last"));
  expect(await store.get(["k"])).toBe("at last");
});

test("close() resolves even if the server does not answer", async () => {
  const store = openStore(server.url, {
    queryTimeout: 1_000,
    connectTimeout: 1_000,
  });
  await store.set(["k"], 1);
  await server.pause();
  const write = rejection(() => store.set(["k"], 2));
  await store.close();
  expect((await write).code).toBe("ERR_KV_TIMEOUT");
  server.resume();
});

test("writes time out behind another session's row lock and are undone", async () => {
  const store = openStore(server.url, { queryTimeout: 1_000 });
  await store.set(["k"], "old");
  const holder = await server.root();
  await holder.query(
    `BEGIN; SELECT * FROM fedify_kv WHERE \`key\` = '["k"]' FOR UPDATE`,
  );
  const root = await server.root();
  const waiting = async () => {
    const [rows] = await root.query(
      "SELECT * FROM information_schema.PROCESSLIST WHERE USER = 'fedify' AND COMMAND <> 'Sleep'",
    );
    return (rows as unknown[]).length;
  };
  for (const call of [
    () => store.set(["k"], "new"),
    () => store.cas(["k"], "old", "new"),
    () => store.delete(["k"]),
    () => store.clear(["k"]),
  ]) {
    const begin = performance.now();
    const error = await expectRejection(call, "ERR_KV_TIMEOUT");
    expect(error.message).not.toContain("unknown");
    expect(performance.now() - begin).toBeLessThan(5_000);
    // No statement is left that could take the lock later.
    await expect.poll(waiting).toBe(0);
  }
  // Other keys are not locked, and reads take no lock.
  await store.set(["other"], 1);
  expect(await store.get(["k"])).toBe("old");
  await holder.query("COMMIT");
  expect(await store.get(["k"])).toBe("old");
  expect(await store.cas(["k"], "old", "new")).toBe(true);
  await holder.end();
  await root.end();
});

test("the sweep skips rows that another session has locked", async () => {
  // With one connection, a sweep that waits for a lock would block everything.
  const store = openStore(server.url, { maxConnections: 1 });
  await store.set(["held"], 1, { ttl: { hours: 1 } });
  const holder = await server.root();
  await holder.query(
    `BEGIN; UPDATE fedify_kv SET expires = NOW(6) - INTERVAL 1 SECOND WHERE \`key\` = '["held"]'; COMMIT;
     BEGIN; SELECT * FROM fedify_kv WHERE \`key\` = '["held"]' FOR UPDATE`,
  );
  await store.set(["soon"], 1, { ttl: { milliseconds: 1 } });
  const keys = async () => {
    const rows = await server.sql("SELECT `key` FROM fedify_kv");
    return rows.map((row) => row.key);
  };
  await expect.poll(keys).toEqual(['["held"]']);
  const begin = performance.now();
  await store.set(["other"], 1);
  expect(performance.now() - begin).toBeLessThan(4_000);
  await holder.query("COMMIT");
  await holder.end();
});

test("operations time out while another session locks the table", async () => {
  const store = openStore(server.url, { queryTimeout: 1_000 });
  await store.set(["k"], 1);
  const holder = await server.root();
  await holder.query("LOCK TABLES fedify_kv WRITE");
  for (const call of [
    () => store.get(["k"]),
    () => store.set(["k"], 2),
    () => store.list().next(),
  ]) {
    await expectRejection(call, "ERR_KV_TIMEOUT");
  }
  const dropped = await expectRejection(() => store.drop(), "ERR_KV_TIMEOUT");
  await holder.query("UNLOCK TABLES");
  await holder.end();
  // The server may be too busy to be told in time that it is not to be dropped.
  if (!dropped.message.includes("unknown")) {
    expect(await store.get(["k"])).toBe(1);
  }
});

test("operations are repeated after a deadlock", async () => {
  const store = openStore(server.url, { maxConnections: 1 });
  for (const k of ["a", "busy", "z"]) await store.set(["k", k], 0);
  const theirs = (k: string) =>
    `UPDATE fedify_kv SET value = '"theirs"' WHERE \`key\` = '["k","${k}"]'`;
  /** Runs `act`, and waits until the store waits for a row lock. */
  const waits = async <T,>(act: () => T): Promise<T> => {
    const before = await status("Innodb_row_lock_waits");
    const result = act();
    await expect
      .poll(() => status("Innodb_row_lock_waits"))
      .toBeGreaterThan(before);
    return result;
  };
  const root = await server.root();
  await root.query(
    "CREATE OR REPLACE TABLE much (i INT AUTO_INCREMENT PRIMARY KEY)",
  );
  // This session takes the locks in another order than the store. The server
  // rolls back the transaction that has changed fewer rows: the store's.
  const begin = () =>
    root.query(
      `BEGIN; INSERT INTO much SELECT NULL FROM seq_1_to_100; ${theirs("z")}`,
    );
  const end = async () => {
    const before = await status("Innodb_deadlocks");
    await root.query(`${theirs("a")}; COMMIT`);
    expect(await status("Innodb_deadlocks")).toBe(before + 1);
  };

  // Calls made while the store waits are sent as one transaction.
  const holder = await server.root();
  await holder.query(`BEGIN; ${theirs("busy")}`);
  const busy = await waits(() => [store.set(["k", "busy"], 1)]);
  const swaps = [
    store.set(["k", "a"], 1),
    store.set(["k", "z"], 1),
    store.cas(["k", "n"], undefined, 1),
  ];
  await begin();
  await waits(() => holder.query("COMMIT"));
  await end();
  expect(await Promise.all(busy)).toEqual([undefined]);
  expect(await Promise.all(swaps)).toEqual([undefined, undefined, true]);
  expect(await store.get(["k", "a"])).toBe(1);
  expect(await store.get(["k", "z"])).toBe(1);

  await begin();
  const [cleared] = await waits(() => [store.clear(["k"])]);
  await end();
  expect(await cleared).toBe(4);

  await root.query("DROP TABLE much");
  await holder.end();
  await root.end();
});

test("operations reject while the server has no free connection", async () => {
  await server.sql("SET GLOBAL max_connections = 10");
  try {
    // The server keeps one more connection for root. Connections of earlier
    // tests may take a moment to end.
    const pool = server.pool();
    const others: PoolConnection[] = [];
    await expect
      .poll(async () => {
        others.push(await pool.getConnection());
        return others.length;
      })
      .toBe(10);
    const store = openStore(server.url, { queryTimeout: 1_000 });
    for (const call of [() => store.get(["k"]), () => store.set(["k"], 1)]) {
      const error = await expectRejection(call, "ERR_KV_CONNECTION");
      expect(error.message).toContain("Too many connections");
    }
    others.forEach((connection) => connection.destroy());
    await recovers(() => store.set(["k"], 1));
    expect(await store.get(["k"])).toBe(1);
  } finally {
    await server.sql("SET GLOBAL max_connections = 151");
  }
});

test("writes reject on a read-only server, and reads work", async () => {
  const store = openStore(server.url, { queryTimeout: 1_000 });
  await store.set(["k"], "old");
  await server.sql("SET GLOBAL read_only = 1");
  try {
    for (const call of [
      () => store.set(["k"], "new"),
      () => store.delete(["k"]),
      () => store.cas(["k"], "old", "new"),
      // cas locks the row before it compares, even if it doesn't swap.
      () => store.cas(["k"], "other", "new"),
      () => store.clear(["k"]),
    ]) {
      const error = await expectRejection(call, "ERR_KV_BACKEND");
      expect(error.message).toContain("read-only");
    }
    expect(await collect(store.list())).toEqual([{ key: ["k"], value: "old" }]);
  } finally {
    await server.sql("SET GLOBAL read_only = 0");
  }
  expect(await store.cas(["k"], "old", "new")).toBe(true);
});

test("operations without the privilege reject, others work", async () => {
  await openStore(server.url).set(["k"], 1);
  await server.sql(
    `CREATE OR REPLACE USER reader@'%' IDENTIFIED BY 'r';
     GRANT SELECT ON fedify.* TO reader@'%'`,
  );
  const reader = openStore(server.urlFor("reader", "r"));
  expect(await reader.get(["k"])).toBe(1);
  for (const call of [
    () => reader.set(["k"], 2),
    () => reader.delete(["k"]),
    () => reader.cas(["k"], 1, 2),
    () => reader.clear(["k"]),
    () => reader.drop(),
  ]) {
    const error = await expectRejection(call, "ERR_KV_BACKEND");
    expect(error.message).toContain("denied");
  }
  // A user without the right to create anything can use an existing table.
  await server.sql(
    "GRANT INSERT, UPDATE, DELETE ON fedify.* TO reader@'%'; ALTER TABLE fedify_kv DROP INDEX idx_fedify_kv_expires",
  );
  const writer = openStore(server.urlFor("reader", "r"));
  expect(await writer.cas(["k"], 1, 2)).toBe(true);
  await server.sql("DROP TABLE fedify_kv");
  const error = await expectRejection(
    () => writer.get(["k"]),
    "ERR_KV_BACKEND",
  );
  expect(error.message).toContain("denied");
});

test("a wrong password, host or database rejects at once, without secrets", async () => {
  const place = `127.0.0.1:${server.port}`;
  for (const [url, words] of [
    [server.urlFor("fedify", "wr0ngpass"), "Access denied"],
    [server.urlFor("nobody", "wr0ngpass"), "Access denied"],
    [server.urlFor("fedify", password, "elsewhere"), "elsewhere"],
    ["mysql://fedify:wr0ngpass@nowhere.invalid/fedify", "nowhere.invalid:3306"],
    ["mysql://fedify:wr0ngpass@127.0.0.1:1/fedify", "127.0.0.1:1"],
  ] as const) {
    const store = openStore(url);
    const begin = performance.now();
    for (const call of [
      () => store.get(["k"]),
      () => store.cas(["k"], 1, 2),
      () => store.initialize(),
      () => store.list().next(),
      () => store.clear(["k"]),
    ]) {
      const error = await expectRejection(call, "ERR_KV_CONNECTION");
      expect(error.message).toContain(words);
      expect(error.message).not.toContain("wr0ngpass");
      expect(error.message).not.toContain(password);
    }
    expect(performance.now() - begin).toBeLessThan(4_000);
  }
  const right = openStore(server.url);
  await right.set(["k"], 1);
  expect(place).toContain(String(server.port));
});

test("a server that was never reached rejects at once, and may start later", async () => {
  await server.kill();
  const store = openStore(server.url);
  const begin = performance.now();
  for (const call of [
    () => store.get(["k"]),
    () => store.initialize(),
    () => store.list().next(),
    () => store.clear(["k"]),
  ]) {
    const error = await expectRejection(call, "ERR_KV_CONNECTION");
    expect(error.message).toContain(`127.0.0.1:${server.port}`);
  }
  expect(performance.now() - begin).toBeLessThan(4_000);
  await server.start();
  await store.set(["k"], 1);
  expect(await store.get(["k"])).toBe(1);
});

test("operations wait for a stopped server until the timeout", async () => {
  const store = openStore(server.url, { queryTimeout: 500 });
  await store.set(["k"], 1);
  await server.kill();
  const begin = performance.now();
  await Promise.all(
    [
      () => store.get(["k"]),
      () => store.set(["k"], 2),
      () => store.cas(["k"], 1, 2),
      () => store.list().next(),
    ].map((call) => expectRejection(call, "ERR_KV_CONNECTION")),
  );
  expect(performance.now() - begin).toBeGreaterThan(400);
  expect(performance.now() - begin).toBeLessThan(5_000);
  await server.start();
  expect(await store.get(["k"])).toBe(1);
});

test("operations wait for a server that is restarted", async () => {
  const store = openStore(server.url, { queryTimeout: 20_000 });
  await store.set(["k"], 1);
  await server.kill();
  const answers = Promise.all([
    store.get(["k"]),
    store.set(["l"], 2),
    collect(store.list(["l"])),
    // The cas was never sent, so it can be repeated.
    store.cas(["m"], undefined, 3),
  ]);
  await server.start();
  expect(await answers).toEqual([
    1,
    undefined,
    [{ key: ["l"], value: 2 }],
    true,
  ]);
});

test("calls beyond queueLimit reject", async () => {
  const store = openStore(server.url, { queueLimit: 100, queryTimeout: 500 });
  await store.initialize();
  await server.pause();
  const calls = numbers(150).map((i) => store.set(key(i), i));
  const outcomes = await Promise.allSettled(calls);
  const codes = outcomes.map((outcome) =>
    outcome.status === "rejected" ? outcome.reason.code : "",
  );
  expect(codes.slice(0, 100)).not.toContain("ERR_KV_BACKEND");
  expect(codes.slice(100)).toEqual(Array(50).fill("ERR_KV_BACKEND"));
  server.resume();
  await recovers(() => store.set(["k"], 1));
});

test("writes reject while the table space is full", async () => {
  // A table space that can't grow, as on a full disk.
  const full = await MysqlServer.start({
    "innodb-file-per-table": 0,
    "innodb-data-file-path": "ibdata1:12M",
  });
  try {
    const store = openStore(full.url);
    await store.set(["k"], "old");
    const written = numbers(40).map((i) => store.set(key(i), big));
    const outcomes = await Promise.allSettled(written);
    const refused = outcomes.filter(({ status }) => status === "rejected");
    expect(refused.length).toBeGreaterThan(0);
    expect(refused.length).toBeLessThan(40);
    for (const outcome of refused) {
      const { code, message } = (outcome as PromiseRejectedResult).reason;
      expect(code).toBe("ERR_KV_BACKEND");
      expect(message).toContain("is full");
    }
    // Resolved writes are stored, and rejected ones are not.
    for (const [i, { status }] of outcomes.entries()) {
      const value = await store.get(key(i));
      expect(value).toBe(status === "fulfilled" ? big : undefined);
    }
    const error = await expectRejection(
      () => store.cas(["k"], "old", big.repeat(4)),
      "ERR_KV_BACKEND",
    );
    expect(error.message).toContain("is full");
    expect(await store.get(["k"])).toBe("old");
  } finally {
    await full.stop();
  }
}, 120_000);
