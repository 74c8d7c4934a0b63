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
export const thisProcess = (): Holder => processNamed(process.pid)

/** The process that has this id now. */
export const processNamed = (pid: number): Holder => ({ pid, started: startTime(pid) ?? "", host: hostname(), boot: bootId() })

/** The holder that a lock file names; undefined where it vanished or was cut off while it was written: nobody holds it. */
export function readHolder(path: string): Holder | undefined {
  try {
    return holderIn(readFileSync(path, "utf8"))
  } catch {
    return undefined
  }
}

/** Who a lock's text names; undefined where it is no such text. */
export function holderIn(text: string): Holder | undefined {
  try {
    return JSON.parse(text) as Holder
  } catch {
    return undefined
  }
}

/** Whether the process still runs. Another host's process cannot be asked: it counts as alive. */
export function isAlive(holder: Holder): boolean {
  return holder.host !== hostname() || livesHere(holder)
}

/** Whether the process still runs on this machine, whatever it was called when the process began. */
export const livesHere = ({ boot, pid, started }: Holder): boolean => boot === bootId() && startTime(pid) === started

/** Of a process that runs; one that has ended and whose parent does not ask how is gone too. */
function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19]
  } catch {
    return undefined
  }
}

/** Names this start of the machine. */
export function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()
  } catch {
    return ""
  }
}
