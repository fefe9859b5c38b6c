// What each chart shows, taken from the results.
import { cell, readResults, type Results } from "../results.mts";
import { curves, type Curve } from "./curves.mts";
import { type DotGroup, type DotRow, dots, type Series } from "./dots.mts";
import type { Mode } from "./theme.mts";

type Draw = (mode: Mode) => string;

const OURS: Series = { name: "fedify-kv", color: "ours" };
const OFFICIAL: Series = { name: "official package", color: "official" };
const KEYV: Series = { name: "Keyv", color: "keyv" };

/** All charts, by name. */
export async function charts(): Promise<Record<string, Draw>> {
  const [federation, lists, stalls] = await Promise.all(
    ["federation", "lists", "stalls"].map(readResults),
  );
  return {
    overview: await overview(),
    inbox: inbox(federation!),
    lists: listCurves(lists!),
    stalls: stallDots(lists!, stalls!),
    memory: memory(lists!),
  };
}

interface Source {
  readonly part: string;
  readonly name: string;
  /** The columns of ours, the official package and Keyv. */
  readonly columns: readonly string[];
  /** Rows of the chart: label, table, row, and columns if they differ. */
  readonly rows: readonly (readonly [
    label: string,
    table: string,
    row: string,
    columns?: readonly string[],
  ])[];
}

const SQLITE_READS = "SQLite, reads among 100,000 entries";
const SQLITE_WRITES = "SQLite, writes that survive a power loss";
const REDIS_CALLS = "Redis, calls among 20,000 entries";
const REDIS_SETS = "Redis, the sets that Fedify makes";
const POSTGRES_CALLS = "PostgreSQL, calls among 100,000 entries";
const POSTGRES_FEW = "PostgreSQL, sets among 1,000 entries";
const MYSQL_CALLS = "MySQL, calls among 100,000 entries";
const DENO = "Deno KV, a file with 20,000 entries";
const MEMORY_READS = "Memory, reads among 100,000 entries";

const ONE = "one at a time";
const MANY = "64 in flight";

// Tables are compared with tables that survive a crash as well: the official
// package's don't.
const LOGGED = ["fedify-kv", "", "Keyv"];
const UNLOGGED = ["fedify-kv, unlogged", "@fedify/postgres"];

const OVERVIEW: readonly Source[] = [
  {
    part: "sqlite",
    name: "SQLite",
    columns: ["fedify-kv", "@fedify/sqlite", "Keyv"],
    rows: [
      ["get, one at a time", SQLITE_READS, `get one of 500 documents, ${ONE}`],
      ["set, one at a time", SQLITE_WRITES, `set a document, ${ONE}`],
      ["set, 64 in flight", SQLITE_WRITES, `set a document, ${MANY}`],
      [
        "list of 50",
        SQLITE_READS,
        "list of 50",
        ["fedify-kv", "@fedify/sqlite"],
      ],
    ],
  },
  {
    part: "redis",
    name: "Redis",
    columns: ["fedify-kv", "@fedify/redis", "Keyv"],
    rows: [
      ["get, one at a time", REDIS_CALLS, `get, ${ONE}`],
      ["get, 64 in flight", REDIS_CALLS, `get, ${MANY}`],
      ["set, one at a time", REDIS_SETS, `set a document, ${ONE}`],
      ["set, 64 in flight", REDIS_SETS, `set a document, ${MANY}`],
    ],
  },
  {
    part: "postgres",
    name: "PostgreSQL",
    columns: ["fedify-kv", "@fedify/postgres", "Keyv"],
    rows: [
      ["get, one at a time", POSTGRES_CALLS, `get, ${ONE}`],
      ["get, 64 in flight", POSTGRES_CALLS, `get, ${MANY}`],
      ["set, unlogged, one at a time", POSTGRES_FEW, `set, ${ONE}`, UNLOGGED],
      ["set, unlogged, 64 in flight", POSTGRES_FEW, `set, ${MANY}`, UNLOGGED],
      ["set, logged, one at a time", POSTGRES_FEW, `set, ${ONE}`, LOGGED],
      ["set, logged, 64 in flight", POSTGRES_FEW, `set, ${MANY}`, LOGGED],
    ],
  },
  {
    part: "mysql",
    name: "MySQL (MariaDB)",
    columns: ["fedify-kv", "@fedify/mysql"],
    rows: [
      ["get, one at a time", MYSQL_CALLS, `get, ${ONE}`],
      ["set, one at a time", MYSQL_CALLS, `set, ${ONE}`],
      ["set, 64 in flight", MYSQL_CALLS, `set, ${MANY}`],
    ],
  },
  {
    part: "deno",
    name: "Deno KV",
    columns: ["fedify-kv", "@deno/kv"],
    rows: [
      ["get, one at a time", DENO, `get, ${ONE}`],
      ["set, one at a time", DENO, `set, ${ONE}`],
      ["set, 64 in flight", DENO, `set, ${MANY}`],
    ],
  },
  {
    part: "memory",
    name: "Memory",
    columns: ["fedify-kv", "Fedify's MemoryKvStore"],
    rows: [
      ["get, one at a time", MEMORY_READS, `get, ${ONE}`],
      ["set, one at a time", "Memory, writes", `set a document, ${ONE}`],
      ["list of 50", MEMORY_READS, "list of 50"],
    ],
  },
];

async function overview(): Promise<Draw> {
  const groups: DotGroup[] = [];
  for (const { part, name, columns, rows } of OVERVIEW) {
    const results = await readResults(part);
    groups.push({
      name,
      rows: rows.map(([label, table, row, own = columns]) => ({
        label,
        values: values(results, table, row, own, [OURS, OFFICIAL, KEYV]),
      })),
    });
  }
  return (mode) =>
    dots(
      {
        title: "The time of a call",
        subtitle:
          "Documents of 490 bytes. Left is faster. At the right: ours beside the official package",
        unit: "s",
        words: ["faster", "slower"],
        series: [OURS, OFFICIAL, KEYV],
        groups,
      },
      mode,
    );
}

/** The values of a row by series. A series without a column has none. */
function values(
  results: Results,
  table: string,
  row: string,
  columns: readonly string[],
  series: readonly Series[],
): DotRow["values"] {
  return Object.fromEntries(
    series.flatMap(({ name }, i) => {
      const column = columns[i];
      return column ? [[name, cell(results, table, row, column)]] : [];
    }),
  );
}

function inbox(results: Results): Draw {
  const tuned: Series = { name: "official, tuned", color: "tuned" };
  const series = [OURS, OFFICIAL, tuned, KEYV];
  const engines = {
    SQLite: [
      "fedify-kv",
      "@fedify/sqlite",
      "@fedify/sqlite, WAL, NORMAL",
      "Keyv",
    ],
    Redis: [
      "fedify-kv",
      "@fedify/redis",
      "@fedify/redis, autopipelining",
      "Keyv",
    ],
    PostgreSQL: ["fedify-kv", "@fedify/postgres", "", "Keyv"],
    memory: ["fedify-kv", "Fedify's MemoryKvStore"],
  };
  const rows = [
    "1 at a time, time each",
    "32 at a time, time each",
    "32 at a time, p99",
    "32 at a time, longest stall",
  ];
  const groups = Object.entries(engines).map(([engine, columns]) => ({
    name: engine === "memory" ? "Memory" : engine,
    rows: rows.map((row) => ({
      label: row,
      values: values(
        results,
        `Incoming activities, ${engine}`,
        row,
        columns,
        series,
      ),
    })),
  }));
  return (mode) =>
    dots(
      {
        title: "An activity that arrives at an inbox",
        subtitle:
          "Fedify verifies a signature, gets twice and sets once. Left is faster",
        unit: "s",
        words: ["faster", "slower"],
        series,
        groups,
      },
      mode,
    );
}

function listCurves(results: Results): Draw {
  const lines: readonly Omit<Curve, "points">[] = [
    { name: "SQLite: fedify-kv", color: "ours", dashed: false },
    { name: "SQLite: @fedify/sqlite", color: "ours", dashed: true },
    { name: "Redis: fedify-kv, index", color: "official", dashed: false },
    { name: "Redis: fedify-kv", color: "tuned", dashed: false },
    { name: "Redis: @fedify/redis", color: "official", dashed: true },
    { name: "PostgreSQL: fedify-kv", color: "keyv", dashed: false },
    { name: "PostgreSQL: @fedify/postgres", color: "keyv", dashed: true },
  ];
  const found = lines.map((line) => {
    const [engine, column] = line.name.split(": ");
    const title = `${engine}: a list of 50 among more and more entries`;
    const table = results.tables.find((table) => table.title === title)!;
    const points = table.rows.map(({ name }) => {
      const entries = Number(name.replaceAll(/\D/g, ""));
      return [entries, cell(results, title, name, column!)] as const;
    });
    return { ...line, points };
  });
  return (mode) =>
    curves(
      {
        title: "A list of 50 entries among more and more",
        subtitle: "Lower is faster. Dashed: the official packages",
        curves: found,
      },
      mode,
    );
}

const INDEX: Series = { name: "fedify-kv, index", color: "oursToo" };
const WHOLE = "A list of all 100,000 entries: ";

/** Rows for each engine of a cost of a list of everything. */
function whole(results: Results, cost: string, least = 0): DotRow[] {
  return ["SQLite", "Redis", "PostgreSQL"].map((engine) => {
    const names = ["fedify-kv", "official package"];
    if (engine === "Redis") names.push("fedify-kv, index");
    const series = [OURS, OFFICIAL, INDEX];
    const found = values(results, WHOLE + cost, engine, names, series);
    const shown = Object.entries(found).map(
      ([name, value]) => [name, Math.max(value!, least)] as const,
    );
    return { label: engine, values: Object.fromEntries(shown) };
  });
}

function stallDots(lists: Results, stalls: Results): Draw {
  const table = stalls.tables[0]!;
  const rows = table.rows.filter(({ name }) => name !== "no calls");
  const calls = rows.map(({ name }) => {
    const columns = ["fedify-kv", "Fedify's store"];
    const series = [OURS, OFFICIAL];
    return {
      label: name,
      values: values(stalls, table.title, name, columns, series),
    };
  });
  return (mode) =>
    dots(
      {
        title: "How long the event loop stands still",
        subtitle: "The latest timer. Left is better",
        unit: "s",
        words: ["shorter", "longer"],
        series: [OURS, OFFICIAL, INDEX],
        groups: [
          {
            name: "List of all 100,000 entries",
            rows: whole(lists, "the longest stall"),
          },
          {
            name: "Until its first entry",
            rows: whole(lists, "the time to the first"),
          },
          { name: "A second of calls in a row", rows: calls },
        ],
      },
      mode,
    );
}

function memory(lists: Results): Draw {
  return (mode) =>
    dots(
      {
        title: "What a list of all 100,000 entries adds to the memory",
        subtitle: "Anonymous memory of the process. Left is less",
        unit: "bytes",
        words: ["less", "more"],
        series: [OURS, OFFICIAL, INDEX],
        groups: [
          {
            name: "List of all 100,000 entries",
            // A logarithmic axis has no place for nothing: a page is the least.
            rows: whole(lists, "the growth of memory", 4096),
          },
        ],
      },
      mode,
    );
}
