// Whom the stores on servers trust, and what they say to a server that they don't
// trust. One suite for all of them.
import { writeFileSync } from "node:fs";
import {
  afterAll,
  afterEach,
  beforeAll,
  describe,
  expect,
  onTestFinished,
  test,
} from "vitest";
import { Certificates } from "./support/certificates.mts";
import { type TlsRow, distrust, startPlain, tlsRows } from "./support/tls.mts";

const certificates = new Certificates();
const file = (name: string) => certificates.file(name);
const pem = (name: string) => certificates.pem(`${name}.crt`);

const variables = [
  "SSL_CERT_FILE",
  "SSL_CERT_DIR",
  "NODE_EXTRA_CA_CERTS",
] as const;
// This file has its own process.
for (const name of variables) delete process.env[name];

/** Sets a variable until the end of the test. */
function setEnv(name: (typeof variables)[number], value: string): void {
  process.env[name] = value;
  onTestFinished(() => {
    delete process.env[name];
  });
}

const names = [
  "server",
  "foreign",
  "expired",
  "early",
  "alone",
  "old",
  "alone-expired",
  "plain-alone",
] as const;

beforeAll(() => {
  certificates.authority("ca");
  certificates.authority("stranger");
  const local = "DNS:localhost";
  certificates.certificate("server", "ca", `${local},DNS:*.db.example`);
  certificates.certificate("foreign", "stranger", local);
  certificates.dated("expired", "ca", local, [2020, 2021]);
  certificates.dated("early", "ca", local, [2045, 2046]);
  certificates.selfSigned("alone", "localhost");
  certificates.selfSignedV1("old", "localhost");
  certificates.dated("alone-expired", undefined, local, [2020, 2021]);
  certificates.dated("plain-alone", undefined, local, [2020, 2045]);
  writeFileSync(file("empty.pem"), "");
});
afterAll(() => certificates.remove());

describe.each(tlsRows)("$store", (row) => {
  let server: Awaited<ReturnType<TlsRow["start"]>>;
  beforeAll(async () => {
    server = await row.start(certificates, names);
  });
  afterAll(() => server.stop());
  afterEach(() => server.present("server"));

  const at = (host = "localhost") => `${host}:${server.port}`;

  /** Why a server that presents this certificate is not trusted. */
  async function distrustOf(
    name: (typeof names)[number],
    trusted: string,
    host?: string,
  ): Promise<string | undefined> {
    await server.present(name);
    if (row.hasOption) {
      return distrust(row, at(host), { ca: pem(trusted) });
    }
    setEnv("NODE_EXTRA_CA_CERTS", file(`${trusted}.crt`));
    return distrust(row, at(host));
  }

  test("an authority in SSL_CERT_FILE is trusted", async () => {
    setEnv("SSL_CERT_FILE", file("ca.crt"));
    expect(await distrust(row, at())).toBeUndefined();
  });

  test("an authority in a folder of SSL_CERT_DIR is trusted", async () => {
    setEnv("SSL_CERT_DIR", file("."));
    expect(await distrust(row, at())).toBeUndefined();
  });

  test("an authority in NODE_EXTRA_CA_CERTS is trusted in addition", async () => {
    setEnv("NODE_EXTRA_CA_CERTS", file("ca.crt"));
    expect(await distrust(row, at())).toBeUndefined();
    setEnv("SSL_CERT_FILE", file("stranger.crt"));
    expect(await distrust(row, at())).toBeUndefined();
    await server.present("foreign");
    expect(await distrust(row, at())).toBeUndefined();
  });

  test("a bad file in NODE_EXTRA_CA_CERTS is ignored, and named if it matters", async () => {
    setEnv("SSL_CERT_FILE", file("ca.crt"));
    setEnv("NODE_EXTRA_CA_CERTS", file("missing.crt"));
    expect(await distrust(row, at())).toBeUndefined();
    await server.present("foreign");
    const message = await distrust(row, at());
    expect(message).toContain(`the file ${file("missing.crt")} can't be read`);
    expect(message).toContain("NODE_EXTRA_CA_CERTS");
  });

  test("without certificates in the system, those built in are trusted", async () => {
    setEnv("SSL_CERT_FILE", file("empty.pem"));
    const message = await distrust(row, at());
    expect(message).toContain(
      "trusted: Mozilla's certificates, as the system has none",
    );
    expect(message).toContain("no trusted certificate has signed");
    setEnv("NODE_EXTRA_CA_CERTS", file("ca.crt"));
    expect(await distrust(row, at())).toBeUndefined();
  });

  test("an unknown authority is refused, and the message names what helps", async () => {
    const message = await distrustOf("foreign", "ca");
    expect(message).toContain("no trusted certificate has signed the server's");
    if (row.hasOption) {
      expect(message).toContain("tls.ca");
      expect(message).toContain("rejectUnauthorized: false");
    } else {
      expect(message).toContain("NODE_EXTRA_CA_CERTS");
      expect(message).not.toContain("tls.");
    }
  });

  test("an expired certificate is refused, and one of the future", async () => {
    expect(await distrustOf("expired", "ca")).toContain(
      "certificate expired at 2021-01-01T00:00:00Z",
    );
    expect(await distrustOf("early", "ca")).toContain(
      "certificate is not valid before 2045-01-01T00:00:00Z",
    );
  });

  test("a certificate for another host is refused, and its names are told", async () => {
    expect(await distrustOf("server", "ca", "127.0.0.1")).toContain(
      "is not valid for 127.0.0.1; it is for localhost, *.db.example",
    );
  });

  test("a server's own certificate may be the trusted one", async () => {
    expect(await distrustOf("plain-alone", "plain-alone")).toBeUndefined();
    for (const name of ["alone", "old"] as const) {
      expect(await distrustOf(name, name)).toBeUndefined();
    }
  });

  test("a trusted certificate of a server must be valid, and for its host", async () => {
    expect(await distrustOf("alone-expired", "alone-expired")).toContain(
      "certificate expired at 2021-01-01T00:00:00Z",
    );
    expect(
      await distrustOf("plain-alone", "plain-alone", "127.0.0.1"),
    ).toContain("is not valid for 127.0.0.1; it is for localhost");
    expect(await distrustOf("alone", "alone", "127.0.0.1")).toContain(
      "is not valid for 127.0.0.1; it is for localhost",
    );
    // Another certificate of the same name does not vouch for it.
    expect(await distrustOf("old", "alone")).toContain("certificate");
  });

  test("a server that says no to encryption gets no password", async () => {
    const { port, received } = await startPlain(row, false, row.no);
    expect(await distrust(row, `localhost:${port}`)).toMatch(
      /encrypted|TLS|SSL/,
    );
    expectNoSecret(row, received);
  });

  test("bytes before the handshake are not believed", async () => {
    const { port, received } = await startPlain(row, true, row.yes);
    expect(await distrust(row, `localhost:${port}`)).toBeDefined();
    expectNoSecret(row, received);
  });
});

/** A client may ask for encryption, and begin the handshake. */
function expectNoSecret(row: TlsRow, received: readonly Buffer[]): void {
  expect(received.length).toBeGreaterThan(0);
  for (const bytes of received) {
    if (bytes.length > row.clearBytes) {
      expect(bytes[row.clearBytes]).toBe(handshake);
    }
  }
}

const handshake = 0x16;
