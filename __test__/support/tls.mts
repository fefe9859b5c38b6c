// The stores on servers, as the tests of encrypted connections need them: a
// server that presents the certificate it is told to, and what servers send that
// don't encrypt.
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { copyFileSync } from "node:fs";
import { createServer as createHttpsServer } from "node:https";
import { type AddressInfo, type Socket, createServer } from "node:net";
import { expect, onTestFinished } from "vitest";
import {
  DenoKvStore,
  MysqlKvStore,
  PostgresKvStore,
  RedisKvStore,
} from "../../index.js";
import { MysqlServer, password } from "../services/mysql.mts";
import { PostgresServer } from "../services/postgres.mts";
import { RedisServer, freePort } from "../services/redis.mts";
import type { Certificates } from "./certificates.mts";
import { greeting, packet } from "./false-mysql.mts";
import { accepted, frame, ready } from "./false-postgres.mts";
import { rejection } from "./rejection.mts";

interface Tls {
  readonly ca?: Buffer;
  readonly rejectUnauthorized?: boolean;
}

interface Server {
  readonly port: number;
  /** From now on, new connections get this certificate. */
  present(name: string): Promise<void>;
  stop(): Promise<void>;
}

export interface TlsRow {
  readonly store: string;
  /** Whether the store has the option `tls`. */
  readonly hasOption: boolean;
  start(certificates: Certificates, names: readonly string[]): Promise<Server>;
  /** Opens a store at `host:port`, with a password if it needs one. */
  open(place: string, tls?: Tls): Openable;
  /** How many bytes the client may send before the handshake. */
  readonly clearBytes: number;
  /** What a server sends at once. */
  readonly greeting?: (encrypts: boolean) => Buffer;
  /** What a server answers to a client that wants to encrypt, and can't. */
  readonly no: Buffer;
  /** What would have a client believe that it is logged in. */
  readonly yes: Buffer;
}

type Openable = RedisKvStore | PostgresKvStore | MysqlKvStore | DenoKvStore;

const redisText = (text: string) => Buffer.from(`${text}\r\n`);

export const tlsRows: readonly TlsRow[] = [
  {
    store: "RedisKvStore",
    hasOption: true,
    clearBytes: 0,
    no: redisText("-ERR unknown command"),
    yes: redisText("+OK"),
    open: (place, tls) =>
      new RedisKvStore(`rediss://:secret@${place}`, {
        ...(tls && { tls }),
        keyPrefix: `${randomUUID()}::`,
      }),
    async start(certificates, [first = ""]) {
      const port = await freePort();
      const files = (name: string) => [
        certificates.file(`${name}.crt`),
        certificates.file(`${name}.key`),
      ];
      const [cert = "", key = ""] = files(first);
      const server = await RedisServer.start({
        "tls-port": port,
        "tls-cert-file": cert,
        "tls-key-file": key,
        "tls-auth-clients": "no",
        requirepass: "secret",
      });
      const client = server.client({ password: "secret" });
      return {
        port,
        present: async (name) => {
          const [cert = "", key = ""] = files(name);
          await client.call(
            "CONFIG",
            "SET",
            "tls-cert-file",
            cert,
            "tls-key-file",
            key,
          );
        },
        stop: () => server.stop(),
      };
    },
  },
  {
    store: "PostgresKvStore",
    hasOption: true,
    clearBytes: 8,
    no: Buffer.from("N"),
    yes: Buffer.concat([
      Buffer.from("S"),
      accepted,
      frame("K", "12345678"),
      ready,
    ]),
    open: (place, tls) =>
      new PostgresKvStore(
        `postgres://fedify:${encodeURIComponent("a pass:word/%")}@${place}/postgres?sslmode=require`,
        tls && { tls },
      ),
    async start(certificates, names) {
      const files = names.flatMap((name) =>
        [`${name}.crt`, `${name}.key`].map((file) => [
          file,
          certificates.pem(file).toString(),
        ]),
      );
      const [first = ""] = names;
      const server = await PostgresServer.start({
        settings: { ssl: "on" },
        files: {
          ...(Object.fromEntries(files) as Record<string, string>),
          "server.crt": certificates.pem(`${first}.crt`).toString(),
          "server.key": certificates.pem(`${first}.key`).toString(),
        },
      });
      const sql = server.client();
      return {
        port: server.port,
        present: async (name) => {
          const from = server.log.length;
          await sql.unsafe(`ALTER SYSTEM SET ssl_cert_file = '${name}.crt'`);
          await sql.unsafe(`ALTER SYSTEM SET ssl_key_file = '${name}.key'`);
          await sql`SELECT pg_reload_conf()`;
          // The process that accepts connections reloads before the next one.
          await expect
            .poll(() => server.log.slice(from).join("\n"))
            .toContain("received SIGHUP");
        },
        stop: () => server.stop(),
      };
    },
  },
  {
    store: "MysqlKvStore",
    hasOption: true,
    clearBytes: 36,
    greeting: (encrypts) => packet(0, greeting({ encrypts })),
    no: Buffer.alloc(0),
    yes: packet(2, "\0\0\0\x02\0\0\0"),
    open: (place, tls) =>
      new MysqlKvStore(
        `mysql://fedify:${encodeURIComponent(password)}@${place}/fedify?ssl-mode=VERIFY_IDENTITY`,
        tls && { tls },
      ),
    async start(certificates, [first = ""]) {
      const copy = (name: string) => {
        for (const kind of ["crt", "key"]) {
          const presented = certificates.file(`presented.${kind}`);
          copyFileSync(certificates.file(`${name}.${kind}`), presented);
        }
      };
      copy(first);
      const server = await MysqlServer.start({
        "ssl-cert": certificates.file("presented.crt"),
        "ssl-key": certificates.file("presented.key"),
      });
      return {
        port: server.port,
        present: async (name) => {
          copy(name);
          await server.sql("FLUSH SSL");
        },
        stop: () => server.stop(),
      };
    },
  },
  {
    store: "DenoKvStore",
    hasOption: false,
    clearBytes: 0,
    no: redisText("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n"),
    yes: redisText("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"),
    open: (place) =>
      new DenoKvStore(`https://${place}`, { accessToken: "secret" }),
    // It refuses every token, which a store can see on a trusted connection only.
    async start(certificates, [first = ""]) {
      const context = (name: string) => ({
        cert: certificates.pem(`${name}.crt`),
        key: certificates.pem(`${name}.key`),
      });
      const server = createHttpsServer(context(first), (request, response) => {
        request.resume();
        response.writeHead(403).end(reached);
      });
      await once(server.listen(0, "127.0.0.1"), "listening");
      return {
        port: (server.address() as AddressInfo).port,
        present: async (name) => server.setSecureContext(context(name)),
        stop: async () => {
          server.closeAllConnections();
          server.close();
        },
      };
    },
  },
];

const reached = "this token is not welcome";

/** `undefined` if the server is trusted, and otherwise why it isn't. */
export async function distrust(
  row: TlsRow,
  place: string,
  tls?: Tls,
): Promise<string | undefined> {
  const store = row.open(place, tls);
  onTestFinished(() => store.close());
  const reason = await store.get(["k"]).then(
    () => undefined,
    (error: unknown) => rejection(() => Promise.reject(error as Error)),
  );
  const error = await reason;
  if (error === undefined || error.message.includes(reached)) {
    return undefined;
  }
  expect(error.code).toBe("ERR_KV_CONNECTION");
  return error.message;
}

/**
 * A server that sends these bytes as soon as it may, and nothing else. It ends a
 * connection on which the client begins a handshake. `received` has what each
 * client sent.
 */
export async function startPlain(
  row: TlsRow,
  encrypts: boolean,
  bytes: Buffer,
): Promise<{ port: number; received: Buffer[] }> {
  const received: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    const index = received.push(Buffer.alloc(0)) - 1;
    sockets.add(socket);
    socket.on("error", () => {});
    const { greeting } = row;
    const first = greeting?.(encrypts) ?? Buffer.alloc(0);
    if (row.clearBytes === 0 || greeting) {
      socket.write(Buffer.concat([first, bytes]));
    }
    socket.on("data", (data) => {
      const all = Buffer.concat([received[index] ?? data, data]);
      received[index] = all;
      if (all.length > row.clearBytes) {
        socket.end();
      } else if (!greeting) {
        socket.write(bytes);
      }
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { port: (server.address() as AddressInfo).port, received };
}
