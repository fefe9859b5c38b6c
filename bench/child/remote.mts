// A store in a child process, which measures rounds when this process asks it
// to. So sides that can't be in one process can take turns in a row.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Job, Remote } from "../jobs.mts";
import type { Outcome, Work } from "../patterns.mts";
import type { StoreName } from "./stores.mts";

/** Prepares a round, or runs the one that is prepared. */
export type Request =
  { readonly job: Job; readonly first: number; readonly steps: number } | "run";

export class RemoteStore implements Remote, Disposable {
  readonly #process: ChildProcess;
  readonly #ended = new AbortController();

  private constructor(child: ChildProcess) {
    this.#process = child;
    child.once("exit", (code) =>
      this.#ended.abort(new Error(`A store's process ended: ${code}`)),
    );
  }

  /** Starts a process with more environment variables, and opens a store. */
  static async start(
    name: StoreName,
    location: string,
    env: Readonly<Record<string, string>>,
  ): Promise<RemoteStore> {
    const path = join(import.meta.dirname, "rounds.mts");
    const options = { env: { ...process.env, ...env } };
    const store = new RemoteStore(fork(path, [name, location], options));
    await store.#answer();
    return store;
  }

  work(job: Job): Work {
    return {
      prepare: async (first, steps) => {
        await this.#ask({ job, first, steps });
        return async () => (await this.#ask("run")) as Outcome;
      },
    };
  }

  async #ask(request: Request): Promise<unknown> {
    this.#ended.signal.throwIfAborted();
    this.#process.send(request);
    return this.#answer();
  }

  async #answer(): Promise<unknown> {
    const { signal } = this.#ended;
    const [answer] = await once(this.#process, "message", { signal });
    return answer;
  }

  [Symbol.dispose](): void {
    this.#process.kill();
  }
}
