// A small federated server with one actor, who can follow, be followed and
// post. All of its data is in its key–value store: Fedify's caches and marks,
// its traces, the actor's key pair, the followers and the posts.
import { randomUUID, webcrypto } from "node:crypto";
import { EventEmitter } from "node:events";
import type { KvStore, SenderKeyPair } from "@fedify/fedify";
import type { FedifySpanExporter } from "@fedify/fedify/otel";
import type {
  Accept,
  Create,
  Follow,
  Object as APObject,
} from "@fedify/fedify/vocab";
import type { Fedify } from "./fedify.mts";
import { type Exchange, listen } from "./http.mts";
import { traceInto } from "./tracing.mts";

/**
 * The events of a server: an activity when its listener has run, and each
 * request when its response is ready.
 */
export interface ServerEvents {
  Follow: [Follow];
  Accept: [Accept];
  Create: [Create];
  request: [Exchange];
}

export interface ServerOptions {
  readonly fedify: Fedify;
  /** The caller closes it, not the server. */
  readonly kv: Required<KvStore>;
  /** The actor's identifier, and the server's name. */
  readonly name: string;
  /** @default 0, a free port */
  readonly port?: number;
}

export interface Server extends AsyncDisposable {
  readonly name: string;
  readonly origin: string;
  readonly actor: URL;
  readonly inbox: URL;
  readonly events: EventEmitter<ServerEvents>;
  readonly traces: FedifySpanExporter;
  /** The key that the actor signs with. */
  readonly signer: SenderKeyPair;
  /** Asks to follow a remote actor. */
  follow(other: URL): Promise<void>;
  /** Posts a note to all followers. */
  post(content: string): Promise<void>;
  /** Reads a remote object from the cache, or fetches it. */
  lookup(url: URL): Promise<APObject | null>;
  /** Resolves when all spans that have ended are in the store. */
  flush(): Promise<void>;
  /** Stops the server; resolves when it no longer uses the store. */
  close(): Promise<void>;
}

interface Follower {
  readonly inbox: string;
}

export async function startServer(options: ServerOptions): Promise<Server> {
  const { fedify, kv, name, port = 0 } = options;
  const { vocab } = fedify;
  const events = new EventEmitter<ServerEvents>();
  const traces = new fedify.FedifySpanExporter(kv);
  const tracerProvider = traceInto(traces);
  const keyPair = await ownKeyPair(fedify, kv, name);

  const federation = fedify.createFederation<void>({
    kv,
    tracerProvider,
    // Fedify 1.10's queue waits for one poll interval before it stops.
    queue: new fedify.InProcessMessageQueue({
      pollInterval: { milliseconds: 100 },
    }),
    manuallyStartQueue: true,
    // The other server is on loopback, which Fedify refuses by default.
    allowPrivateAddress: true,
  });

  federation
    .setActorDispatcher("/users/{identifier}", async (ctx, identifier) => {
      if (identifier !== name) return null;
      const [key] = await ctx.getActorKeyPairs(identifier);
      return new vocab.Person({
        id: ctx.getActorUri(identifier),
        preferredUsername: identifier,
        inbox: ctx.getInboxUri(identifier),
        followers: ctx.getFollowersUri(identifier),
        publicKey: key?.cryptographicKey ?? null,
      });
    })
    .setKeyPairsDispatcher((_, identifier) =>
      identifier === name ? [keyPair] : [],
    );

  federation.setFollowersDispatcher(
    "/users/{identifier}/followers",
    async (_, identifier) => {
      const items = [];
      for await (const { key, value } of kv.list(["followers", identifier])) {
        items.push({
          id: new URL(key.at(-1)!),
          inboxId: new URL((value as Follower).inbox),
        });
      }
      return { items };
    },
  );

  federation.setObjectDispatcher(
    vocab.Note,
    "/users/{identifier}/notes/{id}",
    async (ctx, values) => {
      const { identifier, id } = values;
      const content = await kv.get<string>(["notes", identifier, id]);
      if (content === undefined) return null;
      return new vocab.Note({
        id: ctx.getObjectUri(vocab.Note, values),
        attribution: ctx.getActorUri(identifier),
        to: vocab.PUBLIC_COLLECTION,
        content,
      });
    },
  );

  federation
    .setInboxListeners("/users/{identifier}/inbox")
    .on(vocab.Follow, async (ctx, follow) => {
      const follower = await follow.getActor(ctx);
      if (follower?.id == null || follower.inboxId == null) return;
      const value: Follower = { inbox: follower.inboxId.href };
      await kv.set(["followers", name, follower.id.href], value);
      await ctx.sendActivity(
        { identifier: name },
        follower,
        new vocab.Accept({
          id: newId(ctx.getActorUri(name)),
          actor: ctx.getActorUri(name),
          object: follow.id,
        }),
      );
      events.emit("Follow", follow);
    })
    .on(vocab.Accept, (_, accept) => {
      events.emit("Accept", accept);
    })
    .on(vocab.Create, (_, create) => {
      events.emit("Create", create);
    });

  const listener = await listen(
    port,
    (request) => federation.fetch(request, { contextData: undefined }),
    (exchange) => events.emit("request", exchange),
  );
  const ctx = federation.createContext(new URL(listener.origin), undefined);
  const actor = ctx.getActorUri(name);
  const [key] = await ctx.getActorKeyPairs(name);
  const working = new AbortController();
  const worker = federation.startQueue(undefined, { signal: working.signal });

  async function close() {
    working.abort();
    await worker;
    await listener.close();
    await tracerProvider.forceFlush();
    await tracerProvider.shutdown();
  }

  return {
    name,
    origin: listener.origin,
    actor,
    inbox: ctx.getInboxUri(name),
    events,
    traces,
    signer: { privateKey: keyPair.privateKey, keyId: key!.keyId },

    async follow(other) {
      const followee = await ctx.lookupObject(other);
      if (followee == null || !vocab.isActor(followee))
        throw new Error(`No actor at ${other}`);
      await ctx.sendActivity(
        { identifier: name },
        followee,
        new vocab.Follow({
          id: newId(actor),
          actor,
          object: followee.id,
        }),
      );
    },

    async post(content) {
      const id = randomUUID();
      await kv.set(["notes", name, id], content);
      await ctx.sendActivity(
        { identifier: name },
        "followers",
        new vocab.Create({
          id: newId(actor),
          actor,
          to: vocab.PUBLIC_COLLECTION,
          object: ctx.getObjectUri(vocab.Note, { identifier: name, id }),
        }),
      );
    },

    lookup: (url) => ctx.lookupObject(url),
    flush: () => tracerProvider.forceFlush(),
    close,
    [Symbol.asyncDispose]: close,
  };
}

function newId(actor: URL): URL {
  return new URL(`#${randomUUID()}`, actor);
}

/** The actor's key pair, read from the store. The first call creates it. */
async function ownKeyPair(
  fedify: Fedify,
  kv: Required<KvStore>,
  name: string,
): Promise<webcrypto.CryptoKeyPair> {
  const key = ["keys", name] as const;
  interface Jwks {
    readonly privateKey: webcrypto.JsonWebKey;
    readonly publicKey: webcrypto.JsonWebKey;
  }
  let jwks = await kv.get<Jwks>(key);
  if (jwks === undefined) {
    // The same kind of key as Mastodon's. Fedify's generateCryptoKeyPair()
    // makes keys of 4096 bits, which can take seconds.
    const algorithm = {
      name: "RSASSA-PKCS1-v1_5",
      hash: "SHA-256",
      modulusLength: 2048,
      publicExponent: new Uint8Array([1, 0, 1]),
    };
    const uses = ["sign", "verify"] as const;
    const made = await webcrypto.subtle.generateKey(algorithm, true, uses);
    const ours: Jwks = {
      privateKey: await fedify.exportJwk(made.privateKey),
      publicKey: await fedify.exportJwk(made.publicKey),
    };
    // If another process stored its pair first, use that one.
    const won = await kv.cas(key, undefined, ours);
    jwks = won ? ours : await kv.get<Jwks>(key);
  }
  return {
    privateKey: await fedify.importJwk(jwks!.privateKey, "private"),
    publicKey: await fedify.importJwk(jwks!.publicKey, "public"),
  };
}
