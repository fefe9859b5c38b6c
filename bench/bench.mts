// One run of the benchmark: its parts report their rows here.
import type { KvStore } from "@fedify/fedify";
import { cells } from "./cells.mts";
import { collectGarbage } from "./delay.mts";
import { machine, versionOf } from "./machine.mts";
import { type Budget, measure } from "./measure.mts";
import type { Work } from "./patterns.mts";
import type { Figure, Kind, Results, Row, Table } from "./results.mts";
import type { Unit } from "./units.mts";

export interface Choice {
  readonly quick: boolean;
  /** Only rows whose table and name contain this text, in any case. */
  readonly rows: string;
}

/** A run of one part. */
export class Bench {
  readonly quick: boolean;
  readonly budget: Budget;
  readonly #part: string;
  readonly #place: string;
  readonly #rows: string;
  readonly #start = performance.now();
  readonly #versions: Record<string, string> = {};
  readonly #tables: BenchTable[] = [];
  #count = 0;
  #heading = "";

  /** `place` says which part of how many this is. */
  constructor(part: string, place: string, { quick, rows }: Choice) {
    this.#part = part;
    this.#place = place;
    this.#rows = rows.toLowerCase();
    this.quick = quick;
    this.budget = quick
      ? { seconds: 0.5, rounds: 3 }
      : { seconds: 4, rounds: 15 };
  }

  /** Notes the versions of packages that take part. */
  packages(...names: readonly string[]): void {
    for (const name of names) this.version(name, versionOf(name));
  }

  version(name: string, version: string): void {
    this.#versions[name] = version;
    console.log(`${name} ${version}`);
  }

  /** A table whose first column is ours. The others are compared with it. */
  table(title: string, columns: Readonly<Record<string, Kind>>): BenchTable {
    const table = new BenchTable(this, title, columns);
    this.#tables.push(table);
    return table;
  }

  wants(table: string, row: string): boolean {
    return `${table}, ${row}`.toLowerCase().includes(this.#rows);
  }

  /** Says on stderr what runs now. */
  progress(what: string): void {
    const seconds = Math.floor((performance.now() - this.#start) / 1000);
    const text = `${this.#place}, ${this.#part}, ${seconds} s: ${what}`;
    if (process.stderr.isTTY) {
      process.stderr.write(
        `\r\x1b[K${text.slice(0, process.stderr.columns - 1)}`,
      );
    } else {
      process.stderr.write(`${text}\n`);
    }
  }

  /** Removes the progress line from a terminal, before anything is printed. */
  clear(): void {
    if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
  }

  /** Says on stderr which row runs now. */
  next(row: string): void {
    this.#count++;
    this.progress(`row ${this.#count}, ${row}`);
  }

  /** Prints the heading of a table, unless its rows are the last ones. */
  heading(title: string, columns: readonly string[]): void {
    if (this.#heading === title) return;
    this.#heading = title;
    console.log(`\n${title}`);
    line("", columns);
  }

  results(): Results {
    return {
      part: this.#part,
      date: new Date().toISOString().slice(0, 10),
      quick: this.quick,
      machine: machine(),
      versions: this.#versions,
      tables: this.#tables.map(({ table }) => table),
    };
  }
}

export class BenchTable {
  readonly #bench: Bench;
  readonly #title: string;
  readonly #columns: Readonly<Record<string, Kind>>;
  readonly #rows: Row[] = [];

  constructor(
    bench: Bench,
    title: string,
    columns: Readonly<Record<string, Kind>>,
  ) {
    this.#bench = bench;
    this.#title = title;
    this.#columns = columns;
  }

  get table(): Table {
    return { title: this.#title, columns: this.#columns, rows: this.#rows };
  }

  /**
   * Measures a row, if it is one of those that were chosen. It takes `times` as
   * long as most rows.
   */
  async row(
    name: string,
    works: Readonly<Record<string, Work>>,
    times = 1,
  ): Promise<void> {
    const { seconds, rounds } = this.#bench.budget;
    await this.add(name, "s", () => {
      // The garbage of earlier rows is not this row's.
      collectGarbage();
      return measure(works, { seconds: seconds * times, rounds });
    });
  }

  /** Adds a row that `run` measures in its own way. */
  async add(
    name: string,
    unit: Unit,
    run: () => Promise<Record<string, Figure>>,
  ): Promise<void> {
    if (!this.#bench.wants(this.#title, name)) return;
    this.#bench.next(`${this.#title}, ${name}`);
    this.put(name, unit, await run());
  }

  /** Adds a row that is measured already. */
  put(name: string, unit: Unit, figures: Record<string, Figure>): void {
    this.#bench.clear();
    this.#bench.heading(this.#title, Object.keys(this.#columns));
    const row = { name, unit, figures };
    this.#rows.push(row);
    line(name, cells(this.#columns, row));
  }
}

function line(name: string, cells: readonly string[]): void {
  const widths = cells.map((cell) => cell.slice(0, 24).padStart(26));
  console.log(name.slice(0, 44).padEnd(44) + widths.join(""));
}

/** Makes the same work for several stores. */
export function forEach<S>(
  stores: Readonly<Record<string, S>>,
  work: (store: S) => Work,
): Record<string, Work> {
  return Object.fromEntries(
    Object.entries(stores).map(([name, store]) => [name, work(store)]),
  );
}

export type Stores = Readonly<Record<string, KvStore>>;
