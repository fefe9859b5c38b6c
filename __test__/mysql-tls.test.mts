// Encrypted connections, with certificates that the tests create.
import { afterAll, beforeAll, expect, test } from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { Certificates } from "./support/certificates.mts";
import { type Options, openStore } from "./support/mysql.mts";
import { expectRejection } from "./support/rejection.mts";

const certificates = new Certificates();
let server: MysqlServer;
let url: string;

const file = (name: string) => certificates.file(name);
const pem = (name: string) => certificates.pem(name);

beforeAll(async () => {
  certificates.authority("ca");
  certificates.authority("stranger");
  certificates.certificate("server", "ca", "DNS:localhost");
  certificates.certificate("client", "ca", "DNS:client");
  certificates.certificate("other", "stranger", "DNS:client");
  server = await MysqlServer.start({
    "ssl-ca": file("ca.crt"),
    "ssl-cert": file("server.crt"),
    "ssl-key": file("server.key"),
  });
  url = server.url.replace("127.0.0.1", "localhost");
  await server.sql(
    `CREATE USER encrypted@'%' IDENTIFIED BY 'e' REQUIRE SSL;
     GRANT ALL ON fedify.* TO encrypted@'%';
     CREATE USER known@'%' IDENTIFIED BY 'k' REQUIRE X509;
     GRANT ALL ON fedify.* TO known@'%'`,
  );
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

const urlOf = (user: string, password: string) =>
  server.urlFor(user, password).replace("127.0.0.1", "localhost");

test("a trusted authority works, as a string or a Buffer", async () => {
  await works({ ca: pem("ca.crt") });
  await works({ ca: `${pem("stranger.crt")}\n${pem("ca.crt")}` });
  await works({ ca: pem("ca.crt") }, `${url}?ssl-mode=VERIFY_IDENTITY`);
});

test("a certificate from an unknown authority is refused", async () => {
  expect(await fails({})).toContain("no trusted certificate");
  expect(await fails({ ca: pem("stranger.crt") })).toContain("certificate");
  expect(await fails(undefined, `${url}?ssl-mode=VERIFY_IDENTITY`)).toContain(
    "no trusted certificate",
  );
});

test("a certificate for another host is refused", async () => {
  const at = url.replace("localhost", "127.0.0.1");
  expect(await fails({ ca: pem("ca.crt") }, at)).toContain("not valid for");
});

test("rejectUnauthorized: false and REQUIRED accept any certificate", async () => {
  await works({ rejectUnauthorized: false });
  await works(undefined, `${urlOf("encrypted", "e")}?ssl-mode=REQUIRED`);
});

test("a user who requires encryption can connect", async () => {
  await works({ ca: pem("ca.crt") }, urlOf("encrypted", "e"));
  expect(await fails(undefined, urlOf("encrypted", "e"))).toContain("denied");
});

test("the client can send a certificate", async () => {
  const ca = pem("ca.crt");
  const known = urlOf("known", "k");
  await works({ ca, cert: pem("client.crt"), key: pem("client.key") }, known);
  await fails({ ca }, known);
  await fails({ ca, cert: pem("other.crt"), key: pem("other.key") }, known);
});

test("a server without encryption is refused", async () => {
  const plain = await MysqlServer.start({ "skip-ssl": 1 });
  try {
    const message = await fails({ rejectUnauthorized: false }, plain.url);
    expect(message).toContain("SSL");
  } finally {
    await plain.stop();
  }
}, 120_000);

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
