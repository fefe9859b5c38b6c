import type { Pattern } from "../patterns.mts";

const DEPTHS: Partial<Record<Pattern, number>> = {
  "one at a time": 1,
  "64 in flight": 64,
  "1,000 in flight": 1000,
};

/** How many commands a server's own tool has in flight for a pattern, if any. */
export function depthOf(pattern: Pattern): number | undefined {
  return DEPTHS[pattern];
}
