// The results of a part, as a file in bench/results/ that charts and tables
// are made from.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Machine } from "./machine.mts";
import type { Unit } from "./units.mts";

export interface Figure {
  readonly median: number;
  readonly p25: number;
  readonly p75: number;
  readonly samples: number;
  /** The CPU time of the JavaScript thread for an operation, in seconds. */
  readonly cpu?: number;
  /** The same of all threads of the process. */
  readonly processCpu?: number;
}

/** A floor is the engine without a store: what no store can be faster than. */
export type Kind = "ours" | "peer" | "floor";

export interface Row {
  readonly name: string;
  readonly unit: Unit;
  /** By column. A column without a figure can't do this. */
  readonly figures: Readonly<Record<string, Figure>>;
}

export interface Table {
  readonly title: string;
  /** The kind of each column, in order. */
  readonly columns: Readonly<Record<string, Kind>>;
  readonly rows: readonly Row[];
}

export interface Results {
  readonly part: string;
  readonly date: string;
  readonly quick: boolean;
  readonly machine: Machine;
  /** Of the servers and packages that took part. */
  readonly versions: Readonly<Record<string, string>>;
  readonly tables: readonly Table[];
}

export const RESULTS = join(import.meta.dirname, "results");

/** Where results go that aren't meant to be committed. */
export const SCRATCH = join(RESULTS, "scratch");

export async function writeResults(
  folder: string,
  results: Results,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, `${results.part}.json`);
  await writeFile(path, `${JSON.stringify(results, null, 1)}\n`);
}

export async function readResults(part: string): Promise<Results> {
  return JSON.parse(await readFile(join(RESULTS, `${part}.json`), "utf8"));
}

/** The median in a cell. Fails if there is no such cell. */
export function cell(
  results: Results,
  table: string,
  row: string,
  column: string,
): number {
  const value = results.tables
    .find(({ title }) => title === table)
    ?.rows.find(({ name }) => name === row)?.figures[column]?.median;
  if (value === undefined) {
    const where = `${results.part}, ${table}, ${row}, ${column}`;
    throw new Error(`The results have no figure for ${where}`);
  }
  return value;
}
