/** 50 kills of a random rank at a random step, under mpirun and torchrun's variables: nothing hangs for 10 s, resumed curves equal one rank's. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { compareRanks, killAndResume, type Launcher, missing, RUN, STEPS } from "../test/dist-ranks.ts"
import { sampleText } from "../test/support.ts"

const KILLS = Number(process.argv[2] ?? 50)
const LAUNCHERS: readonly Launcher[] = ["openmpi", "variables"]
for (const launcher of LAUNCHERS) {
  const why = missing(launcher)
  if (why !== undefined) throw new Error(why)
}

const folder = mkdtempSync(join(tmpdir(), "soak-ranks-"))
const data = join(folder, "book.txt")
const command = [process.execPath, join(import.meta.dir, "../src/cli.ts")]
writeFileSync(data, sampleText(8000))
const alone = [...command, "train", `--data=${data}`, `--runsDir=${folder}`, ...RUN, `--steps=${STEPS}`, "--run=whole"]
if (!Bun.spawnSync(alone).success) throw new Error("the run of one rank fails")

let [kills, runs, longest] = [0, 0, 0]
for (let seed = 1; kills < KILLS; seed++) {
  const runsDir = join(folder, `run-${seed}`)
  mkdirSync(runsDir)
  const ends = await killAndResume({ command, data, runsDir }, LAUNCHERS, seed, KILLS - kills)
  kills += ends.length
  longest = Math.max(longest, ...ends)
  compareRanks(join(folder, "whole"), join(runsDir, "run"))
  rmSync(runsDir, { recursive: true })
  runs++
  console.log(`${kills} kills, ${runs} runs equal, ${(longest / 1000).toFixed(1)} s the longest end`)
}
rmSync(folder, { recursive: true })
