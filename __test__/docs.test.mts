// The README and the pages in docs/: their code is compiled and run, their links
// resolve, and they name every option and every error.
import { existsSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { RedisKvStore as OfficialRedisStore } from "@fedify/redis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MysqlKvStore, PostgresKvStore, RedisKvStore } from "../index.js";
import { commands, exists } from "./docs/commands.mts";
import {
  errorCodes,
  optionInterfaces,
  optionsOf,
} from "./docs/declarations.mts";
import { Examples } from "./docs/examples.mts";
import {
  type Block,
  blocksIn,
  notRun,
  page,
  pages,
  root,
} from "./docs/markdown.mts";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import { askDeno, runDeno } from "./support/deno.mts";
import { officialStore } from "./support/mysql-official.mts";
import { query, temporaryDirectory } from "./support/sqlite.mts";

let redis: RedisServer;
let postgres: PostgresServer;
let mysql: MysqlServer;
let examples: Examples;

beforeAll(async () => {
  [redis, postgres, mysql] = await Promise.all([
    RedisServer.start(),
    PostgresServer.start(),
    MysqlServer.start(),
  ]);
  examples = await Examples.write(
    new Map([
      ["redis://localhost:6379", redis.url],
      ["postgres://user:password@localhost/app", postgres.url],
      ["mysql://user:password@localhost/app", mysql.url],
      // Examples run in a folder of their own.
      ["sqlite:///var/lib/app/", "sqlite:"],
      ["/var/lib/app/", ""],
    ]),
  );
});
afterAll(() =>
  Promise.all([redis.stop(), postgres.stop(), mysql.stop(), examples.remove()]),
);

/** The pages with SQL, and the store whose table it is about. */
const sqlPages = [
  ["docs/postgresql.md", "PostgresKvStore"],
  ["docs/mysql.md", "MysqlKvStore"],
] as const;

describe("code", () => {
  test("TypeScript examples compile", async () => {
    expect(await examples.check()).toBe("");
  });

  test("TypeScript and JavaScript examples run", async () => {
    expect(await examples.run()).toEqual([]);
  });

  test("JSON examples parse", () => {
    for (const { code } of blocksIn("json")) JSON.parse(code);
  });

  test("each example is in a language that is checked, or says why not", () => {
    const checked = ["ts", "js", "json", "sh", "sql", "mermaid"];
    const others = pages
      .flatMap(({ blocks }) => blocks)
      .filter((block) => !checked.includes(block.language) && !notRun(block));
    expect(others.map(({ place }) => place)).toEqual([]);
  });

  test("SQL examples are on pages whose SQL is run", () => {
    // That of docs/migrate.md is run by the tests of foreign tables.
    const run = ["docs/migrate.md", ...sqlPages.map(([page]) => page)];
    const others = blocksIn("sql").filter(({ file }) => !run.includes(file));
    expect(others).toEqual([]);
  });

  test("commands of examples exist", () => {
    const blocks = blocksIn("sh").filter((block) => !notRun(block));
    const wrong = blocks.flatMap((block) =>
      commands(block).filter((words) => !exists(words, redis)),
    );
    expect(wrong).toEqual([]);
  });
});

describe("completeness", () => {
  test("relative links and anchors resolve", () => {
    const broken = pages.flatMap(({ file, links }) =>
      links.filter((link) => !resolves(file, link)).map((link) => [file, link]),
    );
    expect(broken).toEqual([]);
  });

  test("the README links every page", () => {
    const linked = new Set(
      ["README.md", "docs/README.md"].flatMap((file) =>
        page(file).links.map((link) =>
          normalize(join(dirname(file), link.replace(/#.*/, ""))),
        ),
      ),
    );
    const missing = pages.filter(
      ({ file }) =>
        file.startsWith("docs/") &&
        file !== "docs/README.md" &&
        !linked.has(file),
    );
    expect(missing.map(({ file }) => file)).toEqual([]);
  });

  const places: Record<string, string> = {
    KvStoreSetOptions: "docs/operations.md",
    SetOptions: "docs/operations.md",
    ListOptions: "docs/operations.md",
    SqliteKvStoreOptions: "docs/sqlite.md",
    RedisKvStoreOptions: "docs/redis.md",
    PostgresKvStoreOptions: "docs/postgresql.md",
    MysqlKvStoreOptions: "docs/mysql.md",
    DenoKvStoreOptions: "docs/deno-kv.md",
    TlsOptions: "docs/connections.md",
  };

  test.each(optionInterfaces)("all of %s are described", (name) => {
    const rows = page(places[name] ?? "").text.split("\n");
    for (const option of optionsOf(name)) {
      const row = rows.find((row) => row.startsWith(`| \`${option.name}\` `));
      expect(row, option.name).toBeDefined();
      if (option.default !== undefined) {
        expect(row?.split("|")[2]?.trim()).toBe(`\`${option.default}\``);
      }
      for (const inner of option.within) {
        expect(page("docs/connections.md").text).toContain(`| \`${inner}\` `);
      }
    }
  });

  test("all error codes are described", () => {
    const { anchors } = page("docs/errors.md");
    for (const code of [...errorCodes, "ERR_KV_NATIVE_LOAD"]) {
      expect(anchors).toContain(code.toLowerCase());
    }
  });
});

function resolves(file: string, link: string): boolean {
  if (/^[a-z]+:/.test(link)) return true;
  const [path = "", anchor] = link.split("#");
  const target = path === "" ? file : normalize(join(dirname(file), path));
  if (!existsSync(join(root, target))) return false;
  return anchor === undefined || page(target).anchors.has(anchor);
}

describe("procedures", () => {
  /** The TypeScript examples of a section. */
  function steps(file: string, section: string): Block[] {
    return page(file).blocks.filter(
      (block) => block.section === section && block.language === "ts",
    );
  }

  test("a shared SQLite file is split, and goes back", async () => {
    const [before, split, after, back] = steps(
      "docs/migrate.md",
      "From @fedify/sqlite",
    );
    const folder = await temporaryDirectory();
    const run = (block: Block | undefined, more: string) => {
      if (block === undefined) throw new Error("a step is missing");
      return examples.runIn(folder, block, more);
    };
    const helpers = `
      import { deepEqual } from "node:assert/strict";
      const received = async () => {
        const listening = new AbortController();
        const message = await new Promise((resolve) =>
          queue.listen(resolve, { signal: listening.signal }));
        listening.abort();
        return message;
      };
    `;
    await run(
      before,
      `await kv.set(["a", "b"], { n: 1 });
       await queue.enqueue({ sent: "before" });`,
    );
    await run(split, "");
    const tables = "SELECT name FROM sqlite_schema WHERE type = 'table'";
    expect(await query(join(folder, "kv.db"), tables)).toEqual([
      { name: "fedify_kv" },
    ]);
    await run(
      after,
      `${helpers}
       deepEqual(await kv.get(["a", "b"]), { n: 1 });
       deepEqual(await received(), { sent: "before" });
       await kv.set(["c"], 2);
       await queue.enqueue({ sent: "after" });`,
    );
    await run(
      back,
      `${helpers}
       deepEqual(await kv.get(["a", "b"]), { n: 1 });
       deepEqual(await kv.get(["c"]), 2);
       deepEqual(await received(), { sent: "after" });`,
    );
  });

  test.each(["From @fedify/redis", "From @fedify/postgres"])(
    "entries stay: %s, and back",
    async (section) => {
      const [before, after] = steps("docs/migrate.md", section);
      if (!before || !after) throw new Error("a step is missing");
      const folder = await temporaryDirectory();
      const run = (block: Block, more: string) =>
        examples.runIn(
          folder,
          block,
          `import { deepEqual } from "node:assert/strict";\n${more}`,
        );
      await run(before, `await kv.set(["moved", "a:b"], { n: 1 });`);
      await run(
        after,
        `deepEqual(await kv.get(["moved", "a:b"]), { n: 1 });
         await kv.set(["moved"], [2]);`,
      );
      await run(
        before,
        `deepEqual(await kv.get(["moved"]), [2]);
         deepEqual(await kv.get(["moved", "a:b"]), { n: 1 });`,
      );
    },
  );

  test("entries stay: From @fedify/mysql, and back", async () => {
    const [, after] = steps("docs/migrate.md", "From @fedify/mysql");
    if (after === undefined) throw new Error("a step is missing");
    // The official package's own example doesn't run on MariaDB.
    const official = officialStore(mysql.pool());
    await official.set(["moved", "a"], { n: 1 });
    await examples.runIn(
      await temporaryDirectory(),
      after,
      `if ((await kv.get(["moved", "a"])).n !== 1) throw new Error("lost");
       await kv.set(["moved"], [2]);`,
    );
    expect(await official.get(["moved"])).toEqual([2]);
  });

  test("entries stay: From @fedify/denokv, and back", async () => {
    const [after] = steps("docs/migrate.md", "From @fedify/denokv");
    if (after === undefined) throw new Error("a step is missing");
    const folder = await temporaryDirectory();
    const file = join(folder, "deno-kv.db");
    await runDeno(file, `await kv.set(["moved", "a"], { n: 1 });`);
    await examples.runIn(
      folder,
      after,
      `if ((await kv.get(["moved", "a"])).n !== 1) throw new Error("lost");
       await kv.set(["moved"], [2]);`,
    );
    const script = `report((await kv.get(["moved"])).value);`;
    expect(await askDeno(file, script)).toEqual([2]);
  });

  test("a keyPrefix of ioredis goes in front of the store's", async () => {
    const client = redis.client({ keyPrefix: "app:" });
    await new OfficialRedisStore(client).set(["k"], 1);
    const kv = new RedisKvStore(redis.url, { keyPrefix: "app:fedify::" });
    expect(await kv.get(["k"])).toBe(1);
    await kv.close();
  });

  test("the key in docs/migrate.md is the index", async () => {
    const kv = new RedisKvStore(redis.url, { index: true });
    await kv.set(["indexed"], 1);
    const client = redis.client();
    expect(page("docs/migrate.md").text).toContain("`fedify:::index`");
    expect(await client.type("fedify:::index")).toBe("zset");
    await kv.close();
  });

  test("SIGTERM ends the server of the example", async () => {
    const [block] = steps("docs/deploy.md", "Shut down on SIGTERM");
    if (block === undefined) throw new Error("the example is missing");
    const more = `server.once("close", () => process.exitCode = 0);
      process.exitCode = 1;
      if (!server.listening) await new Promise((r) => server.once("listening", r));
      process.kill(process.pid, "SIGTERM");
      let code;
      while (code === undefined) {
        await kv.get(["k"]).catch((error) => (code = error.code));
        await new Promise(setImmediate);
      }
      if (code !== "ERR_KV_CLOSED") throw new Error(code);`;
    await examples.runIn(await temporaryDirectory(), block, more);
  });

  test("the rights in docs/redis.md are enough", async () => {
    const block = page("docs/redis.md").blocks.find(({ code }) =>
      code.includes("ACL SETUSER"),
    );
    expect(block && exists(commands(block)[0] ?? [], redis)).toBe(true);
    const url = redis.url.replace("//", "//fedify:secret@");
    for (const index of [false, true]) {
      const store = new RedisKvStore(url, { index });
      await store.initialize();
      const keys = Array.from({ length: 40 }, (_, i) => ["rights", `${i}`]);
      const all = (call: (key: any) => Promise<unknown>) =>
        Promise.all(keys.map(call));
      await all((key) => store.set(key, 1));
      await all((key) => store.set(key, 2, { ttl: { hours: 1 } }));
      await all((key) => store.get(key));
      await all((key) => store.cas(key, 2, 3));
      await store.get(["rights", "0"]);
      await Array.fromAsync(store.list(["rights"]));
      await all((key) => store.delete(key));
      await store.set(["rights"], 1);
      if (index) await store.reindex();
      expect(await store.clear(["rights"])).toBe(1);
      await store.drop();
      await store.close();
    }
    const log = await redis.client().call("ACL", "LOG");
    expect(log).toEqual([]);
  });

  test.each(sqlPages)(
    "the SQL in %s grants enough rights",
    async (file, name) => {
      const owner =
        name === "PostgresKvStore"
          ? new PostgresKvStore(postgres.url)
          : new MysqlKvStore(mysql.url);
      await owner.initialize();
      for (const { code, language } of page(file).blocks) {
        if (language !== "sql") continue;
        if (name === "PostgresKvStore") await postgres.client().unsafe(code);
        else await mysql.sql(code);
      }
      const user = { user: "fedify_app", password: "secret" };
      const store =
        name === "PostgresKvStore"
          ? new PostgresKvStore(postgres.urlOf(user), {
              initialized: true,
            })
          : new MysqlKvStore(mysql.urlFor(user.user, user.password), {
              initialized: true,
            });
      await store.initialize();
      await store.set(["rights"], 1, { ttl: { hours: 1 } });
      await store.set(["rights"], 2);
      expect(await store.cas(["rights"], 2, 3)).toBe(true);
      expect(await Array.fromAsync(store.list(["rights"]))).toEqual([
        { key: ["rights"], value: 3 },
      ]);
      await store.delete(["rights"]);
      expect(await store.clear(["rights"])).toBe(0);
      await expect(store.drop()).rejects.toMatchObject({
        code: "ERR_KV_BACKEND",
      });
      await Promise.all([store.close(), owner.close()]);
    },
  );
});
