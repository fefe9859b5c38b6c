import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["__test__/**/*.test.mts"],
    globalSetup: "__test__/services/setup.mts",
    // Each file in a process of its own: a test that opens a database twice
    // must not meet another file's handles.
    pool: "forks",
    testTimeout: 30_000,
    // A database server is made in some seconds, several at a time in more.
    hookTimeout: 120_000,
  },
});
