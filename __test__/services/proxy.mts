// A TCP proxy between a store and its server, which fails in the ways that
// networks do. It reads all bytes at once, even those that it holds back.
import { EventEmitter, once } from "node:events";
import { type Server, type Socket, connect, createServer } from "node:net";
import { freePort } from "./redis.mts";

export type Direction = "toServer" | "toClient";

/** How much a link with a byte rate, or with a slow reader, buffers. */
const BUFFER = 64 * 1024;

/** The largest piece that a link with a byte rate passes on at once. */
const PIECE = 8 * 1024;

interface Link {
  /** How long each chunk is under way, in milliseconds. */
  delay: number;
  /** Bytes per second. */
  rate: number;
}

/** One direction of a connection. */
class Pipe {
  /** The number of bytes that have arrived at the proxy. */
  received = 0;
  stalled = false;
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #link: Readonly<Link>;
  #queue: { bytes: Buffer; due: number }[] = [];
  #queued = 0;
  #ended = false;
  #timer: NodeJS.Timeout | undefined;
  /** When the link is free again. */
  #free = 0;
  #limit: { left: number; act: () => void } | undefined;

  readonly #onPassed: (bytes: Buffer) => void;

  constructor(
    from: Socket,
    to: Socket,
    link: Readonly<Link>,
    onReceived: (count: number) => void,
    onPassed: (bytes: Buffer) => void,
  ) {
    this.#from = from;
    this.#to = to;
    this.#link = link;
    this.#onPassed = onPassed;
    from.on("data", (bytes) => {
      this.received += bytes.length;
      this.#queued += bytes.length;
      const due = performance.now() + link.delay;
      this.#queue.push({ bytes, due });
      onReceived(bytes.length);
      this.pump();
    });
    const end = () => {
      this.#ended = true;
      this.pump();
    };
    from.on("end", end).on("close", end);
    to.on("drain", () => this.pump());
  }

  after(count: number, act: () => void): void {
    this.#limit = { left: count, act };
    this.pump();
  }

  /** Passes on what can be passed on now. */
  pump(): void {
    clearTimeout(this.#timer);
    for (;;) {
      if (this.#limit?.left === 0) {
        const { act } = this.#limit;
        this.#limit = undefined;
        act();
      }
      const first = this.#queue[0];
      if (this.stalled || first === undefined) break;
      const due = Math.max(first.due, this.#free);
      const wait = due - performance.now();
      if (wait > 0) {
        this.#timer = setTimeout(() => this.pump(), wait);
        break;
      }
      this.#pass(first, due);
    }
    if (!this.stalled && this.#queued + this.#to.writableLength > BUFFER) {
      this.#from.pause();
    } else {
      this.#from.resume();
    }
    if (this.#ended && !this.stalled && this.#queued === 0) this.#to.end();
  }

  #pass(first: { bytes: Buffer }, due: number): void {
    const { rate } = this.#link;
    const most = Math.min(
      this.#limit?.left ?? Infinity,
      rate === Infinity ? Infinity : PIECE,
    );
    const piece = first.bytes.subarray(0, most);
    if (piece.length === first.bytes.length) {
      this.#queue.shift();
    } else {
      first.bytes = first.bytes.subarray(most);
    }
    this.#queued -= piece.length;
    if (this.#limit !== undefined) this.#limit.left -= piece.length;
    this.#free = due + (piece.length / rate) * 1_000;
    if (this.#to.writable) this.#to.write(piece);
    this.#onPassed(piece);
  }

  /** Forgets what it holds back. */
  drop(): void {
    clearTimeout(this.#timer);
    this.#queue = [];
    this.#queued = 0;
  }
}

export class Connection {
  /** Called with bytes that have just been passed on. */
  onPassed: (direction: Direction, bytes: Buffer) => void = () => {};
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #pipes: Readonly<Record<Direction, Pipe>>;

  constructor(
    client: Socket,
    server: Socket,
    link: Readonly<Link>,
    onReceived: (direction: Direction, count: number) => void,
  ) {
    this.#client = client;
    this.#server = server;
    const pipe = (direction: Direction, from: Socket, to: Socket) =>
      new Pipe(
        from,
        to,
        link,
        (count) => onReceived(direction, count),
        (bytes) => this.onPassed(direction, bytes),
      );
    this.#pipes = {
      toServer: pipe("toServer", client, server),
      toClient: pipe("toClient", server, client),
    };
  }

  /** How many bytes have arrived at the proxy. */
  received(direction: Direction): number {
    return this.#pipes[direction].received;
  }

  /** Holds back all bytes, of one direction or of both. */
  stall(...directions: Direction[]): void {
    for (const pipe of this.#some(directions)) pipe.stalled = true;
  }

  /** Passes on the bytes that were held back, even if their sender has gone. */
  resume(...directions: Direction[]): void {
    for (const pipe of this.#some(directions)) {
      pipe.stalled = false;
      pipe.pump();
    }
  }

  /** Calls `act` when exactly `count` more bytes have been passed on. */
  after(direction: Direction, count: number, act: () => void): void {
    this.#pipes[direction].after(count, act);
  }

  /** Ends both sides. Bytes that were held back are lost. */
  cut(): void {
    for (const pipe of this.#some([])) pipe.drop();
    // Bytes that were passed on must arrive.
    this.#client.destroySoon();
    this.#server.destroySoon();
  }

  destroy(): void {
    this.#client.destroy();
    this.#server.destroy();
  }

  #some(directions: readonly Direction[]): Pipe[] {
    const { toServer, toClient } = this.#pipes;
    return directions.length === 0
      ? [toServer, toClient]
      : directions.map((direction) => this.#pipes[direction]);
  }
}

export class TcpProxy implements Link {
  readonly port: number;
  /** The port of the server that new connections go to. */
  target: number;
  /** How long each chunk is under way, in milliseconds. */
  delay = 0;
  /** Bytes per second and direction of each connection. */
  rate = Infinity;
  /** Called with each new connection, before it passes on any byte. */
  onConnection: (connection: Connection) => void = () => {};
  /** The connections that the client has not ended. */
  readonly connections = new Set<Connection>();
  /** How many connections were accepted. */
  accepted = 0;
  /** How many bytes have arrived from either side. */
  readonly received: Record<Direction, number> = { toServer: 0, toClient: 0 };
  readonly #all = new Set<Connection>();
  readonly #changes = new EventEmitter().setMaxListeners(0);
  #listener: Server | undefined;

  private constructor(port: number, target: number) {
    this.port = port;
    this.target = target;
  }

  /** Starts a proxy in front of a server on the loopback interface. */
  static async start(target: { port: number }): Promise<TcpProxy> {
    const proxy = new TcpProxy(await freePort(), target.port);
    await proxy.accept();
    return proxy;
  }

  /** The server's URL, with the proxy's address in place of the server's. */
  url(of: { url: string }): string {
    const url = new URL(of.url);
    url.host = `127.0.0.1:${this.port}`;
    return url.href;
  }

  /** Refuses new connections. */
  refuse(): void {
    this.#listener?.close();
    this.#listener = undefined;
  }

  /** Accepts new connections again. */
  async accept(): Promise<void> {
    this.#listener = createServer({ allowHalfOpen: true }, (client) =>
      this.#connect(client),
    ).listen(this.port, "127.0.0.1");
    await once(this.#listener, "listening");
  }

  #connect(client: Socket): void {
    const server = connect({
      port: this.target,
      host: "127.0.0.1",
      allowHalfOpen: true,
    });
    const onReceived = (direction: Direction, count: number) => {
      this.received[direction] += count;
      this.#changes.emit("change");
    };
    const connection = new Connection(client, server, this, onReceived);
    const leave = () => {
      this.connections.delete(connection);
      this.#changes.emit("change");
    };
    client.setNoDelay().on("end", leave).on("close", leave);
    // The other side learns from the end that follows.
    client.on("error", () => {});
    server.setNoDelay().on("error", () => client.destroySoon());
    server.on("close", () => {
      this.#all.delete(connection);
      // Nobody would read the rest.
      if (!this.connections.has(connection)) client.destroy();
    });
    this.accepted += 1;
    this.connections.add(connection);
    this.#all.add(connection);
    this.onConnection(connection);
    this.#changes.emit("change");
  }

  /** Waits until the condition is true. It is looked at after each event. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await once(this.#changes, "change");
  }

  /** Waits until this many more bytes have arrived. */
  async receives(direction: Direction, count: number): Promise<void> {
    const end = this.received[direction] + count;
    await this.until(() => this.received[direction] >= end);
  }

  /** Holds back all bytes of the connections that exist now. */
  stall(...directions: Direction[]): void {
    for (const connection of this.#all) connection.stall(...directions);
  }

  /** Passes on all bytes that were held back. */
  resume(...directions: Direction[]): void {
    for (const connection of this.#all) connection.resume(...directions);
  }

  /** Ends all connections. */
  cut(): void {
    for (const connection of this.#all) connection.cut();
  }

  async stop(): Promise<void> {
    const listener = this.#listener;
    this.refuse();
    for (const connection of this.#all) connection.destroy();
    if (listener !== undefined) await once(listener, "close");
  }
}
