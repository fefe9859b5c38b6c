// Answers that no real server gives: they are errors, and take no memory that the
// server has only announced.
import { describe, expect, test } from "vitest";
import {
  type Conversation,
  FalseMysql,
  column,
  end,
  varString,
} from "./support/false-mysql.mts";
import { openStore } from "./support/mysql.mts";
import { expectRejection } from "./support/rejection.mts";

const longInteger = 8;
const date = 10;

/** Columns of a lone get. */
const columns = ["\x02", column(varString), column(longInteger), end] as const;

async function refusal(
  onGet: (conversation: Conversation) => unknown,
): Promise<string> {
  const server = await FalseMysql.start({ onGet });
  const store = openStore(server.urlFor("p"), {
    initialized: true,
    maxConnections: 1,
    queryTimeout: 300,
  });
  const { message } = await expectRejection(
    () => store.get(["k"]),
    "ERR_KV_CONNECTION",
  );
  return message;
}

test("a false server can answer a get", async () => {
  const server = await FalseMysql.start({
    onGet: (conversation) => {
      const row = Buffer.concat([
        Buffer.from("\0\0\x011", "latin1"),
        Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]),
      ]);
      conversation.send(...columns, row, end);
    },
  });
  const store = openStore(server.urlFor("p"), { initialized: true });
  expect(await store.get(["k"])).toBe(1);
});

describe("a server is not believed that announces", () => {
  test.each([
    ["a quintillion columns", "\xfe\0\0\0\0\0\0\0\x10"],
    ["billions of columns", "\xfe\0\0\0\0\x02\0\0\0"],
    ["5,000 columns", "\xfc\x88\x13"],
  ])("%s", async (_, count) => {
    expect(await refusal((it) => it.send(count))).toContain(
      "no possible number of columns",
    );
  });

  test("a text of a terabyte", async () => {
    const row = "\0\0\xfe\0\0\0\0\0\x01\0\0";
    expect(await refusal((it) => it.send(...columns, row, end))).toBeDefined();
  });
});

test("a request for a file of this machine is refused", async () => {
  expect(await refusal((it) => it.send("\xfb/etc/passwd"))).toContain(
    "asked for a file of this machine",
  );
});

test.each<[string, (conversation: Conversation) => unknown]>([
  ["an empty packet", (it) => it.send("")],
  ["half of a definition", (it) => it.send("\x01", "\x03def", end, end)],
  ["fewer columns than announced", (it) => it.send("\x02", column(3), end)],
  [
    "more columns than announced",
    (it) => it.send("\x01", column(3), column(3), end),
  ],
  ["half of a row", (it) => it.send(...columns, "\0\0\x051", end)],
  [
    "half of a date",
    (it) =>
      it.send("\x01", column(date), end, "\0\0\x05\xe8\x07\x01\x01\x05", end),
  ],
  ["a type that is not known", (it) => it.send("\x01", column(0xf1), end, end)],
  ["half of an error", (it) => it.send("\xff\x01")],
  [
    "packets out of order",
    ({ socket }) => socket.write(Buffer.from("0100000701", "hex")),
  ],
])("%s is an error", async (_, onGet) => {
  expect(await refusal(onGet)).toContain("127.0.0.1");
});
