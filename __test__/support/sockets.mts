import { readFile, readdir, readlink } from "node:fs/promises";

/**
 * Looks at this process's connections from these ports of the loopback
 * interface, and returns how to wait until it has closed them: that the other
 * side has ended one is learned some time later. Elsewhere than on Linux, where
 * that can't be seen, it doesn't wait.
 */
export async function closing(
  ports: readonly number[],
): Promise<() => Promise<void>> {
  if (process.platform !== "linux") return async () => {};
  const table = await readFile("/proc/net/tcp", "utf8");
  const sockets = new Set<string>();
  for (const line of table.split("\n").slice(1)) {
    const [, local = "", , , , , , , , inode] = line.trim().split(/\s+/);
    const port = Number.parseInt(local.split(":")[1] ?? "", 16);
    // Those that are closed have none.
    if (ports.includes(port) && inode !== "0") {
      sockets.add(`socket:[${inode}]`);
    }
  }
  if (sockets.size === 0) {
    throw new Error(`none of these is a connection: ${ports.join(" ")}`);
  }
  return async () => {
    for (;;) {
      const open = await Promise.all(
        (await readdir("/proc/self/fd")).map((fd) =>
          // One that has been closed meanwhile.
          readlink(`/proc/self/fd/${fd}`).catch(() => ""),
        ),
      );
      if (!open.some((link) => sockets.has(link))) return;
    }
  };
}
