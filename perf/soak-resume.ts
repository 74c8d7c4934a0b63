/** 200 SIGKILLs at random moments of training; every resumed run must end in the bytes of an undisturbed one. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { sampleText } from "../test/support.ts"
import { killAndCompare, trainWhole } from "../test/train-kill.ts"

const total = Number(process.argv[2] ?? 200)
const runsDir = mkdtempSync(join(tmpdir(), "alpha-soak-"))
const data = join(runsDir, "text.txt")
writeFileSync(data, sampleText(20_000))
const trainer = { command: [join(import.meta.dir, "../alpha")], data, runsDir }
const ms = await trainWhole(trainer)
let hits = 0
for (let seed = 1; hits < total; seed++) {
  hits += await killAndCompare(trainer, seed, 8, ms)
  console.log(`seed ${seed}: ${hits} of ${total} kills, all runs equal`)
}
rmSync(runsDir, { recursive: true })
console.log(`${hits} kills, 0 differences`)
