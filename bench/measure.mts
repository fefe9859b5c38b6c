// Measures one row. Its sides take turns, so that their ratio stays valid if
// the machine's speed drifts. A row gets a time, not a number of calls: slow
// sides make fewer calls than fast ones.
import type { Cpu } from "./cpu.mts";
import type { Work } from "./patterns.mts";
import type { Figure } from "./results.mts";
import { quantile } from "./stats.mts";

/** How long a row may take, in seconds, and into how many rounds it is cut. */
export interface Budget {
  readonly seconds: number;
  readonly rounds: number;
}

interface Side {
  readonly name: string;
  readonly work: Work;
  /** The steps of a round, and the index of the next. */
  steps: number;
  next: number;
  readonly times: number[];
  readonly cpu: Cpu[];
}

/** Runs all sides in turn. Returns a figure for each. */
export async function measure(
  works: Readonly<Record<string, Work>>,
  { seconds, rounds }: Budget,
): Promise<Record<string, Figure>> {
  const sides = Object.entries(works).map(([name, work]): Side => ({
    name,
    work,
    steps: 1,
    next: 0,
    times: [],
    cpu: [],
  }));
  const end = performance.now() + seconds * 1000;
  // The warm-up takes one round's time too.
  const slot = seconds / sides.length / (rounds + 1);
  for (const side of sides) await warmUp(side, slot, seconds / sides.length);
  for (let round = 0; round < rounds; round++) {
    const missing = sides.filter(({ times }) => times.length === 0);
    const late = performance.now() > end;
    if (late && missing.length === 0) break;
    const turns = late ? missing : sides;
    const first = round % turns.length;
    for (const side of [...turns.slice(first), ...turns.slice(0, first)]) {
      await run(side);
    }
  }
  return Object.fromEntries(
    sides.map(({ name, times, cpu }) => [name, figure(times, cpu)]),
  );
}

/** Runs a side for `slot` seconds, and finds how many steps of it fill them. */
async function warmUp(side: Side, slot: number, most: number): Promise<void> {
  let spent = 0;
  let fastest = Infinity;
  // The first run may also have to wake up a server or a connection.
  for (let runs = 0; runs < 2 || spent < slot; runs++) {
    const start = performance.now();
    await run(side);
    const time = (performance.now() - start) / 1000;
    // A side that needs its whole time for one step is measured by this step.
    if (side.steps === 1 && time > most) return;
    side.times.length = 0;
    side.cpu.length = 0;
    spent += time;
    // The first steps compile their code, and the system may interrupt any.
    fastest = Math.min(fastest, time / side.steps);
    const fitting = Math.max(1, Math.floor(slot / fastest));
    side.steps = spent < slot ? Math.min(side.steps * 4, fitting) : fitting;
  }
}

async function run(side: Side): Promise<void> {
  const { work, steps } = side;
  const round = await work.prepare(side.next, steps);
  side.next += steps;
  const { times, cpu } = await round();
  side.times.push(...times);
  if (cpu !== undefined) side.cpu.push(cpu);
}

/** The median and the spread of times or sizes. */
export function figure(
  values: readonly number[],
  cpu: readonly Cpu[] = [],
): Figure {
  const whole = cpu.map((time) => time.process);
  const thread = cpu.flatMap((time) => time.thread ?? []);
  return {
    median: rounded(quantile(values, 0.5)),
    p25: rounded(quantile(values, 0.25)),
    p75: rounded(quantile(values, 0.75)),
    samples: values.length,
    ...(thread.length > 0 && { cpu: rounded(quantile(thread, 0.5)) }),
    ...(whole.length > 0 && { processCpu: rounded(quantile(whole, 0.5)) }),
  };
}

/** Four digits. More would only be noise in the results' files. */
function rounded(value: number): number {
  return Number(value.toPrecision(4));
}
