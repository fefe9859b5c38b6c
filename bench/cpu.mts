/** CPU time in seconds. */
export interface Cpu {
  /** Of all threads. */
  readonly process: number;
  /** Of the JavaScript thread. Node.js 22 doesn't measure it. */
  readonly thread?: number;
}

/**
 * Starts to measure. The function that it returns gives the time since then.
 *
 * The process is always asked first. Linux counts what the calling thread has
 * used since it was last scheduled only then.
 */
export function startCpu(): () => Cpu {
  const wholeBefore = process.cpuUsage();
  const before = process.threadCpuUsage?.();
  return () => {
    const whole = process.cpuUsage(wholeBefore);
    const thread = before && process.threadCpuUsage(before);
    return {
      process: seconds(whole),
      ...(thread && { thread: seconds(thread) }),
    };
  };
}

function seconds({ user, system }: NodeJS.CpuUsage): number {
  return (user + system) / 1e6;
}

/** The CPU time of each of `operations` that took `cpu` together. */
export function each({ process, thread }: Cpu, operations: number): Cpu {
  return {
    process: process / operations,
    ...(thread !== undefined && { thread: thread / operations }),
  };
}

export function add(a: Cpu, b: Cpu): Cpu {
  return {
    process: a.process + b.process,
    ...(a.thread !== undefined &&
      b.thread !== undefined && { thread: a.thread + b.thread }),
  };
}
