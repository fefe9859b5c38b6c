import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["__test__/**/*.test.mts"],
    globalSetup: "__test__/services/setup.mts",
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
