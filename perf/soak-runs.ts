/** A trainer ships 100,000 steps, killed 100 times, to a server that is killed, slow for 10 s and cut off: the server's rows equal the journal. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { formatDuration } from "../src/base-term.ts"
import { storm } from "../test/train-storm.ts"

const [steps = 100_000, kills = 100, seed = 1] = process.argv.slice(2).map(Number)
const folder = mkdtempSync(join(tmpdir(), "alpha-soak-"))
const begun = performance.now()
const settings = {
  folder,
  seed,
  steps,
  kills,
  checkpointInterval: Math.ceil(steps / kills / 5),
  faults: 0.25,
  slowMs: 10_000,
  serverMs: 8000,
}
const report = await storm({ ...settings, onNote: console.log })
rmSync(folder, { recursive: true })
console.log(`${JSON.stringify(report)}, 0 differences, ${formatDuration(performance.now() - begun)}`)
