// A server that speaks just enough of Redis's protocol to be connected to, and
// whose scans never end. It never stores anything.
import { once } from "node:events";
import { type Server, type Socket, createServer } from "node:net";
import { onTestFinished } from "vitest";

/** Whether each page of a scan has the same cursor or another one. */
export type Cursors = "the same cursor" | "new cursors";

export class FalseRedis {
  /** How many pages of scans were asked for. */
  scans = 0;
  readonly #cursors: Cursors;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(cursors: Cursors) {
    this.#cursors = cursors;
    this.#server = createServer((socket) => {
      this.#sockets.add(socket);
      // The other side may close while we write.
      socket.on("error", () => {});
      this.#serve(socket);
    });
  }

  static async start(cursors: Cursors): Promise<FalseRedis> {
    const server = new FalseRedis(cursors);
    server.#server.listen(0, "127.0.0.1");
    await once(server.#server, "listening");
    onTestFinished(() => {
      server.#server.close();
      for (const socket of server.#sockets) socket.destroy();
    });
    return server;
  }

  get url(): string {
    const address = this.#server.address();
    const port = typeof address === "object" ? address?.port : undefined;
    return `redis://127.0.0.1:${port}`;
  }

  #serve(socket: Socket): void {
    let text = "";
    socket.setEncoding("latin1").on("data", (data: string) => {
      text += data;
      for (;;) {
        const [command, rest] = parse(text);
        if (command === undefined) return;
        text = rest;
        socket.write(this.#reply(command));
      }
    });
  }

  #reply([name = "", ...parameters]: readonly string[]): string {
    switch (name.toUpperCase()) {
      case "SCAN": {
        this.scans += 1;
        const isNew = this.#cursors === "new cursors";
        const cursor = String(isNew ? this.scans : 1);
        return `*2\r\n$${cursor.length}\r\n${cursor}\r\n*0\r\n`;
      }
      case "DBSIZE":
        return ":1\r\n";
      case "GET":
        return "$-1\r\n";
      case "MGET":
        return `*${parameters.length}\r\n${"$-1\r\n".repeat(parameters.length)}`;
      case "PING":
        return "+PONG\r\n";
      case "INFO":
        return "$0\r\n\r\n";
      case "HELLO":
        return "-ERR unknown command 'HELLO'\r\n";
      case "CLIENT":
        return parameters[0]?.toUpperCase() === "ID" ? ":1\r\n" : "+OK\r\n";
      case "CONFIG":
        return "*0\r\n";
      default:
        return "+OK\r\n";
    }
  }
}

/** The first command, if it is complete, and what follows it. */
function parse(text: string): [command: string[] | undefined, rest: string] {
  const head = /^\*(\d+)\r\n/.exec(text);
  if (head === null) return [undefined, text];
  let at = head[0].length;
  const command: string[] = [];
  while (command.length < Number(head[1])) {
    const length = /^\$(\d+)\r\n/.exec(text.slice(at, at + 20));
    if (length === null) return [undefined, text];
    const from = at + length[0].length;
    at = from + Number(length[1]) + 2;
    if (text.length < at) return [undefined, text];
    command.push(text.slice(from, at - 2));
  }
  return [command, text.slice(at)];
}
