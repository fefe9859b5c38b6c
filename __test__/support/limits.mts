// Limits of the system that a test imposes on a child process, and lifts again.
import { spawnSync } from "node:child_process";
import { chown, readFile } from "node:fs/promises";
import type { User } from "./child.mts";
import { temporaryDirectory } from "./sqlite.mts";

/** Limits of a running process can be changed on Linux only. */
export const canLimit =
  process.platform === "linux" &&
  spawnSync("prlimit", ["--version"]).status === 0;

const asRoot = process.getuid?.() === 0;

let users = 0;

/**
 * A user that no other process runs as. The system counts threads per user, and
 * it never limits root's.
 */
export function ownUser(): User {
  if (!asRoot) return {};
  users += 1;
  const id = 1_000_000 + process.pid * 100 + users;
  return { uid: id, gid: id };
}

/** A temporary directory that the user may write to. */
export async function directoryOf({ uid, gid }: User): Promise<string> {
  const directory = await temporaryDirectory();
  if (uid !== undefined && gid !== undefined) {
    await chown(directory, uid, gid);
  }
  return directory;
}

/** Sets limits of a process, as `prlimit` writes them. */
export function setLimit(pid: number, user: User, limit: string): void {
  // As that user: a container's root may not have the right to do so.
  const { status, stderr } = spawnSync(
    "prlimit",
    ["--pid", String(pid), limit],
    { ...user, encoding: "utf8" },
  );
  if (status !== 0) {
    throw new Error(`prlimit ${limit}: ${stderr}`);
  }
}

/**
 * Lets a process start this many more threads. Where the child has no user of
 * its own, other processes' threads count too, and it can start none.
 */
export async function allowThreads(
  pid: number,
  user: User,
  more: number,
): Promise<void> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const threads = Number(/^Threads:\s*(\d+)$/m.exec(status)?.[1]);
  setLimit(pid, user, `--nproc=${threads + more}:`);
}

/** Lets a process start threads as before. */
export async function allowAllThreads(pid: number, user: User): Promise<void> {
  const limits = await readFile(`/proc/${pid}/limits`, "utf8");
  const hard = /^Max processes\s+\S+\s+(\S+)/m.exec(limits)?.[1];
  setLimit(pid, user, `--nproc=${hard}:`);
}
