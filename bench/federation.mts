// A whole federation: a signed POST to an inbox, from the request to the answer.
// It reads the sender's key and the activity's mark, runs the listener and sets
// the mark.
import {
  createFederation,
  type Federation,
  type KvStore,
  MemoryKvStore as FedifyMemoryKvStore,
  signRequest,
} from "@fedify/fedify";
import { Create, CryptographicKey, Person } from "@fedify/fedify/vocab";
import { randomUUID, webcrypto } from "node:crypto";
import { MemoryKvStore } from "../index.js";
import { line, median } from "./measure.mts";
import { RELAXED, temporaryFiles, WAL_NORMAL } from "./sqlite-files.mts";

const ROUNDS = 15;
const IN_A_ROW = 20;
const WIDTH = 32;

const INBOX = new URL("https://example.com/users/alice/inbox");
const SENDER = new URL("https://remote.example/users/bob");

export async function federation(): Promise<void> {
  await using files = await temporaryFiles();
  const memory = new MemoryKvStore();
  const full = files.ours();
  const relaxed = files.ours(RELAXED);
  const normal = files.ours({ durability: "normal" });
  const stores: [string, KvStore][] = [
    ["fedify-kv, memory", memory],
    ["fedify-kv, SQLite", full],
    ['fedify-kv, SQLite, relaxed: [["_fedify"]]', relaxed],
    ['fedify-kv, SQLite, durability "normal"', normal],
    ["Fedify's MemoryKvStore", new FedifyMemoryKvStore()],
    ["@fedify/sqlite, as documented", files.peer().store],
    ["@fedify/sqlite, WAL and NORMAL", files.peer(WAL_NORMAL).store],
  ];
  const sender = await Sender.create();
  for (const [, kv] of stores) await sender.cacheKey(kv);
  const receivers = stores.map(([name, kv]) => ({
    name,
    receiver: new Receiver(kv),
    single: [] as number[],
    together: [] as number[],
  }));
  // The first round warms up.
  for (let round = 0; round <= ROUNDS; round++) {
    // All stores get the same requests. They take turns to be the first.
    const inARow = await sender.requests(IN_A_ROW);
    const atOnce = await sender.requests(WIDTH);
    const first = round % receivers.length;
    const turns = [...receivers.slice(first), ...receivers.slice(0, first)];
    for (const { receiver, single, together } of turns) {
      const times = [
        await receiver.timed(inARow, 1),
        await receiver.timed(atOnce, WIDTH),
      ] as const;
      if (round === 0) continue;
      single.push(times[0]);
      together.push(times[1]);
    }
  }
  console.log("\nA whole federation: a POST to an inbox, its caches warm");
  const columns = ["1 at a time", "to memory", "32 in flight", "to memory"];
  line("per request", columns);
  const first = receivers[0]!;
  for (const { name, single, together } of receivers) {
    line(name, [
      ...cells(median(single), median(first.single)),
      ...cells(median(together), median(first.together)),
    ]);
  }
  await Promise.all([memory, full, relaxed, normal].map((kv) => kv.close()));
}

function cells(time: number, memory: number): [string, string] {
  return [`${time.toFixed(2)} ms`, `${(time / memory).toFixed(2)}×`];
}

/** A remote actor that signs activities. */
class Sender {
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

/** A federated server with one actor, that handles requests without a queue. */
class Receiver {
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
   * The mean time of a request in ms, with `width` requests in flight. Each must
   * be accepted and reach the listener.
   */
  async timed(requests: readonly Request[], width: number): Promise<number> {
    const copies = requests.map((request) => request.clone());
    const before = this.#received;
    const start = performance.now();
    for (let first = 0; first < copies.length; first += width) {
      const batch = copies.slice(first, first + width);
      await Promise.all(batch.map((request) => this.#post(request)));
    }
    const time = (performance.now() - start) / copies.length;
    const received = this.#received - before;
    if (received !== copies.length) {
      throw new Error(`The listener ran for ${received} of ${copies.length}`);
    }
    return time;
  }

  async #post(request: Request): Promise<void> {
    const options = { contextData: undefined };
    const { status } = await this.#federation.fetch(request, options);
    if (status !== 202) throw new Error(`The inbox answered ${status}`);
  }
}
