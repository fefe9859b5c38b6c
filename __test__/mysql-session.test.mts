// The session, the packets and the server are what the store counts on, or it
// copes with them.
import { createConnection } from "mysql2/promise";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { MysqlKvStore } from "../index.js";
import { MysqlServer } from "./services/mysql.mts";
import { collect } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { openStore, ownTable } from "./support/mysql.mts";
import { rejection } from "./support/rejection.mts";
import { startProxy } from "./support/served.mts";

let server: MysqlServer;
beforeAll(async () => {
  server = await MysqlServer.start();
});
afterAll(() => server.stop());

/** Sets variables of the server until the test is over. */
async function setGlobals(globals: Record<string, string>): Promise<void> {
  const names = Object.keys(globals);
  const [before] = await server.sql(
    `SELECT ${names.map((name) => `@@GLOBAL.${name} AS ${name}`).join()}`,
  );
  const set = (values: Record<string, unknown>) =>
    server.sql(
      `SET ${names.map((name) => `GLOBAL ${name} = ${name === "init_connect" ? "?" : values[name]}`).join()}`,
      names.includes("init_connect") ? [values.init_connect] : [],
    );
  onTestFinished(async () => {
    const quote = (value: unknown) =>
      typeof value === "string" ? `'${value}'` : value;
    await set(
      Object.fromEntries(
        Object.entries(before ?? {}).map(([name, value]) => [
          name,
          name === "init_connect" ? value : quote(value),
        ]),
      ),
    );
  });
  await set(globals);
}

test("limits, modes and character sets of the server have no effect", async () => {
  await setGlobals({
    init_connect:
      "SET SESSION sql_select_limit = 2, sql_safe_updates = 1, autocommit = 0, " +
      "completion_type = 'CHAIN', sql_mode = 'PAD_CHAR_TO_FULL_LENGTH,NO_BACKSLASH_ESCAPES', " +
      "tx_isolation = 'SERIALIZABLE', tx_read_only = 1, max_join_size = 1, " +
      "sql_big_selects = 0, unique_checks = 0, time_zone = '+05:00', max_statement_time = 0.001",
    character_set_server: "latin1",
  });
  const tableName = ownTable();
  const store = openStore(server.url, { tableName });
  await Promise.all(numbers(100).map((i) => store.set(key(i), `漢${i}`)));
  const values = await Promise.all(numbers(100).map((i) => store.get(key(i))));
  expect(values).toEqual(numbers(100).map((i) => `漢${i}`));
  expect(await collect(store.list())).toHaveLength(100);
  await store.set(["soon"], 1, { ttl: { milliseconds: 1 } });
  await store.set(["later"], 1, { ttl: { hours: 1 } });
  const other = new MysqlKvStore(server.url, { tableName });
  expect(await other.cas(["later"], 1, 2)).toBe(true);
  await other.close();
  const count = async () => {
    const [row] = await server.sql(`SELECT COUNT(*) AS n FROM ${tableName}`);
    return Number(row?.n);
  };
  await expect.poll(count, { timeout: 20_000 }).toBe(101);
  expect(await store.clear(["k"])).toBe(100);
});

test("small packets: groups of all kinds are divided", async () => {
  await setGlobals({ max_allowed_packet: "2048" });
  const store = openStore(server.url, { tableName: ownTable() });
  const all = numbers(300);
  const keys = all.map((i) => ["k", `${i}`.padStart(200, "x")] as const);
  await Promise.all(keys.map((key) => store.set(key, 1)));
  const swapped = await Promise.all(keys.map((key) => store.cas(key, 1, 2)));
  expect(swapped).toEqual(all.map(() => true));
  expect(await Promise.all(keys.map((key) => store.get(key)))).toEqual(
    all.map(() => 2),
  );
  await Promise.all(keys.slice(0, 200).map((key) => store.delete(key)));
  expect(await collect(store.list())).toHaveLength(100);
  expect(await store.clear(["k"])).toBe(100);
});

test("a cas that loses the race for a new entry is false", async () => {
  const tableName = ownTable();
  const stores = numbers(4).map(() => openStore(server.url, { tableName }));
  await Promise.all(stores.map((store) => store.initialize()));
  for (const round of numbers(20)) {
    const outcomes = await Promise.all(
      numbers(10).map((i) =>
        Promise.all(
          stores.map((store) => store.cas(key(round * 10 + i), undefined, 1)),
        ),
      ),
    );
    for (const each of outcomes) {
      expect(each.filter(Boolean)).toHaveLength(1);
    }
  }
});

test("one locked row delays no other operation of its group", async () => {
  const tableName = ownTable();
  const store = openStore(server.url, { tableName, queryTimeout: 4_000 });
  await Promise.all(numbers(200).map((i) => store.set(key(i), 0)));
  const holder = await server.root();
  onTestFinished(() => holder.destroy());
  await holder.query("BEGIN");
  await holder.query(
    `SELECT * FROM ${tableName} WHERE \`key\` = ? FOR UPDATE`,
    [JSON.stringify(key(7))],
  );
  const outcomes = await Promise.allSettled(
    numbers(200).map((i) => store.cas(key(i), 0, 1)),
  );
  const rejected = numbers(200).filter(
    (i) => outcomes[i]?.status === "rejected",
  );
  expect(rejected).toEqual([7]);
});

test("drop() is not undone by the removal of expired entries", async () => {
  const proxy = await startProxy(server);
  const tableName = ownTable();
  const store = openStore(proxy.url(server), { tableName });
  await store.set(["soon"], 1, { ttl: { milliseconds: 500 } });
  await openStore(server.url, { tableName }).drop();
  // The first store looks for expired entries, and is done before it is closed.
  await proxy.receives("toClient", 1);
  await store.close();
  expect(await server.sql(`SHOW TABLES LIKE '${tableName}'`)).toEqual([]);
});

test("a write that was given up does not come after a later one", async () => {
  const proxy = await startProxy(server);
  const store = openStore(proxy.url(server), {
    tableName: ownTable(),
    queryTimeout: 1_000,
  });
  await store.set(["k"], "old");
  proxy.stall("toServer");
  const first = await rejection(() => store.set(["k"], "first"));
  expect(first.message).toContain("unknown");
  // Only new connections work.
  await store.set(["k"], "second");
  proxy.resume("toServer");
  const { received } = proxy;
  for (const _ of numbers(20)) {
    expect(await store.get(["k"])).toBe("second");
  }
  expect(received.toServer).toBeGreaterThan(0);
});

test("a statement is only ended on its own server", async () => {
  const [own, another] = await Promise.all([
    MysqlServer.start(),
    MysqlServer.start(),
  ]);
  onTestFinished(async () => {
    await Promise.all([own.stop(), another.stop()]);
  });
  const proxy = await startProxy(own);
  const store = openStore(proxy.url(own), {
    queryTimeout: 1_500,
    maxConnections: 1,
  });
  await store.set(["k"], 0);
  // Later connections are to the other server, where each number that the store
  // may have is a stranger's.
  const [newest] = await own.sql("SELECT CONNECTION_ID() AS id");
  const stranger = () => createConnection({ uri: another.url });
  const strangers = [await stranger()];
  while (Number(strangers.at(-1)?.threadId) < Number(newest?.id)) {
    strangers.push(await stranger());
  }
  onTestFinished(() => strangers.forEach((each) => each.destroy()));
  const slow = strangers.map(async (each) => {
    const [rows] = await each.query("SELECT SLEEP(5) AS interrupted");
    return rows as { interrupted: number }[];
  });
  proxy.target = another.port;
  proxy.stall("toClient");
  await rejection(() => store.set(["k"], 1));
  await store.get(["k"]).catch(() => {});
  const interrupted = (await Promise.all(slow)).flat();
  expect(interrupted).toEqual(strangers.map(() => ({ interrupted: 0 })));
});

test("writes leave a server that has become read-only", async () => {
  const [old, next] = await Promise.all([
    MysqlServer.start(),
    MysqlServer.start(),
  ]);
  onTestFinished(async () => {
    await Promise.all([old.stop(), next.stop()]);
  });
  const proxy = await startProxy(old);
  const store = openStore(proxy.url(old));
  await Promise.all(numbers(20).map((i) => store.set(key(i), "old")));
  proxy.target = next.port;
  await old.sql("SET GLOBAL read_only = 1");
  // They were not carried out there, so they are repeated here.
  const writes = await Promise.all([
    store.set(["k"], "new"),
    store.cas(["l"], undefined, "new"),
    store.delete(["m"]),
  ]);
  expect(writes).toEqual([undefined, true, undefined]);
  expect(await collect(store.list())).toEqual([
    { key: ["k"], value: "new" },
    { key: ["l"], value: "new" },
  ]);
  expect(await store.get(key(1))).toBeUndefined();
  expect(await old.sql("SELECT * FROM fedify_kv")).toHaveLength(20);
});

test("ssl-mode=DISABLED and the option tls contradict each other", () => {
  const url = "mysql://localhost/kv?ssl-mode=DISABLED";
  expect(() => new MysqlKvStore(url, { tls: {} })).toThrow(
    /tls can't be used with ssl-mode=DISABLED/,
  );
});
