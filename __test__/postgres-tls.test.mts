// Encrypted connections, with certificates that the tests create.
import { afterAll, beforeAll, expect, test } from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import { Certificates } from "./support/certificates.mts";
import { type Options, openStore } from "./support/postgres.mts";
import { expectRejection } from "./support/rejection.mts";

const certificates = new Certificates();
let server: PostgresServer;
let url: string;

const pem = (name: string) => certificates.pem(name).toString();

beforeAll(async () => {
  certificates.authority("ca");
  certificates.authority("stranger");
  certificates.certificate("server", "ca", "DNS:localhost");
  // PostgreSQL reads the user's name from the certificate.
  certificates.certificate("fedify", "ca", "DNS:client");
  server = await PostgresServer.start({
    settings: {
      ssl: "on",
      ssl_cert_file: "server.crt",
      ssl_key_file: "server.key",
      ssl_ca_file: "ca.crt",
    },
    files: {
      "server.crt": pem("server.crt"),
      "server.key": pem("server.key"),
      "ca.crt": pem("ca.crt"),
      "pg_hba.conf": `
        hostssl cert all all cert
        hostssl all all all scram-sha-256
        hostnossl postgres all all scram-sha-256
      `,
    },
  });
  await server.client()`CREATE DATABASE cert`;
  url = server.url.replace("127.0.0.1", "localhost");
});
afterAll(async () => {
  await server.stop();
  certificates.remove();
});

async function works(at: string, tls?: Options["tls"]): Promise<void> {
  const store = openStore(at, tls === undefined ? {} : { tls });
  await store.set(["k"], "secret");
  expect(await store.cas(["k"], "secret", 1)).toBe(true);
  const [row] = await server.client({ database: "postgres" })`
    SELECT bool_and(ssl) AS encrypted FROM pg_stat_ssl
    JOIN pg_stat_activity USING (pid) WHERE application_name = 'fedify-kv'`;
  expect(row?.encrypted).toBe(true);
  const value = "x".repeat(100_000);
  const keys = Array.from({ length: 50 }, (_, i) => ["k", String(i)] as const);
  await Promise.all(keys.map((key) => store.set(key, value)));
  expect(await store.clear(["k"])).toBe(51);
  await store.close();
}

async function fails(at: string, tls?: Options["tls"]): Promise<string> {
  const store = openStore(at, tls === undefined ? {} : { tls });
  const begin = performance.now();
  const calls = [() => store.get(["k"]), () => store.list().next()];
  let message = "";
  for (const call of calls) {
    ({ message } = await expectRejection(call, "ERR_KV_CONNECTION"));
    expect(message).not.toContain(server.password);
  }
  expect(performance.now() - begin).toBeLessThan(4_000);
  return message;
}

test("a trusted authority works, as a string or a Buffer", async () => {
  await works(url, { ca: pem("ca.crt") });
  await works(url, {
    ca: Buffer.from(`${pem("stranger.crt")}\n${pem("ca.crt")}`),
  });
  await works(`${url}?sslmode=require`, { ca: pem("ca.crt") });
});

test("a certificate from an unknown authority is refused", async () => {
  expect(await fails(`${url}?sslmode=require`)).toContain("UnknownIssuer");
  expect(await fails(url, { ca: pem("stranger.crt") })).toContain(
    "certificate",
  );
});

test("a certificate for another host is refused", async () => {
  const message = await fails(server.url, { ca: pem("ca.crt") });
  expect(message).toContain("not valid for name");
});

test("rejectUnauthorized: false, no-verify and prefer accept any certificate", async () => {
  await works(server.url, { rejectUnauthorized: false });
  await works(`${server.url}?sslmode=no-verify`);
  await works(`${server.url}?sslmode=prefer`);
});

test("the client can send a certificate", async () => {
  const at = server
    .urlOf({ database: "cert" })
    .replace("127.0.0.1", "localhost");
  const ca = pem("ca.crt");
  const own = { cert: pem("fedify.crt"), key: pem("fedify.key") };
  await works(at, { ca, ...own });
  expect(await fails(at, { ca })).toContain("client certificate");
});

test("the constructor refuses invalid TLS options", () => {
  for (const [at, tls] of [
    [`${url}?sslmode=disable`, { ca: pem("ca.crt") }],
    [url, { ca: "no certificate" }],
    [url, { cert: pem("fedify.crt") }],
  ] as const) {
    expect(() => openStore(at, { tls })).toThrow(
      expect.objectContaining({ code: "ERR_KV_INVALID_OPTION" }),
    );
  }
});
