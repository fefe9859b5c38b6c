// Encrypted connections, with certificates that the tests create.
import { afterAll, beforeAll, expect, test } from "vitest";
import { RedisCluster } from "./services/redis-cluster.mts";
import { RedisServer, freePort } from "./services/redis.mts";
import { collect } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { Certificates } from "./support/certificates.mts";
import { type Options, openStore } from "./support/redis.mts";
import { expectRejection } from "./support/rejection.mts";

const certificates = new Certificates();
let server: RedisServer;
let url: string;

const file = (name: string) => certificates.file(name);
const pem = (name: string) => certificates.pem(name);

beforeAll(async () => {
  certificates.authority("ca");
  certificates.authority("stranger");
  certificates.certificate("server", "ca", "DNS:localhost");
  certificates.certificate("node", "ca", "DNS:localhost,IP:127.0.0.1");
  certificates.certificate("client", "ca", "DNS:client");
  certificates.certificate("other", "stranger", "DNS:client");
  certificates.selfSignedV1("old", "localhost");
  const port = await freePort();
  server = await RedisServer.start({
    "tls-port": port,
    "tls-ca-cert-file": file("ca.crt"),
    "tls-cert-file": file("server.crt"),
    "tls-key-file": file("server.key"),
    "tls-auth-clients": "optional",
  });
  url = `rediss://localhost:${port}`;
});
afterAll(async () => {
  await server.stop();
  certificates.remove();
});

async function works(tls: Options["tls"], at = url): Promise<void> {
  const store = openStore(at, tls === undefined ? {} : { tls });
  await store.set(["k"], "secret");
  expect(await store.cas(["k"], "secret", 1)).toBe(true);
  const value = "x".repeat(100_000);
  const keys = Array.from({ length: 50 }, (_, i) => ["k", String(i)] as const);
  await Promise.all(keys.map((key) => store.set(key, value)));
  expect(await store.clear(["k"])).toBe(51);
}

async function fails(tls: Options["tls"], at = url): Promise<string> {
  const store = openStore(at, tls === undefined ? {} : { tls });
  const begin = performance.now();
  const calls = [() => store.get(["k"]), () => store.list().next()];
  let message = "";
  for (const call of calls) {
    ({ message } = await expectRejection(call, "ERR_KV_CONNECTION"));
  }
  expect(performance.now() - begin).toBeLessThan(4_000);
  return message;
}

test("a trusted authority works, as a string or a Buffer", async () => {
  await works({ ca: pem("ca.crt") });
  await works({ ca: `${pem("stranger.crt")}\n${pem("ca.crt")}` });
});

test("a certificate from an unknown authority is refused", async () => {
  expect(await fails(undefined)).toContain("no trusted certificate");
  expect(await fails({ ca: pem("stranger.crt") })).toContain("certificate");
});

test("a certificate for another host is refused", async () => {
  const at = url.replace("localhost", "127.0.0.1");
  expect(await fails({ ca: pem("ca.crt") }, at)).toContain("not valid for");
});

test("rejectUnauthorized: false accepts any certificate", async () => {
  await works({ rejectUnauthorized: false });
  await works(
    { rejectUnauthorized: false },
    url.replace("localhost", "127.0.0.1"),
  );
});

test.each(["TLSv1.2", "TLSv1.3"])(
  "a certificate of version 1 is accepted if it is trusted itself, with %s",
  async (protocol) => {
    const client = server.client();
    const present = (name: string, protocols: string) =>
      client.call(
        "CONFIG",
        "SET",
        "tls-cert-file",
        file(`${name}.crt`),
        "tls-key-file",
        file(`${name}.key`),
        "tls-protocols",
        protocols,
      );
    await present("old", protocol);
    try {
      await works({ ca: pem("old.crt") });
      await works({ rejectUnauthorized: false });
      expect(await fails({ ca: pem("ca.crt") })).toContain("version 3");
    } finally {
      await present("server", "TLSv1.2 TLSv1.3");
    }
  },
);

test("the client can send a certificate", async () => {
  const client = server.client();
  await client.config("SET", "tls-auth-clients", "yes");
  try {
    const ca = pem("ca.crt");
    await works({ ca, cert: pem("client.crt"), key: pem("client.key") });
    await fails({ ca });
    await fails({ ca, cert: pem("other.crt"), key: pem("other.key") });
  } finally {
    await client.config("SET", "tls-auth-clients", "optional");
  }
});

test("an encrypted port refuses plain connections, and vice versa", async () => {
  const plain = openStore(url.replace("rediss:", "redis:"));
  await expectRejection(() => plain.get(["k"]), "ERR_KV_CONNECTION");
  // A server does not answer bytes that it can't parse yet, so this times out.
  const tls = { ca: pem("ca.crt") };
  const at = server.url.replace("redis:", "rediss:");
  const encrypted = openStore(at, { tls, connectTimeout: 200 });
  await expectRejection(() => encrypted.get(["k"]), "ERR_KV_CONNECTION");
});

test("a cluster can be encrypted", async () => {
  const ports: number[] = [];
  const cluster = await RedisCluster.start(false, async () => {
    const port = await freePort();
    ports.push(port);
    return {
      "tls-port": port,
      "tls-cluster": "yes",
      "tls-ca-cert-file": file("ca.crt"),
      "tls-cert-file": file("node.crt"),
      "tls-key-file": file("node.key"),
      "tls-auth-clients": "no",
    };
  });
  try {
    const urls = ports.map((port) => `rediss://localhost:${port}`);
    const tls = { ca: pem("ca.crt") };
    const store = openStore(urls, { tls });
    await Promise.all(numbers(300).map((i) => store.set(key(i), i)));
    const [url = ""] = urls;
    const at = url.replace("rediss:", "rediss+cluster:");
    const another = openStore(at, { tls });
    const values = numbers(300).map((i) => another.get(key(i)));
    expect(await Promise.all(values)).toEqual(numbers(300));
    expect(await collect(another.list(["k"]))).toHaveLength(300);
    expect(await another.clear(["k"])).toBe(300);
    const stranger = openStore(urls);
    await expectRejection(() => stranger.get(["k"]), "ERR_KV_CONNECTION");
  } finally {
    await cluster.stop();
  }
}, 60_000);

test("the constructor refuses invalid TLS options", () => {
  for (const tls of [
    { ca: "not PEM" },
    { cert: pem("client.crt") },
    { key: pem("client.key") },
    { cert: pem("client.crt"), key: "not PEM" },
    { ca: 1 },
    { rejectUnauthorized: 1 },
  ]) {
    expect(() => openStore(url, { tls } as Options)).toThrow(
      expect.objectContaining({ code: "ERR_KV_INVALID_OPTION" }),
    );
  }
});
