import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/**
 * The tests that run twice: on Node's event loop, and on the store's thread. Of
 * stores that have no choice, `support/hosts.mts` leaves the second run out.
 */
const hosted = [
  "contract/contract",
  "host",
  "mysql",
  "postgres",
  "reentrancy",
  "served-lifecycle",
  "shortage",
];

/** The slowest files. They come first, so that none runs alone at the end. */
const slow = /(contract|node-versions|shortage|leaks)\.test/;

class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]) {
    const sorted = await super.sort(files);
    const isSlow = (file: TestSpecification) =>
      Number(slow.test(file.moduleId));
    return sorted.toSorted((a, b) => isSlow(b) - isSlow(a));
  }
}

export default defineConfig({
  test: {
    sequence: { sequencer: SlowFirst },
    globalSetup: "__test__/services/setup.mts",
    projects: [
      {
        extends: true,
        test: { name: "default", include: ["__test__/**/*.test.mts"] },
      },
      {
        extends: true,
        test: {
          name: "thread",
          include: hosted.map((name) => `__test__/${name}.test.mts`),
          env: { FEDIFY_KV_HOST: "thread" },
        },
      },
    ],
    // Each test file runs in its own process, so that tests which open a
    // database twice aren't affected by handles of other files.
    pool: "forks",
    // One process for each core of a small machine: many tests wait for servers
    // or deadlines.
    maxWorkers: 2,
    testTimeout: 60_000,
    // Long enough for a busy machine. Only a test that fails waits this long.
    expect: { poll: { timeout: 15_000 } },
    // Starting a database server takes seconds, and longer if several start at
    // the same time.
    hookTimeout: 120_000,
  },
});
