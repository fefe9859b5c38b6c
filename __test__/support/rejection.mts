// Expects calls to reject. A call that throws or succeeds fails the test.
import { expect } from "vitest";

export type KvError = Error & { code: string };

/** The error that the call rejects with. It must have a code. */
export async function rejection(call: () => unknown): Promise<KvError> {
  const reason = await reasonOf(call);
  expect(reason).toBeInstanceOf(Error);
  const error = reason as KvError;
  expect(error.code).toMatch(/^ERR_KV_[A-Z_]+$/);
  expect(error.message).not.toBe("");
  return error;
}

/** The reason that the call rejects with. It may be any value. */
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

/** The error class of each code. Codes that are missing here have `Error`. */
const classes: Record<string, ErrorConstructor> = {
  ERR_KV_INVALID_KEY: TypeError,
  ERR_KV_INVALID_VALUE: TypeError,
  ERR_KV_INVALID_OPTION: TypeError,
  ERR_KV_INVALID_TTL: RangeError,
  ERR_KV_KEY_TOO_LONG: RangeError,
  ERR_KV_VALUE_TOO_LARGE: RangeError,
};

/** Expects a rejection with this code and with the code's error class. */
export async function expectRejection(
  call: () => unknown,
  code: string,
): Promise<KvError> {
  const error = await rejection(call);
  expect(error.code, error.message).toBe(code);
  expect(error.constructor).toBe(classes[code] ?? Error);
  return error;
}
