// Errors come as rejections: these fail on a call that throws or succeeds.
import { expect } from "vitest";

export type KvError = Error & { code: string };

/** What the call rejects with. Only an error that has a code may come back. */
export async function rejection(call: () => unknown): Promise<KvError> {
  const reason = await reasonOf(call);
  expect(reason).toBeInstanceOf(Error);
  const error = reason as KvError;
  expect(error.code).toMatch(/^ERR_KV_[A-Z_]+$/);
  expect(error.message).not.toBe("");
  return error;
}

/** What the call rejects with, whatever it is. */
export async function reasonOf(call: () => unknown): Promise<unknown> {
  let promise: unknown;
  try {
    promise = call();
  } catch (error) {
    throw new Error("threw instead of rejecting", { cause: error });
  }
  expect(promise).toBeInstanceOf(Promise);
  try {
    await promise;
  } catch (reason) {
    return reason;
  }
  throw new Error("was fulfilled instead of rejecting");
}

/** The classes that go with the codes, as `Error` does with all others. */
const classes: Record<string, ErrorConstructor> = {
  ERR_KV_INVALID_KEY: TypeError,
  ERR_KV_INVALID_VALUE: TypeError,
  ERR_KV_INVALID_OPTION: TypeError,
  ERR_KV_INVALID_TTL: RangeError,
  ERR_KV_KEY_TOO_LONG: RangeError,
  ERR_KV_VALUE_TOO_LARGE: RangeError,
};

/** Expects a rejection with this code, of the class that belongs to it. */
export async function expectRejection(
  call: () => unknown,
  code: string,
): Promise<KvError> {
  const error = await rejection(call);
  expect(error.code, error.message).toBe(code);
  expect(error.constructor).toBe(classes[code] ?? Error);
  return error;
}
