// DenoKvStore on a server. The tests on the real server run only with DENOKV=1.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openKvStore } from "../index.js";
import { DenokvServer, hasDenokv } from "./services/denokv.mts";
import { freePort } from "./services/redis.mts";
import { collect, keysOf } from "./support/collect.mts";
import { askDeno, openDenoStore } from "./support/deno.mts";
import { numbers } from "./support/entries.mts";
import { expectRejection } from "./support/rejection.mts";

test("a server that can't be reached rejects at once", async () => {
  const store = openDenoStore(`http://127.0.0.1:${await freePort()}`, {
    accessToken: "none",
    commandTimeout: 20_000,
  });
  const start = performance.now();
  await expectRejection(() => store.get(["k"]), "ERR_KV_CONNECTION");
  await expectRejection(() => store.set(["k"], 1), "ERR_KV_CONNECTION");
  await expectRejection(() => collect(store.list()), "ERR_KV_CONNECTION");
  expect(performance.now() - start).toBeLessThan(10_000);
});

test.each([
  ["http://user:secret@host", {}],
  ["https://", {}],
  ["http://host", { accessToken: "a\nb" }],
  ["http://host", { accessToken: "" }],
  ["http://host", { commandTimeout: 0 }],
])(
  "%s with %o is refused, and the error shows no secret",
  async (url, options) => {
    const open = async () =>
      openDenoStore(url, { accessToken: "secret", ...options });
    const error = await expectRejection(open, "ERR_KV_INVALID_OPTION");
    expect(error.message).not.toContain("secret");
  },
);

describe.skipIf(!hasDenokv)("the real server", () => {
  let server: DenokvServer;
  beforeAll(async () => {
    server = await DenokvServer.start();
  });
  afterAll(() => server.stop());
  const open = (options = {}) =>
    openDenoStore(server.url, { accessToken: server.token, ...options });

  test("openKvStore opens its URL", async () => {
    const store = openKvStore(`denokv:${server.url}`, {
      accessToken: server.token,
    });
    await store.set(["opened"], 1);
    expect(await store.get(["opened"])).toBe(1);
    await store.close();
  });

  test("a wrong token is refused, and the error does not show it", async () => {
    const store = open({ accessToken: "secret" });
    const error = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).not.toContain("secret");
  });

  test("Deno and the store read each other's entries", async () => {
    const store = open();
    const value = { a: [1, "漢", null], deep: { b: true } };
    await store.set(["ours", "漢"], value);
    const env = { DENO_KV_ACCESS_TOKEN: server.token };
    const seen = await askDeno(
      server.url,
      `
        await kv.set(["theirs"], data.value);
        report((await kv.get(["ours", "漢"])).value);
      `,
      { value },
      env,
    );
    expect(seen).toEqual(value);
    expect(await store.get(["theirs"])).toEqual(value);
  });

  test("many operations and a list of several requests work", async () => {
    const store = open();
    await Promise.all(
      numbers(2_500).map((i) => store.set(["n", String(i)], "x".repeat(100))),
    );
    expect(await keysOf(store.list(["n"]))).toHaveLength(2_500);
    expect(await store.clear(["n"])).toBe(2_500);
  });

  test("after a restart of the server, no cas result is wrong", async () => {
    const store = open({ commandTimeout: 10_000 });
    await store.set(["count"], 0);
    let [swapped, unknown] = [0, 0];
    const count = async () => {
      for (let i = 0; i < 200; i += 1) {
        try {
          const value = await store.get<number>(["count"]);
          if (await store.cas(["count"], value, (value ?? 0) + 1)) {
            swapped += 1;
          }
        } catch (error) {
          expect(error).toMatchObject({
            code: expect.stringMatching(
              /^ERR_KV_(CONNECTION|TIMEOUT|BACKEND)$/,
            ),
          });
          unknown += 1;
        }
      }
    };
    const counting = Promise.all([count(), count()]);
    for (let i = 0; i < 2; i += 1) {
      const before = swapped;
      await expect.poll(() => swapped).toBeGreaterThan(before + 10);
      await server.kill();
      await server.start();
    }
    await counting;
    const value = (await store.get<number>(["count"])) ?? 0;
    expect(value).toBeGreaterThanOrEqual(swapped);
    expect(value).toBeLessThanOrEqual(swapped + unknown);
    expect(swapped).toBeGreaterThan(100);
  });

  test("operations time out while the server is paused, then recover", async () => {
    const store = open({ commandTimeout: 300 });
    await store.set(["k"], 1);
    await server.pause();
    try {
      await expectRejection(() => store.set(["k"], 2), "ERR_KV_TIMEOUT");
      await expectRejection(() => collect(store.list()), "ERR_KV_TIMEOUT");
    } finally {
      server.resume();
    }
    await expect
      .poll(() => store.set(["k"], 3).then(() => "set", String))
      .toBe("set");
    expect(await store.get(["k"])).toBe(3);
  });
});
