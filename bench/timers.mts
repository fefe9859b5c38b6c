// How late a timer is while a store answers calls in the same thread. A promise
// that is resolved already doesn't let the event loop turn, so a loop of such
// calls can hold all timers and requests.
import { MemoryKvStore as FedifyMemoryKvStore } from "@fedify/fedify";
import type { KvKey, KvStore } from "@fedify/fedify";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { MemoryKvStore } from "../index.js";
import { digits, document, key, line } from "./measure.mts";
import { temporaryFiles, WAL_NORMAL } from "./sqlite-files.mts";

const ENTRIES = 100_000;
const MILLION = 1_000_000;
const NOTHING: KvKey = ["nothing"];
const COUNTER: KvKey = ["counter"];

type Work = (store: KvStore) => Promise<unknown>;

/** `times` calls, each awaited before the next. */
function loop(
  times: number,
  call: (store: KvStore, i: number) => Promise<unknown>,
): Work {
  return async (store) => {
    for (let i = 0; i < times; i++) await call(store, i);
  };
}

const idle: Work = () => sleep(1000);
const gets = (times: number) =>
  loop(times, (store, i) => store.get(key(i % 500)));
const getsOfNothing = (times: number) =>
  loop(times, (store) => store.get(NOTHING));
const sets = (times: number) =>
  loop(times, (store, i) => store.set(key(i % 500), i));
const counts = (times: number) => async (store: KvStore) => {
  await store.set(COUNTER, 0);
  await loop(times, async (store, i) => {
    if (!(await store.cas!(COUNTER, i, i + 1))) throw new Error("cas failed");
  })(store);
};
const list: Work = async (store) => {
  let count = 0;
  for await (const _ of store.list(["traces"])) count++;
  if (count !== ENTRIES) throw new Error(`${count} entries`);
};

export async function timers(): Promise<void> {
  console.log("\nThe worst delay of a timer in the same thread");
  line("during", ["fedify-kv", "peer"]);
  {
    const ours = new MemoryKvStore();
    const peer = new FedifyMemoryKvStore();
    for (let i = 0; i < ENTRIES; i++) {
      await ours.set(key(i), document(0));
      await peer.set(key(i), document(0));
    }
    await row("no calls for a second", idle, ours, peer);
    // The first list compiles what it runs.
    await list(ours);
    await row("memory, list of 100,000", list, ours, peer);
    await row("memory, 1,000,000 gets", gets(MILLION), ours, peer);
    const nothing = getsOfNothing(MILLION);
    await row("memory, 1,000,000 gets of nothing", nothing, ours, peer);
    await row("memory, 1,000,000 sets", sets(MILLION), ours, peer);
    await row("memory, 1,000,000 cas", counts(MILLION), ours, peer);
    await ours.close();
  }
  await using files = await temporaryFiles();
  const ours = files.ours({ durability: "normal" });
  const { store: peer, database } = files.peer(WAL_NORMAL);
  const entries = Array.from({ length: ENTRIES }, (_, i) => key(i));
  await Promise.all(entries.map((key) => ours.set(key, document(0))));
  database.exec("BEGIN");
  for (const key of entries) await peer.set(key, document(0));
  database.exec("COMMIT");
  await row("SQLite, list of 100,000", list, ours, peer);
  await row("SQLite, 1,000,000 gets", gets(MILLION), ours);
  const nothing = getsOfNothing(MILLION);
  await row("SQLite, 1,000,000 gets of nothing", nothing, ours);
  await row("SQLite, 50,000 gets", gets(50_000), ours, peer);
  await row('SQLite "normal", 20,000 sets', sets(20_000), ours, peer);
  await row('SQLite "normal", 20,000 cas', counts(20_000), ours, peer);
  await ours.close();
}

async function row(
  name: string,
  work: Work,
  ours: KvStore,
  peer?: KvStore,
): Promise<void> {
  const cell = async (store: KvStore) =>
    `${digits(await worstDelay(() => work(store)))} ms`;
  line(name, [await cell(ours), peer === undefined ? "" : await cell(peer)]);
}

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** How late a timer of 1 ms was at worst during `work`, in ms. */
async function worstDelay(work: () => Promise<unknown>): Promise<number> {
  let worst = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    worst = Math.max(worst, now - last - 1);
    last = now;
  }, 1);
  // The garbage of earlier rows is not this row's.
  collectGarbage();
  await sleep(20);
  worst = 0;
  await work();
  // The timer fires once more, late by what `work` held it up at its end.
  await sleep(20);
  clearInterval(timer);
  return worst;
}
