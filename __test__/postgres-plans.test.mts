// Cost: no statement of the store scans a large table. The plans come from the
// server's log, where auto_explain writes them.
import type { Sql } from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { PostgresKvStore } from "../index.js";
import { PostgresServer } from "./services/postgres.mts";
import { numbers } from "./support/entries.mts";
import { collect } from "./support/collect.mts";
import { openStore } from "./support/postgres.mts";

const ENTRIES = 100_000;

let server: PostgresServer;
let marker: Sql;
let marks = 0;

beforeAll(async () => {
  server = await PostgresServer.start({
    settings: {
      shared_preload_libraries: "auto_explain",
      "auto_explain.log_min_duration": 0,
      log_line_prefix: "",
    },
  });
  marker = server.client({ max: 1 });
  const sql = server.client();
  await sql.unsafe("CREATE DATABASE c TEMPLATE template0 LOCALE 'C'");
  await sql.unsafe(
    "CREATE DATABASE icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'",
  );
});
afterAll(() => server.stop());

/** The plans of the statements that `call` causes, one text each. */
async function plans(call: () => Promise<unknown>): Promise<string[]> {
  const from = server.log.length;
  await call();
  // The log arrives some time after the answers, so wait for a mark in it.
  marks += 1;
  const mark = `mark ${marks}`;
  await marker.unsafe(`DO $$ BEGIN RAISE LOG '${mark}'; END $$`);
  await expect
    .poll(() => server.log.slice(from).join("\n"), { interval: 10 })
    .toContain(mark);
  const text = server.log.slice(from).join("\n");
  return (
    text
      .split(/^LOG: +duration: .* plan:$/m)
      .slice(1)
      .filter((plan) => plan.includes("fedify_kv_v2"))
      // The store may look for expired entries meanwhile.
      .filter((plan) => !plan.includes("advisory_lock"))
  );
}

const key = (i: number) =>
  ["traces", String(Math.floor(i / 50)), String(i)] as const;

const operations: Record<string, (store: PostgresKvStore) => Promise<unknown>> =
  {
    get: (store) => store.get(key(7)),
    "many gets": (store) =>
      Promise.all(numbers(500).map((i) => store.get(key(i * 7)))),
    set: (store) => store.set(key(7), 1),
    "many sets": (store) =>
      Promise.all(numbers(500).map((i) => store.set(key(i * 7), 1))),
    delete: (store) => store.delete(key(7)),
    "many deletes": (store) =>
      Promise.all(numbers(500).map((i) => store.delete(key(i * 11)))),
    cas: (store) => store.cas(key(8), 5, 6),
    "cas of a missing entry": (store) => store.cas(key(7), undefined, 6),
    "list of a prefix": (store) => collect(store.list(["traces", "77"])),
    "list of all": (store) => collect(store.list()),
    clear: (store) => store.clear(["traces", "78"]),
  };

describe.each(["c", "icu"])("with the collation %s", (database) => {
  test.each([
    ["prepared", true],
    ["not prepared", false],
  ])("no statement scans the table, %s", async (_, preparedStatements) => {
    const url = server.urlOf({ database });
    const sql = server.client({ database });
    const store = openStore(url, { preparedStatements });
    await store.drop();
    await store.set(["first"], 1);
    await sql`
      INSERT INTO fedify_kv_v2 (key, value)
      SELECT ARRAY['traces', (i / 50)::text, i::text], '{"a":1}'
      FROM generate_series(0, ${ENTRIES - 1}) AS i`;
    // Once before and once after the planner has statistics of the table.
    for (const analyzed of [false, true]) {
      if (analyzed) {
        await sql`ANALYZE fedify_kv_v2`;
      }
      for (const [name, operate] of Object.entries(operations)) {
        // From its sixth execution, a prepared statement may have another plan.
        const all = await plans(async () => {
          for (let i = 0; i < (name === "list of all" ? 1 : 7); i += 1) {
            await operate(store);
          }
        });
        expect(all.length, name).toBeGreaterThan(0);
        for (const plan of all) {
          expect(plan, name).not.toContain("Seq Scan on");
          if (name.startsWith("list")) {
            expect(plan, name).toContain("Index Scan");
          }
        }
      }
    }
  });
});
