// Two federated servers on loopback. Alice follows Bob, Bob accepts, Alice's
// Follow arrives a second time, Bob posts, Alice looks the post up. Then the
// demo lists the contents of their key–value stores, and removes them.
//
//     npm run demo                        a temporary SQLite file for each server
//     npm run demo -- postgres://host/app one store in this database, which has a
//                                         namespace for each server
import { once } from "node:events";
import type { KvKey } from "@fedify/fedify";
import type { TraceActivityRecord } from "@fedify/fedify/otel";
import {
  activityType,
  deliverAgain,
  delivery,
  signature,
} from "./deliveries.mts";
import { installedFedify as fedify } from "./fedify.mts";
import type { Exchange } from "./http.mts";
import { row, section } from "./report.mts";
import { startServer } from "./server.mts";
import { sharedStore, temporaryFiles } from "./stores.mts";

const url = process.argv[2];
await using stores = await (url === undefined
  ? temporaryFiles()
  : sharedStore(url));
await using alice = await startServer({
  fedify,
  kv: stores.alice,
  name: "alice",
});
await using bob = await startServer({ fedify, kv: stores.bob, name: "bob" });

section("Two servers", stores.description);
row("alice", alice.actor);
row("bob", bob.actor);

section("Deliveries");
function report(direction: string, exchange: Exchange, remark = "") {
  const signed = `signed: ${signature(exchange)}`;
  row(direction, activityType(exchange), exchange.status, signed, remark);
}

let processed = 0;
bob.events.on("Follow", () => processed++);
const following = delivery(bob, "Follow");
const accepting = delivery(alice, "Accept");
await alice.follow(bob.actor);
const follow = await following;
report("alice → bob", follow);
report("bob → alice", await accepting);

const repeating = delivery(bob, "Follow");
await deliverAgain(follow);
report("alice → bob", await repeating, "the same bytes again");

const creating = delivery(alice, "Create");
const created = once(alice.events, "Create");
await bob.post("Hello, fediverse!");
report("bob → alice", await creating);
const [create] = await created;
const note = await alice.lookup(create.objectId);

// Bob's queue keeps its order, so everything before the post is processed by
// now.
section("Results");
row("bob", `processed the Follow ${processed === 1 ? "once" : "twice"}`);
row("alice", `read the post: ${note?.content}`);

await bob.flush();
const traces = await bob.traces.getRecentTraces();
const { traceId } = traces.find(({ activityCount }) => activityCount > 1)!;
const trace = ["fedify", "traces", traceId] as const;
section("A trace in bob's store", list(trace));
for await (const { key, value } of stores.bob.list(trace)) {
  const record = value as TraceActivityRecord;
  const { direction, activityType, verified, inboxUrl } = record;
  const type = activityType.split("#").at(-1);
  const detail = verified === true ? "signature verified" : `to ${inboxUrl}`;
  row(key.at(-1), direction, type, detail);
}

const publicKeys = ["_fedify", "publicKey"] as const;
section("Cached public keys", list(publicKeys));
await entries("alice", publicKeys);
await entries("bob", publicKeys);

const remoteDocuments = ["_fedify", "remoteDocument"] as const;
section("Remote documents in alice's cache", list(remoteDocuments));
await entries("alice", remoteDocuments);

section("The same, cleared", `clear(${JSON.stringify(remoteDocuments)})`);
row("alice", `${await stores.alice.clear(remoteDocuments)} deleted`);
await entries("alice", remoteDocuments);

function list(prefix: KvKey): string {
  return `list(${JSON.stringify(prefix)})`;
}

async function entries(owner: "alice" | "bob", prefix: KvKey) {
  let count = 0;
  for await (const { key } of stores[owner].list(prefix)) {
    row(owner, key.slice(prefix.length).join(" "));
    count++;
  }
  if (count === 0) row(owner, "none left");
}
