// A server that speaks just enough of PostgreSQL's protocol to be logged in to,
// and then misbehaves on purpose. It never stores anything.
import { type Server, type Socket, createServer } from "node:net";
import { once } from "node:events";
import { onTestFinished } from "vitest";

/** Takes a connection over: sends whatever it wants to. */
export type Misbehave = (socket: Socket) => void;

interface Options {
  /** Called in place of an answer to the login. */
  onLogin?: Misbehave;
  /** Called in place of an answer to a statement that this text begins with. */
  onStatement?: readonly [text: string, misbehave: Misbehave];
}

/** A connection to the false server. */
export interface Connected {
  readonly socket: Socket;
  readonly closed: Promise<void>;
}

export function frame(type: string, ...parts: (Buffer | string)[]): Buffer {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part as string)));
  const header = Buffer.alloc(5);
  header.write(type);
  header.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([header, body]);
}

/** The header of a frame with so many bytes, which need not follow. */
export function announce(type: string, bytes: number): Buffer {
  const header = Buffer.alloc(5);
  header.write(type);
  header.writeInt32BE(bytes + 4, 1);
  return header;
}

/**
 * Sends the same bytes until the other side has closed the connection. It waits
 * for the system to take them.
 */
export function sendWithoutEnd(socket: Socket, bytes: Buffer): void {
  while (!socket.destroyed && socket.write(bytes));
  if (!socket.destroyed) {
    socket.once("drain", () => sendWithoutEnd(socket, bytes));
  }
}

/** The server accepts the login. */
export const accepted = frame("R", Buffer.alloc(4));

export const ready = frame("Z", "I");
const text = 25;

export class FalsePostgres {
  readonly connections: Connected[] = [];
  readonly #server: Server;
  readonly #options: Options;

  private constructor(options: Options) {
    this.#options = options;
    this.#server = createServer((socket) => {
      const closed = new Promise<void>((resolve) => {
        socket.once("close", () => resolve());
      });
      this.connections.push({ socket, closed });
      // The other side may close while we write.
      socket.on("error", () => {});
      this.#serve(socket);
    });
  }

  static async start(options: Options): Promise<FalsePostgres> {
    const server = new FalsePostgres(options);
    server.#server.listen(0, "127.0.0.1");
    await once(server.#server, "listening");
    onTestFinished(() => {
      server.#server.close();
      for (const { socket } of server.connections) {
        socket.destroy();
      }
    });
    return server;
  }

  get url(): string {
    const address = this.#server.address();
    const port = typeof address === "object" ? address?.port : undefined;
    return `postgres://fedify@127.0.0.1:${port}/postgres`;
  }

  #serve(socket: Socket): void {
    let bytes = Buffer.alloc(0);
    let loggedIn = false;
    let misbehaves = false;
    /** The texts of prepared statements, by name. */
    const statements = new Map<string, string>();
    const take = (length: number) => {
      const taken = bytes.subarray(0, length);
      bytes = bytes.subarray(length);
      return taken;
    };
    socket.on("data", (data) => {
      bytes = Buffer.concat([bytes, data]);
      for (;;) {
        const header = loggedIn ? 5 : 4;
        if (misbehaves || bytes.length < header) return;
        const length = bytes.readInt32BE(header - 4) + header - 4;
        if (bytes.length < length) return;
        const message = take(length);
        if (!loggedIn) {
          loggedIn = true;
          if (this.#options.onLogin !== undefined) {
            misbehaves = true;
            return this.#options.onLogin(socket);
          }
          const key = frame("K", "12345678");
          socket.write(Buffer.concat([accepted, key, ready]));
          continue;
        }
        const reply = this.#reply(
          String.fromCharCode(message[0] ?? 0),
          message.subarray(5),
          statements,
        );
        if (typeof reply === "function") {
          misbehaves = true;
          return reply(socket);
        }
        socket.write(reply);
      }
    });
  }

  /** The answer to a message. Every statement changes and finds nothing. */
  #reply(
    type: string,
    body: Buffer,
    statements: Map<string, string>,
  ): Buffer | Misbehave {
    const strings = body.toString("latin1").split("\0");
    const misbehave = (statement: string | undefined) => {
      const [begin, how] = this.#options.onStatement ?? [];
      return begin !== undefined && statement?.startsWith(begin)
        ? how
        : undefined;
    };
    switch (type) {
      case "P": {
        const [name = "", query = ""] = strings;
        statements.set(name, query);
        // Its parameters follow the two texts.
        const types = body.subarray(name.length + query.length + 2);
        statements.set(`${name} types`, types.toString("latin1"));
        return frame("1");
      }
      case "B":
        statements.set("bound", statements.get(strings[1] ?? "") ?? "");
        return frame("2");
      case "D": {
        const name = strings[0]?.slice(1) ?? "";
        const types = statements.get(`${name} types`) ?? "\0\0";
        const parameters = frame("t", Buffer.from(types, "latin1"));
        const isQuery = statements.get(name)?.startsWith("SELECT") ?? false;
        return Buffer.concat([parameters, isQuery ? oneColumn : frame("n")]);
      }
      case "E":
        return misbehave(statements.get("bound")) ?? frame("C", "SELECT 0\0");
      case "C":
        return frame("3");
      case "Q":
        return (
          misbehave(strings[0]) ??
          Buffer.concat([frame("C", "SELECT 0\0"), ready])
        );
      case "S":
        return ready;
      default:
        return Buffer.alloc(0);
    }
  }
}

/** The description of rows with one column of text. */
const oneColumn = (() => {
  const field = Buffer.alloc(18);
  field.writeInt32BE(text, 6);
  field.writeInt16BE(-1, 10);
  field.writeInt32BE(-1, 12);
  return frame("T", Buffer.from([0, 1]), "value\0", field);
})();
