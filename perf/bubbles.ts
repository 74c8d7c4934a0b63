/**
 * When a training step leaves the device with nothing to do: bun perf/bubbles.ts [--preset=gpt2-124m] [--batch=16] [--rounds=4] [--runs=9] [--rows=0].
 * Steps one behind another as training submits them, in turns without and with timestamps around what lies between two barriers: what these cost, the
 * gaps by what lies on both sides (ptx, spirv), and with --rows the longest stretches by kernel as they ran.
 */
import { parseArgs } from "node:util"
import { median } from "../src/bench-stats.ts"
import { stepProgram } from "../src/bench-step.ts"
import { openDevice } from "../src/device.ts"
import { refreshCopies } from "../src/gpt.ts"
import { CONTROL } from "../src/op.ts"
import type { RunOutputs, Stretch, Watch } from "../src/program.ts"
import { bubblesOf } from "../src/train.ts"

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "gpu:0" },
    preset: { type: "string", default: "gpt2-124m" },
    precision: { type: "string", default: "bf16" },
    batch: { type: "string", default: "16" },
    rounds: { type: "string", default: "4" },
    runs: { type: "string", default: "9" },
    rows: { type: "string", default: "0" },
  },
})
const precision = flags.precision === "f32" ? "f32" : "bf16"
const { device } = openDevice(flags.device, undefined)
const step = stepProgram(device, flags.preset, precision, Number(flags.batch))
refreshCopies(device, step.state, step.model, precision)

/** Of the newest step. */
let learnt = { loss: Number.NaN, norm: Number.NaN }
/** Milliseconds a step, from the first's end to the last's: the device has always its next steps. */
function pass(watch?: Watch): number {
  const pending: RunOutputs[] = []
  const ends: number[] = []
  const read = (): void => {
    const out = pending.shift() as RunOutputs
    const loss = out.read("loss")[0] as number
    ends.push(performance.now())
    learnt = { loss, norm: out.read("control")[CONTROL.norm] as number }
  }
  for (let i = 0; i < Number(flags.runs); i++) {
    if (watch !== undefined) watch.turn = i
    pending.push(step.run.submit(step.inputs, undefined, watch))
    if (pending.length > device.ahead) read()
  }
  while (pending.length > 0) read()
  return ((ends.at(-1) as number) - (ends[0] as number)) / (ends.length - 1)
}

pass()
const first = learnt
for (const until = performance.now() + 1000; performance.now() < until; ) pass()
const [plain, watched]: [number[], number[]] = [[], []]
const rounds: (readonly Stretch[])[] = []
for (let round = 0; round < Number(flags.rounds); round++) {
  plain.push(pass())
  const watch = device.watch?.()
  if (watch === undefined) throw new Error(`${device.name} runs one thing after another`)
  watched.push(pass(watch))
  rounds.push(watch.end())
}
const cost = 100 * (median(watched) / median(plain) - 1)
const series = (values: readonly number[]) => values.map((ms) => ms.toFixed(3)).join(" ")
console.log(
  `${flags.preset}, batch ${flags.batch}, ${precision}: ${step.run.barriers} barriers; after ${flags.runs} steps sum of losses ${first.loss.toFixed(3)}, norm ${first.norm.toFixed(5)}`,
)
console.log(`ms a step: without timestamps ${series(plain)} | with ${series(watched)}: they cost ${cost.toFixed(2)} %`)
const bubbles = rounds.flatMap((stretches) => bubblesOf(stretches) ?? [])
const middle = (of: keyof (typeof bubbles)[number]) => median(bubbles.map((one) => one[of]))
console.log(
  `bubbles: ${(100 * middle("share")).toFixed(2)} % of ${middle("step_ms").toFixed(3)} ms by the device's clock: ${(1000 * middle("barriers_ms")).toFixed(0)} µs at barriers (${((1000 * middle("barriers_ms")) / step.run.barriers).toFixed(2)} each), ${(1000 * middle("submits_ms")).toFixed(0)} µs between submits`,
)

const kindOf = ({ kernels }: Stretch): string =>
  kernels.every((name) => name.startsWith("ptx_")) ? "ptx" : kernels.some((name) => name.startsWith("ptx_")) ? "both" : "spirv"
const gaps = rounds.flatMap((stretches) =>
  stretches.slice(1).map((to, i) => {
    const from = stretches[i] as Stretch
    return { pair: to.isFirst ? "submits" : `${kindOf(from)} → ${kindOf(to)}`, us: 1000 * (to.startMs - from.endMs) }
  }),
)
for (const [pair, some] of Map.groupBy(gaps, (gap) => gap.pair)) {
  const us = some.map((gap) => gap.us).toSorted((a, b) => a - b)
  const at = (share: number) => (us[Math.floor(share * (us.length - 1))] as number).toFixed(2)
  console.log(
    `  ${pair.padEnd(14)} ${String(us.length / rounds.length).padStart(6)} gaps, µs: least ${at(0)}, median ${at(0.5)}, 95 % ${at(0.95)}, most ${at(1)}`,
  )
}

const last = (rounds.at(-1) ?? []).filter(({ turn }) => turn > 0)
const turns = new Set(last.map(({ turn }) => turn)).size
const groups = [...Map.groupBy(last, ({ kernels }) => kernels.join(" | "))].map(([name, some]) => ({
  name,
  count: some.length / turns,
  ms: some.reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0) / turns,
}))
for (const { name, count, ms } of groups.toSorted((a, b) => b.ms - a.ms).slice(0, Number(flags.rows)))
  console.log(
    `  ${count.toFixed(0).padStart(4)} × ${((1000 * ms) / count).toFixed(1).padStart(8)} µs ${ms.toFixed(3).padStart(8)} ms  ${name}`,
  )
step.free()
device.close()
