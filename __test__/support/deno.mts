// Deno KV databases of a test's own, and the real Deno to look into them.
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

/** Deno asks nobody for anything. */
export const offline = { ...process.env, DENO_NO_UPDATE_CHECK: "1" };

/** A store that is closed when the test is over. */
export function openDenoStore(place: string, options?: Options): DenoKvStore {
  const store = new DenoKvStore(place, options);
  onTestFinished(() => store.close());
  return store;
}

/** What every script finds: `data`, `kv`, and `report`, which the test reads. */
const prelude = `
  const data = JSON.parse(Deno.args[0]);
  const kv = await Deno.openKv(data.place);
  // In ASCII: other characters may end a line.
  const report = (value) => console.log(
    JSON.stringify(value, (_, it) => typeof it === "bigint" ? String(it) : it)
      .replace(/[\\u007f-\\uffff]/g, (unit) =>
        "\\\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0")),
  );
  // Deno's engine doesn't wait for others where it checks what it reads.
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

  /** The next value that the script reports; fails when it ends instead. */
  async next<T>(): Promise<T> {
    const line = await this.#lines.next();
    if (line.done) {
      await this.#exit;
      throw new Error(`the script ended: ${this.#stderr}`);
    }
    return JSON.parse(line.value) as T;
  }

  /** Until it has ended, which must be well. */
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

/** Runs a script to its end, and returns the one value it reports. */
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
