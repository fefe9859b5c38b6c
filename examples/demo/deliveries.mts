// Deliveries from one server to another's inbox: waits for them, reads their
// type and signature, and repeats them.
import { on } from "node:events";
import type { Exchange } from "./http.mts";
import type { Server } from "./server.mts";

/** The next delivery of an activity of `type` that `server` answers. */
export async function delivery(
  server: Server,
  type: string,
): Promise<Exchange> {
  for await (const [exchange] of on(server.events, "request")) {
    if (activityType(exchange) === type) return exchange;
  }
  throw new Error("Unreachable: on() ends only by an error");
}

/** The type of the activity in a request, if there is one. */
export function activityType({ method, body }: Exchange): string | undefined {
  return method === "POST" ? JSON.parse(body).type : undefined;
}

/** The version of HTTP Signatures of a signed request. */
export function signature({ headers }: Exchange): string | undefined {
  if (!headers.has("signature")) return undefined;
  return headers.has("signature-input") ? "RFC 9421" : "draft-cavage";
}

/** Posts the same bytes under the same headers to the same inbox. */
export function deliverAgain(exchange: Exchange): Promise<Response> {
  const headers = new Headers(exchange.headers);
  // The client sets these itself, and no signature covers them.
  headers.delete("connection");
  headers.delete("content-length");
  const { method, url, body } = exchange;
  return fetch(url, { method, headers, body });
}
