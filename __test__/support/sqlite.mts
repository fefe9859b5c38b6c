// SQLite files for a test, and another SQLite library (node:sqlite) to read and
// write them. That library runs in child processes, because two copies of
// SQLite on one file in one process cancel each other's locks.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { SqliteKvStore } from "../../index.js";
import { ask } from "./child.mts";

export type Options = NonNullable<
  ConstructorParameters<typeof SqliteKvStore>[1]
>;

/** A directory that is removed when the test is over. */
export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "fedify-kv-"));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** A path for the database of a test. */
export async function temporaryFile(): Promise<string> {
  return join(await temporaryDirectory(), "fedify.db");
}

/** A store that is closed when the test is over. */
export function openStore(path: string, options?: Options): SqliteKvStore {
  const store = new SqliteKvStore(path, options);
  onTestFinished(() => store.close());
  return store;
}

type Parameter = string | number | null | { hex: string };
export type Statement = string | [sql: string, ...parameters: Parameter[]];
export type Row = Record<string, string | number | null>;

/** Runs statements with node:sqlite in a child process; returns their rows. */
export function sql(path: string, ...statements: Statement[]) {
  return ask<Row[][]>(
    `
      const { DatabaseSync } = await import("node:sqlite");
      const database = new DatabaseSync(data.path, { timeout: 10_000 });
      const rows = data.statements.map((statement) => {
        const [sql, ...parameters] = [statement].flat();
        return database.prepare(sql).all(
          ...parameters.map((parameter) =>
            parameter?.hex === undefined
              ? parameter
              : Buffer.from(parameter.hex, "hex")),
        );
      });
      database.close();
      report(rows);
    `,
    { path, statements },
  );
}

/** The rows of one query. */
export async function query(
  path: string,
  ...statement: Exclude<Statement, string>
) {
  const [rows = []] = await sql(path, statement);
  return rows;
}

/** The table as the official package creates it. */
export const officialTable = `
  CREATE TABLE "fedify_kv" (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER
  )`;

/** A statement that inserts `count` rows with keys `["<name>","<number>"]`. */
export function insertRows(
  name: string,
  count: number,
  value: string,
  expires: number | null = null,
): Statement {
  return [
    `INSERT INTO fedify_kv
       WITH RECURSIVE n(i) AS
         (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
       SELECT json_array(?, CAST(i AS TEXT)), ?, 1, ? FROM n`,
    count,
    name,
    value,
    expires,
  ];
}

/** A statement that inserts one row, as another program would. */
export function insertRow(
  key: Parameter,
  value: Parameter,
  expires: number | null = null,
): Statement {
  return ["INSERT INTO fedify_kv VALUES (?, ?, 1, ?)", key, value, expires];
}
