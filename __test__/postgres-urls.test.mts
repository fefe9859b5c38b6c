// What PostgreSQL URLs and the environment say: hosts, how to log in, and
// parameters that other clients know.
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import {
  type AddressInfo,
  type Server,
  type Socket,
  createServer,
} from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import { randomUUID } from "node:crypto";
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { PostgresKvStore, openKvStore } from "../index.js";
import { PostgresServer } from "./services/postgres.mts";
import { freePort } from "./services/redis.mts";
import { ask, startChild } from "./support/child.mts";
import { collect } from "./support/collect.mts";
import { openStore, ownTable } from "./support/postgres.mts";
import { expectRejection } from "./support/rejection.mts";

let server: PostgresServer;
let password: string;

beforeAll(async () => {
  server = await PostgresServer.start({
    // Logs each statement, and whether it was prepared.
    settings: { log_min_duration_statement: 0 },
  });
  password = encodeURIComponent(server.password);
});
afterAll(() => server.stop());

/** A server that accepts connections and says nothing. */
class SilentServer {
  readonly connections: Socket[] = [];
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((socket) => {
      this.connections.push(socket);
      socket.on("error", () => {});
    });
  }

  static async start(): Promise<SilentServer> {
    const silent = new SilentServer();
    silent.#server.listen(0, "127.0.0.1");
    await once(silent.#server, "listening");
    onTestFinished(() => {
      silent.#server.close();
      for (const socket of silent.connections) socket.destroy();
    });
    return silent;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }
}

/** A URL with these ports of the loopback interface as hosts. */
function hosts(ports: readonly number[], query = ""): string {
  const places = ports.map((port) => `127.0.0.1:${port}`).join(",");
  return `postgres://fedify:${password}@${places}/postgres?${query}`;
}

const withQuery = (query: string) => `${server.url}?${query}`;

async function works(url: string): Promise<void> {
  const store = openStore(url, { tableName: ownTable() });
  await store.set(["k"], "value");
  expect(await store.get(["k"])).toBe("value");
  expect(await collect(store.list())).toHaveLength(1);
  await store.drop();
  await store.close();
}

/** The message of the error that the constructor throws. */
function refusal(url: string): string {
  try {
    new PostgresKvStore(url);
  } catch (error) {
    expect(error).toMatchObject({ code: "ERR_KV_INVALID_OPTION" });
    return (error as Error).message;
  }
  throw new Error(`${url} was accepted`);
}

describe("several hosts", () => {
  test("a host that hangs and one that refuses are passed over", async () => {
    const silent = await SilentServer.start();
    const refusing = await freePort();
    await works(hosts([silent.port, refusing, server.port]));
    expect(silent.connections.length).toBeGreaterThan(0);
  });

  test("each host has its share, also with connect_timeout", async () => {
    const first = await SilentServer.start();
    const second = await SilentServer.start();
    const ports = [first.port, second.port, server.port];
    await works(hosts(ports, "connect_timeout=1"));
  });

  test("what failed is said of each host", async () => {
    const silent = await SilentServer.start();
    const refusing = await freePort();
    const store = openStore(hosts([silent.port, refusing]), {
      connectTimeout: 500,
    });
    const { message } = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(message).toContain(`127.0.0.1:${silent.port}: not connected within`);
    expect(message).toMatch(
      new RegExp(`127.0.0.1:${refusing}: .*refused`, "i"),
    );
    expect(message).not.toContain(server.password);
  });

  test("a refused login ends the search", async () => {
    const next = await SilentServer.start();
    const url = hosts([server.port, next.port]).replace(password, "wrong");
    const store = openStore(url);
    const { message } = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(message).toContain("password authentication failed");
    expect(next.connections).toHaveLength(0);
  });

  test("a connection that was given up is closed", async () => {
    const silent = await SilentServer.start();
    await works(hosts([silent.port, server.port], "connect_timeout=1"));
    for (const socket of silent.connections) {
      socket.resume();
      if (!socket.closed) await once(socket, "close");
    }
  });
});

describe("a primary and a standby", () => {
  const tableName = ownTable();
  let standby: PostgresServer;
  beforeAll(async () => {
    standby = await server.startStandby();
    const store = new PostgresKvStore(server.url, { tableName });
    await store.set(["k"], 1);
    await store.close();
    const client = standby.client();
    for (let found: unknown = null; found === null;) {
      const [row] =
        await client`SELECT to_regclass(${`"${tableName}"`}) AS found`;
      found = row?.found;
    }
  });
  afterAll(() => standby.stop());

  /** The server that a store is connected to. */
  async function serverOf(
    url: string,
  ): Promise<"primary" | "standby" | "both"> {
    const name = randomUUID();
    const store = openStore(`${url}&application_name=${name}`, {
      tableName,
      initialized: true,
    });
    await store.get(["k"]);
    const counts = await Promise.all(
      [server, standby].map(async (each) => {
        const [row] = await each.client()`
          SELECT count(*)::int AS n FROM pg_stat_activity
          WHERE application_name = ${name}`;
        return row?.n as number;
      }),
    );
    await store.close();
    const [onPrimary = 0, onStandby = 0] = counts;
    expect(onPrimary + onStandby).toBeGreaterThan(0);
    if (onPrimary > 0 && onStandby > 0) return "both";
    return onPrimary > 0 ? "primary" : "standby";
  }

  test.each([
    ["any", "primary", "standby"],
    ["read-write", "primary", "primary"],
    ["primary", "primary", "primary"],
    ["read-only", "standby", "standby"],
    ["standby", "standby", "standby"],
    ["prefer-standby", "standby", "standby"],
  ])("target_session_attrs=%s", async (wanted, first, second) => {
    const query = `target_session_attrs=${wanted}`;
    expect(await serverOf(hosts([server.port, standby.port], query))).toBe(
      first,
    );
    expect(await serverOf(hosts([standby.port, server.port], query))).toBe(
      second,
    );
  });

  test("prefer-standby takes a primary if there is no standby", async () => {
    const silent = await SilentServer.start();
    for (const ports of [[server.port], [server.port, silent.port]]) {
      const url = hosts(ports, "target_session_attrs=prefer-standby");
      expect(await serverOf(url)).toBe("primary");
    }
  });

  test("if there is no such server, operations reject", async () => {
    for (const [wanted, port, why] of [
      ["standby", server.port, "not a standby"],
      ["read-only", server.port, "not read-only"],
      ["primary", standby.port, "is a standby"],
      ["read-write", standby.port, "does not allow writes"],
    ] as const) {
      const store = openStore(hosts([port], `target_session_attrs=${wanted}`));
      const { message } = await expectRejection(
        () => store.get(["k"]),
        "ERR_KV_CONNECTION",
      );
      expect(message).toContain(why);
    }
  });

  test("load_balance_hosts=random uses all hosts", async () => {
    const url = hosts([server.port, standby.port], "load_balance_hosts=random");
    const used = new Set<string>();
    // With 40 connections, chance leaves one out once in 10^12 times.
    for (let i = 0; i < 40 && used.size < 2; i += 1) {
      used.add(await serverOf(url));
    }
    expect([...used].toSorted()).toEqual(["primary", "standby"]);
  });
});

describe("sockets", () => {
  test("a socket's directory is in the place of the host, or in host=", async () => {
    const directory = encodeURIComponent(server.directory);
    for (const url of [
      server.socketUrl,
      `postgres://fedify@/postgres?host=${server.directory}&port=${server.port}`,
      `postgres://fedify@localhost:${server.port}/postgres?host=${directory}`,
      `postgres://fedify@:${server.port}/postgres?host=${directory}`,
    ]) {
      await works(url);
    }
  });

  test("sslmode does not concern sockets", async () => {
    await works(`${server.socketUrl}?sslmode=require`);
  });
});

describe("the environment", () => {
  /** Uses a store in another process that has these variables. */
  const inEnvironment = (env: Record<string, string>, url: string) =>
    ask<{ value?: string; code?: string; message?: string }>(
      `
        Object.assign(process.env, data.env);
        const { PostgresKvStore } = require(addon);
        try {
          const store = new PostgresKvStore(data.url, { tableName: data.tableName });
          await store.set(["k"], "value");
          const value = await store.get(["k"]);
          await store.drop();
          await store.close();
          report({ value });
        } catch ({ code, message }) {
          report({ code, message });
        }
      `,
      { env, url, tableName: ownTable() },
    );

  async function passwordFile(name: string, mode: number) {
    const directory = await mkdtemp(join(tmpdir(), "fedify-kv-pgpass-"));
    onTestFinished(() => rm(directory, { recursive: true }));
    const file = join(directory, name);
    const escaped = server.password.replace(/[:\\]/g, "\\$&");
    const lines = [
      "# comment",
      `other.example:*:*:*:wrong`,
      `127.0.0.1:${server.port}:postgres:fedify:${escaped}`,
      "*:*:*:*:wrong",
    ];
    await writeFile(file, `${lines.join("\n")}\n`);
    await chmod(file, mode);
    return { directory, file };
  }

  test("fills what the URL leaves out", async () => {
    const env = {
      PGHOST: "127.0.0.1",
      PGPORT: String(server.port),
      PGUSER: "fedify",
      PGPASSWORD: server.password,
      PGDATABASE: "postgres",
      PGSSLMODE: "disable",
      PGCONNECT_TIMEOUT: "5",
    };
    const worked = { value: "value" };
    expect(await inEnvironment(env, "postgres://")).toEqual(worked);
    // What the URL says wins, and empty variables say nothing.
    const others = {
      PGHOST: "192.0.2.1",
      PGPORT: "1",
      PGUSER: "nobody",
      PGPASSWORD: "wrong",
      PGDATABASE: "nothing",
      PGSSLMODE: "",
    };
    expect(await inEnvironment(others, server.url)).toEqual(worked);
  });

  test("PGOPTIONS and PGAPPNAME reach the server", async () => {
    const name = randomUUID();
    const schema = `s${randomUUID().replaceAll("-", "")}`;
    const sql = server.client();
    await sql.unsafe(`CREATE SCHEMA ${schema}`);
    const env = { PGAPPNAME: name, PGOPTIONS: `-c search_path=${schema}` };
    const child = startChild(
      `
        Object.assign(process.env, data.env);
        const { PostgresKvStore } = require(addon);
        const store = new PostgresKvStore(data.url);
        await store.set(["k"], 1);
        report("ready");
        await told();
        await store.close();
      `,
      { env, url: server.url },
    );
    expect(await child.next()).toBe("ready");
    const [row] = await sql`
      SELECT to_regclass(${`${schema}.fedify_kv_v2`}) AS found, count(*)::int AS n
      FROM pg_stat_activity WHERE application_name = ${name}`;
    expect(row?.found).not.toBe(null);
    expect(row?.n).toBeGreaterThan(0);
    child.end();
    await child.exit;
  });

  test("a password file is used, as libpq uses it", async () => {
    const url = `postgres://fedify@127.0.0.1:${server.port}/postgres`;
    const { file } = await passwordFile("passwords", 0o600);
    expect(await inEnvironment({ PGPASSFILE: file }, url)).toEqual({
      value: "value",
    });
    await works(`${url}?passfile=${encodeURIComponent(file)}`);
    const { directory } = await passwordFile(".pgpass", 0o400);
    expect(await inEnvironment({ HOME: directory }, url)).toEqual({
      value: "value",
    });
  });

  test.skipIf(process.platform === "win32")(
    "a password file that others may read is ignored",
    async () => {
      const { file } = await passwordFile("passwords", 0o640);
      const url = `postgres://fedify@127.0.0.1:${server.port}/postgres`;
      const { code, message } = await inEnvironment({ PGPASSFILE: file }, url);
      expect(code).toBe("ERR_KV_CONNECTION");
      expect(message).toContain(file);
      expect(message).toContain("0600");
    },
  );

  test("a wrong value is refused by the variable's name", async () => {
    const { code, message } = await inEnvironment(
      { PGSSLMODE: "secret" },
      server.url,
    );
    expect(code).toBe("ERR_KV_INVALID_OPTION");
    expect(message).toContain("the environment variable PGSSLMODE must be");
    expect(message).not.toContain("secret");
  });
});

describe("parameters of other clients", () => {
  test("schema is the table's, unless tableName has one", async () => {
    const sql = server.client();
    const schema = `My schema ${randomUUID()}`;
    const other = `other_${randomUUID()}`;
    await sql`CREATE SCHEMA ${sql(schema)}`;
    await sql`CREATE SCHEMA ${sql(other)}`;
    const url = withQuery(`schema=${encodeURIComponent(schema)}`);
    const tables = async () => {
      const rows = await sql`
        SELECT schemaname, tablename FROM pg_tables
        WHERE schemaname IN (${schema}, ${other}) ORDER BY 2, 1`;
      return rows.map((row) => [row.schemaname, row.tablename]);
    };
    for (const options of [
      {},
      { tableName: "own" },
      { tableName: `${other}.third` },
    ]) {
      const store = openStore(url, options);
      await store.set(["k"], 1);
      expect(await store.get(["k"])).toBe(1);
    }
    expect(await tables()).toEqual([
      [schema, "fedify_kv_v2"],
      [schema, "own"],
      [other, "third"],
    ]);
  });

  test("pgbouncer=true prepares no statements, unless the option says so", async () => {
    const url = withQuery("pgbouncer=true&connection_limit=3&pool_timeout=20");
    const tables = { without: ownTable(), with: ownTable() };
    const without = openStore(url, { tableName: tables.without });
    const prepared = openStore(url, {
      tableName: tables.with,
      preparedStatements: true,
    });
    for (const store of [without, prepared]) {
      await store.set(["k"], 1);
      expect(await store.cas(["k"], 1, 2)).toBe(true);
      expect(await store.get(["k"])).toBe(2);
      await store.close();
    }
    const executed = (table: string, how: RegExp) =>
      server.log.filter((line) => line.includes(table) && how.test(line));
    const named = / execute (?!<unnamed>)\S+: /;
    await expect
      .poll(() => executed(tables.with, named).length)
      .toBeGreaterThan(0);
    expect(executed(tables.without, / execute <unnamed>: /)).not.toEqual([]);
    expect(executed(tables.without, named)).toEqual([]);
  });

  test("connection_limit limits connections", async () => {
    const name = randomUUID();
    const store = openStore(
      withQuery(`connection_limit=1&application_name=${name}`),
      { tableName: ownTable() },
    );
    await store.initialize();
    const keys = Array.from(
      { length: 50 },
      (_, i) => ["k", String(i)] as const,
    );
    await Promise.all([
      ...keys.map((key) => store.set(key, 1)),
      collect(store.list()),
      ...keys.map((key) => store.get(key)),
    ]);
    const [row] = await server.client()`
      SELECT count(*)::int AS n FROM pg_stat_activity
      WHERE application_name = ${name}`;
    expect(row?.n).toBe(1);
  });

  test("what other clients accept is accepted", async () => {
    await works(
      withQuery(
        "sslmode=disable&channel_binding=prefer&gssencmode=disable&keepalives=1" +
          "&keepalives_idle=30&keepalives_interval=10&keepalives_count=3" +
          "&tcp_user_timeout=20000&connect_timeout=10&options=-c%20statement_timeout%3D10s" +
          "&fallback_application_name=x&target_session_attrs=read-write",
      ),
    );
    await works(withQuery("ssl=false"));
  });
});

test("an unknown parameter is named, and no value is shown", () => {
  expect(refusal(withQuery("sslmod=secret"))).toContain(
    'unknown parameter "sslmod"',
  );
  for (const bad of [
    "sslmod=secret",
    "connection_limit=0",
    "connection_limit=secret",
    "pgbouncer=secret",
    "schema=",
    "ssl=secret",
    "target_session_attrs=secret",
    "connect_timeout=secret",
    "secret",
  ]) {
    const message = refusal(withQuery(bad));
    const [name, value] = bad.split("=");
    expect(message).toContain("the PostgreSQL URL is invalid");
    if (value !== undefined) expect(message).toContain(name);
    expect(message).not.toContain("secret");
    expect(message).not.toContain(server.password);
    expect(message).not.toContain(password);
  }
  expect(refusal(withQuery("connection_limit=0"))).toContain(
    "connection_limit must be a whole number from 1 to 1000",
  );
});

test("white space around a URL is ignored", async () => {
  for (const url of [`${server.url}\n`, `\r\n ${server.url}\t\r\n`]) {
    await works(url);
    const store = openKvStore(url, { tableName: ownTable() });
    onTestFinished(() => store.close());
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  }
});
