// MariaDB servers for a test, on free ports of the loopback interface. Each has
// a directory, which is removed when the server is stopped.
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import {
  type Connection,
  type Pool,
  createConnection,
  createPool,
} from "mysql2/promise";
import { pause } from "./pause.mts";
import { freePort } from "./redis.mts";

/** Settings with the names of my.cnf. */
type Settings = Readonly<Record<string, string | number>>;

/** The password of the test user, with characters that are special in URLs. */
export const password = "s3cr:et/ @#?%";

/**
 * Small files, because a server is created for each test file, and no syncs of the
 * disk: no test ends the whole machine.
 */
const small = {
  "debug-no-sync": 1,
  "innodb-log-file-size": "16M",
  "innodb-buffer-pool-size": "64M",
  "skip-name-resolve": 1,
};

const asRoot = process.getuid?.() === 0 ? ["--user=root"] : [];

function flags(settings: Settings): string[] {
  return Object.entries(settings).map(([name, value]) => `--${name}=${value}`);
}

/**
 * Each server has its own folder for temporary tables. In a shared folder,
 * those of two servers may have the same name.
 */
const environment = (directory: string) => ({
  ...process.env,
  TMPDIR: directory,
});

export class MysqlServer {
  readonly port: number;
  readonly directory: string;
  readonly socket: string;
  readonly #settings: Settings;
  readonly #pools: Pool[] = [];
  #process: ChildProcess | undefined;

  private constructor(port: number, directory: string, settings: Settings) {
    this.port = port;
    this.directory = directory;
    this.socket = join(directory, "mysqld.sock");
    this.#settings = settings;
  }

  static async start(settings: Settings = {}): Promise<MysqlServer> {
    const directory = await mkdtemp(join(tmpdir(), "fedify-kv-mysql-"));
    await promisify(execFile)(
      "mariadb-install-db",
      [
        "--no-defaults",
        `--datadir=${join(directory, "data")}`,
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        ...flags(small),
        ...asRoot,
      ],
      { env: environment(directory) },
    );
    await writeFile(
      join(directory, "init.sql"),
      [
        "CREATE DATABASE IF NOT EXISTS fedify;",
        `CREATE USER IF NOT EXISTS fedify@'%' IDENTIFIED BY '${password}';`,
        "GRANT ALL ON fedify.* TO fedify@'%';",
      ].join("\n"),
    );
    // Another process may take the free port before the server does.
    for (let attempt = 1; ; attempt += 1) {
      const server = new MysqlServer(await freePort(), directory, settings);
      try {
        await server.start();
        return server;
      } catch (error) {
        if (attempt === 3) {
          throw error;
        }
      }
    }
  }

  /** The URL of a user who has all rights on the test database only. */
  get url(): string {
    return this.urlFor("fedify", password);
  }

  urlFor(user: string, password: string, database = "fedify"): string {
    const login = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`;
    return `mysql://${login}@127.0.0.1:${this.port}/${database}`;
  }

  get isRunning(): boolean {
    const child = this.#process;
    return child !== undefined && child.exitCode === null && !child.signalCode;
  }

  /**
   * Starts the server, also again after `kill`, and waits until it is ready.
   */
  async start(): Promise<void> {
    const child = spawn(
      "mariadbd",
      [
        "--no-defaults",
        `--datadir=${join(this.directory, "data")}`,
        `--socket=${this.socket}`,
        `--pid-file=${join(this.directory, "pid")}`,
        `--init-file=${join(this.directory, "init.sql")}`,
        `--port=${this.port}`,
        "--bind-address=127.0.0.1",
        ...flags({ ...small, ...this.#settings }),
        ...asRoot,
      ],
      {
        stdio: ["ignore", "ignore", "pipe"],
        env: environment(this.directory),
      },
    );
    this.#process = child;
    const output: string[] = [];
    for await (const line of createInterface({ input: child.stderr })) {
      output.push(line);
      if (line.includes("ready for connections")) {
        // Discards further output, which would otherwise fill the pipe.
        child.stderr.resume();
        return;
      }
    }
    throw new Error(`mariadbd did not start:\n${output.join("\n")}`);
  }

  /** Kills the server, like a crash. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const child = this.#process;
    if (child !== undefined && this.isRunning) {
      child.kill(signal);
      await once(child, "exit");
    }
  }

  async pause(): Promise<void> {
    await pause(this.#process?.pid);
  }

  resume(): void {
    this.#process?.kill("SIGCONT");
  }

  /** A pool of the JavaScript driver, as a user's app has. */
  pool(options: object = {}): Pool {
    const pool = createPool({ uri: this.url, ...options });
    this.#pools.push(pool);
    return pool;
  }

  /** A connection as root, for changes that bypass the store. */
  async root(): Promise<Connection> {
    return createConnection({
      socketPath: this.socket,
      user: "root",
      database: "fedify",
      multipleStatements: true,
    });
  }

  /** Runs statements as root. Returns the rows of the last one. */
  async sql(
    text: string,
    values: unknown[] = [],
  ): Promise<Record<string, unknown>[]> {
    const connection = await this.root();
    try {
      const [rows] = await connection.query(text, values);
      return rows as unknown as Record<string, unknown>[];
    } finally {
      await connection.end();
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.#pools.map((pool) => pool.end().catch(() => {})));
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}
