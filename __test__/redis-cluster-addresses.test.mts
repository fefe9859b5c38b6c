// How nodes of a cluster say where the others are: host names, nothing at all,
// IPv6, and addresses that only the cluster itself can reach.
import { networkInterfaces } from "node:os";
import {
  afterAll,
  afterEach,
  beforeAll,
  describe,
  expect,
  test,
  vi,
} from "vitest";
import { RedisCluster } from "./services/redis-cluster.mts";
import { keysOf } from "./support/collect.mts";
import { key, numbers } from "./support/entries.mts";
import { configure, errors, tagOn, tagged } from "./support/redis-cluster.mts";
import { type Options, openStore } from "./support/redis.mts";
import { expectRejection } from "./support/rejection.mts";

/**
 * Uses all nodes, and follows both kinds of redirections. The nodes themselves
 * must reach each other at their addresses.
 */
async function expectWorks(
  cluster: RedisCluster,
  urls: readonly string[],
  options: Options = {},
): Promise<void> {
  const store = openStore(urls, options);
  const tag = await tagOn(cluster, cluster.masters[1]!);
  const keys = [
    ...numbers(100).map(key),
    ...numbers(20).map((i) => tagged(tag, i)),
  ];
  await Promise.all(keys.map((key, i) => store.set(key, i)));
  const opened = await cluster.openSlot(await cluster.slotOf(`{${tag}}`));
  while ((await opened.moveKeys(10)) > 0);
  const asked = await errors(cluster, "ASK");
  for (const i of numbers(20)) {
    expect(await store.cas(tagged(tag, i), 100 + i, "asked")).toBe(true);
  }
  expect(await errors(cluster, "ASK")).toBeGreaterThan(asked);
  await opened.close();
  const moved = await errors(cluster, "MOVED");
  for (const i of numbers(20)) {
    expect(await store.cas(tagged(tag, i), "asked", "moved")).toBe(true);
  }
  expect(await errors(cluster, "MOVED")).toBeGreaterThan(moved);
  expect(await keysOf(store.list(["k"]))).toHaveLength(120);
  expect(await store.clear(["k"])).toBe(120);
}

/** Waits until each node knows an address of this form of every node. */
async function announce(cluster: RedisCluster, form: string): Promise<void> {
  for (const node of cluster.masters) {
    await vi.waitFor(async () => {
      const nodes = String(await cluster.clientOf(node).cluster("NODES"));
      expect(nodes.match(new RegExp(form, "g"))).toHaveLength(3);
    }, 15_000);
  }
}

describe("endpoint types", () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await RedisCluster.start();
  });
  afterAll(() => cluster.stop());
  afterEach(() => cluster.flush());

  test.each([
    { type: "hostname", hostname: "localhost" },
    // Nodes that have no name say "?".
    { type: "hostname", hostname: "" },
    { type: "unknown-endpoint", hostname: "localhost" },
    { type: "unknown-endpoint", hostname: "" },
    { type: "ip", hostname: "nowhere.invalid" },
  ])("$type with the name '$hostname'", async ({ type, hostname }) => {
    await configure(cluster, {
      "cluster-announce-hostname": hostname,
      "cluster-preferred-endpoint-type": type,
    });
    await announce(cluster, `@\\d+${hostname && ","}${hostname} `);
    for (const url of cluster.urls) {
      await expectWorks(cluster, [url.replace("redis:", "redis+cluster:")]);
    }
  });
});

const hasIpv6 = Object.values(networkInterfaces())
  .flat()
  .some((address) => address?.address === "::1");

test.skipIf(!hasIpv6)("IPv6", async () => {
  const cluster = await RedisCluster.start(false, async () => ({
    bind: "127.0.0.1 ::1",
    "cluster-announce-ip": "::1",
  }));
  try {
    await announce(cluster, " ::1:\\d+@");
    const urls = cluster.masters.map((node) => `redis://[::1]:${node.port}`);
    await expectWorks(cluster, urls);
  } finally {
    await cluster.stop();
  }
});

describe("natMap", () => {
  const options = (natMap: unknown) =>
    ({ commandTimeout: 5_000, natMap }) as Options;

  describe("addresses that can't be reached", () => {
    let cluster: RedisCluster;
    /** What the nodes announce in place of the addresses to reach them at. */
    let announced: Record<string, string>;
    beforeAll(async () => {
      cluster = await RedisCluster.start();
      const nodes = cluster.masters.map(
        (node, i) => [`127.0.0.1:${i + 1}`, `127.0.0.1:${node.port}`] as const,
      );
      announced = Object.fromEntries(nodes);
      for (const [i, node] of cluster.masters.entries()) {
        const client = cluster.clientOf(node);
        await client.config("SET", "cluster-announce-port", i + 1);
      }
      await announce(cluster, " 127.0.0.1:[123]@");
    });
    afterAll(() => cluster.stop());
    afterEach(() => cluster.flush());

    const parts = (address = "") => {
      const [host, port] = address.split(":");
      return { host, port: Number(port) };
    };

    test("a record of texts", async () => {
      await expectWorks(cluster, cluster.urls, options(announced));
    });

    test("a record of hosts and ports", async () => {
      const record = Object.fromEntries(
        Object.entries(announced).map(([from, to]) => [from, parts(to)]),
      );
      await expectWorks(cluster, cluster.urls, options(record));
    });

    test("a function that returns a text", async () => {
      const seen = new Set<string>();
      const natMap = (address: string) => {
        seen.add(address);
        return announced[address];
      };
      await expectWorks(cluster, cluster.urls, options(natMap));
      for (const address of Object.keys(announced)) {
        expect(seen).toContain(address);
      }
    });

    test("a function that returns a host and a port", async () => {
      const natMap = (address: string) => parts(announced[address]);
      await expectWorks(cluster, cluster.urls.slice(1), options(natMap));
    });

    test.each(["a record", "a function"])(
      "an address that %s does not have stays as it is",
      async (kind) => {
        const first = Object.fromEntries(Object.entries(announced).slice(0, 2));
        const natMap =
          kind === "a record" ? first : (address: string) => first[address];
        const store = openStore(cluster.urls, {
          ...options(natMap),
          commandTimeout: 1_000,
        });
        const reachable = await tagOn(cluster, cluster.masters[0]!);
        await store.set(tagged(reachable, 0), 1);
        const other = await tagOn(cluster, cluster.masters[2]!);
        const error = await expectRejection(
          () => store.get(tagged(other, 0)),
          "ERR_KV_CONNECTION",
        );
        expect(error.message).toContain("127.0.0.1:3");
      },
    );

    test("a function that throws", async () => {
      const natMap = () => {
        throw new Error("no such address");
      };
      const store = openStore(cluster.urls, {
        ...options(natMap),
        commandTimeout: 300,
      });
      const error = await expectRejection(
        () => store.get(["k"]),
        "ERR_KV_CONNECTION",
      );
      expect(error.message).toContain("no such address");
    });

    test.each([7, "nowhere", { host: 1 }, "a:b:c", "a:0"])(
      "a function that returns %o",
      async (answer) => {
        const store = openStore(cluster.urls, {
          ...options(() => answer),
          commandTimeout: 300,
        });
        await expectRejection(() => store.get(["k"]), "ERR_KV_CONNECTION");
      },
    );
  });

  test("host names", async () => {
    const cluster = await RedisCluster.start();
    try {
      await configure(cluster, {
        "cluster-announce-hostname": "node.invalid",
        "cluster-preferred-endpoint-type": "hostname",
      });
      await announce(cluster, ",node.invalid ");
      const nodes = cluster.masters.map(
        ({ port }) => [`node.invalid:${port}`, `127.0.0.1:${port}`] as const,
      );
      await expectWorks(
        cluster,
        cluster.urls,
        options(Object.fromEntries(nodes)),
      );
    } finally {
      await cluster.stop();
    }
  });

  test.each(
    [
      7,
      "127.0.0.1:1",
      ["127.0.0.1:1"],
      { "a:1": "b" },
      { "a:1": "b:x" },
      { "a:1": "b:65536" },
      { "a:1": 2 },
      { "a:1": { host: "b" } },
      { "a:1": { port: 1 } },
      { a: "b:1" },
    ].map((natMap) => ({ natMap })),
  )("%j is refused", ({ natMap }) => {
    expect(() =>
      openStore(["redis://a", "redis://b"], options(natMap)),
    ).toThrow(expect.objectContaining({ code: "ERR_KV_INVALID_OPTION" }));
  });
});
