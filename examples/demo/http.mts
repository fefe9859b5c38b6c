// An HTTP server on loopback that uses Fedify's Request and Response on top of
// node:http. It contains nothing specific to ActivityPub.
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";

/** One request that a server has answered. */
export interface Exchange {
  readonly method: string;
  readonly url: string;
  readonly headers: Headers;
  readonly body: string;
  readonly status: number;
}

export interface Listener {
  readonly origin: string;
  /** Stops listening; resolves when the requests under way are answered. */
  close(): Promise<void>;
}

/**
 * Serves `handle` on 127.0.0.1.
 *
 * @param port The port, 0 for a free one.
 * @param answered Called for each request when its response is ready.
 */
export async function listen(
  port: number,
  handle: (request: Request) => Promise<Response>,
  answered: (exchange: Exchange) => void,
): Promise<Listener> {
  const server = createServer((incoming, outgoing) => {
    answer(incoming, outgoing).catch((error: unknown) => {
      outgoing.destroy(error instanceof Error ? error : undefined);
    });
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const address = server.address() as AddressInfo;
  const origin = `http://127.0.0.1:${address.port}`;

  async function answer(incoming: IncomingMessage, outgoing: ServerResponse) {
    const { method = "GET", url: path = "/" } = incoming;
    const url = new URL(path, origin).href;
    const headers = new Headers();
    for (const [name, values] of Object.entries(incoming.headersDistinct)) {
      for (const value of values ?? []) headers.append(name, value);
    }
    const body = await buffer(incoming);
    const response = await handle(
      new Request(url, {
        method,
        headers,
        body: body.length > 0 ? body : null,
      }),
    );
    const payload = Buffer.from(await response.arrayBuffer());
    const { status } = response;
    answered({ method, url, headers, body: body.toString(), status });
    outgoing.writeHead(status, {
      ...Object.fromEntries(response.headers),
      // close() waits for connections that are kept alive.
      connection: "close",
    });
    outgoing.end(payload);
  }

  return {
    origin,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
