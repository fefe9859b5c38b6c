// Checks that concurrent operations on single keys have a legal order: as if
// each had happened at one moment between its call and its return.
//
// The search is Wing and Gong's. As Lowe proposed, it leaves out what it has seen
// before.

/** A value as JSON text, or `undefined` for a missing entry. */
type State = string | undefined;

export type Call =
  | { readonly kind: "get" }
  | { readonly kind: "set"; readonly value: unknown }
  | { readonly kind: "delete" }
  | {
      readonly kind: "cas";
      readonly expected: unknown;
      readonly value: unknown;
    };

export type Outcome =
  /** It was answered; `value` is missing if that was `undefined`. */
  | { readonly value?: unknown }
  /** It was rejected, and certainly not carried out. */
  | { readonly failed: "not done" }
  /** It may have been carried out, or it may still be, at any later time. */
  | { readonly failed: "unknown" };

export interface Operation {
  readonly key: string;
  readonly call: Call;
  readonly called: number;
  readonly returned: number;
  readonly outcome: Outcome;
}

/** What any store can do. */
export interface Register {
  get(key: Key): Promise<unknown>;
  set(key: Key, value: unknown): Promise<void>;
  delete(key: Key): Promise<void>;
  cas(key: Key, expected: unknown, value: unknown): Promise<boolean>;
}

type Key = readonly [string, ...string[]];

/** A clock that all processes of this machine share. */
const now = (): number => Number(process.hrtime.bigint());

/** Whether a rejection says that the operation may have been carried out. */
const isUnknown = (error: unknown) => /unknown/.test(String(error));

/** Records operations and their outcomes. */
export class Recorder {
  readonly operations: Operation[] = [];
  readonly #store: Register;

  constructor(store: Register) {
    this.#store = store;
  }

  /** Carries out an operation. Never rejects. */
  async run(key: Key, call: Call): Promise<Outcome> {
    const called = now();
    const outcome = await this.#call(key, call).then(
      (value) => (value === undefined ? {} : { value }),
      (error: unknown) =>
        ({ failed: isUnknown(error) ? "unknown" : "not done" }) as const,
    );
    const returned = now();
    const name = JSON.stringify(key);
    this.operations.push({ key: name, call, called, returned, outcome });
    return outcome;
  }

  #call(key: Key, call: Call): Promise<unknown> {
    switch (call.kind) {
      case "get":
        return this.#store.get(key);
      case "set":
        return this.#store.set(key, call.value);
      case "delete":
        return this.#store.delete(key);
      case "cas":
        return this.#store.cas(key, call.expected, call.value);
    }
  }
}

/**
 * The keys whose operations have no legal order, and a text of these
 * operations. All keys are missing at the beginning.
 */
export function illegal(operations: readonly Operation[]): string[] {
  return [...Map.groupBy(operations, ({ key }) => key)]
    .filter(([, operations]) => !isLegal(operations))
    .map(([key, operations]) => `${key}:\n${describe(operations)}`);
}

/** Whether operations on one key have a legal order. */
export function isLegal(operations: readonly Operation[]): boolean {
  const answered: Step[] = [];
  const unknown: Step[] = [];
  const observed = new Set(operations.flatMap(observedBy));
  const sorted = operations.toSorted((a, b) => a.called - b.called);
  for (const operation of sorted) {
    const { call, outcome } = operation;
    const isKnown = !("failed" in outcome);
    if (!isKnown && (outcome.failed === "not done" || call.kind === "get")) {
      continue;
    }
    (isKnown ? answered : unknown).push(step(operation, observed));
  }
  return new Search(answered, unknown).succeeds();
}

/** An operation as a function of the state. */
interface Step {
  readonly called: number;
  readonly returned: number;
  /** Whether it never changes the state. */
  readonly reads: boolean;
  /** Whether it has the same outcome in every state. */
  readonly isBlind: boolean;
  /** Equal for operations that do the same. */
  readonly effect: string;
  /** The new state; `false` if the outcome would have been another. */
  readonly apply: (state: State) => State | false;
}

/** Any value that no operation has observed: they all act alike. */
const UNOBSERVED = "unobserved";

function observedBy({ call, outcome }: Operation): State[] {
  if (call.kind === "cas") return [text(call.expected)];
  return call.kind === "get" && "value" in outcome ? [text(outcome.value)] : [];
}

function step(
  { call, called, returned, outcome }: Operation,
  observed: ReadonlySet<State>,
): Step {
  const value = "value" in call ? text(call.value) : undefined;
  const written =
    value === undefined || observed.has(value) ? value : UNOBSERVED;
  const answer = "value" in outcome ? outcome.value : undefined;
  const isBlind = call.kind === "set" || call.kind === "delete";
  const facts = { called, returned, isBlind };
  switch (call.kind) {
    case "set":
    case "delete": {
      const effect = `set ${written}`;
      return { ...facts, reads: false, effect, apply: () => written };
    }
    case "get": {
      const value = text(answer);
      const apply = (state: State) => state === value && state;
      return { ...facts, reads: true, effect: "get", apply };
    }
    case "cas": {
      const expected = text(call.expected);
      const apply = (state: State) => {
        const matches = state === expected;
        if (!("failed" in outcome) && matches !== answer) return false;
        return matches ? written : state;
      };
      const effect = `cas ${expected} ${written}`;
      return { ...facts, reads: answer === false, effect, apply };
    }
  }
}

const text = (value: unknown): State => JSON.stringify(value);

/** The steps that were taken, and the state after them. */
interface Configuration {
  readonly state: State;
  /** All answered steps before this one were taken, but this one was not. */
  readonly first: number;
  /** The later answered steps that were taken too. */
  readonly ahead: readonly number[];
  /** The steps of unknown outcome that were taken, as bits. */
  readonly used: bigint;
}

/** A search for a legal order of steps, which are sorted by their calls. */
class Search {
  readonly #answered: readonly Step[];
  /** They may happen at any time after their call, or never. */
  readonly #unknown: readonly Step[];
  /** The bits `used` of the configurations seen, by all their other parts. */
  readonly #seen = new Map<string, bigint[]>();

  constructor(answered: readonly Step[], unknown: readonly Step[]) {
    this.#answered = answered;
    this.#unknown = unknown;
  }

  succeeds(): boolean {
    const left: Configuration[] = [
      { state: undefined, first: 0, ahead: [], used: 0n },
    ];
    for (;;) {
      const configuration = left.pop();
      if (configuration === undefined) return false;
      if (configuration.first === this.#answered.length) return true;
      if (this.#isNew(configuration)) left.push(...this.#next(configuration));
    }
  }

  /** What can follow. The most promising comes last. */
  #next(now: Configuration): Configuration[] {
    const { state, first, ahead } = now;
    const open: Step[] = [];
    const answered: Configuration[] = [];
    // No step can come after one that had returned before its call.
    let end = Infinity;
    for (let i = first; i < this.#answered.length; i += 1) {
      const step = this.#answered[i];
      if (step === undefined || step.called > end) break;
      if (ahead.includes(i)) continue;
      end = Math.min(end, step.returned);
      open.push(step);
      const next = step.apply(state);
      if (next === false) continue;
      const taken = { ...now, ...take(now, i), state: next };
      // A read that fits now can come first, whatever comes later.
      if (step.reads) return [taken];
      answered.push(taken);
    }
    return [...this.#late(now, open, end), ...answered.reverse()];
  }

  /** The steps of unknown outcome that can follow, and are of use. */
  #late(
    now: Configuration,
    open: readonly Step[],
    end: number,
  ): Configuration[] {
    const unused = [...this.#unknown.entries()].filter(
      ([i, { called }]) =>
        called <= end && (now.used & (1n << BigInt(i))) === 0n,
    );
    const isOfUse = (state: State) =>
      open.some(({ isBlind, apply }) => !isBlind && apply(state) !== false) ||
      unused.some(
        ([, { isBlind, apply }]) => !isBlind && apply(state) !== state,
      );
    const effects = new Set<string>();
    return unused.flatMap(([i, { effect, apply }]) => {
      const state = apply(now.state);
      // Of steps that do the same, the first called is taken first.
      if (effects.has(effect) || state === false || state === now.state) {
        return [];
      }
      effects.add(effect);
      const used = now.used | (1n << BigInt(i));
      return isOfUse(state) ? [{ ...now, state, used }] : [];
    });
  }

  /** Whether no configuration was seen that allows at least as much. */
  #isNew({ state, first, ahead, used }: Configuration): boolean {
    const rest = `${first} ${ahead.join()} ${state}`;
    const seen = this.#seen.get(rest) ?? [];
    if (seen.some((bits) => (bits & used) === bits)) return false;
    this.#seen.set(rest, [...seen, used]);
    return true;
  }
}

/** Takes an answered step. */
function take({ first, ahead }: Configuration, index: number) {
  const taken = new Set(ahead).add(index);
  let next = first;
  while (taken.delete(next)) next += 1;
  return { first: next, ahead: [...taken].toSorted((a, b) => a - b) };
}

/** Operations in the order of their calls, one a line. */
function describe(operations: readonly Operation[]): string {
  const first = Math.min(...operations.map(({ called }) => called));
  return operations
    .toSorted((a, b) => a.called - b.called)
    .map(({ call, called, returned, outcome }) => {
      const expected = call.kind === "cas" ? `${text(call.expected)}, ` : "";
      const value = "value" in call ? `${text(call.value)}` : "";
      const answer = "failed" in outcome ? outcome.failed : text(outcome.value);
      const times = `${called - first}–${returned - first}`;
      return `${times} ${call.kind}(${expected}${value}): ${answer}`;
    })
    .join("\n");
}
