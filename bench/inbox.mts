// A federated server with an inbox, and a remote actor that signs activities for
// it.
import {
  createFederation,
  type Federation,
  type KvStore,
  signRequest,
} from "@fedify/fedify";
import { Create, CryptographicKey, Person } from "@fedify/fedify/vocab";
import { randomUUID, webcrypto } from "node:crypto";
import { longestStall } from "./delay.mts";

const INBOX = new URL("https://example.com/users/alice/inbox");
const SENDER = new URL("https://remote.example/users/bob");

/** A remote actor that signs activities. */
export class Sender {
  readonly #keys: webcrypto.CryptoKeyPair;
  readonly #keyId = new URL("#main-key", SENDER);

  constructor(keys: webcrypto.CryptoKeyPair) {
    this.#keys = keys;
  }

  static async create(): Promise<Sender> {
    // The same kind of key as Mastodon's.
    const algorithm = {
      name: "RSASSA-PKCS1-v1_5",
      hash: "SHA-256",
      modulusLength: 2048,
      publicExponent: new Uint8Array([1, 0, 1]),
    };
    const uses = ["sign", "verify"] as const;
    return new Sender(
      await webcrypto.subtle.generateKey(algorithm, true, uses),
    );
  }

  /** Stores the public key where Fedify caches it after the first request. */
  async cacheKey(kv: KvStore): Promise<void> {
    const key = new CryptographicKey({
      id: this.#keyId,
      owner: SENDER,
      publicKey: this.#keys.publicKey,
    });
    const cacheKey = ["_fedify", "publicKey", this.#keyId.href] as const;
    await kv.set(cacheKey, await key.toJsonLd());
  }

  /** Signed requests, each with a new activity. */
  requests(count: number): Promise<Request[]> {
    return Promise.all(Array.from({ length: count }, () => this.#request()));
  }

  async #request(): Promise<Request> {
    const actor = SENDER.href;
    const to = "https://www.w3.org/ns/activitystreams#Public";
    const activity = {
      "@context": "https://www.w3.org/ns/activitystreams",
      id: `https://remote.example/activities/${randomUUID()}`,
      type: "Create",
      actor,
      to,
      object: {
        id: `https://remote.example/notes/${randomUUID()}`,
        type: "Note",
        attributedTo: actor,
        to,
        content: "<p>Hello, fediverse!</p>",
      },
    };
    const request = new Request(INBOX, {
      method: "POST",
      headers: { "content-type": "application/activity+json" },
      body: JSON.stringify(activity),
    });
    return signRequest(request, this.#keys.privateKey, this.#keyId);
  }
}

/** What a round of requests took, in seconds. */
export interface Times {
  /** From the first request to the last answer, divided by their number. */
  readonly mean: number;
  /** Of each request. */
  readonly each: readonly number[];
  readonly stall: number;
}

/** A federated server with one actor, that handles requests without a queue. */
export class Receiver {
  readonly #federation: Federation<void>;
  #received = 0;

  constructor(kv: KvStore) {
    this.#federation = createFederation<void>({ kv });
    this.#federation
      .setActorDispatcher(
        "/users/{identifier}",
        (ctx, identifier) =>
          new Person({
            id: ctx.getActorUri(identifier),
            preferredUsername: identifier,
            inbox: ctx.getInboxUri(identifier),
          }),
      )
      .setKeyPairsDispatcher(() => []);
    this.#federation
      .setInboxListeners("/users/{identifier}/inbox")
      .on(Create, () => {
        this.#received++;
      });
  }

  /**
   * Handles requests, `width` at a time. Each must be accepted and reach the
   * listener.
   */
  async handle(requests: readonly Request[], width: number): Promise<Times> {
    const copies = requests.map((request) => request.clone());
    const before = this.#received;
    const each: number[] = [];
    let mean = 0;
    const stall = await longestStall(async () => {
      const start = performance.now();
      for (let first = 0; first < copies.length; first += width) {
        const batch = copies.slice(first, first + width);
        const times = batch.map((request) => this.#post(request));
        each.push(...(await Promise.all(times)));
      }
      mean = (performance.now() - start) / 1000 / copies.length;
    });
    const received = this.#received - before;
    if (received !== copies.length) {
      throw new Error(`The listener ran for ${received} of ${copies.length}`);
    }
    return { mean, each, stall };
  }

  async #post(request: Request): Promise<number> {
    const start = performance.now();
    const options = { contextData: undefined };
    const { status } = await this.#federation.fetch(request, options);
    if (status !== 202) throw new Error(`The inbox answered ${status}`);
    return (performance.now() - start) / 1000;
  }
}
