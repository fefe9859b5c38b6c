// A KV Connect server of the tests' own. It stores entries as the protocol says, and
// its answers can be changed after it has carried out what they answer.
import { once } from "node:events";
import {
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type RequestListener,
  type Server,
  type ServerResponse,
  createServer,
} from "node:http";
import type { AddressInfo } from "node:net";
import { deserialize, serialize } from "node:v8";
import { onTestFinished } from "vitest";

/** An answer. Without a status, the connection is cut in place of one. */
export interface Answer {
  readonly status?: number;
  readonly headers?: OutgoingHttpHeaders;
  readonly body?: Uint8Array | string;
  /** Whether to send only the beginning of the body, and then cut. */
  readonly truncated?: boolean;
}

export interface Entry {
  readonly key: Buffer;
  readonly value: Buffer;
  readonly encoding: number;
  readonly stamp: Buffer;
}

export interface Metadata {
  version: number;
  databaseId: string;
  endpoints: { url: string; consistency: string }[];
  token: string;
  expiresAt: string;
}

export const token = "the-token-of-the-user-0123456789";

export class KvConnectServer {
  readonly entries = new Map<string, Entry>();
  /** How many times each kind of request has come. */
  readonly count = { exchanges: 0, reads: 0, writes: 0 };
  /** How many times each key was written, by its parts as JSON. */
  readonly written = new Map<string, number>();
  /** The token that metadata are exchanged for. */
  accessToken = token;
  /** The token for data, whose requests need it. */
  dataToken = "the-token-for-data-0123456789";
  /** How long metadata may be used, in milliseconds. */
  lifetime = 3_600_000;
  /** How far the clock is ahead of ours. */
  clock = 0;
  /** No request is carried out before this. */
  ready: Promise<void> = Promise.resolve();
  /** Called in place of carrying out a request, if it returns an answer. */
  instead: (path: string, request: IncomingMessage) => Answer | undefined =
    () => undefined;
  /** What to answer instead of a good answer. */
  answerMetadata: (
    good: Answer,
    metadata: Metadata,
  ) => Answer | Promise<Answer> = (good) => good;
  answerRead: (good: Answer, found: Entry[][]) => Answer | Promise<Answer> = (
    good,
  ) => good;
  answerWrite: (good: Answer) => Answer | Promise<Answer> = (good) => good;
  readonly #listener: Server;
  #version = 0n;

  private constructor(create: (listener: RequestListener) => Server) {
    this.#listener = create(
      (request, response) => void this.#serve(request, response),
    );
  }

  /** Starts a server that is stopped when the test is over. */
  static async start(
    create: (listener: RequestListener) => Server = createServer,
  ): Promise<KvConnectServer> {
    const server = await KvConnectServer.listen(create);
    onTestFinished(() => server.stop());
    return server;
  }

  /** Starts a server. */
  static async listen(
    create: (listener: RequestListener) => Server = createServer,
  ): Promise<KvConnectServer> {
    const server = new KvConnectServer(create);
    server.#listener.listen(0, "127.0.0.1");
    await once(server.#listener, "listening");
    return server;
  }

  stop(): void {
    this.#listener.closeAllConnections();
    this.#listener.close();
  }

  get port(): number {
    return (this.#listener.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** The value of an entry. */
  read(parts: readonly string[]): unknown {
    const entry = this.entries.get(hex(encodeKey(parts)));
    return entry === undefined ? undefined : deserialize(entry.value);
  }

  /** Writes an entry, as another client would. */
  put(parts: readonly string[], value: unknown): void {
    this.#put(encodeKey(parts), serialize(value), 1);
  }

  async #serve(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    response.on("error", () => {});
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      // The client has gone, so there is nothing to carry out.
      return;
    }
    await this.ready;
    const path = request.url ?? "";
    const answer =
      this.instead(path, request) ??
      (await this.#carryOut(path, request, Buffer.concat(chunks)));
    const { status, headers = {}, body = "", truncated = false } = answer;
    if (status === undefined) {
      request.socket.destroy();
      return;
    }
    const date = new Date(Date.now() + this.clock).toUTCString();
    response.writeHead(status, {
      date,
      ...(truncated ? { "content-length": body.length + 1_000 } : {}),
      ...headers,
    });
    if (truncated) {
      response.write(body, () => request.socket.destroy());
    } else {
      response.end(body);
    }
  }

  async #carryOut(
    path: string,
    request: IncomingMessage,
    body: Buffer,
  ): Promise<Answer> {
    const { authorization } = request.headers;
    if (!path.startsWith("/data/")) {
      this.count.exchanges += 1;
      if (authorization !== `Bearer ${this.accessToken}`) {
        return { status: 401, body: "wrong token" };
      }
      const now = Date.now() + this.clock;
      const metadata: Metadata = {
        version: 3,
        databaseId: "a1b2c3d4-0000-4000-8000-000000000001",
        endpoints: [{ url: "/data", consistency: "strong" }],
        token: this.dataToken,
        expiresAt: new Date(now + this.lifetime).toISOString(),
      };
      const good = { status: 200, body: JSON.stringify(metadata) };
      return await this.answerMetadata(good, metadata);
    }
    if (authorization !== `Bearer ${this.dataToken}`) {
      return { status: 401, body: "wrong token for data" };
    }
    if (path === "/data/snapshot_read") {
      this.count.reads += 1;
      const found = this.#snapshotRead(parse(body));
      return await this.answerRead(answerOf(found), found);
    }
    this.count.writes += 1;
    const written = this.#atomicWrite(parse(body));
    return await this.answerWrite({ status: 200, body: written });
  }

  #snapshotRead(message: Fields): Entry[][] {
    return bytesOf(message, 1).map((range) => {
      const fields = parse(range);
      const [start = empty] = bytesOf(fields, 1);
      const [end = empty] = bytesOf(fields, 2);
      const within = ({ key }: Entry) =>
        key.compare(start) >= 0 && key.compare(end) < 0;
      return [...this.entries.values()]
        .filter(within)
        .toSorted((a, b) => a.key.compare(b.key))
        .slice(0, numberOf(fields, 3));
    });
  }

  #atomicWrite(message: Fields): Buffer {
    const holds = bytesOf(message, 1).every((check) => {
      const fields = parse(check);
      const [key = empty] = bytesOf(fields, 1);
      const [stamp = empty] = bytesOf(fields, 2);
      return stamp.equals(this.entries.get(hex(key))?.stamp ?? empty);
    });
    if (!holds) return conflict;
    const mutations = bytesOf(message, 2).map(parse);
    this.#version += 1n;
    for (const mutation of mutations) {
      const [key = empty] = bytesOf(mutation, 1);
      const name = JSON.stringify(decodeKey(key));
      this.written.set(name, (this.written.get(name) ?? 0) + 1);
      if (numberOf(mutation, 3) === 2) {
        this.entries.delete(hex(key));
      } else {
        const value = parse(bytesOf(mutation, 2)[0] ?? empty);
        const [data = empty] = bytesOf(value, 1);
        this.#put(key, data, numberOf(value, 2));
      }
    }
    return Buffer.concat([number(1, 1), bytes(2, this.#stamp())]);
  }

  #put(key: Buffer, value: Buffer, encoding: number): void {
    this.#version += 1n;
    const stamp = this.#stamp();
    this.entries.set(hex(key), { key, value, encoding, stamp });
  }

  #stamp(): Buffer {
    const stamp = Buffer.alloc(10);
    stamp.writeBigUInt64BE(this.#version, 2);
    return stamp;
  }
}

const empty = Buffer.alloc(0);
const hex = (bytes: Buffer) => bytes.toString("hex");

/** The answer to a write whose check has failed. */
export const conflict = number(1, 2);

/** The answer to a write at an endpoint that takes none now. */
export const writeDisabled = number(1, 5);

/** The answer to a read that has found these entries. */
export function answerOf(found: readonly (readonly Entry[])[]): Answer {
  const ranges = found.map((entries) => {
    const values = entries.map(({ key, value, encoding, stamp }) => {
      const entry = [
        bytes(1, key),
        bytes(2, value),
        number(3, encoding),
        bytes(4, stamp),
      ];
      return bytes(1, Buffer.concat(entry));
    });
    return bytes(1, Buffer.concat(values));
  });
  const body = Buffer.concat([...ranges, number(4, 1), number(8, 1)]);
  return { status: 200, body };
}

/** A key of strings as Deno KV encodes it. */
export function encodeKey(parts: readonly string[]): Buffer {
  return Buffer.concat(parts.map((part) => Buffer.from(`\x02${part}\0`)));
}

function decodeKey(key: Buffer): string[] {
  return key
    .toString()
    .split("\0")
    .slice(0, -1)
    .map((part) => part.slice(1));
}

/** The fields of a Protobuf message: numbers, and bytes. */
type Fields = ReadonlyMap<number, readonly (number | Buffer)[]>;

function parse(message: Buffer): Fields {
  const fields = new Map<number, (number | Buffer)[]>();
  let at = 0;
  const next = () => {
    let [result, scale] = [0, 1];
    for (;;) {
      const byte = message[at++] ?? 0;
      result += (byte & 0x7f) * scale;
      if (byte < 0x80) return result;
      scale *= 128;
    }
  };
  while (at < message.length) {
    const tag = next();
    const value = next();
    let field: number | Buffer = value;
    if (tag % 8 === 2) {
      field = message.subarray(at, at + value);
      at += value;
    }
    const id = Math.floor(tag / 8);
    fields.set(id, [...(fields.get(id) ?? []), field]);
  }
  return fields;
}

function bytesOf(fields: Fields, id: number): Buffer[] {
  return (fields.get(id) ?? []).filter((field) => typeof field !== "number");
}

function numberOf(fields: Fields, id: number): number {
  const [field = 0] = fields.get(id) ?? [];
  return Number(field);
}

function varint(value: number): Buffer {
  const result: number[] = [];
  for (; value >= 0x80; value = Math.floor(value / 128)) {
    result.push((value % 128) | 0x80);
  }
  return Buffer.from([...result, value]);
}

function number(id: number, value: number): Buffer {
  return Buffer.concat([varint(id * 8), varint(value)]);
}

function bytes(id: number, value: Buffer): Buffer {
  return Buffer.concat([varint(id * 8 + 2), varint(value.length), value]);
}
