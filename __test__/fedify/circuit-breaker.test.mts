// The circuit breaker of Fedify 2.3 uses cas more than any other part of it.
// The state that it expects was parsed and rebuilt, so its properties are in
// another order than the stored ones.
import {
  CircuitBreaker,
  type CircuitBreakerCreateOptions,
} from "@fedify/fedify";
import { Temporal } from "@js-temporal/polyfill";
import { describe, expect, test } from "vitest";
import { stores, temporaryDirectory } from "./pair.mts";

// Fedify uses this polyfill, but its types are those of native Temporal.
type Clock = NonNullable<CircuitBreakerCreateOptions["now"]>;

const host = "down.example";
const prefix = ["_fedify", "circuit"] as const;

describe.each(stores)("$store", ({ open }) => {
  test("opens, sends a probe, closes, and deletes its state", async () => {
    await using stack = new AsyncDisposableStack();
    const directory = await temporaryDirectory(stack);
    const kv = stack.use(await open(directory, "circuit"));
    let now = Temporal.Instant.from("2026-01-01T00:00:00Z");
    const breaker = new CircuitBreaker({
      kv,
      prefix,
      options: { failureThreshold: 3, recoveryDelay: { minutes: 30 } },
      now: (() => now) as unknown as Clock,
    });
    const states = [];

    for (let failure = 0; failure < 3; failure++) {
      states.push((await breaker.beforeSend(host, {})).type);
      await breaker.recordFailure(host);
      now = now.add({ seconds: 1 });
    }
    states.push((await breaker.beforeSend(host, {})).type);
    now = now.add({ minutes: 30 });
    const probe = await breaker.beforeSend(host, {});
    states.push(probe.type);
    expect(states).toEqual(["send", "send", "send", "hold", "send"]);
    expect(probe).toMatchObject({ probe: true });
    expect(await breaker.getState(host)).toMatchObject({ state: "half-open" });

    expect(await breaker.recordSuccess(host)).toEqual({
      previousState: "half-open",
      newState: "closed",
    });
    expect(await kv.get([...prefix, host])).toBeUndefined();
    await breaker.pendingSweep;
  });

  test("two workers' concurrent failures are all counted", async () => {
    await using stack = new AsyncDisposableStack();
    const directory = await temporaryDirectory(stack);
    const kv = stack.use(await open(directory, "circuit"));
    const options = { failureThreshold: 100 };
    const workers = [
      new CircuitBreaker({ kv, prefix, options }),
      new CircuitBreaker({ kv, prefix, options }),
    ];
    // Each call tries cas up to ten times. In each round one of the racing
    // calls wins, so eight calls are few enough.
    const failures = [...workers, ...workers, ...workers, ...workers];

    await Promise.all(failures.map((worker) => worker.recordFailure(host)));

    const state = await workers[0]!.getState(host);
    expect(state).toMatchObject({ state: "closed" });
    expect(state?.failures).toHaveLength(failures.length);
    await Promise.all(workers.map((worker) => worker.pendingSweep));
  });
});
