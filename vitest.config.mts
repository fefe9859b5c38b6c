import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["__test__/**/*.test.mts"],
    globalSetup: "__test__/services/setup.mts",
    // Each file in a process of its own: a test that opens a database twice
    // must not meet another file's handles.
    pool: "forks",
    testTimeout: 60_000,
    // However busy the machine is: what is waited for comes, or never does.
    expect: { poll: { timeout: 15_000 } },
    // A database server is made in some seconds, several at a time in more.
    hookTimeout: 120_000,
  },
});
