// Deno KV stores for a test, and the real Deno to read and write their data.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { onTestFinished } from "vitest";
import { DenoKvStore } from "../../index.js";

export type Options = NonNullable<ConstructorParameters<typeof DenoKvStore>[1]>;

const root = join(import.meta.dirname, "../..");

/** The `deno` that npm installed. */
export const deno = join(root, "node_modules/.bin/deno");

/** An environment in which Deno doesn't look for updates over the network. */
export const offline = { ...process.env, DENO_NO_UPDATE_CHECK: "1" };

/** A store that is closed when the test is over. */
export function openDenoStore(place: string, options?: Options): DenoKvStore {
  const store = new DenoKvStore(place, options);
  onTestFinished(() => store.close());
  return store;
}

/**
 * What every script can use: `data` from the test, `kv`, `report(value)`, which
 * sends a value to the test, and `patiently(write)`.
 */
const prelude = `
  const data = JSON.parse(Deno.args[0]);
  const kv = await Deno.openKv(data.place);
  // In ASCII, because other characters may be line separators.
  const report = (value) => console.log(
    JSON.stringify(value, (_, it) => typeof it === "bigint" ? String(it) : it)
      .replace(/[\\u007f-\\uffff]/g, (unit) =>
        "\\\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0")),
  );
  // Repeats a write while the database is locked. Deno's engine doesn't wait
  // for the lock itself if the write checks what it has read.
  const patiently = async (write) => {
    for (;;) {
      try {
        return await write();
      } catch (error) {
        if (!error.message.includes("database is locked")) throw error;
      }
    }
  };
`;

/** A Deno process that runs a script on a database. */
export class DenoChild {
  readonly #lines: AsyncIterator<string>;
  readonly #exit: Promise<unknown[]>;
  #stderr = "";

  constructor(
    place: string,
    script: string,
    data: object,
    env: Record<string, string>,
  ) {
    const child = spawn(
      deno,
      [
        "run",
        "--quiet",
        "--unstable-kv",
        "--allow-all",
        "--no-remote",
        "--no-lock",
        "--no-config",
        "-",
        JSON.stringify({ place, ...data }),
      ],
      { env: { ...offline, ...env } },
    );
    onTestFinished(() => {
      child.kill("SIGKILL");
    });
    this.#exit = once(child, "close");
    child.stderr
      .setEncoding("utf8")
      .on("data", (text) => (this.#stderr += text));
    this.#lines = createInterface({ input: child.stdout })[
      Symbol.asyncIterator
    ]();
    child.stdin.end(`${prelude}${script}\nkv.close();`);
  }

  /**
   * The next value that the script reports. Rejects if the script has ended.
   */
  async next<T>(): Promise<T> {
    const line = await this.#lines.next();
    if (line.done) {
      await this.#exit;
      throw new Error(`the script ended: ${this.#stderr}`);
    }
    return JSON.parse(line.value) as T;
  }

  /** Waits until the script has ended. Rejects if it failed. */
  async end(): Promise<void> {
    const [code] = await this.#exit;
    if (code !== 0) {
      throw new Error(`the script failed: ${this.#stderr}`);
    }
  }
}

export function startDeno(
  place: string,
  script: string,
  data: object = {},
  env: Record<string, string> = {},
): DenoChild {
  return new DenoChild(place, script, data, env);
}

/** Runs a script until it ends, and returns the first value it reports. */
export async function askDeno<T>(
  place: string,
  script: string,
  data?: object,
  env?: Record<string, string>,
): Promise<T> {
  const child = startDeno(place, script, data, env);
  const value = await child.next<T>();
  await child.end();
  return value;
}

/** Runs a script that reports nothing. */
export function runDeno(
  place: string,
  script: string,
  data?: object,
  env?: Record<string, string>,
): Promise<void> {
  return startDeno(place, script, data, env).end();
}
