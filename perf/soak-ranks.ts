/** 50 kills of a random rank at a random step, under mpirun and torchrun's variables: nothing hangs for 10 s, resumed curves equal one rank's. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { uniform } from "../src/base-random.ts"
import { compareRanks, type Launcher, missing, RUN, STEPS, startRanks } from "../test/dist-ranks.ts"
import { sampleText } from "../test/support.ts"

const KILLS = Number(process.argv[2] ?? 50)
/** Longest time from a kill to the end of the last rank. */
const LIMIT_MS = 10_000
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

/** Steps that the journal of a run tells. */
function stepOf(directory: string): number {
  const path = join(directory, "metrics.jsonl")
  if (!existsSync(path)) return 0
  return Math.max(0, ...[...readFileSync(path, "utf8").matchAll(/"type":"step","step":(\d+)/g)].map(([, step]) => Number(step)))
}

let [kills, runs, longest] = [0, 0, 0]
for (let seed = 1; kills < KILLS; seed++) {
  const runsDir = join(folder, `run-${seed}`)
  mkdirSync(runsDir)
  const directory = join(runsDir, "run")
  let starts = 0
  const draw = (what: number, below: number) => Math.floor(uniform(seed, what, 0, starts) * below)
  for (let isEnded = false; !isEnded; starts++) {
    const launcher = LAUNCHERS[draw(1, LAUNCHERS.length)] as Launcher
    const size = 2 + draw(2, 2)
    const started = await startRanks({ command, data, runsDir }, launcher, size, [`--steps=${STEPS}`, "--run=run", "--resume=or-start"])
    const [victim, step] = [draw(3, size), kills < KILLS && draw(5, 4) > 0 ? 1 + draw(4, STEPS) : STEPS + 1]
    const isRunning = () => started.children.every(({ exitCode }) => exitCode === null)
    while (isRunning() && stepOf(directory) < step) await Bun.sleep(10)
    const pid = started.pids()[victim]
    const isHit = isRunning() && pid !== undefined
    if (isHit) process.kill(pid, "SIGKILL")
    const at = performance.now()
    const { codes, err } = await started.end()
    const ms = performance.now() - at
    if (codes.every((code) => code === 0)) isEnded = true
    else if (isHit) {
      kills++
      longest = Math.max(longest, ms)
      if (ms > LIMIT_MS) throw new Error(`${launcher}, ${size} ranks, rank ${victim} at step ${step}: ${ms} ms until all had ended\n${err}`)
    } else if (/is complete: step/.test(err)) isEnded = true
    else throw new Error(`${launcher}, ${size} ranks: exit codes ${codes}\n${err}`)
  }
  compareRanks(join(folder, "whole"), directory)
  rmSync(runsDir, { recursive: true })
  runs++
  console.log(`${kills} kills, ${runs} runs equal, ${(longest / 1000).toFixed(1)} s the longest end`)
}
rmSync(folder, { recursive: true })
