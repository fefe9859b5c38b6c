// The check of histories, against hand-written ones and an obvious check.
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Call,
  type Operation,
  type Outcome,
  Recorder,
  illegal,
  isLegal,
} from "./support/history.mts";

const get: Call = { kind: "get" };
const del: Call = { kind: "delete" };
const set = (value: unknown): Call => ({ kind: "set", value });
const cas = (expected: unknown, value: unknown): Call => ({
  kind: "cas",
  expected,
  value,
});
const is = (value?: unknown): Outcome => (value === undefined ? {} : { value });
const unknown: Outcome = { failed: "unknown" };
const notDone: Outcome = { failed: "not done" };

type Line = readonly [
  called: number,
  returned: number,
  call: Call,
  outcome: Outcome,
];

const history = (...lines: Line[]): Operation[] =>
  lines.map(([called, returned, call, outcome]) => ({
    key: "k",
    called,
    returned,
    call,
    outcome,
  }));

const legal: Record<string, Line[]> = {
  nothing: [],
  "one after another": [
    [1, 2, get, is()],
    [3, 4, set("a"), is()],
    [5, 6, get, is("a")],
    [7, 8, cas("a", "b"), is(true)],
    [9, 10, cas("a", "c"), is(false)],
    [11, 12, del, is()],
    [13, 14, cas(undefined, "d"), is(true)],
    [15, 16, cas("d", undefined), is(true)],
    [17, 18, get, is()],
  ],
  "a get beside a set has either value": [
    [1, 6, set("a"), is()],
    [2, 3, get, is()],
    [4, 5, get, is("a")],
  ],
  "overlapping sets have any order": [
    [1, 4, set("a"), is()],
    [2, 3, set("b"), is()],
    [5, 6, get, is("a")],
  ],
  "an unknown set happens late": [
    [1, 2, set("a"), unknown],
    [3, 4, get, is()],
    [5, 6, set("b"), is()],
    [7, 8, get, is("a")],
  ],
  "an unknown set never happens": [
    [1, 2, set("a"), unknown],
    [3, 4, get, is()],
  ],
  "an unknown cas happens": [
    [1, 2, set("a"), is()],
    [3, 4, cas("a", "b"), unknown],
    [5, 6, get, is("b")],
  ],
  "a rejected set did not happen": [
    [1, 2, set("a"), notDone],
    [3, 4, get, is()],
  ],
  "a rejected get says nothing": [
    [1, 2, get, notDone],
    [3, 4, get, unknown],
  ],
  "an object's keys keep their order": [
    [1, 2, set({ a: 1, b: 2 }), is()],
    [3, 4, get, is({ a: 1, b: 2 })],
  ],
};

const wrong: Record<string, Line[]> = {
  "a lost set": [
    [1, 2, set("a"), is()],
    [3, 4, get, is()],
  ],
  "an old value": [
    [1, 2, set("a"), is()],
    [3, 4, set("b"), is()],
    [5, 6, get, is("a")],
  ],
  "a value that nobody wrote": [[1, 2, get, is("a")]],
  "two winners": [
    [1, 3, cas(undefined, "a"), is(true)],
    [2, 4, cas(undefined, "b"), is(true)],
  ],
  "a lost race without a winner": [[1, 2, cas(undefined, "a"), is(false)]],
  "a set that was carried out twice": [
    [1, 2, set("a"), is()],
    [3, 4, set("b"), is()],
    [5, 6, get, is("b")],
    [7, 8, get, is("a")],
  ],
  "an unknown set before its call": [
    [1, 2, get, is("a")],
    [3, 4, set("a"), unknown],
  ],
  "an unknown set that happens twice": [
    [1, 2, set("a"), unknown],
    [3, 4, get, is("a")],
    [5, 6, set("b"), is()],
    [7, 8, get, is("b")],
    [9, 10, get, is("a")],
    [11, 12, set("c"), is()],
    [13, 14, get, is("a")],
  ],
  "a rejected set that happened": [
    [1, 2, set("a"), notDone],
    [3, 4, get, is("a")],
  ],
  "gets that go back in time": [
    [1, 8, set("a"), is()],
    [2, 3, get, is("a")],
    [4, 5, get, is()],
  ],
  "a set happens twice": [
    [1, 8, set("a"), is()],
    [2, 3, get, is("a")],
    [4, 5, set("b"), is()],
    [6, 7, get, is("b")],
    [9, 10, get, is("a")],
  ],
};

test.each(Object.entries(legal))("legal: %s", (_, lines) => {
  expect(isLegal(history(...lines))).toBe(true);
});

test.each(Object.entries(wrong))("illegal: %s", (_, lines) => {
  expect(isLegal(history(...lines))).toBe(false);
});

test("keys are looked at one by one", () => {
  const good = history([1, 2, set("a"), is()], [5, 6, get, is("a")]);
  const bad = history([3, 4, get, is("a")]).map((operation) => ({
    ...operation,
    key: "l",
  }));
  expect(illegal([...good, ...bad])).toEqual(['l:\n0–1 get(): "a"']);
  expect(illegal(good)).toEqual([]);
});

test("a recorder notes calls, answers and rejections", async () => {
  const store = {
    get: async () => "a",
    set: async () => {},
    delete: () => Promise.reject(new Error("the outcome is unknown")),
    cas: () => Promise.reject(new Error("refused")),
  };
  const recorder = new Recorder(store);
  await recorder.run(["k"], get);
  await recorder.run(["k"], set("a"));
  await recorder.run(["k"], del);
  await recorder.run(["k"], cas(undefined, "b"));
  const outcomes = recorder.operations.map(({ outcome }) => outcome);
  expect(outcomes).toEqual([is("a"), is(), unknown, notDone]);
  const times = recorder.operations.flatMap(({ called, returned }) => [
    called,
    returned,
  ]);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
});

/** An operation, when it happens, and how long before and after it was open. */
interface Moment {
  readonly call: Call;
  readonly before: number;
  readonly after: number;
  /** Whether its caller learns the outcome. */
  readonly ending: "answered" | "late" | "never" | "refused";
}

const value = (values: number) => fc.nat(values - 1).map(String);

function moment(values: number): fc.Arbitrary<Moment> {
  const call = fc.oneof(
    fc.constant(get),
    fc.constant(del),
    value(values).map(set),
    fc
      .tuple(fc.option(value(values), { nil: undefined }), value(values))
      .map(([expected, value]) => cas(expected, value)),
  );
  return fc.record({
    call,
    before: fc.nat(4),
    after: fc.nat(4),
    ending: fc.oneof(
      { arbitrary: fc.constant("answered" as const), weight: 8 },
      fc.constantFrom("late" as const, "never" as const, "refused" as const),
    ),
  });
}

/** A legal history: operations happen one after another, in this order. */
function legalHistory(moments: readonly Moment[]): Operation[] {
  let state: string | undefined;
  return moments.map(({ call, before, after, ending }, i) => {
    let answer: unknown;
    if (ending === "answered" || ending === "late") {
      if (call.kind === "get") answer = state;
      if (call.kind === "cas") answer = state === call.expected;
      if (call.kind === "delete") state = undefined;
      if (call.kind === "set" || answer === true) {
        state = "value" in call ? (call.value as string) : undefined;
      }
      if (call.kind === "cas" && answer === false) answer = false;
    }
    // Each happens at ten times its number. Calls and returns have other times.
    const at = i * 10;
    const called = at - before * 10 - 5 + i / 1_000;
    const returned =
      ending === "late"
        ? called + 1
        : Math.max(at, called) + after * 10 + 5 + i / 1_000;
    const outcome =
      ending === "answered"
        ? is(answer)
        : ending === "refused"
          ? notDone
          : unknown;
    return { key: "k", call, called, returned, outcome };
  });
}

/** Tries all orders of all selections. */
function bruteForce(operations: readonly Operation[]): boolean {
  const going = (left: readonly Operation[], state: unknown): boolean =>
    left.every(({ outcome }) => "failed" in outcome) ||
    left.some((next) => {
      const rest = left.filter((other) => other !== next);
      const { call, outcome } = next;
      const answer = "value" in outcome ? outcome.value : undefined;
      const isKnown = !("failed" in outcome);
      if (!isKnown && (outcome.failed === "not done" || call.kind === "get")) {
        return false;
      }
      const isLate = rest.some(
        (other) => !("failed" in other.outcome) && other.returned < next.called,
      );
      if (isLate) return false;
      switch (call.kind) {
        case "get":
          return answer === state && going(rest, state);
        case "set":
          return going(rest, call.value);
        case "delete":
          return going(rest, undefined);
        case "cas": {
          const matches = state === call.expected;
          if (isKnown && matches !== answer) return false;
          return going(rest, matches ? call.value : state);
        }
      }
    });
  return going(operations, undefined);
}

describe("random histories", () => {
  test("legal ones are accepted", () => {
    fc.assert(
      fc.property(fc.array(moment(1_000), { maxLength: 60 }), (moments) => {
        expect(isLegal(legalHistory(moments))).toBe(true);
      }),
    );
  });

  test("others are accepted if an obvious check accepts them", () => {
    let refused = 0;
    const changed = fc.record({
      moments: fc.array(moment(3), { minLength: 1, maxLength: 7 }),
      which: fc.nat(),
      answer: fc.constantFrom<Outcome>(
        is(),
        is("0"),
        is("1"),
        is(true),
        is(false),
        unknown,
        notDone,
      ),
    });
    fc.assert(
      fc.property(changed, ({ moments, which, answer }) => {
        const operations = legalHistory(moments);
        const index = which % operations.length;
        const changed = operations.map((operation, i) =>
          i === index ? { ...operation, outcome: answer } : operation,
        );
        const expected = bruteForce(changed);
        refused += Number(!expected);
        expect(isLegal(changed)).toBe(expected);
      }),
      { numRuns: 2_000 },
    );
    expect(refused).toBeGreaterThan(200);
  });

  test("some hundreds of operations on a key are checked", () => {
    // Four at a time, unique values, and many of unknown outcome.
    const moments = Array.from({ length: 600 }, (_, i): Moment => {
      const kinds = [set(`${i}`), get, cas(`${i - 2}`, `${i}`), del, get];
      const call = kinds[i % 5] ?? get;
      const isLost = i % 20 === 2 || i % 35 === 0;
      const ending = isLost ? (i % 3 === 0 ? "late" : "never") : "answered";
      return { call, before: i % 3, after: (i * 7) % 3, ending };
    });
    const operations = legalHistory(moments);
    expect(isLegal(operations)).toBe(true);
    const last = operations.findLastIndex(({ call }) => call.kind === "get");
    const changed = operations.map((operation, i) =>
      i === last ? { ...operation, outcome: is("nobody's") } : operation,
    );
    expect(isLegal(changed)).toBe(false);
  });
});
