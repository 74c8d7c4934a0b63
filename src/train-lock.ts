/** The lock that keeps a second trainer off a run. */
import { linkSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { fileError, temporaryName, withFile } from "./base-file.ts"
import { type Holder, isAlive, readHolder, thisProcess } from "./base-process.ts"

/** Takes the lock of run directory `dir`; returns its release. Throws naming the holder when another live process has it. */
export function lockRun(dir: string): () => void {
  const path = join(dir, "lock")
  const temporary = temporaryName(path)
  try {
    withFile("lock", path, () => writeFileSync(temporary, `${JSON.stringify(thisProcess())}\n`))
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
