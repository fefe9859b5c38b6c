// Random choices that a seed repeats.

export interface Random {
  /** An integer from 0 to `below` - 1. */
  below(below: number): number;
  /** Whether something happens that has this probability. */
  chance(probability: number): boolean;
  of<T>(items: readonly [T, ...T[]]): T;
  /** An integer from `from` to `to`; each order of magnitude is as likely. */
  magnitude(from: number, to: number): number;
}

/** The generator Mulberry32. */
export function randomFrom(seed: number): Random {
  let state = seed | 0;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (below: number) => Math.floor(next() * below);
  return {
    below,
    chance: (probability) => next() < probability,
    of: (items) => items[below(items.length)] ?? items[0],
    magnitude: (from, to) => Math.floor(from * (to / from) ** next()),
  };
}
