// What the figures were measured on.
import { readFileSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem, type } from "node:os";

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memory: string;
  readonly system: string;
  readonly node: string;
}

export function machine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() || "unknown",
    cores: availableParallelism(),
    memory: `${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
    system: `${type()} ${release()}`,
    node: process.version,
  };
}

/** One line for a person. */
export function describe({ cpu, cores, memory, system, node }: Machine) {
  return `${cpu}, ${cores} cores, ${memory}, ${system}, Node.js ${node.slice(1)}`;
}

/** The version of an installed package, as its package.json says. */
export function versionOf(name: string, modules = "../node_modules"): string {
  const path = new URL(`${modules}/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")).version as string;
}
