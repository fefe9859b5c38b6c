// The functions of @std/assert that Fedify's tests use. The package itself is
// only on JSR.
import assertions, { AssertionError as NodeError } from "node:assert/strict";

type Class = abstract new (...args: never[]) => unknown;

export class AssertionError extends NodeError {
  constructor(message: string) {
    super({ message });
  }
}

export const assertEquals = assertions.deepStrictEqual;
export const assertNotEquals = assertions.notDeepStrictEqual;
export const assertStrictEquals = assertions.strictEqual;

export function assert(value: unknown, message = "not truthy"): void {
  assertions.ok(value, message);
}

export function assertFalse(value: unknown, message = "not falsy"): void {
  assertions.ok(!value, message);
}

export function assertExists(value: unknown, message = "missing"): void {
  assertions.ok(value != null, message);
}

export function assertGreater<T>(a: T, b: T): void {
  assertions.ok(a > b, `${a} is not greater than ${b}`);
}

export function assertGreaterOrEqual<T>(a: T, b: T): void {
  assertions.ok(a >= b, `${a} is less than ${b}`);
}

export function assertInstanceOf(value: unknown, type: Class): void {
  assertions.ok(value instanceof type, `${value} is no ${type.name}`);
}

export function assertStringIncludes(text: string, part: string): void {
  assertions.ok(text.includes(part), `${text} does not include ${part}`);
}

export function assertThrows(
  call: () => unknown,
  type?: Class,
  message?: string,
): unknown {
  try {
    call();
  } catch (error) {
    return checked(error, type, message);
  }
  throw new AssertionError("did not throw");
}

export async function assertRejects(
  call: () => PromiseLike<unknown>,
  type?: Class,
  message?: string,
): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return checked(error, type, message);
  }
  throw new AssertionError("did not reject");
}

function checked(error: unknown, type?: Class, message?: string): unknown {
  if (type !== undefined) assertInstanceOf(error, type);
  if (message !== undefined) {
    assertStringIncludes((error as Error).message, message);
  }
  return error;
}
