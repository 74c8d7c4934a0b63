/** Peak memory of gpt2-124m training against its bound, and the memory of cpu-small over 1,000 steps, which must not grow. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { formatDuration } from "../src/base-term.ts"
import { readConfig } from "../src/gpt.ts"
import { microPlan, updatePlan } from "../src/train.ts"
import { sampleText } from "../test/support.ts"
import { residentAt, trainMemory } from "../test/train-memory.ts"

/** Everything but parameters, gradients, two moments and the arena: the program itself, its heap, batches, buffers of files. */
const REST = 300e6
const GROWTH = 8e6
const STEPS = Number(process.argv[2] ?? 1000)
const command = [join(import.meta.dir, "../alpha")]
const folder = mkdtempSync(join(tmpdir(), "alpha-memory-"))
const common = [`--runsDir=${folder}`, "--device=cpu", "--threads=2"]
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`
const adamw = { optimizer: "adamw", beta1: 0.9, beta2: 0.95, eps: 1e-8, momentum: 0.95, weightDecay: 0.1 } as const
let failed = false

/** bf16 keeps 2 bytes more per parameter (the copies that matrix products read); its bound is f32's, for the figure only. */
for (const precision of ["f32", "bf16"] as const) {
  const begun = performance.now()
  const [B, T] = [4, 64]
  const size = [`--batch=${B}`, `--context=${T}`, "--steps=20", "--data=random", "--vocabSize=50304"]
  const quiet = ["--evalInterval=none", "--logInterval=1000", `--precision=${precision}`, `--run=${precision}`]
  const run = await trainMemory(command, ["--preset=gpt2-124m", ...size, ...quiet, ...common])
  const { model } = readConfig(join(folder, precision, "last"))
  const update = updatePlan({ model, precision }, { ...adamw, decayList: [], noDecayList: [], gradClip: 1, spikeThreshold: undefined })
  const arena = microPlan({ model, precision, B, T }, false).arenaBytes + update.arenaBytes
  const bound = run.parameters * 16 + arena + REST
  const isOver = run.peak > bound
  failed ||= isOver && precision === "f32"
  console.log(
    `gpt2-124m ${precision}, ${B} × ${T}, 20 steps: peak ${megabytes(run.peak)}, ` +
      `${isOver ? "ABOVE" : "within"} ${megabytes(bound)} = ${run.parameters} × 16 + arena ${megabytes(arena)} + ${megabytes(REST)} ` +
      `(${formatDuration(performance.now() - begun)})`,
  )
  rmSync(join(folder, precision), { recursive: true })
}

const begun = performance.now()
const data = join(folder, "text.txt")
writeFileSync(data, sampleText(200_000))
const prompt = "--samplePrompts=the sea"
const busy = ["--evalInterval=20", "--evalSteps=5", "--sampleInterval=20", prompt, "--sampleTokens=20", "--checkpointInterval=20"]
const size = ["--preset=cpu-small", `--steps=${STEPS}`, "--logInterval=1", `--data=${data}`, "--run=small"]
const run = await trainMemory(command, [...size, ...busy, ...common])
const [early, late] = [residentAt(run, 50), residentAt(run, STEPS)]
const grows = late - early > GROWTH
failed ||= grows
const course = [50, 100, 200, 400, 600, 800, STEPS].filter((step) => step <= STEPS)
console.log(
  `cpu-small, ${STEPS} steps with ${STEPS / 20} evaluations, samples and checkpoints: ${megabytes(early)} at step 50, ` +
    `${megabytes(late)} at step ${STEPS}, growth ${megabytes(late - early)}, ${grows ? "ABOVE" : "within"} ${megabytes(GROWTH)} ` +
    `(${formatDuration(performance.now() - begun)})`,
)
console.log(`  ${course.map((step) => `${step}: ${megabytes(residentAt(run, step))}`).join("  ")}`)
rmSync(folder, { recursive: true })
process.exit(failed ? 1 : 0)
