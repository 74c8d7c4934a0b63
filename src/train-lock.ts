/** The lock that keeps a second trainer off a run. */
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { fileError, temporaryName, withFile } from "./base-file.ts"
import { holderIn, isAlive, readHolder, thisProcess } from "./base-process.ts"

/** How often a lock is looked at that others take and leave meanwhile, and how long between, in ms. */
const [ATTEMPTS, PAUSE_MS] = [50, 5]

/** Takes the lock of run directory `dir`; returns its release. Throws naming the holder when another live process has it. */
export function lockRun(dir: string): () => void {
  const path = join(dir, "lock")
  const temporary = temporaryName(path)
  try {
    withFile("lock", path, () => writeFileSync(temporary, `${JSON.stringify(thisProcess())}\n`))
    const release = () => rmSync(path, { force: true })
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (isLinked(temporary, path)) return release
      const holder = readHolder(path)
      if (holder !== undefined && isAlive(holder)) {
        throw new AlphaError(`run ${dir} is being trained by process ${holder.pid} on ${holder.host}`, {
          hint: "wait for it, stop it, or choose another --run",
          code: EXIT.busy,
        })
      }
      if (replacesDead(path, temporary)) return release
      Bun.sleepSync(PAUSE_MS)
    }
    throw new AlphaError(`run ${dir}: the lock changes hands too fast`, { hint: "start one trainer", code: EXIT.busy })
  } finally {
    rmSync(temporary, { force: true })
  }
}

/** Whether `own` is at `path` too now; false: another file is there. */
function isLinked(own: string, path: string): boolean {
  try {
    linkSync(own, path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false
    throw fileError("lock", path, error)
  }
}

/**
 * Whether `own` is in a dead holder's place now. Several takers may judge the same lock: only who has the turn replaces it, after another look, so that
 * there is a lock at all times and nobody's new one is taken away.
 */
function replacesDead(path: string, own: string): boolean {
  const turn = `${path}.turn`
  if (!isLinked(own, turn)) {
    const taker = readHolder(turn)
    if (taker !== undefined && !isAlive(taker)) rmSync(turn, { force: true }) // killed between two calls
    return false
  }
  try {
    const holder = holderIn(readFileSync(path, "utf8"))
    if (holder !== undefined && isAlive(holder)) return false
    renameSync(own, path)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false // given back meanwhile
    throw fileError("lock", path, error)
  } finally {
    rmSync(turn, { force: true })
  }
}
