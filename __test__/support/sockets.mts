import { readFile, readdir, readlink } from "node:fs/promises";

/**
 * Finds this process's connections that have these local ports. Returns a
 * function that waits until this process has closed them, which happens some
 * time after the other side has closed them. It doesn't wait on systems other
 * than Linux, where this can't be observed.
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
    // A closed connection has inode 0.
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
          // The descriptor may have been closed meanwhile.
          readlink(`/proc/self/fd/${fd}`).catch(() => ""),
        ),
      );
      if (!open.some((link) => sockets.has(link))) return;
    }
  };
}
