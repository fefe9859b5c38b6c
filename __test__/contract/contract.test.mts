// Runs the contract suite against every store.
import { rows } from "./rows.mts";
import { describeContract } from "./suite.mts";

for (const row of rows) {
  describeContract(row);
}
