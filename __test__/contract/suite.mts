// The contract suite: the behaviour that all stores share. Each subject has its
// own file.
import { afterAll, beforeAll, describe } from "vitest";
import { describeCallOrder } from "./call-order.mts";
import { describeCas } from "./cas.mts";
import { describeClear } from "./clear.mts";
import { describeErrors } from "./errors.mts";
import { type Row, contractTest } from "./fixture.mts";
import { describeIterator } from "./iterator.mts";
import { describeKeys } from "./keys.mts";
import { describeLifecycle } from "./lifecycle.mts";
import { describeList } from "./list.mts";
import { describeModel } from "./model.mts";
import { describePages } from "./pages.mts";
import { describeRaces } from "./races.mts";
import { describeSignal } from "./signal.mts";
import { describeTtl } from "./ttl.mts";
import { describeTurns } from "./turns.mts";
import { describeValues } from "./values.mts";

const subjects = {
  keys: describeKeys,
  values: describeValues,
  cas: describeCas,
  races: describeRaces,
  "order of calls": describeCallOrder,
  ttl: describeTtl,
  list: describeList,
  pages: describePages,
  "list iterator": describeIterator,
  "abort signal": describeSignal,
  clear: describeClear,
  errors: describeErrors,
  lifecycle: describeLifecycle,
  turns: describeTurns,
  model: describeModel,
};

export function describeContract(row: Row): void {
  describe(row.name, () => {
    beforeAll(() => row.setUp?.());
    afterAll(() => row.tearDown?.());
    const test = contractTest(row);
    for (const [subject, describeSubject] of Object.entries(subjects)) {
      describe(subject, () => describeSubject(test));
    }
  });
}
