// The TypeScript and JavaScript examples of the documents, as files that can be
// checked and run. They import "fedify-kv" as an app does.
import { type ChildProcess, fork, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Block, blocksIn, notRun, notTyped, root } from "./markdown.mts";

/** What the documents write, and what the test uses instead. */
export type Substitutions = ReadonlyMap<string, string>;

export class Examples {
  readonly #folder: string;
  readonly #substitutions: Substitutions;
  readonly #files = new Map<Block, string>();

  private constructor(folder: string, substitutions: Substitutions) {
    this.#folder = folder;
    this.#substitutions = substitutions;
  }

  static async write(substitutions: Substitutions): Promise<Examples> {
    // Within the repository, where the packages are installed.
    await mkdir(join(root, ".setup"), { recursive: true });
    const folder = await mkdtemp(join(root, ".setup/docs-"));
    await mkdir(join(folder, "node_modules"));
    await symlink(root, join(folder, "node_modules/fedify-kv"));
    const examples = new Examples(folder, substitutions);
    for (const block of blocksIn("ts", "js")) {
      const name = block.place.replaceAll(/[^\w]+/g, "-");
      const file = join(folder, `${name}.m${block.language}`);
      await writeFile(file, examples.#code(block));
      examples.#files.set(block, file);
    }
    return examples;
  }

  #code({ code }: Block): string {
    let text = code;
    for (const [written, used] of this.#substitutions) {
      text = text.replaceAll(written, used);
    }
    return text;
  }

  /** The messages of the compiler about all TypeScript examples. */
  async check(): Promise<string> {
    const config = {
      extends: "../../tsconfig.json",
      // An example may end with a name that the reader's app uses.
      compilerOptions: { noUnusedLocals: false },
      files: [...this.#files]
        .filter(([block]) => block.language === "ts" && !notTyped(block))
        .map(([, file]) => file),
      include: [],
    };
    await writeFile(
      join(this.#folder, "tsconfig.json"),
      JSON.stringify(config),
    );
    const compiler = join(root, "node_modules/.bin/tsc");
    const { stdout, stderr, error } = spawnSync(
      compiler,
      ["-p", this.#folder],
      { cwd: this.#folder, encoding: "utf8" },
    );
    if (error) throw error;
    return stdout + stderr;
  }

  /**
   * Runs all examples that can be run, in one process, each in a folder of its
   * own. Returns their errors.
   */
  async run(): Promise<string[]> {
    const blocks = [...this.#files.keys()].filter((block) => !notRun(block));
    const child = await this.start(blocks);
    const failures: string[] = [];
    child.on("message", (failure) => failures.push(String(failure)));
    const [code] = await once(child, "exit");
    if (code !== 0) failures.push(`the process ended with ${code}`);
    return failures;
  }

  /** Starts a process that runs examples. It reports failures as messages. */
  async start(
    blocks: readonly Block[],
    folder?: string,
    more = "",
  ): Promise<ChildProcess> {
    const examples = [];
    for (const block of blocks) {
      let file = this.#files.get(block) ?? "";
      if (more !== "") {
        file = file.replace(/\.m\ws$/, "-more$&");
        await writeFile(file, this.#code(block) + more);
      }
      const place = folder ?? (await mkdtemp(join(this.#folder, "run-")));
      examples.push([block.place, file, place]);
    }
    const runner = join(import.meta.dirname, "runner.mts");
    return fork(runner, [JSON.stringify(examples)], {
      execArgv: ["--disable-warning=ExperimentalWarning"],
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
  }

  /**
   * Runs one example in a process of its own, with more code behind it. Rejects
   * with its error.
   */
  async runIn(folder: string, block: Block, more: string): Promise<void> {
    const child = await this.start([block], folder, more);
    const failures: unknown[] = [];
    child.on("message", (failure) => failures.push(failure));
    const [code] = await once(child, "exit");
    if (code !== 0 || failures.length > 0) {
      throw new Error(`${block.place} ended with ${code}: ${failures.join()}`);
    }
  }

  async remove(): Promise<void> {
    await rm(this.#folder, { recursive: true });
  }
}
