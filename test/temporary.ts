/** Temporary folders of the tests: all of a run lie in one, which goes with the process; that of a killed run goes with the next one. And the limit of a test. */
import { afterAll, setDefaultTimeout } from "bun:test"
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const PREFIX = "alpha-test-"
const HOUR_MS = 3_600_000

/** Removes folders of runs whose process is gone. Another machine or container may share the folder: what is younger than an hour stays. */
function sweep(folder: string): void {
  for (const name of readdirSync(folder)) {
    const pid = Number(new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1])
    if (!pid || isAlive(pid)) continue
    const path = join(folder, name)
    const age = Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now())
    try {
      if (age > HOUR_MS) rmSync(path, { recursive: true, force: true })
    } catch {} // another process removes it too, or something is mounted there
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM"
  }
}

// Against what hangs alone. It holds for the first file; build-test.ts gives the same to all.
setDefaultTimeout(300_000)

// Loaded before the tests (bunfig.toml): os.tmpdir() of the tests and of what they start is the folder of this run.
const outer = tmpdir()
sweep(outer)
const own = mkdtempSync(join(outer, `${PREFIX}${process.pid}-`))
process.env.TMPDIR = own
const remove = () => rmSync(own, { recursive: true, force: true })
afterAll(remove) // of a file that is loaded before the tests: after all of them
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => {
    remove()
    process.exit(130)
  })
}
