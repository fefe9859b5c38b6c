// Redis servers for a test, on free ports of the loopback interface. Each has a
// directory, which is removed when the server is stopped.
import { type ChildProcess, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Redis } from "ioredis";
import { pause } from "./pause.mts";

const given = new Set<number>();

/**
 * A free port. It is outside the range from which the system picks ports, so
 * that it also stays free while a test's server is stopped.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 32_000);
    if (given.has(port)) continue;
    given.add(port);
    const server = createServer().listen(port, "127.0.0.1");
    const listening = once(server, "listening");
    if (!(await listening.catch(() => undefined))) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

/** Settings with the names of redis.conf. */
export type Settings = Readonly<Record<string, string | number>>;

/** Valkey accepts the same settings. */
export type Program = "redis-server" | "valkey-server";

export class RedisServer {
  readonly port: number;
  readonly directory: string;
  readonly socket: string;
  readonly #settings: Settings;
  readonly #program: Program;
  readonly #clients: Redis[] = [];
  #process: ChildProcess | undefined;

  private constructor(
    port: number,
    directory: string,
    settings: Settings,
    program: Program,
  ) {
    this.port = port;
    this.directory = directory;
    this.socket = join(directory, "redis.sock");
    this.#settings = settings;
    this.#program = program;
  }

  /** Starts a server. It writes no data to disk unless the settings say so. */
  static async start(
    settings: Settings = {},
    program: Program = "redis-server",
  ): Promise<RedisServer> {
    const directory = await mkdtemp(join(tmpdir(), "fedify-kv-redis-"));
    // Another process may take the free port before the server does.
    for (let attempt = 1; ; attempt += 1) {
      const port = await freePort();
      const server = new RedisServer(port, directory, settings, program);
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

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
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
  async start(): Promise<void> {
    const child = spawn(
      this.#program,
      Object.entries({
        bind: "127.0.0.1",
        port: this.port,
        dir: this.directory,
        unixsocket: this.socket,
        save: "",
        appendonly: "no",
        ...this.#settings,
      }).flatMap(([name, value]) => [`--${name}`, String(value)]),
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    this.#process = child;
    const output: string[] = [];
    const lines = createInterface({ input: child.stdout });
    for await (const line of lines) {
      output.push(line);
      if (line.includes("eady to accept connections")) {
        // Discards further output, which would otherwise fill the pipe.
        child.stdout.resume();
        return;
      }
    }
    throw new Error(`${this.#program} did not start:\n${output.join("\n")}`);
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

  /** Another client, to read or change data without the store. */
  client(options: object = {}): Redis {
    const client = new Redis({
      host: "127.0.0.1",
      port: this.port,
      retryStrategy: () => 20,
      ...options,
    });
    client.on("error", () => {});
    this.#clients.push(client);
    return client;
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) {
      client.disconnect();
    }
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}
