// The proxy that tests put between a store and its server.
import { once } from "node:events";
import { type AddressInfo, type Socket, connect, createServer } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { TcpProxy } from "./services/proxy.mts";

/** A server that records what arrives, and answers with `answer` if given. */
async function recorder(answer?: string) {
  const received: string[] = [];
  const ended: number[] = [];
  const server = createServer((socket) => {
    const index = received.push("") - 1;
    socket.on("data", (bytes) => {
      received[index] += String(bytes);
      if (answer !== undefined) socket.write(answer);
    });
    socket.on("error", () => {});
    socket.on("close", () => ended.push(index));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return { received, ended, port: (server.address() as AddressInfo).port };
}

async function proxyOf(target: { port: number }): Promise<TcpProxy> {
  const proxy = await TcpProxy.start(target);
  onTestFinished(() => proxy.stop());
  return proxy;
}

async function client(proxy: TcpProxy) {
  const socket = connect(proxy.port, "127.0.0.1").on("error", () => {});
  onTestFinished(() => void socket.destroy());
  const state = { socket, text: "", ended: false };
  socket.on("data", (bytes) => (state.text += String(bytes)));
  socket.on("end", () => (state.ended = true));
  const before = proxy.accepted;
  await once(socket, "connect");
  await proxy.until(() => proxy.accepted > before);
  return state;
}

const first = (proxy: TcpProxy) => {
  const [connection] = proxy.connections;
  if (connection === undefined) throw new Error("there is no connection");
  return connection;
};

const send = (socket: Socket, text: string) => socket.write(text);

test("passes bytes and ends on, and counts them", async () => {
  const server = await recorder("answer");
  const proxy = await proxyOf(server);
  const { socket } = await client(proxy);
  const answered = once(socket, "data");
  send(socket, "question");
  expect(String((await answered)[0])).toBe("answer");
  expect(server.received).toEqual(["question"]);
  expect(proxy.received).toEqual({ toServer: 8, toClient: 6 });
  expect(proxy.connections.size).toBe(1);
  socket.end();
  await proxy.until(() => proxy.connections.size === 0);
  await expect.poll(() => server.ended).toEqual([0]);
  expect(proxy.accepted).toBe(1);
});

test("holds bytes back, and lets them go after the client has gone", async () => {
  const server = await recorder();
  const proxy = await proxyOf(server);
  const { socket } = await client(proxy);
  first(proxy).stall("toServer");
  const received = proxy.receives("toServer", 5);
  send(socket, "later");
  await received;
  socket.destroy();
  await proxy.until(() => proxy.connections.size === 0);
  expect(server.received.join("")).toBe("");
  expect(server.ended).toEqual([]);
  proxy.resume();
  await expect.poll(() => server.received).toEqual(["later"]);
  await expect.poll(() => server.ended).toEqual([0]);
});

test("stalls one direction only, and one connection only", async () => {
  const server = await recorder("!");
  const proxy = await proxyOf(server);
  const one = await client(proxy);
  first(proxy).stall("toClient");
  const other = await client(proxy);
  send(one.socket, "a");
  send(other.socket, "b");
  await expect.poll(() => other.text).toBe("!");
  await proxy.until(() => proxy.received.toClient === 2);
  expect(server.received).toEqual(["a", "b"]);
  expect(one.text).toBe("");
  proxy.resume();
  await expect.poll(() => one.text).toBe("!");
});

test("cuts after any number of bytes", async () => {
  for (const count of [0, 1, 4]) {
    const server = await recorder();
    const proxy = await proxyOf(server);
    proxy.onConnection = (connection) =>
      connection.after("toServer", count, () => connection.cut());
    const { socket } = await client(proxy);
    const ended = once(socket, "close");
    send(socket, "abcd");
    send(socket, "efgh");
    await ended;
    await expect.poll(() => server.ended).toEqual([0]);
    expect(server.received).toEqual(["abcd".slice(0, count)]);
  }
});

test("delays bytes, and keeps their order", async () => {
  const server = await recorder();
  const proxy = await proxyOf(server);
  proxy.delay = 100;
  const { socket } = await client(proxy);
  const begin = performance.now();
  send(socket, "a");
  await proxy.receives("toServer", 1);
  send(socket, "b");
  await expect.poll(() => server.received, { interval: 5 }).toEqual(["ab"]);
  expect(performance.now() - begin).toBeGreaterThanOrEqual(99);
});

test("limits bytes per second", async () => {
  const text = "x".repeat(100_000);
  const server = await recorder(text);
  const proxy = await proxyOf(server);
  proxy.rate = 200_000;
  const state = await client(proxy);
  const begin = performance.now();
  send(state.socket, "?");
  await expect.poll(() => state.text.length).toBe(100_000);
  // The last piece is not waited for.
  expect(performance.now() - begin).toBeGreaterThan(400);
});

test("refuses connections, accepts them again, and changes its target", async () => {
  const [old, young] = [await recorder(), await recorder()];
  const proxy = await proxyOf(old);
  const before = await client(proxy);
  proxy.refuse();
  const refused = connect(proxy.port, "127.0.0.1");
  const [error] = await once(refused, "error");
  expect(error).toMatchObject({ code: "ECONNREFUSED" });
  proxy.target = young.port;
  await proxy.accept();
  const after = await client(proxy);
  send(before.socket, "old");
  send(after.socket, "young");
  await expect.poll(() => young.received).toEqual(["young"]);
  await expect.poll(() => old.received).toEqual(["old"]);
});

test("passes on the end of a server", async () => {
  const server = createServer((socket) => socket.end("bye"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const proxy = await proxyOf(server.address() as AddressInfo);
  const state = await client(proxy);
  await expect.poll(() => state.ended).toBe(true);
  expect(state.text).toBe("bye");
  await proxy.until(() => proxy.connections.size === 0);
});
