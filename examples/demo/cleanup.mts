// Cleans up when the demo ends, fails or is interrupted.
const signals = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

/**
 * Calls `remove` once: when the function that this returns is called, or before
 * the process ends because of a signal or an error.
 */
export function cleanUpAtEnd(remove: () => Promise<void>): () => Promise<void> {
  let removal: Promise<void> | undefined;
  const cleanUp = () => (removal ??= remove());

  let ending = false;
  async function end(code: number, error?: unknown) {
    if (ending) return;
    ending = true;
    // What still runs fails now, because its store is closed.
    process.on("unhandledRejection", () => {});
    process.on("rejectionHandled", () => {});
    if (error !== undefined) console.error(error);
    await cleanUp().catch((reason: unknown) => console.error(reason));
    process.exit(code);
  }
  for (const [signal, number] of Object.entries(signals)) {
    process.once(signal, () => end(128 + number));
  }
  process.on("uncaughtException", (error) => end(1, error));
  return cleanUp;
}
