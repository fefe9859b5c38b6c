// Two servers exchange activities over HTTP, with real signatures. Fedify keeps
// keys, remote documents and processed activities in the stores.
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import {
  deliverAgain,
  delivery,
  signature,
} from "../../examples/demo/deliveries.mts";
import type { Exchange } from "../../examples/demo/http.mts";
import { type Server, startServer } from "../../examples/demo/server.mts";
import { keysUnder, rows, startPair } from "./pair.mts";

/**
 * Alice follows Bob. Resolves with the Follow when Bob's Accept has arrived.
 */
async function follow(alice: Server, bob: Server): Promise<Exchange> {
  const following = delivery(bob, "Follow");
  const accepted = once(alice.events, "Accept");
  await alice.follow(bob.actor);
  await accepted;
  return following;
}

/**
 * Bob posts. Resolves when Alice has received the post, and so after everything
 * that Bob's queue held before it.
 */
async function post(alice: Server, bob: Server): Promise<void> {
  const created = once(alice.events, "Create");
  await bob.post("Hello!");
  await created;
}

/** Counts how often `server`'s listener for an activity runs. */
function count(server: Server, type: "Follow" | "Create"): () => number {
  let runs = 0;
  server.events.on(type, () => runs++);
  return () => runs;
}

describe.each(rows)("$store with Fedify $version", (row) => {
  test("Follow, Accept and Create arrive signed", async () => {
    await using pair = await startPair(row);
    const { alice, bob, aliceKv, bobKv } = pair;
    const deliveries: Exchange[] = [];
    for (const server of [alice, bob]) {
      server.events.on("request", (exchange) => {
        if (exchange.method === "POST") deliveries.push(exchange);
      });
    }
    const created = once(alice.events, "Create");

    await follow(alice, bob);
    await post(alice, bob);

    const seen = deliveries.map((exchange) => ({
      url: exchange.url,
      type: JSON.parse(exchange.body).type,
      status: exchange.status,
      signature: signature(exchange),
    }));
    const signed = { status: 202, signature: "RFC 9421" };
    expect(seen).toEqual([
      { url: bob.inbox.href, type: "Follow", ...signed },
      { url: alice.inbox.href, type: "Accept", ...signed },
      { url: alice.inbox.href, type: "Create", ...signed },
    ]);

    const [create] = await created;
    const note = await alice.lookup(create.objectId);
    expect(note?.content).toBe("Hello!");

    // Each store has the other actor's key, and Alice's store has the documents
    // that she looked up.
    const publicKeys = ["_fedify", "publicKey"] as const;
    expect(await keysUnder(aliceKv, publicKeys)).toEqual([
      [bob.signer.keyId.href],
    ]);
    expect(await keysUnder(bobKv, publicKeys)).toEqual([
      [alice.signer.keyId.href],
    ]);
    const remoteDocuments = ["_fedify", "remoteDocument"] as const;
    expect((await keysUnder(aliceKv, remoteDocuments)).sort()).toEqual([
      [bob.actor.href],
      [create.objectId.href],
    ]);
    expect(await keysUnder(bobKv, ["followers", "bob"])).toEqual([
      [alice.actor.href],
    ]);
  });

  test("a remote document comes from the cache until the cache is cleared", async () => {
    await using pair = await startPair(row);
    const { alice, bob, aliceKv } = pair;
    let fetches = 0;
    bob.events.on("request", () => fetches++);

    await alice.lookup(bob.actor);
    await alice.lookup(bob.actor);
    expect(fetches).toBe(1);

    expect(await aliceKv.clear(["_fedify", "remoteDocument"])).toBe(1);
    await alice.lookup(bob.actor);
    expect(fetches).toBe(2);
  });

  test("an altered delivery is refused", async () => {
    await using pair = await startPair(row);
    const { alice, bob } = pair;
    const follows = count(bob, "Follow");
    const delivered = await follow(alice, bob);

    const activity = JSON.parse(delivered.body);
    const body = JSON.stringify({ ...activity, id: `${activity.id}-altered` });
    const response = await deliverAgain({ ...delivered, body });
    expect(response.status).toBe(401);

    await post(alice, bob);
    expect(follows()).toBe(1);
  });

  test("an activity that is delivered twice is processed once", async () => {
    await using pair = await startPair(row);
    const { alice, bob } = pair;
    const follows = count(bob, "Follow");
    const delivered = await follow(alice, bob);

    const response = await deliverAgain(delivered);
    expect(response.status).toBe(202);

    await post(alice, bob);
    expect(follows()).toBe(1);
  });

  if (row.durable) {
    test("an activity is processed once, also after a restart", async () => {
      await using pair = await startPair(row);
      const { alice, bob, bobKv, directory } = pair;
      const delivered = await follow(alice, bob);
      await bob.close();
      await bobKv.close();

      await using reopenedKv = await row.open(directory, "bob");
      await using restarted = await startServer({
        fedify: row.fedify,
        kv: reopenedKv,
        name: "bob",
        port: Number(bob.inbox.port),
      });
      const follows = count(restarted, "Follow");
      expect((await deliverAgain(delivered)).status).toBe(202);

      // Bob still has his follower, and the key that she has cached.
      await post(alice, restarted);
      expect(follows()).toBe(0);
    });
  }

  describe("an activity with only an HTTP signature", () => {
    const { fedify } = row;

    function request(alice: Server, bob: Server, content = "Hello!"): Request {
      return new Request(bob.inbox, {
        method: "POST",
        headers: { "content-type": "application/activity+json" },
        body: JSON.stringify({
          "@context": "https://www.w3.org/ns/activitystreams",
          id: `${alice.actor.href}#create`,
          type: "Create",
          actor: alice.actor.href,
          object: { type: "Note", content },
        }),
      });
    }

    function sign(request: Request, { privateKey, keyId }: Server["signer"]) {
      return fedify.signRequest(request, privateKey, keyId);
    }

    test("is accepted, and its key is fetched once", async () => {
      await using pair = await startPair(row);
      const { alice, bob, bobKv } = pair;
      let fetches = 0;
      alice.events.on("request", () => fetches++);
      const created = once(bob.events, "Create");

      const signed = await sign(request(alice, bob), alice.signer);
      const again = signed.clone();
      expect((await fetch(signed)).status).toBe(202);
      await created;
      const keyId = alice.signer.keyId.href;
      expect(await bobKv.get(["_fedify", "publicKey", keyId])).toBeDefined();
      const fetched = fetches;
      expect(fetched).toBeGreaterThan(0);

      expect((await fetch(again)).status).toBe(202);
      expect(fetches).toBe(fetched);

      await bob.flush();
      const [trace] = await bob.traces.getRecentTraces();
      const records = await bob.traces.getActivitiesByTraceId(trace!.traceId);
      expect(records[0]?.signatureDetails).toMatchObject({
        httpSignaturesVerified: true,
        httpSignaturesKeyId: keyId,
        ldSignaturesVerified: false,
      });
    });

    test("is refused if unsigned, altered, or signed with a wrong key", async () => {
      await using pair = await startPair(row);
      const { alice, bob } = pair;
      const creates = count(bob, "Create");

      const unsigned = await fetch(request(alice, bob));
      expect(unsigned.status).toBe(401);

      const signed = await sign(request(alice, bob), alice.signer);
      const altered = new Request(signed, {
        method: "POST",
        body: await request(alice, bob, "Give me your money!").text(),
      });
      expect((await fetch(altered)).status).toBe(401);

      const forged = await sign(request(alice, bob), {
        privateKey: bob.signer.privateKey,
        keyId: alice.signer.keyId,
      });
      expect((await fetch(forged)).status).toBe(401);

      // The genuine activity is accepted. Only this one reaches the listener.
      const created = once(bob.events, "Create");
      const genuine = await sign(request(alice, bob), alice.signer);
      expect((await fetch(genuine)).status).toBe(202);
      await created;
      expect(creates()).toBe(1);
    });
  });
});
