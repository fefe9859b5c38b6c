// The metadata and tokens of KV Connect: how often the store asks for them, whom it
// gives its token, and that no message shows one.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { type RequestListener, createServer } from "node:http";
import { createServer as createSecureServer } from "node:https";
import type { AddressInfo } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { Certificates } from "./support/certificates.mts";
import { startChild } from "./support/child.mts";
import { collect } from "./support/collect.mts";
import { type Options, openDenoStore } from "./support/deno.mts";
import { key, numbers } from "./support/entries.mts";
import {
  KvConnectServer,
  type Metadata,
  token,
} from "./support/kv-connect.mts";
import { expectRejection, rejection } from "./support/rejection.mts";

const hour = 3_600_000;

const open = (url: string, options: Options = {}) =>
  openDenoStore(url, { accessToken: token, ...options });

async function start(options: Options = {}) {
  const server = await KvConnectServer.start();
  return { server, store: open(server.url, options) };
}

describe("metadata", () => {
  test("is asked for once by all operations", async () => {
    const { server, store } = await start();
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<void>();
    server.answerMetadata = async (good) => {
      asked.resolve();
      await answer.promise;
      return good;
    };
    const all = [
      ...numbers(1_000).map((i) => store.get(key(i))),
      ...numbers(1_000).map((i) => store.set(["s", ...key(i)], i)),
      collect(store.list(["nothing"])),
      store.clear(["nothing"]),
      store.initialize(),
    ];
    await asked.promise;
    answer.resolve();
    await Promise.all(all);
    for (const i of numbers(100)) await store.get(key(i));
    expect(server.count.exchanges).toBe(1);
  });

  test.each([
    ["two hours behind ours", -2 * hour],
    ["two hours ahead of ours", 2 * hour],
  ])("lasts as long as it says on a clock %s", async (_, clock) => {
    const { server, store } = await start();
    server.clock = clock;
    for (const i of numbers(300)) await store.get(key(i));
    expect(server.count.exchanges).toBe(1);
  });

  test.each([
    ["has expired already", -hour],
    ["expires at once", 1],
  ])("that %s is not asked for without end", async (_, lifetime) => {
    const { server, store } = await start();
    server.lifetime = lifetime;
    for (const i of numbers(300)) await store.get(key(i));
    expect(server.count.exchanges).toBeLessThan(10);
  });

  test("is renewed before its end, and operations don't notice", async () => {
    const { server, store } = await start();
    server.lifetime = 5_000;
    let valid: { token: string; until: number }[] = [];
    server.answerMetadata = (_, metadata) => {
      const own = `data-${server.count.exchanges}-0123456789`;
      const until = performance.now() + server.lifetime;
      valid.push({ token: own, until });
      const body = JSON.stringify({ ...metadata, token: own });
      return { status: 200, body };
    };
    const refused: string[] = [];
    server.instead = (path, { headers }) => {
      if (!path.startsWith("/data/")) return undefined;
      const used = valid.find(
        ({ token }) => headers.authorization === `Bearer ${token}`,
      );
      if (used === undefined || used.until < performance.now()) {
        refused.push(String(headers.authorization));
      }
      headers.authorization = `Bearer ${server.dataToken}`;
      return undefined;
    };
    while (server.count.exchanges < 2) await store.set(["k"], 1);
    await store.set(["k"], 2);
    expect(refused).toEqual([]);
  });

  test("is asked for again if its token is refused", async () => {
    const { server, store } = await start({ commandTimeout: 20_000 });
    await store.set(["k"], 1);
    server.dataToken = "another-token-for-data-0123456789";
    await expect
      .poll(() => store.get(["k"]).catch(() => undefined), { timeout: 20_000 })
      .toBe(1);
    expect(server.count.exchanges).toBe(2);
    await store.set(["k"], 2);
    expect(server.read(["k"])).toBe(2);
  });

  test("is not asked for without end if its token is always refused", async () => {
    const { server, store } = await start();
    server.answerMetadata = (_, metadata) => ({
      status: 200,
      body: JSON.stringify({ ...metadata, token: "unknown" }),
    });
    for (const i of numbers(200)) {
      await expectRejection(() => store.get(key(i)), "ERR_KV_CONNECTION");
    }
    expect(server.count.exchanges).toBeLessThan(10);
  });

  test.each([401, 403, 404, 500, 503])(
    "is not asked for without end if the answer is %i",
    async (status) => {
      const { server, store } = await start({ commandTimeout: 1_000 });
      server.answerMetadata = () => ({ status });
      for (const i of numbers(2)) {
        const error = await rejection(() => store.set(key(i), 1));
        expect(error.code).toBe("ERR_KV_CONNECTION");
        expect(error.message).toContain(String(status));
        expect(error.message).not.toContain("unknown");
      }
      expect(server.count.exchanges).toBeLessThan(4);
    },
  );

  test("is asked for until its server works", async () => {
    const { server, store } = await start({ commandTimeout: 20_000 });
    let failures = 1;
    server.answerMetadata = (good) =>
      (failures -= 1) >= 0 ? { status: 503 } : good;
    await store.set(["k"], 1);
    expect(server.read(["k"])).toBe(1);
  });

  test.each<[string, (metadata: Metadata) => unknown]>([
    ["no JSON", () => undefined],
    ["an unknown version", (it) => ({ ...it, version: 4 })],
    ["no endpoint", (it) => ({ ...it, endpoints: [] })],
    ["a token with a line break", (it) => ({ ...it, token: "a\nb" })],
    ["a token that is no text", (it) => ({ ...it, token: 1 })],
  ])("with %s is refused", async (_, change) => {
    const { server, store } = await start();
    server.answerMetadata = (_, metadata) => ({
      status: 200,
      body: JSON.stringify(change(metadata)) ?? "a page",
    });
    for (const call of [() => store.get(["k"]), () => store.set(["k"], 1)]) {
      const error = await expectRejection(call, "ERR_KV_CONNECTION");
      expect(error.message).toContain("metadata");
      expect(error.message).not.toContain("unknown outcome");
    }
  });

  test("may name version 2 or 1 of the protocol", async () => {
    for (const version of [2, 1]) {
      const { server, store } = await start();
      server.answerMetadata = (_, metadata) => ({
        status: 200,
        body: JSON.stringify({ ...metadata, version }),
      });
      await store.set(["k"], version);
      expect(await store.get(["k"])).toBe(version);
    }
  });
});

describe("a function that returns the token", () => {
  test("is called for each exchange, and never within a call of the store", async () => {
    let calling = false;
    const during: boolean[] = [];
    const { server, store } = await start({
      accessToken: async () => {
        during.push(calling);
        server.accessToken = `token-${during.length}`;
        return server.accessToken;
      },
    });
    server.lifetime = 3_000;
    while (server.count.exchanges < 2) {
      calling = true;
      const set = store.set(["k"], 1);
      calling = false;
      await set;
    }
    expect(during).toEqual([false, false]);
    expect(server.read(["k"])).toBe(1);
  });

  test("may return another token after one that was refused", async () => {
    const tokens = [token, "an-old-token", "a-new-token"];
    const accessToken = () => tokens.shift() ?? "none";
    const options = { accessToken, commandTimeout: 20_000 };
    const { server, store } = await start(options);
    server.lifetime = 1;
    await store.set(["k"], 1);
    server.accessToken = "a-new-token";
    while (tokens.length > 0) await store.set(["k"], 2);
    expect(server.count.exchanges).toBe(3);
  });

  test.each(["", "a\nb", "secret\n", "漢"])(
    "may not return %j",
    async (accessToken) => {
      const { server, store } = await start({ accessToken: () => accessToken });
      const { message } = await expectRejection(
        () => store.get(["k"]),
        "ERR_KV_CONNECTION",
      );
      expect(message).toMatch(
        /the function accessToken returned a token that (is empty|has a char)/,
      );
      expect(message).not.toMatch(/secret|漢|b$/);
      expect(server.count.exchanges).toBe(0);
    },
  );

  test("may fail for a while without any operation failing", async () => {
    let failures = 0;
    const accessToken = async () => {
      if ((failures -= 1) >= 0) throw new Error("no token now");
      return token;
    };
    const options = { accessToken, commandTimeout: 20_000 };
    const { server, store } = await start(options);
    server.lifetime = 1;
    await store.set(["k"], 1);
    failures = 2;
    while (server.count.exchanges < 2) await store.set(["k"], 2);
    expect(failures).toBeLessThan(0);
  });

  test("of a file is not called", async () => {
    const accessToken = () => {
      throw new Error("was called");
    };
    const store = openDenoStore(":memory:", { accessToken });
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
  });
});

/** A server that counts requests, and remembers who has sent a token. */
async function bystander() {
  const requests: string[] = [];
  const listener: RequestListener = (request, response) => {
    requests.push(`${request.url}`);
    response.writeHead(403).end();
  };
  const server = createServer(listener).listen(0);
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return { port: (server.address() as AddressInfo).port, requests };
}

describe("redirects", () => {
  test.each([301, 302, 303, 307, 308])(
    "to another path are followed (%i)",
    async (status) => {
      const { server, store } = await start();
      const paths: string[] = [];
      server.instead = (path, { method }) => {
        paths.push(`${method} ${path}`);
        return path === "/"
          ? { status, headers: { location: "/moved/here" } }
          : undefined;
      };
      await store.set(["k"], 1);
      expect(server.read(["k"])).toBe(1);
      expect(paths.slice(0, 2)).toEqual(["POST /", "POST /moved/here"]);
    },
  );

  test("to another host don't get the token, or any request", async () => {
    const { server, store } = await start();
    const other = await bystander();
    const location = `http://localhost:${other.port}/`;
    server.answerMetadata = () => ({ status: 307, headers: { location } });
    const error = await expectRejection(
      () => store.set(["k"], 1),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toContain(`redirects to localhost:${other.port}`);
    expect(other.requests).toEqual([]);
  });

  test("without end are not followed", async () => {
    const { server, store } = await start();
    server.answerMetadata = () => ({ status: 307, headers: { location: "/" } });
    await expectRejection(() => store.get(["k"]), "ERR_KV_CONNECTION");
    expect(server.count.exchanges).toBeLessThan(20);
  });

  test("of requests for data are not followed", async () => {
    const { server, store } = await start();
    const other = await bystander();
    const location = `http://127.0.0.1:${other.port}/`;
    server.answerRead = () => ({ status: 307, headers: { location } });
    await expectRejection(() => store.get(["k"]), "ERR_KV_BACKEND");
    expect(other.requests).toEqual([]);
  });

  describe("from https: to http:", () => {
    /** What a process that trusts the certificate gets from a secure server. */
    async function ask(change: (server: KvConnectServer) => void) {
      const certificates = new Certificates();
      onTestFinished(() => certificates.remove());
      certificates.authority("ca");
      certificates.certificate("server", "ca", "IP:127.0.0.1");
      const options = {
        key: readFileSync(certificates.file("server.key")),
        cert: readFileSync(certificates.file("server.crt")),
      };
      const server = await KvConnectServer.start((listener) =>
        createSecureServer(options, listener),
      );
      change(server);
      const child = startChild(
        `
          process.env.SSL_CERT_FILE = data.ca;
          const { DenoKvStore } = require(addon);
          const store = new DenoKvStore(data.url, { accessToken: data.token });
          report(await store.set(["k"], 1).then(() => "set", String));
        `,
        {
          ca: certificates.file("ca.crt"),
          url: `https://127.0.0.1:${server.port}`,
          token,
        },
      );
      return await child.next<string>();
    }

    test("are refused", async () => {
      const other = await bystander();
      const location = `http://127.0.0.1:${other.port}/`;
      const answer = await ask((server) => {
        server.answerMetadata = () => ({ status: 307, headers: { location } });
      });
      expect(answer).toContain("redirects from https:");
      expect(other.requests).toEqual([]);
    });

    test("are refused as endpoints too", async () => {
      const other = await bystander();
      const url = `http://127.0.0.1:${other.port}`;
      const answer = await ask((server) => {
        server.answerMetadata = (_, metadata) => ({
          status: 200,
          body: JSON.stringify({
            ...metadata,
            endpoints: [{ url, consistency: "strong" }],
          }),
        });
      });
      expect(answer).toContain("without encryption");
      expect(other.requests).toEqual([]);
    });

    test("and without them, it works", async () => {
      expect(await ask(() => {})).toBe("set");
    });
  });
});

describe("messages", () => {
  const data = "the-token-for-data-0123456789";
  const echoes: Record<string, string> = {
    "the token": `invalid token: ${token}`,
    "the token for data": `invalid token: ${data}`,
    "the token, encoded": `{"token":"${token.replaceAll("-", "\\u002d")}"}`,
    "the token after a long text": `${"x".repeat(2_000)} ${token}`,
  };

  test.each(Object.entries(echoes))(
    "don't show a body with %s",
    async (name, body) => {
      // One from a function is as secret.
      const accessToken = name.includes("encoded") ? () => token : token;
      const { server, store } = await start({
        commandTimeout: 1_000,
        accessToken,
      });
      const messages: string[] = [];
      const collectMessages = async () => {
        const calls = [
          () => store.get(["g"]),
          () => store.set(["s"], 1),
          () => collect(store.list()),
        ];
        const errors = await Promise.all(calls.map(rejection));
        messages.push(...errors.map(({ message }) => message));
      };
      const answer = () => ({ status: 500, body });
      await store.initialize();
      server.answerRead = answer;
      server.answerWrite = answer;
      await collectMessages();
      if (!body.includes(data)) {
        const other = open(server.url, { commandTimeout: 1_000, accessToken });
        server.answerMetadata = answer;
        messages.push((await rejection(() => other.get(["k"]))).message);
      }
      for (const message of messages) {
        expect(message).toContain("500 Internal Server Error");
        // Nor a part of it.
        expect(message).not.toMatch(/the-token|user|data|0123456789|xxx/);
      }
    },
  );

  test.each([403, 500])(
    "have 200 characters of a body (%i)",
    async (status) => {
      const { server, store } = await start({ commandTimeout: 1_000 });
      await store.initialize();
      const body = "very long ".repeat(3_000_000);
      const answer = () => ({ status, body });
      server.answerWrite = answer;
      server.answerRead = answer;
      const other = open(server.url, { commandTimeout: 1_000 });
      const refusing = await KvConnectServer.start();
      refusing.answerMetadata = answer;
      const another = open(refusing.url, { commandTimeout: 1_000 });
      const calls = [store, other, another].flatMap((each) => [
        () => each.get(["g"]),
        () => each.set(["s"], 1),
      ]);
      for (const { message } of await Promise.all(calls.map(rejection))) {
        expect(message).toContain("very long very long");
        expect(message.length).toBeLessThan(350);
      }
    },
  );
});

describe("a token that a header can't contain is refused", () => {
  const bad = ["a\nb", "a\r\nb: c", "token\n", "a\0b", "漢"];

  test.each(bad)("as option: %j", async (accessToken) => {
    const call = async () => openDenoStore("http://host", { accessToken });
    const error = await expectRejection(call, "ERR_KV_INVALID_OPTION");
    expect(error.message).toContain("accessToken");
  });

  test("as variable", async () => {
    const child = startChild(
      `
        const { DenoKvStore } = require(addon);
        for (const token of data) {
          process.env.DENO_KV_ACCESS_TOKEN = token;
          try {
            new DenoKvStore("http://host");
            report("accepted");
          } catch ({ code, message }) {
            report([code, message]);
          }
        }
      `,
      ["a\nb", "token\n", "漢", "", "good"],
    );
    for (const named of [
      "DENO_KV_ACCESS_TOKEN has",
      "_TOKEN has",
      "_TOKEN has",
      "needs",
    ]) {
      const [code, message] = await child.next<[string, string]>();
      expect(code).toBe("ERR_KV_INVALID_OPTION");
      expect(message).toContain(named);
    }
    expect(await child.next()).toBe("accepted");
  });
});
