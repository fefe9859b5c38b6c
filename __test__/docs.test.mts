// The README and the pages in docs/: their code is compiled and run, their links
// resolve, and they name every option and every error.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
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
import { temporaryDirectory } from "./support/sqlite.mts";

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

  test("SQL examples are on pages whose SQL is run below", () => {
    const others = blocksIn("sql").filter(
      ({ file }) => !sqlPages.some(([page]) => page === file),
    );
    expect(others).toEqual([]);
  });

  test("commands of examples exist", () => {
    const wrong = blocksIn("sh").flatMap((block) =>
      commands(block).filter((words) => !exists(words, block)),
    );
    expect(wrong).toEqual([]);
  });
});

/** The words of each command, without variables, comments and quotes. */
function commands({ code }: Block): string[][] {
  return code
    .replaceAll("\\\n", " ")
    .split("\n")
    .map((line) => line.replace(/(^| +)#.*/, "").trim())
    .filter((line) => line !== "")
    .map((line) =>
      (line.match(/'[^']*'|\S+/g) ?? [])
        .map((word) => word.replaceAll("'", ""))
        .filter((word, i) => i > 0 || !/^[A-Z_]+=/.test(word)),
    );
}

const manifest = JSON.parse(
  readFileSync(join(root, "package.json"), "utf8"),
) as {
  scripts: Record<string, string>;
  devDependencies: Record<string, string>;
};

function isPackage(name: string): boolean {
  const plain = name.replace(/^npm:/, "");
  return (
    ["fedify-kv", "jsr:@fedify-kv/fedify-kv"].includes(plain) ||
    plain in manifest.devDependencies
  );
}

/** Whether a command can be used as it is written. */
function exists([program = "", ...words]: string[], block: Block): boolean {
  const [first = "", second = ""] = words;
  switch (program) {
    case "npm":
      if (first === "run") return second in manifest.scripts;
      if (first === "test") return true;
      return first === "install" && words.slice(1).every(isPackage);
    case "pnpm":
    case "yarn":
    case "bun":
    case "deno":
      return first === "add" && words.slice(1).every(isPackage);
    case "node":
    case "bash":
      return existsSync(join(root, first));
    case "git":
      return /^https:\/\/github\.com\/fedify-kv\/fedify-kv$/.test(
        words.at(-1) ?? "",
      );
    case "cd":
      return first === "fedify-kv";
    case "redis-cli": {
      const said = execFileSync(
        program,
        ["-p", String(redis.port), "-e", ...words],
        { encoding: "utf8" },
      );
      return said.trim() !== "";
    }
    default:
      return notRun(block) !== undefined;
  }
}

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
    SetOptions: "docs/operations.md",
    ListOptions: "docs/operations.md",
    SqliteKvStoreOptions: "docs/sqlite.md",
    RedisKvStoreOptions: "docs/redis.md",
    PostgresKvStoreOptions: "docs/postgresql.md",
    MysqlKvStoreOptions: "docs/mysql.md",
    DenoKvStoreOptions: "docs/deno-kv.md",
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
    expect(block && exists(commands(block)[0] ?? [], block)).toBe(true);
    const { RedisKvStore } = await import("../index.js");
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
      const addon = await import("../index.js");
      const owner =
        name === "PostgresKvStore"
          ? new addon.PostgresKvStore(postgres.url)
          : new addon.MysqlKvStore(mysql.url);
      await owner.initialize();
      for (const { code, language } of page(file).blocks) {
        if (language !== "sql") continue;
        if (name === "PostgresKvStore") await postgres.client().unsafe(code);
        else await mysql.sql(code);
      }
      const user = { user: "fedify_app", password: "secret" };
      const store =
        name === "PostgresKvStore"
          ? new addon.PostgresKvStore(postgres.urlOf(user), {
              initialized: true,
            })
          : new addon.MysqlKvStore(mysql.urlFor(user.user, user.password), {
              initialized: true,
            });
      await store.initialize();
      await store.set(["a"], 1, { ttl: { hours: 1 } });
      await store.set(["a"], 2);
      expect(await store.cas(["a"], 2, 3)).toBe(true);
      expect(await Array.fromAsync(store.list())).toEqual([
        { key: ["a"], value: 3 },
      ]);
      await store.delete(["a"]);
      expect(await store.clear(["a"])).toBe(0);
      await expect(store.drop()).rejects.toMatchObject({
        code: "ERR_KV_BACKEND",
      });
      await Promise.all([store.close(), owner.close()]);
    },
  );
});
