// PostgreSQL servers for a test, on free ports of the loopback interface. Each
// has a directory, which is removed when the server is stopped. PostgreSQL
// refuses to run as root. If we are root, it runs as Debian's user `postgres`.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chown, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import postgres, { type Options, type Sql } from "postgres";
import { postgresBinary } from "./postgres-binary.mts";
import { freePort } from "./redis.mts";

/** Settings with the names of postgresql.conf. */
type Settings = Readonly<Record<string, string | number>>;

export interface ServerOptions {
  settings?: Settings;
  /** Arguments of `initdb` that replace `--locale=C`. */
  initdb?: readonly string[];
  /** More files for the data directory, such as certificates. */
  files?: Readonly<Record<string, string>>;
}

/** The user and group to run servers as. Empty if we aren't root. */
export function owner(): { uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) {
    return {};
  }
  const id = (flag: string) =>
    Number(spawnSync("id", [flag, "postgres"], { encoding: "utf8" }).stdout);
  return { uid: id("-u"), gid: id("-g") };
}

/** A new directory that a server may write to. */
export async function serverDirectory(name: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), `fedify-kv-${name}-`));
  const { uid, gid } = owner();
  if (uid !== undefined && gid !== undefined) {
    await chown(directory, uid, gid);
  }
  return directory;
}

export class PostgresServer {
  readonly port: number;
  readonly directory: string;
  readonly password = "a pass:word/%";
  /** The lines that the server has logged so far. */
  readonly log: string[] = [];
  readonly #settings: Settings;
  readonly #clients: Sql[] = [];
  #process: ChildProcess | undefined;

  private constructor(port: number, directory: string, settings: Settings) {
    this.port = port;
    this.directory = directory;
    this.#settings = settings;
  }

  static async start({
    settings = {},
    initdb = [],
    files = {},
  }: ServerOptions = {}): Promise<PostgresServer> {
    const directory = await serverDirectory("postgres");
    const passwordFile = join(directory, "password");
    await write(passwordFile, "a pass:word/%\n");
    const made = spawnSync(
      postgresBinary("initdb"),
      [
        "--pgdata",
        join(directory, "data"),
        "--username=fedify",
        `--pwfile=${passwordFile}`,
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--no-sync",
        ...(initdb.length > 0 ? initdb : ["--locale=C"]),
      ],
      { ...owner(), cwd: directory, encoding: "utf8" },
    );
    if (made.status !== 0) {
      throw new Error(`initdb failed:\n${made.stdout}${made.stderr}`);
    }
    for (const [name, text] of Object.entries(files)) {
      await write(join(directory, "data", name), text);
    }
    return PostgresServer.#startIn(directory, settings);
  }

  static async #startIn(
    directory: string,
    settings: Settings,
  ): Promise<PostgresServer> {
    // Another process may take the free port before the server does.
    for (let attempt = 1; ; attempt += 1) {
      const port = await freePort();
      const server = new PostgresServer(port, directory, settings);
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

  /** Starts a standby, which follows this server by streaming replication. */
  async startStandby(settings: Settings = {}): Promise<PostgresServer> {
    const directory = await serverDirectory("standby");
    const data = join(directory, "data");
    const made = spawnSync(
      postgresBinary("pg_basebackup"),
      [
        `--pgdata=${data}`,
        `--host=${this.directory}`,
        `--port=${this.port}`,
        "--username=fedify",
        "--checkpoint=fast",
        "--no-sync",
        "--write-recovery-conf",
      ],
      { ...owner(), cwd: directory, encoding: "utf8" },
    );
    if (made.status !== 0) {
      throw new Error(`pg_basebackup failed:\n${made.stdout}${made.stderr}`);
    }
    return PostgresServer.#startIn(directory, settings);
  }

  /** Makes a standby a primary. */
  async promote(): Promise<void> {
    const client = this.client();
    await client`SELECT pg_promote()`;
    await client.end();
  }

  get url(): string {
    return this.urlOf({});
  }

  /** The URL of another user, password or database. */
  urlOf({
    user = "fedify",
    password = this.password,
    database = "postgres",
  }): string {
    const login = `${user}:${encodeURIComponent(password)}`;
    return `postgres://${login}@127.0.0.1:${this.port}/${database}`;
  }

  get socketUrl(): string {
    const host = encodeURIComponent(this.directory);
    return `postgres://fedify@${host}:${this.port}/postgres`;
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  get isRunning(): boolean {
    const child = this.#process;
    return child !== undefined && child.exitCode === null && !child.signalCode;
  }

  /**
   * Starts the server, also again after `kill`, and waits until it is ready.
   */
  async start(settings: Settings = {}): Promise<void> {
    const all: Settings = {
      port: this.port,
      listen_addresses: "127.0.0.1",
      unix_socket_directories: this.directory,
      lc_messages: "C",
      ...this.#settings,
      ...settings,
    };
    const child = spawn(
      postgresBinary("postgres"),
      [
        "-D",
        join(this.directory, "data"),
        ...Object.entries(all).flatMap(([name, value]) => [
          "-c",
          `${name}=${value}`,
        ]),
      ],
      {
        ...owner(),
        cwd: this.directory,
        stdio: ["ignore", "inherit", "pipe"],
      },
    );
    this.#process = child;
    const lines = createInterface({ input: child.stderr });
    const from = this.log.length;
    const ready = new Promise<boolean>((resolve) => {
      lines.on("line", (line) => {
        this.log.push(line);
        if (/system is ready to accept (read-only )?connections/.test(line)) {
          resolve(true);
        }
      });
      lines.on("close", () => resolve(false));
    });
    if (!(await ready)) {
      const output = this.log.slice(from).join("\n");
      throw new Error(`postgres did not start:\n${output}`);
    }
  }

  /**
   * Stops the server. SIGQUIT acts like a crash, but also ends its children.
   */
  async kill(signal: NodeJS.Signals = "SIGQUIT"): Promise<void> {
    const child = this.#process;
    if (child !== undefined && this.isRunning) {
      child.kill(signal);
      await once(child, "exit");
    }
  }

  /** Another client, to read or change data without the store. */
  client(options: Options<{}> = {}): Sql {
    const client = postgres(this.url, {
      max: 2,
      onnotice: () => {},
      ...options,
    });
    this.#clients.push(client);
    return client;
  }

  async stop(): Promise<void> {
    await Promise.all(
      this.#clients.map((client) => client.end({ timeout: 0 })),
    );
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

export interface PoolerOptions {
  mode?: "transaction" | "session";
  /** The most connections to the server. */
  size?: number;
  /** More settings, as in pgbouncer.ini. */
  settings?: string;
}

/** PgBouncer in front of a server. */
export class PgBouncer {
  readonly port: number;
  readonly #server: PostgresServer;
  readonly #directory: string;
  readonly #process: ChildProcess;

  private constructor(
    port: number,
    server: PostgresServer,
    directory: string,
    child: ChildProcess,
  ) {
    this.port = port;
    this.#server = server;
    this.#directory = directory;
    this.#process = child;
  }

  static async start(
    server: PostgresServer,
    { mode = "transaction", size = 3, settings = "" }: PoolerOptions = {},
  ): Promise<PgBouncer> {
    const directory = await serverDirectory("pgbouncer");
    const users = join(directory, "users.txt");
    const config = join(directory, "pgbouncer.ini");
    const port = await freePort();
    await write(users, `"fedify" "${server.password}"\n`);
    await write(
      config,
      `[databases]
postgres = host=127.0.0.1 port=${server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${users}
pool_mode = ${mode}
default_pool_size = ${size}
${settings}
`,
    );
    const child = spawn("pgbouncer", [config], {
      ...owner(),
      cwd: directory,
      stdio: ["ignore", "inherit", "pipe"],
    });
    const output: string[] = [];
    for await (const line of createInterface({ input: child.stderr })) {
      output.push(line);
      if (line.includes("process up")) {
        child.stderr.resume();
        return new PgBouncer(port, server, directory, child);
      }
    }
    throw new Error(`pgbouncer did not start:\n${output.join("\n")}`);
  }

  get pid(): number {
    return this.#process.pid ?? 0;
  }

  get url(): string {
    const password = encodeURIComponent(this.#server.password);
    return `postgres://fedify:${password}@127.0.0.1:${this.port}/postgres`;
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode === null && !this.#process.signalCode) {
      this.#process.kill("SIGTERM");
      this.#process.kill("SIGINT");
      await once(this.#process, "exit");
    }
    await rm(this.#directory, { recursive: true, force: true });
  }
}

/** Writes a file that only the server may read. */
async function write(path: string, text: string): Promise<void> {
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, text, { mode: 0o600 });
  const { uid, gid } = owner();
  if (uid !== undefined && gid !== undefined) {
    await chown(path, uid, gid);
  }
}
