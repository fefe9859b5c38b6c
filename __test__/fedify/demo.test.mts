// Runs the demo as `npm run demo` does.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openKvStore } from "../../index.js";
import { MysqlServer } from "../services/mysql.mts";
import { PostgresServer } from "../services/postgres.mts";
import { RedisServer } from "../services/redis.mts";
import { temporaryDirectory } from "./pair.mts";

const main = fileURLToPath(
  new URL("../../examples/demo/main.mts", import.meta.url),
);

/** What the demo prints. Rejects if it fails or prints something to stderr. */
async function demo(tmpdir: string, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    [main, ...args],
    { env: { ...process.env, TMPDIR: tmpdir, TEMP: tmpdir } },
  );
  expect(stderr).toBe("");
  return stdout;
}

function check(output: string) {
  const lines = output.split("\n").map((line) => line.trim());
  const deliveries = lines.filter((line) => line.includes(" → "));
  expect(deliveries.map((line) => line.split(/ {2,}/).slice(0, 3))).toEqual([
    ["alice → bob", "Follow", "202"],
    ["bob → alice", "Accept", "202"],
    ["alice → bob", "Follow", "202"],
    ["bob → alice", "Create", "202"],
  ]);
  const words = lines.map((line) => line.replace(/ {2,}/, ": "));
  expect(words).toContain("bob: processed the Follow once");
  expect(words).toContain("alice: read the post: Hello, fediverse!");
  expect(output).toMatch(/inbound +Follow +signature verified/);
  expect(output).toMatch(/outbound +Accept +to http/);
  expect(output).toMatch(/bob +http\S+\/alice#main-key/);
  expect(words).toContain("alice: 2 deleted");
  expect(words).toContain("alice: none left");
}

test("the demo runs with temporary files and removes them", async () => {
  await using stack = new AsyncDisposableStack();
  const directory = await temporaryDirectory(stack);

  check(await demo(directory));
  expect(await readdir(directory)).toEqual([]);
});

test("the demo removes the file that it has created", async () => {
  await using stack = new AsyncDisposableStack();
  const directory = await temporaryDirectory(stack);
  for (const scheme of ["sqlite", "denokv"]) {
    check(await demo(directory, `${scheme}:${join(directory, "new.db")}`));
    expect(await readdir(directory)).toEqual([]);
  }
});

interface Database {
  readonly url: string;
  /** Everything in the database. */
  dump(): Promise<unknown>;
}

/** Databases in which there is something already. */
const databases: Record<
  string,
  (stack: AsyncDisposableStack) => Promise<Database>
> = {
  sqlite: async (stack) => {
    const path = join(await temporaryDirectory(stack), "app.db");
    await fillStore(`sqlite:${path}`);
    const query = (sql: string) => {
      using database = new DatabaseSync(path);
      return database.prepare(sql).all();
    };
    return {
      url: `sqlite:${path}`,
      dump: async () => [
        query("SELECT * FROM sqlite_schema"),
        query("SELECT * FROM fedify_kv"),
      ],
    };
  },
  denokv: async (stack) => {
    const path = join(await temporaryDirectory(stack), "app.kv");
    await fillStore(`denokv:${path}`);
    return {
      url: `denokv:${path}`,
      dump: async () => {
        await using store = openKvStore(`denokv:${path}`);
        return await Array.fromAsync(store.list());
      },
    };
  },
  redis: async (stack) => {
    const server = await RedisServer.start();
    stack.defer(() => server.stop());
    await fillStore(server.url);
    const client = server.client();
    await client.set("other", "1");
    return {
      url: server.url,
      dump: async () => (await client.keys("*")).toSorted(),
    };
  },
  postgres: async (stack) => {
    const server = await PostgresServer.start();
    stack.defer(() => server.stop());
    // Not even an unlogged table is converted.
    await fillStore(server.url, { unlogged: true });
    const sql = server.client();
    return {
      url: server.url,
      dump: async () => [
        [
          ...(await sql`
          SELECT nspname, relname, relpersistence, relfilenode
          FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
          WHERE nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
          ORDER BY relname`),
        ],
        [...(await sql`SELECT * FROM fedify_kv_v2`)],
      ],
    };
  },
  mysql: async (stack) => {
    const server = await MysqlServer.start();
    stack.defer(() => server.stop());
    await fillStore(server.url);
    const pool = server.pool();
    return {
      url: server.url,
      dump: async () => [
        (await pool.query("SHOW TABLES"))[0],
        (await pool.query("SELECT `key`, value FROM fedify_kv"))[0],
      ],
    };
  },
};

async function fillStore(url: string, options?: object): Promise<void> {
  await using store = openKvStore(url, options);
  await store.set(["settings"], { theme: "dark" });
  await store.set(["fedify-kv-demo", "mine"], 1);
}

describe.each(Object.keys(databases))("in a %s database", (name) => {
  const stack = new AsyncDisposableStack();
  let database: Database;
  let before: unknown;
  beforeAll(async () => {
    database = await databases[name]!(stack);
    before = await database.dump();
  });
  afterAll(() => stack.disposeAsync());

  test("the demo runs and leaves nothing behind", async () => {
    await using stack = new AsyncDisposableStack();
    check(await demo(await temporaryDirectory(stack), database.url));
    expect(await database.dump()).toEqual(before);
  });

  test("it leaves nothing behind if it fails", async () => {
    const fail = `
      const log = console.log;
      console.log = (text) => {
        log(text);
        if (text.includes("Cached")) throw new Error("a failure");
      };`;
    const failing = await ended(
      start(database.url, `data:text/javascript,${encodeURIComponent(fail)}`),
    );
    expect(failing.code).toBe(1);
    expect(failing.stderr).toContain("a failure");
    expect(await database.dump()).toEqual(before);
  });

  test.each(["SIGINT", "SIGTERM"] as const)(
    "it leaves nothing behind if it is stopped by %s",
    async (signal) => {
      const child = start(database.url);
      for await (const line of createInterface({ input: child.stdout })) {
        // There are entries now, and operations under way.
        if (line.includes("bob → alice")) break;
      }
      expect(await database.dump()).not.toEqual(before);
      child.kill(signal);
      const { code, stderr } = await ended(child);
      expect({ code, stderr }).toEqual({
        code: signal === "SIGINT" ? 130 : 143,
        stderr: "",
      });
      expect(await database.dump()).toEqual(before);
    },
  );
});

/** The demo as a child process; `module` is loaded before it. */
function start(url: string, module = "data:text/javascript,") {
  return spawn(process.execPath, ["--import", module, main, url], {
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function ended(child: ReturnType<typeof start>) {
  child.stdout.resume();
  const output = text(child.stderr);
  const [code] = await once(child, "exit");
  return { code, stderr: await output };
}
