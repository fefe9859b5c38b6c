// What a server may make the process hold: an answer has a limit, whatever the
// server announces and however long it goes on.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PostgresServer } from "./services/postgres.mts";
import {
  FalsePostgres,
  type Misbehave,
  accepted,
  announce,
  frame,
  ready,
  sendWithoutEnd,
} from "./support/false-postgres.mts";
import { collect } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { openStore, ownTable } from "./support/postgres.mts";
import { expectRejection } from "./support/rejection.mts";

const mebibyte = 1024 * 1024;
const zeros = Buffer.alloc(64 * 1024);

/** A row with one value. */
const row = (value: Buffer) => {
  const length = Buffer.alloc(4);
  length.writeInt32BE(value.length);
  return frame("D", Buffer.from([0, 1]), length, value);
};

/** How many bytes the system holds of what a false server has sent. */
const buffered = 64 * mebibyte;

/** The statement of a lone get. */
const get = "SELECT value::text";

async function expectRefusal(
  server: FalsePostgres,
  options: { maxAnswerBytes?: number },
  words: string,
): Promise<void> {
  const store = openStore(server.url, {
    initialized: true,
    unlogged: true,
    maxConnections: 1,
    ...options,
  });
  const before = process.memoryUsage.rss();
  const error = await expectRejection(() => store.get(["k"]), "ERR_KV_BACKEND");
  expect(error.message).toContain(words);
  expect(process.memoryUsage.rss() - before).toBeLessThan(4 * buffered);
  for (const { socket, closed } of server.connections) {
    await closed;
    expect(socket.bytesWritten).toBeLessThan(buffered);
  }
}

describe("a false server", () => {
  test.each<[string, Misbehave]>([
    [
      "announces 2 GB in a row",
      (socket) => {
        socket.write(announce("D", 2 ** 31 - 8));
        sendWithoutEnd(socket, zeros);
      },
    ],
    [
      "announces a notice of 2 GB",
      (socket) => {
        socket.write(announce("N", 2 ** 31 - 8));
        sendWithoutEnd(socket, zeros);
      },
    ],
  ])("that %s is left at once", async (_, misbehave) => {
    const server = await FalsePostgres.start({
      onStatement: [get, misbehave],
    });
    await expectRefusal(server, {}, "maxAnswerBytes");
  });

  test.each<[string, Buffer]>([
    ["large rows", row(zeros.subarray(0, 60_000).fill("1"))],
    [
      "rows of one byte",
      Buffer.concat(numbers(1000).map(() => row(Buffer.from("1")))),
    ],
    [
      "notices",
      Buffer.concat(
        numbers(1000).map(() => frame("N", "SNOTICE\0C00000\0Mno\0\0")),
      ),
    ],
    [
      "rows of any number of commands",
      Buffer.concat(
        numbers(1000).map(() =>
          Buffer.concat([row(Buffer.from("1")), frame("C", "SELECT 1\0")]),
        ),
      ),
    ],
  ])("that sends %s without end is left at the limit", async (_, bytes) => {
    const server = await FalsePostgres.start({
      onStatement: [get, (socket) => sendWithoutEnd(socket, bytes)],
    });
    await expectRefusal(
      server,
      { maxAnswerBytes: mebibyte },
      `more than ${mebibyte} bytes`,
    );
  });

  test.each<[string, Misbehave]>([
    [
      "another protocol",
      (socket) => {
        socket.write("HTTP/1.1 400 Bad Request\r\n\r\n");
        sendWithoutEnd(socket, zeros);
      },
    ],
    [
      "parameters without end",
      (socket) => {
        socket.write(accepted);
        sendWithoutEnd(
          socket,
          frame("S", "name\0", zeros.subarray(0, 1000).fill("v"), "\0"),
        );
      },
    ],
  ])("that answers a login with %s is left at once", async (_, onLogin) => {
    const server = await FalsePostgres.start({ onLogin });
    await expectRefusal(server, {}, "it may not be PostgreSQL");
  });

  test("that once sent too much is asked again on a new connection", async () => {
    let bad = true;
    const server = await FalsePostgres.start({
      onStatement: [
        get,
        (socket) => {
          if (bad) {
            bad = false;
            sendWithoutEnd(socket, row(zeros.subarray(0, 60_000).fill("1")));
          } else {
            socket.write(
              Buffer.concat([
                row(Buffer.from("7")),
                frame("C", "SELECT 1\0"),
                ready,
              ]),
            );
          }
        },
      ],
    });
    const store = openStore(server.url, {
      initialized: true,
      maxConnections: 1,
      maxAnswerBytes: mebibyte,
    });
    await expectRejection(() => store.get(["k"]), "ERR_KV_BACKEND");
    await server.connections[0]?.closed;
    expect(await store.get(["k"])).toBe(7);
    expect(server.connections).toHaveLength(2);
  });
});

describe("a real server", () => {
  let server: PostgresServer;
  beforeAll(async () => {
    server = await PostgresServer.start();
  });
  afterAll(() => server.stop());

  test("values that are too large together are read one by one", async () => {
    const options = { tableName: ownTable() };
    const writer = openStore(server.url, options);
    const store = openStore(server.url, {
      ...options,
      maxAnswerBytes: mebibyte,
    });
    const value = (length: number) => "x".repeat(length);
    await Promise.all(
      numbers(20).map((i) => writer.set(key(i), value(300_000 + i))),
    );
    await writer.set(["large"], value(2 * mebibyte));
    const outcomes = await Promise.allSettled([
      ...numbers(20).map((i) => store.get<string>(key(i))),
      store.get(["large"]),
    ]);
    const large = outcomes.pop();
    expect(large).toMatchObject({
      status: "rejected",
      reason: { code: "ERR_KV_BACKEND" },
    });
    outcomes.forEach((outcome, i) => {
      expect(outcome.status).toBe("fulfilled");
      const found = outcome.status === "fulfilled" ? outcome.value : undefined;
      expect((found as string).length).toBe(300_000 + i);
    });
    // Such a value can be overwritten and compared on the server.
    expect(await store.cas(["large"], "y", 1)).toBe(false);
    await store.set(["large"], 1);
    expect(await store.get(["large"])).toBe(1);
  });

  test("a list whose pages are too large has smaller ones", async () => {
    const options = { tableName: ownTable() };
    const writer = openStore(server.url, options);
    const store = openStore(server.url, {
      ...options,
      maxAnswerBytes: 100_000,
    });
    await Promise.all(
      numbers(50).map((i) => writer.set(key(i), "x".repeat(10_000 + i))),
    );
    const lengths: number[] = [];
    for await (const { value } of store.list()) {
      lengths.push(typeof value === "string" ? value.length : 0);
    }
    expect(lengths.toSorted()).toEqual(numbers(50).map((i) => 10_000 + i));
    await writer.set(["large"], "x".repeat(100_000));
    await expectRejection(() => collect(store.list()), "ERR_KV_BACKEND");
  });

  test("a value of 60 MiB is within the default", async () => {
    const store = openStore(server.url, {
      tableName: ownTable(),
      queryTimeout: 60_000,
    });
    const value = "x".repeat(60 * mebibyte);
    await store.set(["k"], value);
    expect((await store.get<string>(["k"]))?.length).toBe(value.length);
  });
});
