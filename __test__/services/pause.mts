import { readdir, readFile } from "node:fs/promises";

/**
 * Stops a process, and waits until it has stopped: a busy machine may let its
 * threads go on for a while after the signal. Elsewhere than on Linux, where
 * that can't be seen, it doesn't wait.
 */
export async function pause(pid: number | undefined): Promise<void> {
  if (pid === undefined) return;
  process.kill(pid, "SIGSTOP");
  if (process.platform !== "linux") return;
  const tasks = `/proc/${pid}/task`;
  const stopped = async (thread: string) => {
    // One that has ended meanwhile is not there at the next look.
    const file = `${tasks}/${thread}/stat`;
    const stat = await readFile(file, "utf8").catch(() => "");
    // The name before it may have spaces and parentheses.
    return stat.slice(stat.lastIndexOf(")") + 2).startsWith("T");
  };
  for (;;) {
    const states = await Promise.all((await readdir(tasks)).map(stopped));
    if (states.every(Boolean)) return;
  }
}
