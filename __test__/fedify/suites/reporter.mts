// A reporter for Node's test runner: one line of JSON for each test.
import type { TestEvent } from "node:test/reporters";

export interface Result {
  /** The test's name after those of the tests around it. */
  readonly name: string;
  readonly why?: string;
}

export default async function* report(
  events: AsyncIterable<TestEvent>,
): AsyncGenerator<string> {
  const names: string[] = [];
  for await (const { type, data } of events) {
    if (type === "test:start") names[data.nesting] = data.name;
    if (type !== "test:pass" && type !== "test:fail") continue;
    const name = [...names.slice(0, data.nesting), data.name].join(" > ");
    const result: Result =
      type === "test:pass"
        ? { name }
        : { name, why: reason(data.details.error) };
    yield `${JSON.stringify(result)}\n`;
  }
}

function reason(error: Error): string {
  const cause = error.cause instanceof Error ? error.cause : error;
  return cause.message.split("\n", 1)[0]!;
}
