import { readdir, readFile } from "node:fs/promises";

/**
 * Stops a process, and waits until all its threads have stopped. On a busy
 * machine they may run on for a while after the signal. It doesn't wait on
 * systems other than Linux, where this can't be observed.
 */
export async function pause(pid: number | undefined): Promise<void> {
  if (pid === undefined) return;
  process.kill(pid, "SIGSTOP");
  if (process.platform !== "linux") return;
  const tasks = `/proc/${pid}/task`;
  const stopped = async (thread: string) => {
    // A thread that has ended meanwhile is not in the next list of threads.
    const file = `${tasks}/${thread}/stat`;
    const stat = await readFile(file, "utf8").catch(() => "");
    // The state follows the name, which may contain spaces and parentheses.
    return stat.slice(stat.lastIndexOf(")") + 2).startsWith("T");
  };
  for (;;) {
    const states = await Promise.all((await readdir(tasks)).map(stopped));
    if (states.every(Boolean)) return;
  }
}
