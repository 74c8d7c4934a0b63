/**
 * Where a decode step's time goes: bun perf/decode-profile.ts [--preset=gpt2-124m] [--batch=64] [--context=512] [--steps=32]. The wall time of steps in
 * order as generation runs them, then each launch of one step by itself between two barriers (some 2 µs of each), and how long an empty submit takes.
 */
import { parseArgs } from "node:util"
import { median } from "../src/bench-stats.ts"
import { presetModel } from "../src/bench-step.ts"
import { openDevice } from "../src/device.ts"
import { createGenerator, initialise, paramSpecs, refreshCopies } from "../src/gpt.ts"
import type { Device, ProfileRow, RunInputs } from "../src/program.ts"

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "gpu:0" },
    preset: { type: "string", default: "gpt2-124m" },
    batch: { type: "string", default: "64" },
    context: { type: "string", default: "512" },
    steps: { type: "string", default: "32" },
  },
})
const { device } = openDevice(flags.device, undefined)
const [batch, context, steps] = [flags.batch, flags.context, flags.steps].map(Number) as [number, number, number]
const model = presetModel(flags.preset)
const sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }
const state = device.state()
initialise(device, state, model, 3)
refreshCopies(device, state, model, "bf16")
for (const { name, matmul } of paramSpecs(model)) if (matmul) state.drop(name)

let isWatched = false
const runs: (readonly ProfileRow[])[] = []
const seen: Device = {
  ...device,
  compile(plan, of) {
    const run = device.compile(plan, of)
    if (!plan.program.name.endsWith("×1")) return run
    return {
      ...run,
      submit(inputs: RunInputs) {
        const outputs = run.submit(inputs)
        if (isWatched) runs.push(run.profile(inputs).rows)
        return outputs
      },
    }
  },
}
const generator = createGenerator(seen, state, model, {
  precision: "bf16",
  slots: batch,
  length: Math.min(model.blockSize, context + 3 * steps + 16),
  vocabulary: model.vocabSize,
  order: "layers",
})
let ids = Array.from({ length: batch }, (_, slot) => {
  const prompt = Array.from({ length: context }, (_, i) => (i * 7919 + slot * 104_729 + 1) % model.vocabSize)
  return generator.prefill({ slot, ids: prompt, sampling, draw: 0 }).id
})
let draw = 0
const grow = (count: number, ahead: boolean): void => {
  for (let left = count - 1; left >= 0; left--) {
    draw++
    const turns = ids.map((id, slot) => ({ slot, id, sampling, draw }))
    ids = generator.decode(turns, ahead ? left : 0).map(({ id }) => id)
  }
}
grow(8, true)
const from = performance.now()
grow(2 * steps, true)
const wall = (performance.now() - from) / (2 * steps)
isWatched = true
grow(8, false)

const rows = runs.at(-1)!.map((row, i) => ({ ...row, ms: median(runs.map((run) => run[i]!.ms)) }))
const sum = rows.reduce((all, { ms }) => all + ms, 0)
console.log(
  `batch ${batch}, ${context} tokens before: ${(wall * 1000).toFixed(0)} µs a step, its ${rows.length} launches ${(sum * 1000).toFixed(0)} µs`,
)
const groups = Map.groupBy(rows, ({ op, kernel }) => `${op}: ${kernel ?? ""}`)
for (const [name, some] of [...groups].toSorted(([, a], [, b]) => b.reduce((s, r) => s + r.ms, 0) - a.reduce((s, r) => s + r.ms, 0))) {
  const ms = some.reduce((all, row) => all + row.ms, 0)
  const bytes = some.reduce((all, row) => all + row.bytes, 0)
  const own = some.map((row) => (row.ms * 1000).toFixed(1)).slice(0, 4)
  console.log(
    `${String(some.length).padStart(4)} ${(ms * 1000).toFixed(1).padStart(8)} µs ${(bytes / ms / 1e6).toFixed(0).padStart(6)} GB/s  ${name}  ${own.join(" ")}`,
  )
}
generator.free()
device.close()
