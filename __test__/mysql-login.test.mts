// How the store proves that it knows the password, on servers that say how. The
// methods that only MySQL has are those of a false server, because no MySQL runs
// here.
import { createHash, generateKeyPairSync, privateDecrypt } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { MysqlServer } from "./services/mysql.mts";
import { numbers } from "./support/entries.mts";
import { Certificates } from "./support/certificates.mts";
import {
  type Conversation,
  FalseMysql,
  announce,
  nonce,
  packet,
} from "./support/false-mysql.mts";
import { type Options, openStore } from "./support/mysql.mts";
import { expectRejection } from "./support/rejection.mts";

const password = "s3cr:et/ @#?%";
const caching = "caching_sha2_password";
const sha256Method = "sha256_password";

const keys = generateKeyPairSync("rsa", {
  modulusLength: 2048,
  publicKeyEncoding: { type: "spki", format: "pem" },
  privateKeyEncoding: { type: "pkcs8", format: "pem" },
});

const sha256 = (...parts: (Buffer | string)[]) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};

const xor = (bytes: Buffer, other: Buffer | string) => {
  const second = Buffer.from(other as string);
  return bytes.map((byte, i) => byte ^ (second[i % second.length] ?? 0));
};

/** What proves the password, as `caching_sha2_password` has it. */
const proof = xor(
  sha256(password),
  sha256(sha256(sha256(password)), Buffer.from(nonce)),
);

/** What messages of the client may not contain. */
function expectNoPassword({ conversations }: FalseMysql): void {
  expect(conversations.length).toBeGreaterThan(0);
  for (const { received } of conversations) {
    expect(received.includes(password)).toBe(false);
  }
}

/** The password that a client has encrypted. */
const decrypted = (bytes: Buffer) =>
  Buffer.from(xor(privateDecrypt(keys.privateKey, bytes), nonce)).toString();

/** The server doesn't remember this password, and wants all of it. */
const wantsPassword = "\x01\x04";

const sendKey = (conversation: Conversation, key = keys.publicKey) =>
  conversation.send(`\x01${key}`);

async function works(server: FalseMysql, options?: Options): Promise<void> {
  const store = openStore(server.urlFor(password), {
    initialized: true,
    ...options,
  });
  expect(await store.get(["k"])).toBeUndefined();
}

async function fails(server: FalseMysql, options?: Options): Promise<string> {
  const store = openStore(server.urlFor(password), {
    initialized: true,
    ...options,
  });
  const error = await expectRejection(
    () => store.get(["k"]),
    "ERR_KV_CONNECTION",
  );
  expect(error.message).not.toContain(password);
  return error.message;
}

describe("without encryption", () => {
  test("caching_sha2_password asks for no key, and the message names the options", async () => {
    const asked: Buffer[] = [];
    const server = await FalseMysql.start({
      method: caching,
      onLogin: async (conversation) => {
        conversation.send(wantsPassword);
        asked.push(await conversation.next());
        sendKey(conversation);
        await conversation.next();
      },
    });
    const message = await fails(server);
    expect(message).toContain("allowPublicKeyRetrieval: true");
    expect(message).toContain("the option tls");
    expect(asked).toEqual([]);
    expectNoPassword(server);
  });

  test("caching_sha2_password encrypts by the server's key if it may", async () => {
    const told: string[] = [];
    const server = await FalseMysql.start({
      method: caching,
      onLogin: async (conversation) => {
        conversation.send(wantsPassword);
        expect(await conversation.next()).toEqual(Buffer.from([2]));
        sendKey(conversation);
        told.push(decrypted(await conversation.next()));
      },
    });
    await works(server, { allowPublicKeyRetrieval: true });
    expect(told).toEqual([`${password}\0`]);
    expectNoPassword(server);
  });

  test("a server that remembers the password needs no key", async () => {
    const server = await FalseMysql.start({
      method: caching,
      onLogin: (conversation, login) => {
        expect(login.includes(Buffer.from(proof))).toBe(true);
        conversation.send("\x01\x03");
      },
    });
    await works(server);
    expectNoPassword(server);
  });

  test("sha256_password asks for no key unless it may", async () => {
    const refused = await FalseMysql.start({
      method: sha256Method,
      onLogin: async (conversation) => {
        conversation.send(`\xfe${sha256Method}\0${nonce}\0`);
        await conversation.next();
      },
    });
    expect(await fails(refused)).toContain("allowPublicKeyRetrieval: true");
    expectNoPassword(refused);
    const told: string[] = [];
    const server = await FalseMysql.start({
      method: sha256Method,
      onLogin: async (conversation, login) => {
        expect(login.includes("fedify\0\x01\x01db")).toBe(true);
        sendKey(conversation);
        told.push(decrypted(await conversation.next()));
      },
    });
    await works(server, { allowPublicKeyRetrieval: true });
    expect(told).toEqual([`${password}\0`]);
    expectNoPassword(server);
  });

  test("a server may change to another method", async () => {
    const other = "abcdefghijklmnopqrst";
    const server = await FalseMysql.start({
      onLogin: async (conversation) => {
        conversation.send(`\xfe${caching}\0${other}\0`);
        const stage1 = sha256(password);
        const wanted = xor(stage1, sha256(sha256(stage1), Buffer.from(other)));
        expect(await conversation.next()).toEqual(Buffer.from(wanted));
        conversation.send("\x01\x03");
      },
    });
    await works(server);
  });

  test.each(["mysql_clear_password", "mysql_old_password", "dialog"])(
    "%s is refused by name",
    async (method) => {
      const server = await FalseMysql.start({
        onLogin: async (conversation) => {
          conversation.send(`\xfe${method}\0${nonce}\0`);
          await conversation.next();
        },
      });
      expect(await fails(server)).toContain(`the server wants ${method}`);
      expectNoPassword(server);
    },
  );

  const small = generateKeyPairSync("rsa", {
    modulusLength: 512,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
  const curve = generateKeyPairSync("ec", {
    namedCurve: "P-256",
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });

  test.each([
    ["no PEM", "hello"],
    ["nothing", ""],
    ["half of a key", keys.publicKey.slice(0, 200)],
    ["a short key", small.publicKey],
    ["a key of another kind", curve.publicKey],
    ["a private key", keys.privateKey],
  ])("%s is no key to encrypt by", async (_, key) => {
    const server = await FalseMysql.start({
      method: caching,
      onLogin: async (conversation) => {
        conversation.send(wantsPassword);
        await conversation.next();
        sendKey(conversation, key);
        await conversation.next();
      },
    });
    const message = await fails(server, { allowPublicKeyRetrieval: true });
    expect(message).toContain("is not a usable RSA key");
    expectNoPassword(server);
  });
});

test("over a Unix socket, the password needs no encryption", async () => {
  const folder = mkdtempSync(join(tmpdir(), "fedify-kv-false-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const told: string[] = [];
  const server = await FalseMysql.start(
    {
      method: caching,
      onLogin: async (conversation) => {
        conversation.send(wantsPassword);
        told.push((await conversation.next()).toString());
      },
    },
    join(folder, "sock"),
  );
  await works(server);
  expect(told).toEqual([`${password}\0`]);
});

test("on an encrypted connection, the password needs no key", async () => {
  const certificates = new Certificates();
  onTestFinished(() => certificates.remove());
  certificates.authority("ca");
  certificates.certificate("server", "ca", "IP:127.0.0.1");
  const pem = (name: string) => certificates.pem(name);
  for (const method of [caching, sha256Method]) {
    const told: string[] = [];
    const server = await FalseMysql.start({
      method,
      tls: { cert: pem("server.crt"), key: pem("server.key") },
      onLogin: async (conversation, login) => {
        if (method === sha256Method) {
          told.push(login.toString("latin1"));
          return;
        }
        conversation.send(wantsPassword);
        told.push((await conversation.next()).toString());
      },
    });
    await works(server, { tls: { ca: pem("ca.crt") } });
    expect(told).toHaveLength(1);
    expect(told[0]).toContain(`${password}\0`);
  }
});

test.each([
  ["nothing", ""],
  ["another protocol", "HTTP/1.1 400 Bad Request"],
  ["an old protocol", "\x09old\0"],
  ["half of it", "\x0a8.0.40\0\x01\0\0"],
])("a greeting that is %s is an error", async (_, first) => {
  const server = await FalseMysql.start({ first: packet(0, first) });
  expect(await fails(server)).toContain("127.0.0.1");
});

test("a greeting of 16 MB is not waited for", async () => {
  const server = await FalseMysql.start({ first: announce(0, 0xff_ff_ff) });
  expect(await fails(server)).toContain("too long");
});

test("a server that goes on without end is left", async () => {
  const server = await FalseMysql.start({
    onLogin: async (conversation) => {
      for (;;) {
        conversation.send(`\xfe${caching}\0${nonce}\0`);
        await conversation.next();
      }
    },
  });
  expect(await fails(server)).toContain("make no sense");
});

test("MariaDB's client_ed25519 works", async () => {
  const server = await MysqlServer.start();
  try {
    await server.sql(
      `INSTALL SONAME 'auth_ed25519';
       CREATE USER signer@'%' IDENTIFIED VIA ed25519 USING PASSWORD('${password}');
       GRANT ALL ON fedify.* TO signer@'%'`,
    );
    const url = server.urlFor("signer", password);
    const stores = numbers(20).map(() => openStore(url));
    for (const store of stores) await store.set(["k"], 1);
    expect(await stores[0]?.get(["k"])).toBe(1);
    const wrong = openStore(server.urlFor("signer", "wr0ng"));
    const error = await expectRejection(
      () => wrong.get(["k"]),
      "ERR_KV_CONNECTION",
    );
    expect(error.message).toContain("Access denied");
  } finally {
    await server.stop();
  }
});
