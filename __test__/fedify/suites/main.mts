// Runs the tests of Fedify's main package on each of our stores instead of
// Fedify's own MemoryKvStore, and compares the results.
//
//     npm run test:fedify -- /path/to/fedify             all stores
//     npm run test:fedify -- /path/to/fedify sqlite      some stores
//
// Fails if a test that passes on Fedify's own store fails on one of ours.
import { globSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import setup from "../../services/setup.mts";
import { MysqlServer } from "../../services/mysql.mts";
import { PostgresServer } from "../../services/postgres.mts";
import { RedisServer } from "../../services/redis.mts";
import { type Checkout, prepare } from "./checkout.mts";
import { type Results, runFile } from "./results.mts";
import type { StoreName } from "./store.mts";

/** Many stores are open at once, each with its own connections. */
const connections = 2_000;

/** How to start what a store needs. Returns the place of its data. */
const places: Record<
  StoreName,
  (stack: AsyncDisposableStack) => Promise<string>
> = {
  memory: async () => "",
  sqlite: directory,
  redis: startRedis,
  "redis-index": startRedis,
  postgres: async (stack) => {
    const settings = { max_connections: connections };
    const server = await PostgresServer.start({ settings });
    stack.defer(() => server.stop());
    return server.url;
  },
  mysql: async (stack) => {
    const settings = { "max-connections": connections };
    const server = await MysqlServer.start(settings);
    stack.defer(() => server.stop());
    return server.url;
  },
  deno: directory,
};

async function startRedis(stack: AsyncDisposableStack): Promise<string> {
  const server = await RedisServer.start();
  stack.defer(() => server.stop());
  return server.url;
}

async function directory(stack: AsyncDisposableStack): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "fedify-kv-suites-"));
  stack.defer(() => rm(path, { recursive: true }));
  return path;
}

/** The results of all test files on one store; without a name, on Fedify's. */
async function runSuites(
  checkout: Checkout,
  store?: StoreName,
): Promise<Results> {
  await using stack = new AsyncDisposableStack();
  const place = store === undefined ? "" : await places[store](stack);
  const environment = {
    FEDIFY_CHECKOUT: checkout.path,
    FEDIFY_PACKAGES: checkout.packages,
    FEDIFY_STORE: store ?? "",
    FEDIFY_STORE_PLACE: place,
    // Each file compiles the same sources.
    NODE_COMPILE_CACHE: join(checkout.packages, "compiled"),
  };
  const results: Results = new Map();
  const files = testFiles(checkout);
  const worker = async () => {
    for (let file = files.shift(); file !== undefined; file = files.shift()) {
      const name = relative(checkout.path, file);
      for (const [test, why] of await runFile(file, environment)) {
        results.set(`${name}: ${test}`, why);
      }
    }
  };
  const count = Math.min(2, availableParallelism());
  await Promise.all(Array.from({ length: count }, worker));
  return results;
}

function testFiles({ path }: Checkout): string[] {
  return globSync(join(path, "packages/fedify/src/**/*.test.ts")).toSorted();
}

const failures = (results: Results) =>
  [...results].filter(([, why]) => why !== undefined);

function line(...cells: readonly (string | number)[]): void {
  console.log(
    cells
      .map((cell) => String(cell).padEnd(24))
      .join("")
      .trimEnd(),
  );
}

async function main([path, ...names]: readonly string[]): Promise<boolean> {
  const all = Object.keys(places);
  if (path === undefined || names.some((name) => !all.includes(name))) {
    throw new Error(
      `usage: npm run test:fedify -- /path/to/fedify [${all.join("|")}]…`,
    );
  }
  setup();
  const checkout = await prepare(resolve(path));
  const chosen = (names.length > 0 ? names : all) as StoreName[];

  const own = await runSuites(checkout);
  const ownFailures = new Set(failures(own).map(([test]) => test));
  const files = testFiles(checkout).length;
  console.log(`\n${own.size} tests in ${files} files\n`);
  line("store", "passed", "failed", "fails only on ours");
  line("Fedify's own", own.size - ownFailures.size, ownFailures.size, "");

  const worse: string[] = [];
  for (const store of chosen) {
    const results = await runSuites(checkout, store);
    const failed = failures(results);
    const missing = [...own.keys()].filter((test) => !results.has(test));
    const onlyOurs = [
      ...failed.filter(([test]) => !ownFailures.has(test)),
      ...missing
        .filter((test) => !ownFailures.has(test))
        .map((test) => [test, "did not run"] as const),
    ];
    line(store, results.size - failed.length, failed.length, onlyOurs.length);
    worse.push(...onlyOurs.map(([test, why]) => `${store}: ${test}: ${why}`));
  }

  console.log("\nFails on Fedify's own store too:");
  for (const test of ownFailures) console.log(`  ${test}`);
  if (worse.length > 0) {
    console.log("\nFails only on ours:");
    for (const text of worse) console.log(`  ${text}`);
  }
  return worse.length === 0;
}

process.exitCode = (await main(process.argv.slice(2))) ? 0 : 1;
