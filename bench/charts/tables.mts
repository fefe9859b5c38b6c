// The tables of docs/benchmarks.md and README.md, from the results.
import { cells } from "../cells.mts";
import { describe } from "../machine.mts";
import {
  cell,
  type Figure,
  readResults,
  type Results,
  type Table,
} from "../results.mts";
import { format, formatRatio } from "../units.mts";

/** The text between `<!-- NAME -->` and `<!-- /NAME -->`, for each name. */
export type Texts = ReadonlyMap<string, string>;

const PARTS = [
  "memory",
  "sqlite",
  "redis",
  "postgres",
  "mysql",
  "deno",
  "lists",
  "stalls",
  "federation",
  "startup",
];

/** A text for each part, and one about the machine. */
export async function benchmarkTexts(): Promise<Texts> {
  const all = await Promise.all(PARTS.map(readResults));
  const texts = all.map((results) => [results.part, part(results)] as const);
  return new Map([...texts, ["machine", machines(all)] as const]);
}

/** What was measured on what. */
function machines(all: readonly Results[]): string {
  const lines = new Set(all.map(({ machine }) => describe(machine)));
  const dates = [...new Set(all.map(({ date }) => date))].toSorted();
  const versions = new Map(all.flatMap((r) => Object.entries(r.versions)));
  const quick = all.some((results) => results.quick);
  return [
    `Measured on ${dates.join(", ")}: ${[...lines].join("; ")}.`,
    quick ? "Some figures are of a `--quick` run and not exact." : "",
    [...versions]
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, version]) => `${name} ${version}`)
      .join(", ") + ".",
  ]
    .filter((text) => text !== "")
    .join("\n\n");
}

function part({ tables }: Results): string {
  return tables
    .flatMap((table) => [
      markdown(table),
      cpu(table, "process", (figure) => figure.processCpu),
      cpu(table, "JavaScript thread", (figure) => figure.cpu),
    ])
    .filter((text) => text !== "")
    .join("\n\n");
}

function markdown({ title, columns, rows }: Table): string {
  const names = Object.keys(columns);
  const lines = rows.map((row) => [row.name, ...cells(columns, row)]);
  return `**${title}**\n\n${grid(["", ...names.map(heading(columns))], lines)}`;
}

/** The CPU time of an operation, where several threads work for it. */
function cpu(
  { title, columns, rows }: Table,
  whose: string,
  timeOf: (figure: Figure) => number | undefined,
): string {
  if (!/^(Redis|PostgreSQL|MySQL), calls/.test(title)) return "";
  const kinds = Object.entries(columns).filter(([, kind]) => kind !== "floor");
  const lines = rows.flatMap((row) => {
    const figures = kinds.flatMap(([name]) => {
      const figure = row.figures[name];
      const median = figure && timeOf(figure);
      if (median === undefined) return [];
      return [[name, { ...figure!, median }] as const];
    });
    if (figures.length === 0) return [];
    const of = { ...row, figures: Object.fromEntries(figures) };
    return [[row.name, ...cells(Object.fromEntries(kinds), of)]];
  });
  // Results of older runs have no CPU time of the process.
  if (lines.length === 0) return "";
  const names = kinds.map(([name]) => name);
  return `**The same: the CPU time of the ${whose}**\n\n${grid(["", ...names], lines)}`;
}

function heading(columns: Table["columns"]): (name: string) => string {
  return (name) => (columns[name] === "floor" ? `_${name}_` : name);
}

function grid(
  heading: readonly string[],
  lines: readonly (readonly string[])[],
): string {
  const rule = heading.map((_, i) => (i === 0 ? "---" : "--:"));
  return [heading, rule, ...lines]
    .map((line) => `| ${line.join(" | ")} |`)
    .join("\n");
}

/** The README's figures: the row of each store that tells most. */
export async function readmeTexts(): Promise<Texts> {
  const lines = [];
  for (const [name, part, table, row, official] of FIGURES) {
    const results = await readResults(part);
    const ours = cell(results, table, row, "fedify-kv");
    const peer = cell(results, table, row, official);
    const times = [format(ours, "s"), format(peer, "s")];
    lines.push([name, ...times, formatRatio(peer / ours)]);
  }
  const columns = ["per operation", "fedify-kv", "official package", "ratio"];
  return new Map([["figures", grid(columns, lines)]]);
}

const FIGURES = [
  [
    "SQLite: an incoming activity, 32 at a time",
    "federation",
    "Incoming activities, SQLite",
    "32 at a time, time each",
    "@fedify/sqlite",
  ],
  [
    "Redis: set a document, 64 in flight",
    "redis",
    "Redis, the sets that Fedify makes",
    "set a document, 64 in flight",
    "@fedify/redis",
  ],
  [
    "PostgreSQL: get, 64 in flight",
    "postgres",
    "PostgreSQL, calls among 100,000 entries",
    "get, 64 in flight",
    "@fedify/postgres",
  ],
  [
    "MySQL: set, one at a time",
    "mysql",
    "MySQL, calls among 100,000 entries",
    "set, one at a time",
    "@fedify/mysql",
  ],
  [
    "memory: get, one at a time",
    "memory",
    "Memory, reads among 100,000 entries",
    "get, one at a time",
    "Fedify's MemoryKvStore",
  ],
] as const;
