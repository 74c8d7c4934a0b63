/** 200 SIGKILLs at random moments of training, five kinds of run; every resumed run must end in the bytes of an undisturbed one. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { formatDuration } from "../src/base-term.ts"
import { sampleText } from "../test/support.ts"
import { killAndCompare, type Trainer, trainWhole, VARIANTS, type Variant } from "../test/train-kill.ts"

const total = Number(process.argv[2] ?? 200)
const folder = mkdtempSync(join(tmpdir(), "alpha-soak-"))
const data = join(folder, "text.txt")
writeFileSync(data, sampleText(20_000))
const variants = Object.keys(VARIANTS) as Variant[]
const begun = performance.now()
let [hits, late, runs] = [0, 0, 0]
for (const [i, variant] of variants.entries()) {
  const trainer: Trainer = { command: [join(import.meta.dir, "../alpha")], data, runsDir: join(folder, variant), variant }
  const ms = await trainWhole(trainer)
  const goal = Math.round((total * (i + 1)) / variants.length)
  for (let seed = 1; hits < goal; seed++) {
    const more = await killAndCompare(trainer, seed, Math.min(8, goal - hits), ms)
    hits += more.hits
    late += more.late
    runs++
    console.log(`${variant} seed ${seed}: ${hits} of ${total} kills, all runs equal`)
  }
}
rmSync(folder, { recursive: true })
console.log(
  `${hits} kills (${late} after the first checkpoint) of ${runs} runs (${variants.join(", ")}), 0 differences, ${formatDuration(performance.now() - begun)}`,
)
