/** Who holds something: a process named so that a reused process id is not taken for it. */
import { readFileSync } from "node:fs"
import { hostname } from "node:os"

export interface Holder {
  readonly pid: number
  /** Start time of the process in clock ticks since boot: a reused pid has another. */
  readonly started: string
  readonly host: string
  readonly boot: string
}

/** This process. */
export const thisProcess = (): Holder => ({
  pid: process.pid,
  started: startTime(process.pid) ?? "",
  host: hostname(),
  boot: bootId(),
})

/** The holder that a lock file names; undefined where it vanished or was cut off while it was written: nobody holds it. */
export function readHolder(path: string): Holder | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Holder
  } catch {
    return undefined
  }
}

/** Whether the process still runs. Another host's process cannot be asked: it counts as alive. */
export function isAlive(holder: Holder): boolean {
  if (holder.host !== hostname()) return true
  return holder.boot === bootId() && startTime(holder.pid) === holder.started
}

function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]
  } catch {
    return undefined
  }
}

function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()
  } catch {
    return ""
  }
}
