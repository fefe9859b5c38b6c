// `denokv`, the real server of KV Connect. Building it takes many minutes, so
// tests use it only if DENOKV=1 is set. It is built once.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pause } from "./pause.mts";
import { freePort } from "./redis.mts";

/** The release that belongs to the denokv crates in the addon. */
const version = "0.14.0";

const folder = join(import.meta.dirname, `../../.setup/denokv-${version}`);
const program = join(folder, "bin/denokv");

export const hasDenokv = process.env.DENOKV === "1";

export function installDenokv(): void {
  if (!hasDenokv || existsSync(program)) {
    return;
  }
  const words = ["install", "denokv", "--locked", "--quiet"];
  const { status } = spawnSync(
    "cargo",
    [...words, "--version", version, "--root", folder],
    { stdio: "inherit" },
  );
  if (status !== 0) {
    throw new Error(`cargo can't install denokv ${version}, see above`);
  }
}

export class DenokvServer {
  readonly port: number;
  readonly token = "a token of the tests";
  readonly #directory: string;
  #process: ChildProcess | undefined;

  private constructor(port: number, directory: string) {
    this.port = port;
    this.#directory = directory;
  }

  static async start(): Promise<DenokvServer> {
    const directory = await mkdtemp(join(tmpdir(), "fedify-kv-denokv-"));
    const server = new DenokvServer(await freePort(), directory);
    await server.start();
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts the server, also again after `kill`, and waits until it listens. */
  async start(): Promise<void> {
    const child = spawn(
      program,
      [
        "--sqlite-path",
        join(this.#directory, "kv.db"),
        "serve",
        "--access-token",
        this.token,
        "--addr",
        `127.0.0.1:${this.port}`,
      ],
      { stdio: "ignore" },
    );
    this.#process = child;
    const deadline = performance.now() + 20_000;
    while (!(await listens(this.port))) {
      if (child.exitCode !== null || performance.now() > deadline) {
        await this.kill();
        throw new Error(`denokv did not start (${child.exitCode})`);
      }
    }
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const child = this.#process;
    if (child !== undefined && child.exitCode === null && !child.signalCode) {
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

  async stop(): Promise<void> {
    await this.kill();
    await rm(this.#directory, { recursive: true });
  }
}

async function listens(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
