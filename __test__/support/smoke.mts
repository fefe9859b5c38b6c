// The smoke test that every runtime must pass. It is a program for Node.js,
// Deno and Bun: `smoke.mts <class> <constructor arguments> <end>`. At the end
// it prints its result as a line of JSON.
import { strict as assert } from "node:assert";
import { createRequire } from "node:module";
import process from "node:process";

const addon = createRequire(import.meta.url)("../../index.js");
const [name = "MemoryKvStore", words = "[]", end] = process.argv.slice(2);
const open = () => new addon[name](...JSON.parse(words));

const store = open();
const text = "aé漢😀\n".repeat(100);
const value = { text, list: [1, -1.5, 2 ** 53, null, true, { "": [] }] };

assert.equal(await store.get(["nothing"]), undefined);
await store.set(["k", "漢"], value);
assert.deepEqual(await store.get(["k", "漢"]), value);
assert.equal(await store.cas(["k", "漢"], undefined, 1), false);
assert.equal(await store.cas(["k", "漢"], value, null), true);
assert.equal(await store.get(["k", "漢"]), null);
await store.delete(["k", "漢"]);

// Many operations at once, then one after another.
const numbers = Array.from({ length: 300 }, (_, i) => i);
await Promise.all(numbers.map((i) => store.set(["n", String(i)], i)));
assert.deepEqual(
  await Promise.all(numbers.map((i) => store.get(["n", String(i)]))),
  numbers,
);
for (const i of numbers.slice(0, 50)) {
  await store.set(["n", String(i)], i);
}

let seen = 0;
for await (const entry of store.list(["n"])) {
  assert.deepEqual(Object.keys(entry), ["key", "value"]);
  seen += 1;
}
assert.equal(seen, 300);
for await (const _ of store.list({ prefix: ["n"], pageSize: 1 })) {
  seen += 1;
  if (seen === 310) break;
}
const overlapping = store.list({ pageSize: 10 });
const steps = await Promise.all(numbers.map(() => overlapping.next()));
assert.equal(new Set(steps.map(({ value }) => value.key[1])).size, 300);

const controller = new AbortController();
const aborted = store.list({ signal: controller.signal, pageSize: 1 });
await aborted.next();
controller.abort(new Error("mine"));
await assert.rejects(async () => {
  for (;;) await aborted.next();
}, /mine/);

// Errors are rejections with a code.
const refusals: [string, unknown][] = [
  ["ERR_KV_INVALID_KEY", store.get([])],
  ["ERR_KV_INVALID_KEY", store.get(["\ud800"])],
  ["ERR_KV_INVALID_VALUE", store.set(["k"], 1n)],
  ["ERR_KV_INVALID_TTL", store.set(["k"], 1, { ttl: 1 })],
];
for (const [code, refusal] of refusals) {
  await assert.rejects(refusal as Promise<unknown>, { code });
}
assert.throws(() => new addon.SqliteKvStore(""), {
  code: "ERR_KV_INVALID_OPTION",
});

await store.set(["t"], 1, { ttl: { hours: 1 } });
await store.set(["t"], 1, { ttl: { milliseconds: -1 } });
assert.equal(await store.get(["t"]), undefined);
assert.equal(await store.clear(["n"]), 300);

// Ends in one of three ways: with the store closed; idle, with the store and an
// unfinished iterator open; or by `process.exit` during writes.
await store.set(["left"], 1);
await store.set(["over"], 1);
const list = store.list({ pageSize: 1 });
await list.next();
if (end === "closed") {
  await store[Symbol.asyncDispose]();
  await assert.rejects(() => store.get(["k"]), { code: "ERR_KV_CLOSED" });
  await assert.rejects(() => list.next(), { code: "ERR_KV_CLOSED" });
}
(globalThis as Record<string, unknown>).kept = [store, list];
if (end === "exit") {
  for (const i of numbers) {
    void store.set(["m", String(i)], text);
  }
  void list.next();
}
process.stdout.write(`${JSON.stringify({ end, seen })}\n`);
if (end === "exit") {
  process.exit(3);
}
