/** The lock that keeps a second trainer off a run. */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { hostname } from "node:os"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { fileError, temporaryName } from "./base-file.ts"

interface Holder {
  readonly pid: number
  /** Start time of the process in clock ticks since boot: a reused pid has another. */
  readonly started: string
  readonly host: string
  readonly boot: string
}

/** Takes the lock of run directory `dir`; returns its release. Throws naming the holder when another live process has it. */
export function lockRun(dir: string): () => void {
  const path = join(dir, "lock")
  const mine: Holder = { pid: process.pid, started: startTime(process.pid) ?? "", host: hostname(), boot: bootId() }
  const temporary = temporaryName(path)
  try {
    writeFileSync(temporary, `${JSON.stringify(mine)}\n`)
    for (let attempt = 0; attempt < 5; attempt++) {
      try {
        linkSync(temporary, path)
        return () => rmSync(path, { force: true })
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw fileError("lock", path, error)
      }
      const holder = readHolder(path)
      if (holder !== undefined && isAlive(holder)) {
        throw new AlphaError(`run ${dir} is being trained by process ${holder.pid} on ${holder.host}`, {
          hint: "wait for it, stop it, or choose another --run",
          code: EXIT.busy,
        })
      }
      removeStale(path, holder)
    }
    throw new AlphaError(`run ${dir}: the lock changes hands too fast`, { hint: "start one trainer", code: EXIT.busy })
  } finally {
    rmSync(temporary, { force: true })
  }
}

/**
 * Takes a dead holder's lock away. Several takers may judge the same lock: one wins the rename, the others find nothing, or the winner's new
 * lock, which goes back to its place.
 */
function removeStale(path: string, dead: Holder | undefined): void {
  const stale = `${path}.stale.${process.pid}`
  try {
    renameSync(path, stale)
    const taken = readHolder(stale)
    if (taken !== undefined && (taken.pid !== dead?.pid || taken.started !== dead.started)) linkSync(stale, path)
  } catch (error) {
    if (!["ENOENT", "EEXIST"].includes((error as NodeJS.ErrnoException).code ?? "")) throw fileError("lock", path, error)
  } finally {
    rmSync(stale, { force: true })
  }
}

function readHolder(path: string): Holder | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Holder
  } catch {
    return undefined // vanished, or cut off while it was written: nobody holds it
  }
}

/** Another host's process cannot be asked: it counts as alive. */
function isAlive(holder: Holder): boolean {
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
