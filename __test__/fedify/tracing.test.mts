// FedifySpanExporter stores a record for each span under the key of its trace,
// and a summary of each trace, which it updates with get and cas. It reads both
// with list.
import { once } from "node:events";
import { ROOT_CONTEXT, type Span, trace } from "@opentelemetry/api";
import {
  BasicTracerProvider,
  BatchSpanProcessor,
  SimpleSpanProcessor,
  type SpanExporter,
  type SpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { describe, expect, test } from "vitest";
import { keysUnder, rows, startPair, temporaryDirectory } from "./pair.mts";

const processors = [
  {
    exported: "span by span",
    process: (exporter: SpanExporter): SpanProcessor =>
      new SimpleSpanProcessor(exporter),
  },
  {
    exported: "as one batch",
    process: (exporter: SpanExporter): SpanProcessor =>
      new BatchSpanProcessor(exporter),
  },
];

describe.each(rows)("$store with Fedify $version", (row) => {
  const { fedify, open } = row;

  test("a Follow and its Accept are one trace", async () => {
    await using pair = await startPair(row);
    const { alice, bob } = pair;
    const accepted = once(alice.events, "Accept");
    await alice.follow(bob.actor);
    await accepted;
    // When Bob's server is closed, its worker has finished the Accept.
    await bob.close();

    const [summary, ...others] = await bob.traces.getRecentTraces();
    expect(others).toEqual([]);
    const { traceId, activityCount } = summary!;
    expect(activityCount).toBe(2);
    const records = await bob.traces.getActivitiesByTraceId(traceId);
    const inbound = records.find(({ direction }) => direction === "inbound");
    expect(inbound).toMatchObject({
      traceId,
      activityType: "Follow",
      actorId: alice.actor.href,
      verified: true,
    });
    const outbound = records.find(({ direction }) => direction === "outbound");
    expect(outbound).toMatchObject({ traceId, inboxUrl: alice.inbox.href });
    expect(records).toHaveLength(2);
  });

  test.each(processors)(
    "50 concurrent spans of one trace are all recorded, exported $exported",
    async ({ process }) => {
      await using stack = new AsyncDisposableStack();
      const directory = await temporaryDirectory(stack);
      const kv = stack.use(await open(directory, "traces"));
      const exporter = new fedify.FedifySpanExporter(kv);
      const provider = new BasicTracerProvider({
        spanProcessors: [process(exporter)],
      });
      stack.defer(() => provider.shutdown());
      const tracer = provider.getTracer("test");
      const parent = tracer.startSpan("parent");
      const { traceId } = parent.spanContext();
      const under = trace.setSpan(ROOT_CONTEXT, parent);
      const activities = new Map<string, string>();
      const spans: Span[] = [];
      for (let i = 0; i < 50; i++) {
        const span = tracer.startSpan(`activity ${i}`, {}, under);
        const id = `https://example.com/activities/${i}`;
        span.addEvent("activitypub.activity.received", {
          "activitypub.activity.json": JSON.stringify({ type: "Create", id }),
        });
        activities.set(span.spanContext().spanId, id);
        spans.push(span);
      }

      for (const span of spans) span.end();
      await provider.forceFlush();

      const records = await exporter.getActivitiesByTraceId(traceId);
      const read = records.map(({ spanId, activityId }) => [
        spanId,
        activityId,
      ]);
      expect(read).toHaveLength(50);
      expect(new Map(read as [string, string][])).toEqual(activities);
      const keys = await keysUnder(kv, ["fedify", "traces", traceId]);
      expect(keys.flat().sort()).toEqual([...activities.keys()].sort());

      // Fedify gives up counting after three lost races, so the exact count is
      // not certain.
      const [summary, ...others] = await exporter.getRecentTraces();
      expect(others).toEqual([]);
      expect(summary).toMatchObject({ traceId, activityTypes: ["Create"] });
      expect(summary?.activityCount).toBeGreaterThan(0);
      expect(summary?.activityCount).toBeLessThanOrEqual(50);
    },
  );

  test("the newest traces come first, up to the limit", async () => {
    await using stack = new AsyncDisposableStack();
    const directory = await temporaryDirectory(stack);
    const kv = stack.use(await open(directory, "traces"));
    const exporter = new fedify.FedifySpanExporter(kv);
    const provider = new BasicTracerProvider({
      spanProcessors: [new SimpleSpanProcessor(exporter)],
    });
    stack.defer(() => provider.shutdown());
    const tracer = provider.getTracer("test");
    const traceIds: string[] = [];
    for (let minute = 0; minute < 3; minute++) {
      const span = tracer.startSpan("activity", { root: true });
      span.addEvent(
        "activitypub.activity.received",
        { "activitypub.activity.json": JSON.stringify({ type: "Like" }) },
        new Date(Date.UTC(2026, 0, 1, 0, minute)),
      );
      span.end();
      traceIds.push(span.spanContext().traceId);
    }
    await provider.forceFlush();

    const recent = await exporter.getRecentTraces({ limit: 2 });
    expect(recent.map(({ traceId }) => traceId)).toEqual(
      traceIds.reverse().slice(0, 2),
    );
  });
});
