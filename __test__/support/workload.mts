// Random operations of several clients on few keys, for the check of histories.
// Runs in the processes of a test.
import {
  type Call,
  type Operation,
  Recorder,
  type Register,
} from "./history.mts";
import { type Random, randomFrom } from "./random.mts";

export interface Plan {
  /** Different in each process, so that its values are unique. */
  readonly name: string;
  readonly seed: number;
  /** Names of histories that run at the same time. Each has keys of its own. */
  readonly histories: readonly string[];
  /** How many clients of each store work on each history. */
  readonly clients: number;
  /** How many operations each client makes, one after another. */
  readonly operations: number;
  /** How many keys each history has. */
  readonly keys: number;
}

/** Carries the plan out, and returns what was done. */
export async function work(
  stores: readonly Register[],
  plan: Plan,
): Promise<Operation[]> {
  const random = randomFrom(plan.seed);
  const recorders = stores.map((store) => new Recorder(store));
  const running: Promise<void>[] = [];
  for (const history of plan.histories) {
    for (const [index, recorder] of recorders.entries()) {
      for (let client = 0; client < plan.clients; client += 1) {
        const name = `${plan.name}/${history}/${index}/${client}`;
        const own = randomFrom(random.below(2 ** 31));
        running.push(run(recorder, own, plan, history, name));
      }
    }
  }
  await Promise.all(running);
  return recorders.flatMap(({ operations }) => operations);
}

/** One client of a history. */
async function run(
  recorder: Recorder,
  random: Random,
  { operations, keys }: Plan,
  history: string,
  name: string,
): Promise<void> {
  /** The values that this client knows, so that many a `cas` succeeds. */
  const known = new Map<number, unknown>();
  for (let i = 0; i < operations; i += 1) {
    const which = random.below(keys);
    const call = pick(random, known.get(which), `${name}/${i}`);
    const key = ["history", history, String(which)] as const;
    const outcome = await recorder.run(key, call);
    if ("failed" in outcome) continue;
    if (call.kind === "get") known.set(which, outcome.value);
    if (call.kind === "set" || ("value" in outcome && outcome.value === true)) {
      known.set(which, "value" in call ? call.value : undefined);
    }
  }
}

const kinds = [
  "get",
  "get",
  "get",
  "set",
  "set",
  "cas",
  "cas",
  "delete",
] as const;

/** An operation that writes the value, or none. */
function pick(random: Random, known: unknown, value: string): Call {
  const kind = random.of<Call["kind"]>(kinds);
  switch (kind) {
    case "get":
    case "delete":
      return { kind };
    case "set":
      return { kind, value };
    case "cas": {
      const expected = random.chance(0.8) ? known : undefined;
      return { kind, expected, value: random.chance(0.9) ? value : undefined };
    }
  }
}
