// Encrypted connections, with certificates that the tests create.
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { type AddressInfo, connect } from "node:net";
import { createServer } from "node:tls";
import {
  afterAll,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
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
      log_statement: "all",
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
  expect(await fails(`${url}?sslmode=require`)).toContain(
    "no trusted certificate",
  );
  expect(await fails(url, { ca: pem("stranger.crt") })).toContain(
    "certificate",
  );
});

test("a certificate for another host is refused", async () => {
  const message = await fails(server.url, { ca: pem("ca.crt") });
  expect(message).toContain("not valid for");
});

test("rejectUnauthorized: false, no-verify and prefer accept any certificate", async () => {
  await works(server.url, { rejectUnauthorized: false });
  await works(`${server.url}?sslmode=no-verify`);
  await works(`${server.url}?sslmode=prefer`);
});

test.each(["disable", "prefer", "no-verify&channel_binding=require"])(
  "answers are bounded and statements named, sslmode=%s",
  async (mode) => {
    const at = `${server.url}?sslmode=${mode}`;
    const writer = openStore(at);
    await writer.set(["large"], "x".repeat(100_000));
    const store = openStore(at, { maxAnswerBytes: 50_000, maxConnections: 1 });
    const from = server.log.length;
    await expectRejection(() => store.get(["large"]), "ERR_KV_BACKEND");
    expect(await store.get(["none"])).toBeUndefined();
    const prepared = () =>
      server.log
        .slice(from)
        .filter((line) => line.includes("execute ") && line.includes("= $1"));
    await expect.poll(prepared).toHaveLength(2);
    for (const line of prepared()) {
      expect(line).toMatch(/execute fedify_kv_[0-9a-f]{16}_s\d+: SELECT/);
    }
    await writer.drop();
  },
);

test("a server without encryption is reached with prefer", async () => {
  const plain = await PostgresServer.start();
  onTestFinished(() => plain.stop());
  const store = openStore(`${plain.url}?sslmode=prefer`, {
    maxAnswerBytes: 50_000,
  });
  await store.set(["large"], "x".repeat(100_000));
  await expectRejection(() => store.get(["large"]), "ERR_KV_BACKEND");
  expect(await store.get(["none"])).toBeUndefined();
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

describe("certificates in the URL", () => {
  const file = (name: string) => encodeURIComponent(certificates.file(name));
  const rootOf = (name: string) => `sslrootcert=${file(name)}`;

  test("sslrootcert encrypts and verifies", async () => {
    await works(`${url}?${rootOf("ca.crt")}`);
    await works(`${url}?ssl=true&${rootOf("ca.crt")}`);
    await works(`${url}?sslmode=verify-full&${rootOf("ca.crt")}`);
    expect(await fails(`${url}?${rootOf("stranger.crt")}`)).toContain(
      "certificate",
    );
    // The option wins.
    await works(`${url}?${rootOf("stranger.crt")}`, { ca: pem("ca.crt") });
  });

  test("verify-ca accepts a certificate for another host, verify-full doesn't", async () => {
    const root = rootOf("ca.crt");
    await works(`${server.url}?sslmode=verify-ca&${root}`);
    await works(`${server.url}?sslmode=verify-ca`, { ca: pem("ca.crt") });
    for (const [mode, name, why] of [
      ["verify-full", "ca.crt", "not valid for"],
      ["require", "ca.crt", "not valid for"],
      ["verify-ca", "stranger.crt", "certificate"],
    ] as const) {
      const at = `${server.url}?sslmode=${mode}&${rootOf(name)}`;
      expect(await fails(at)).toContain(why);
    }
  });

  test("sslcert and sslkey are the client's", async () => {
    const at = `${server
      .urlOf({ database: "cert" })
      .replace("127.0.0.1", "localhost")}?${rootOf("ca.crt")}`;
    const own = `sslcert=${file("fedify.crt")}&sslkey=${file("fedify.key")}`;
    await works(`${at}&${own}`);
    expect(await fails(at)).toContain("client certificate");
    expect(() => openStore(`${at}&sslcert=${file("fedify.crt")}`)).toThrow(
      "sslcert and sslkey must be given together",
    );
  });

  test("a file is read again for each connection", async () => {
    const path = certificates.file("replaced.crt");
    const store = openStore(`${url}?sslrootcert=${encodeURIComponent(path)}`);
    const missing = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(missing.message).toContain(`the file ${path} of sslrootcert`);
    writeFileSync(path, "no certificate");
    const invalid = await expectRejection(
      () => store.get(["k"]),
      "ERR_KV_INVALID_OPTION",
    );
    expect(invalid.message).toContain(
      "sslrootcert must have a certificate in PEM",
    );
    writeFileSync(path, pem("stranger.crt"));
    await expectRejection(() => store.get(["k"]), "ERR_KV_CONNECTION");
    writeFileSync(path, pem("ca.crt"));
    expect(await store.get(["k"])).toBe(undefined);
  });

  test("sslnegotiation=direct begins with the handshake", async () => {
    // The server has it from PostgreSQL 17 on. This proxy encrypts instead.
    const protocols = new Set<string | false | null>();
    const proxy = createServer(
      {
        cert: pem("server.crt"),
        key: pem("server.key"),
        ALPNProtocols: ["postgresql"],
      },
      (socket) => {
        protocols.add(socket.alpnProtocol);
        const upstream = connect(server.port, "127.0.0.1");
        socket.on("error", () => upstream.destroy());
        upstream.on("error", () => socket.destroy());
        socket.pipe(upstream).pipe(socket);
      },
    ).listen(0, "127.0.0.1");
    onTestFinished(() => {
      proxy.close();
    });
    await once(proxy, "listening");
    const { port } = proxy.address() as AddressInfo;
    const at = url.replace(`:${server.port}/`, `:${port}/`);
    const direct = "sslmode=verify-full&sslnegotiation=direct";
    const store = openStore(`${at}?${direct}&${rootOf("ca.crt")}`);
    await store.set(["k"], 1);
    expect(await store.get(["k"])).toBe(1);
    expect(await store.clear(["k"])).toBe(1);
    expect([...protocols]).toEqual(["postgresql"]);
    expect(() => openStore(`${at}?sslnegotiation=direct`)).toThrow("sslmode");
  });

  test("channel_binding=require needs an encrypted connection", async () => {
    await works(
      `${url}?sslmode=require&channel_binding=require&${rootOf("ca.crt")}`,
    );
    expect(await fails(`${url}?channel_binding=require`)).toContain(
      "channel binding",
    );
  });
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
