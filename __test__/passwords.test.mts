// The options `user` and `password`, and `accessToken` of KV Connect: a function is
// asked for each connection, and its failures are errors of connecting.
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import {
  DenoKvStore,
  MysqlKvStore,
  PostgresKvStore,
  RedisKvStore,
} from "../index.js";
import { MysqlServer } from "./services/mysql.mts";
import { PostgresServer } from "./services/postgres.mts";
import { RedisServer } from "./services/redis.mts";
import { ask, expectGoodEnd, runChild } from "./support/child.mts";
import { KvConnectServer } from "./support/kv-connect.mts";
import { expectRejection } from "./support/rejection.mts";

interface Server {
  /** A URL. If it has a login, that is refused. */
  readonly url: string;
  /** Changes the password of the user `kv`. */
  setPassword(password: string): unknown;
  /** Ends all connections of that user. */
  disconnect(): Promise<unknown>;
  stop(): unknown;
}

/** The options of stores that log in with each connection. */
const login = {
  option: "password",
  others: { user: "kv" },
  timeout: "connectTimeout",
  logsIn: true,
} as const;

const rows = [
  {
    name: "RedisKvStore",
    Store: RedisKvStore,
    ...login,
    async start(): Promise<Server> {
      const server = await RedisServer.start();
      const client = server.client();
      await client.call("ACL", "SETUSER", "kv", "on", "~*", "&*", "+@all");
      return {
        url: server.url.replace("//", "//nobody:wrong@"),
        setPassword: (password) =>
          client.call("ACL", "SETUSER", "kv", "resetpass", `>${password}`),
        disconnect: () => client.call("CLIENT", "KILL", "USER", "kv"),
        stop: () => server.stop(),
      };
    },
  },
  {
    name: "PostgresKvStore",
    Store: PostgresKvStore,
    ...login,
    async start(): Promise<Server> {
      const server = await PostgresServer.start();
      const sql = server.client();
      await sql`CREATE ROLE kv LOGIN SUPERUSER`;
      return {
        url: server.urlOf({ user: "nobody", password: "wrong" }),
        setPassword: (password) =>
          sql.unsafe(`ALTER ROLE kv PASSWORD '${password}'`),
        disconnect: () => sql`
          SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE usename = 'kv'`,
        stop: () => server.stop(),
      };
    },
  },
  {
    name: "MysqlKvStore",
    Store: MysqlKvStore,
    ...login,
    async start(): Promise<Server> {
      const server = await MysqlServer.start();
      await server.sql(
        "CREATE USER kv@'%' IDENTIFIED BY 'none'; GRANT ALL ON fedify.* TO kv@'%'",
      );
      return {
        url: server.urlFor("nobody", "wrong"),
        setPassword: (password) =>
          server.sql(`ALTER USER kv@'%' IDENTIFIED BY '${password}'`),
        disconnect: () => server.sql("KILL HARD USER kv"),
        stop: () => server.stop(),
      };
    },
  },
  {
    name: "DenoKvStore",
    Store: DenoKvStore,
    option: "accessToken",
    others: {},
    timeout: "commandTimeout",
    // The function is called for exchanges: see deno-access.test.mts.
    logsIn: false,
    async start(): Promise<Server> {
      const server = await KvConnectServer.listen();
      return {
        url: server.url,
        setPassword: (password) => (server.accessToken = password),
        disconnect: async () => {},
        stop: () => server.stop(),
      };
    },
  },
] as const;

type Password = string | (() => string | PromiseLike<string>);

describe.each(rows)("$name", (row) => {
  const { name, Store, start, option, others } = row;
  const testLogin = test.skipIf(!row.logsIn);

  let server: Server;
  beforeAll(async () => {
    server = await start();
    await server.setPassword("first");
  });
  afterAll(() => server.stop());

  function open(password: Password, options = {}) {
    const all = { ...others, [option]: password, ...options };
    const store = new Store(server.url, all);
    onTestFinished(() => store.close());
    return store;
  }

  testLogin("the options win over the URL", async () => {
    await server.setPassword("first");
    await open("first").set(["k"], 1);
    await expectRejection(() => open("second").get(["k"]), "ERR_KV_CONNECTION");
    const unsaid = new Store(server.url);
    onTestFinished(() => unsaid.close());
    const { message } = await expectRejection(
      () => unsaid.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(message).not.toContain("wrong@");
  });

  testLogin(
    "a function is called for each new connection, and only then",
    async () => {
      let [password, calls] = ["first", 0];
      await server.setPassword(password);
      const store = open(async () => {
        calls += 1;
        return password;
      });
      await store.set(["k"], 1);
      await store.get(["k"]);
      const before = calls;
      expect(before).toBeGreaterThan(0);
      for (let i = 0; i < 20; i += 1) {
        await store.get(["k"]);
      }
      expect(calls).toBe(before);
      password = "second";
      await server.setPassword(password);
      // Open connections stay.
      expect(await store.get(["k"])).toBe(1);
      await server.disconnect();
      expect(await store.get(["k"])).toBe(1);
      expect(calls).toBeGreaterThan(before);
    },
  );

  testLogin(
    "after a refused login, the next password may be the right one",
    async () => {
      await server.setPassword("first");
      const answers = ["first", "first", "second"];
      let calls = 0;
      const store = open(() => {
        calls += 1;
        return (answers.length > 1 ? answers.shift() : answers[0]) ?? "";
      });
      await store.set(["k"], 1);
      answers.splice(0, answers.length, "first", "first", "second");
      calls = 0;
      await server.setPassword("second");
      await server.disconnect();
      expect(await store.get(["k"])).toBe(1);
      expect(calls).toBeGreaterThanOrEqual(3);
    },
  );

  test("a function that fails rejects with its message, and is asked again", async () => {
    await server.setPassword("first");
    let password: () => unknown = () => "first";
    const store = open(() => password() as string);
    const never = new Promise<string>(() => {});
    for (const [wrong, why] of [
      [
        () => {
          throw new Error("no token today");
        },
        "failed: no token today",
      ],
      [() => Promise.reject(new Error("no secret")), "failed: no secret"],
      [() => 12345, "returned a number, not a string"],
      [() => Promise.resolve(undefined), "returned undefined, not a string"],
      [() => "\ud800", "returned a string with a lone surrogate"],
    ] as const) {
      password = wrong;
      const error = await expectRejection(
        () => store.get(["k"]),
        "ERR_KV_CONNECTION",
      );
      expect(error.message).toContain(`the function ${option} ${why}`);
      expect(error.message).not.toContain("12345");
    }
    password = () => "first";
    await store.set(["k"], 1);
    const impatient = open(() => never, { [row.timeout]: 50 });
    const error = await expectRejection(
      () => impatient.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toContain(`the function ${option} did not return`);
  });

  testLogin("a function never runs within a call of the store", async () => {
    await server.setPassword("first");
    let calling = false;
    const during: boolean[] = [];
    const store = open(() => {
      during.push(calling);
      return "first";
    });
    const called = <T,>(call: () => Promise<T>): Promise<T> => {
      calling = true;
      try {
        return call();
      } finally {
        calling = false;
      }
    };
    await called(() => store.set(["k"], 1));
    await server.disconnect();
    await Promise.all(
      Array.from({ length: 50 }, () => called(() => store.get(["k"]))),
    );
    expect(during.length).toBeGreaterThan(1);
    expect(during).not.toContain(true);
  });

  const script = `
    const { ${name}: Store } = require(addon);
    const open = (password) =>
      new Store(data.url, { ...data.others, [data.option]: password });
  `;
  const data = () => ({ url: server.url, others, option });

  test("a store with a function lets the process end", async () => {
    await server.setPassword("first");
    const { reports, ...exit } = await runChild(
      `${script}
      const store = open(async () => "first");
      await store.set(["k"], 1);
      report(await store.get(["k"]));`,
      data(),
    );
    expect(reports).toEqual([1]);
    expectGoodEnd(exit);
  });

  test.each([
    ["closed", "await store.close(); return [ref, store];"],
    ["collected", "return [ref];"],
    ["closed before it was used", "await store.close(); return [ref, store];"],
  ])("a store that is %s lets go of its function", async (how, end) => {
    await server.setPassword("first");
    const use = how.includes("before") ? "" : `await store.set(["k"], 1);`;
    const gone = await ask(
      `${script}
      const make = async () => {
        const password = () => "first";
        const ref = new WeakRef(password);
        const store = open(password);
        ${use}
        ${end}
      };
      const [ref, store] = await make();
      for (let i = 0; i < 500 && ref.deref(); i += 1) {
        await new Promise((resolve) => setTimeout(resolve, 10));
        gc();
      }
      report([ref.deref() === undefined, store !== undefined]);`,
      data(),
      ["--expose-gc"],
    );
    expect(gone).toEqual([true, how !== "collected"]);
  });

  test("works in workers, and a worker may be terminated while it is asked", async () => {
    await server.setPassword("first");
    const { reports, ...exit } = await runChild(
      `import { Worker } from "node:worker_threads";
      import { once } from "node:events";
      const worker = (code) => new Worker(
        \`const { parentPort, workerData: { addon, data } } = require("node:worker_threads");
        ${script}
        const never = new Promise(() => {});
        \${code}\`,
        { eval: true, execArgv: [], workerData: { addon, data } },
      );
      for (let i = 0; i < 3; i += 1) {
        const good = worker(\`
          const store = open(async () => "first");
          store.set(["k"], 1).then(() => parentPort.postMessage("set"));
        \`);
        const exit = once(good, "exit");
        report((await once(good, "message"))[0]);
        await exit;
        const asked = worker(\`
          const store = open(() => {
            parentPort.postMessage("asked");
            return never;
          });
          store.get(["k"]);
          setInterval(() => {}, 1000);
        \`);
        report((await once(asked, "message"))[0]);
        await asked.terminate();
      }`,
      data(),
    );
    expectGoodEnd(exit);
    expect(reports).toEqual(Array(3).fill(["set", "asked"]).flat());
  });
});
