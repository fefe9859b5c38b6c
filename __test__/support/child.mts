// Runs scripts of a test in Node child processes. Test and script exchange
// lines of JSON. A process is killed when its test ends.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, onTestFinished } from "vitest";

const root = join(import.meta.dirname, "../..");

/** The addon's path, for scripts that load it themselves, such as workers. */
export const addon = join(root, "index.js");

/**
 * A value as one line of JSON in ASCII. Other characters may be line
 * separators, or may be split between two chunks.
 */
function toLine(value: unknown): string {
  const escaped = JSON.stringify(value).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return `${escaped}\n`;
}

/**
 * What every script can use: `data` from the test, `require(addon)`,
 * `report(value)`, which sends a value to the test, and `told()`, which waits
 * for the next value that the test sends with `tell`.
 */
const prelude = `
  import { createRequire } from "node:module";
  import { writeSync as report_ } from "node:fs";
  const [addon, data] = JSON.parse(process.argv[1]);
  const require = createRequire(addon);
  const report = (value) => report_(1, line_(value));
  const line_ = ${toLine};
  let lines_;
  const told = async () => {
    lines_ ??= (await import("node:readline"))
      .createInterface({ input: process.stdin })[Symbol.asyncIterator]();
    process.stdin.ref();
    const line = await lines_.next();
    process.stdin.unref();
    if (!line.done) return JSON.parse(line.value);
  };
`;

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
  /** The time from the last report (or, without one, the start) to the end. */
  lastMilliseconds: number;
}

/** The user and group that a child runs as; the test's own if none is given. */
export interface User {
  readonly uid?: number;
  readonly gid?: number;
}

export class Child {
  readonly pid: number;
  readonly exit: Promise<Exit>;
  readonly #process;
  readonly #lines: AsyncIterator<string>;

  constructor(
    script: string,
    data: unknown,
    flags: readonly string[],
    user: User,
  ) {
    let last = performance.now();
    let stderr = "";
    const child = spawn(
      process.execPath,
      [
        "--disable-warning=ExperimentalWarning",
        ...flags,
        "--input-type=module",
        "--eval",
        prelude + script,
        "--",
        JSON.stringify([addon, data]),
      ],
      { cwd: root, ...user },
    );
    child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text));
    child.stdout.on("data", () => (last = performance.now()));
    // Writing to a child that has died fails. That is not an error of the test.
    child.stdin.on("error", () => {});
    this.#process = child;
    this.#lines = createInterface({ input: child.stdout })[
      Symbol.asyncIterator
    ]();
    this.pid = child.pid ?? 0;
    this.exit = once(child, "close").then(([code, signal]) => ({
      code,
      signal,
      stderr,
      lastMilliseconds: performance.now() - last,
    }));
    onTestFinished(() => {
      child.kill("SIGKILL");
    });
  }

  /**
   * The next value that the script reports. Rejects if the script has ended.
   */
  async next<T = unknown>(): Promise<T> {
    const line = await this.#lines.next();
    if (line.done) {
      throw new Error(`the script ended: ${JSON.stringify(await this.exit)}`);
    }
    return JSON.parse(line.value) as T;
  }

  /** Waits until the script ends, and returns its remaining reports. */
  async rest<T = unknown>(): Promise<T[]> {
    const values: T[] = [];
    for (;;) {
      const line = await this.#lines.next();
      if (line.done) {
        return values;
      }
      values.push(JSON.parse(line.value) as T);
    }
  }

  /** Sends a value to the script, which receives it with `told()`. */
  tell(value: unknown): void {
    this.#process.stdin.write(toLine(value));
  }

  /** Closes the script's input. */
  end(): void {
    this.#process.stdin.end();
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }
}

export function startChild(
  script: string,
  data?: unknown,
  flags: readonly string[] = [],
  user: User = {},
): Child {
  return new Child(script, data ?? null, flags, user);
}

export interface RunResult extends Exit {
  reports: unknown[];
}

/** The time in which a process with nothing left to do must end, in ms. */
export const prompt = 4_000;

/** Expects that a process ended by itself, without errors, and promptly. */
export function expectGoodEnd(exit: Exit): void {
  expect(exit).toMatchObject({ code: 0, signal: null, stderr: "" });
  expect(exit.lastMilliseconds).toBeLessThan(prompt);
}

/** Runs a script until it ends, successfully or not. */
export async function runChild(
  script: string,
  data?: unknown,
  flags?: readonly string[],
): Promise<RunResult> {
  const child = startChild(script, data, flags);
  child.end();
  const reports = await child.rest();
  return { reports, ...(await child.exit) };
}

/** Runs a script that must succeed, and returns the only value it reports. */
export async function ask<T>(
  script: string,
  data?: unknown,
  flags?: readonly string[],
): Promise<T> {
  const { reports, ...exit } = await runChild(script, data, flags);
  if (exit.code !== 0 || reports.length !== 1) {
    throw new Error(`the script failed: ${JSON.stringify(exit)}`);
  }
  return reports[0] as T;
}
