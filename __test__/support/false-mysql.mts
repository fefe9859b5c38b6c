// A server that speaks just enough of MySQL's protocol to be logged in to, by the
// methods that MariaDB doesn't have too, and that misbehaves on purpose. It never
// stores anything.
import { once } from "node:events";
import { type Server, type Socket, createServer } from "node:net";
import { TLSSocket } from "node:tls";
import { onTestFinished } from "vitest";

type Part = Buffer | string;

/** A packet. Texts are in Latin-1. */
export function packet(number: number, ...parts: Part[]): Buffer {
  const body = Buffer.concat(
    parts.map((part) => Buffer.from(part as string, "latin1")),
  );
  return Buffer.concat([announce(number, body.length), body]);
}

/** The header of a packet with so many bytes, which need not follow. */
export function announce(number: number, bytes: number): Buffer {
  const header = Buffer.alloc(4);
  header.writeUIntLE(bytes, 0, 3);
  header[3] = number;
  return header;
}

/** 20 bytes that are new for each login of a real server. */
export const nonce = "12345678901234567890";

/** The first packet of MySQL 8, and whether it offers encryption. */
export function greeting({
  encrypts = false,
  method = "mysql_native_password",
}): Buffer {
  const sslFlag = 0x0800;
  // Protocol 4.1, the authentication's method by name, and long passwords.
  const low = Buffer.alloc(2);
  low.writeUInt16LE(0x8201 | 0x0008 | (encrypts ? sslFlag : 0));
  const parts = [
    "\x0a8.0.40\0",
    "\x01\0\0\0",
    `${nonce.slice(0, 8)}\0`,
    low,
    "\x2d\x02\0",
    "\x08\0",
    "\x15",
    "\0".repeat(10),
    `${nonce.slice(8)}\0`,
    `${method}\0`,
  ];
  return Buffer.concat(
    parts.map((part) => Buffer.from(part as string, "latin1")),
  );
}

/** A text with its length, which is less than 251. */
export const text = (words: string) =>
  String.fromCharCode(words.length) + words;

const number = (value: number, bytes: number) => {
  const buffer = Buffer.alloc(bytes);
  buffer.writeUIntLE(value, 0, bytes);
  return buffer;
};

export const ok = "\0\0\0\x02\0\0\0";
export const end = "\xfe\0\0\x02\0";

/** The definition of a column of this type. */
export const column = (type: number) =>
  Buffer.concat([
    Buffer.from(["def", "", "", "", "c", "c"].map(text).join(""), "latin1"),
    Buffer.from([0x0c]),
    number(45, 2),
    number(1000, 4),
    Buffer.from([type, 0, 0, 0, 0, 0]),
  ]);

export const varString = 0xfd;

/** A connection of a client, packet by packet. */
export class Conversation {
  readonly socket: Socket;
  /** What the client has sent. */
  received = Buffer.alloc(0);
  #number: number;
  readonly #packets: AsyncIterator<Buffer>;

  constructor(socket: Socket, number = 0) {
    this.socket = socket;
    this.#number = number;
    this.#packets = this.#read();
  }

  async *#read(): AsyncGenerator<Buffer> {
    let rest = Buffer.alloc(0);
    for await (const data of this.socket) {
      this.received = Buffer.concat([this.received, data as Buffer]);
      rest = Buffer.concat([rest, data as Buffer]);
      while (rest.length >= 4 && rest.length >= 4 + rest.readUIntLE(0, 3)) {
        const length = 4 + rest.readUIntLE(0, 3);
        this.#number = (rest[3] ?? 0) + 1;
        yield rest.subarray(4, length);
        rest = rest.subarray(length);
      }
    }
  }

  /** The client's next packet. Throws when the client has closed. */
  async next(): Promise<Buffer> {
    const { value, done } = await this.#packets.next();
    if (done) throw new Error("the client has closed the connection");
    return value;
  }

  /** Sends packets, one for each of these. */
  send(...payloads: Part[]): void {
    this.socket.write(
      Buffer.concat(payloads.map((part) => packet(this.#number++, part))),
    );
  }

  /** Sends rows of texts. */
  sendRows(...rows: string[][]): void {
    const [first = []] = rows;
    this.send(
      String.fromCharCode(first.length),
      ...first.map(() => column(varString)),
      end,
      ...rows.map((row) => row.map(text).join("")),
      end,
    );
  }
}

interface Options {
  /** The method that the server begins with. */
  method?: string;
  /** In place of the greeting, with its header. */
  first?: Buffer;
  /** The server encrypts. */
  tls?: { readonly cert: Buffer; readonly key: Buffer };
  /** After the client's first packet. If it returns, the client is logged in. */
  onLogin?: (conversation: Conversation, login: Buffer) => unknown;
  /** In place of an answer to a lone get. */
  onGet?: (conversation: Conversation) => unknown;
}

export class FalseMysql {
  readonly conversations: Conversation[] = [];
  readonly #server: Server;
  readonly #options: Options;

  private constructor(options: Options) {
    this.#options = options;
    this.#server = createServer((socket) => {
      // The other side may close while we write.
      socket.on("error", () => {});
      this.#serve(socket).catch(() => socket.destroy());
    });
  }

  /** Listens on a free port, or on a Unix socket. */
  static async start(options: Options, path?: string): Promise<FalseMysql> {
    const server = new FalseMysql(options);
    server.#server.listen(path ?? { port: 0, host: "127.0.0.1" });
    await once(server.#server, "listening");
    onTestFinished(() => {
      server.#server.close();
      for (const { socket } of server.conversations) socket.destroy();
    });
    return server;
  }

  urlFor(password: string): string {
    const address = this.#server.address();
    const at =
      typeof address === "object" && address
        ? `127.0.0.1:${address.port}/db`
        : `localhost/db?socket=${encodeURIComponent(String(address))}`;
    return `mysql://fedify:${encodeURIComponent(password)}@${at}`;
  }

  async #serve(socket: Socket): Promise<void> {
    const { first, method = "mysql_native_password", onLogin } = this.#options;
    const encrypts = this.#options.tls !== undefined;
    socket.write(first ?? packet(0, greeting({ encrypts, method })));
    const conversation = await this.#begin(socket);
    this.conversations.push(conversation);
    const login = await conversation.next();
    await onLogin?.(conversation, login);
    conversation.send(ok);
    for (;;) {
      const command = await conversation.next();
      await this.#answer(conversation, command);
    }
  }

  /** A conversation, which is encrypted if the server encrypts. */
  async #begin(socket: Socket): Promise<Conversation> {
    const { tls } = this.#options;
    if (!tls) return new Conversation(socket, 1);
    await once(socket, "readable");
    // The client asks for encryption by this packet.
    socket.read(36);
    const encrypted = new TLSSocket(socket, { isServer: true, ...tls });
    encrypted.on("error", () => {});
    return new Conversation(encrypted, 2);
  }

  /** Every statement changes and finds nothing. */
  async #answer(conversation: Conversation, command: Buffer): Promise<void> {
    const words = command.subarray(1).toString("latin1");
    switch (command[0]) {
      case 0x03:
        if (words.startsWith("SELECT CONCAT_WS")) {
          conversation.sendRows(["false", "1700000000", "1", "16777216"]);
        } else if (words.startsWith("SHOW GLOBAL STATUS")) {
          conversation.sendRows(["Uptime", "100"]);
        } else if (words.startsWith("SELECT 'table'")) {
          // It doesn't tell what its tables are like.
          conversation.send("\xff\x76\x04#42000no right");
        } else {
          conversation.send(ok);
        }
        break;
      case 0x16: {
        const parameters = words.split("?").length - 1;
        conversation.send(
          Buffer.concat([
            Buffer.from([0]),
            number(1, 4),
            number(0, 2),
            number(parameters, 2),
            Buffer.from([0, 0, 0]),
          ]),
          ...Array.from({ length: parameters }, () => column(varString)),
          ...(parameters > 0 ? [end] : []),
        );
        break;
      }
      case 0x17:
        if (this.#options.onGet) {
          await this.#options.onGet(conversation);
        } else {
          conversation.send("\x02", column(varString), column(8), end, end);
        }
    }
  }
}
