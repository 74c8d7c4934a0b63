/**
 * Speed of generation with random weights: bun perf/decode.ts [--preset=gpt2-124m] [--precision=f32] [--batch=1] [--prompt=128] [--new=64] [--threads=N] [--device=cpu]
 * [--temperature=0] [--profile]. Prints one JSON line in the words of ../shared/peers/torch_decode.py; `bandwidth_share` is the bytes of weights read per
 * step over what a plain sum over them reads in the same time. --profile adds the time per op and what is left for the host.
 */
import { parseArgs } from "node:util"
import { findPreset, modelFields, resolveModel } from "../src/config.ts"
import { openDevice } from "../src/device.ts"
import { createGenerator, initialise, type Precision, paramSpecs, refreshCopies } from "../src/gpt.ts"
import { globalNorm } from "../src/op.ts"
import { type Device, plan, type State, trace } from "../src/program.ts"

const { values: flags } = parseArgs({
  options: {
    preset: { type: "string", default: "gpt2-124m" },
    precision: { type: "string", default: "f32" },
    batch: { type: "string", default: "1" },
    prompt: { type: "string", default: "128" },
    new: { type: "string", default: "64" },
    threads: { type: "string" },
    device: { type: "string", default: "cpu" },
    temperature: { type: "string", default: "0" },
    profile: { type: "boolean", default: false },
  },
})
const precision = flags.precision as Precision
const [batch, prompt, count] = [flags.batch, flags.prompt, flags.new].map(Number) as [number, number, number]
const { context, ...fields } = findPreset(flags.preset).values({ isRandom: true }) as Record<string, unknown>
const model = resolveModel({ vocabSize: 65, ...modelFields(fields), blockSize: context as number })

/** Milliseconds of every node of the steps of one token per row, by op; filled with --profile. */
const profile = new Map<string, { ms: number; bytes: number; nodes: number }>()
let profiled = 0

/** The device; with --profile every step of `batch` rows runs again node by node. */
function watched(device: Device): Device {
  return {
    ...device,
    ahead: 0,
    compile(traced, state) {
      const run = device.compile(traced, state)
      if (!traced.program.name.endsWith("×1")) return run
      return {
        ...run,
        submit(inputs) {
          const outputs = run.submit(inputs)
          const nodes = run.profile(inputs).rows
          profiled++
          for (const { op, ms, bytes } of nodes) {
            const sum = profile.get(op) ?? { ms: 0, bytes: 0, nodes: 0 }
            profile.set(op, { ms: sum.ms + ms, bytes: sum.bytes + bytes, nodes: sum.nodes + 1 })
          }
          return outputs
        },
      }
    },
  }
}

/** GB/s of a sum over all f32 parameters: the best of five. */
function readBandwidth(device: Device, state: State): { gbPerS: number; bytes: number } {
  const bytes = paramSpecs(model).reduce((sum, { shape }) => sum + 4 * shape.reduce((n, d) => n * d, 1), 0)
  const run = device.compile(
    plan(
      trace("read everything", (t) => {
        const tensors = paramSpecs(model).map(({ name, shape }) => t.state(name, "f32", shape))
        t.output("norm", globalNorm({ grads: tensors }).norm)
      }),
    ),
    state,
  )
  const times = Array.from({ length: 5 }, () => timed(() => run.submit({})))
  run.free()
  return { gbPerS: bytes / Math.min(...times) / 1e6, bytes }
}

function timed(work: () => void): number {
  const from = performance.now()
  work()
  return performance.now() - from
}

const opened = openDevice(flags.device, flags.threads === undefined ? undefined : Number(flags.threads)).device
const device = flags.profile ? watched(opened) : opened
const state = device.state()
initialise(device, state, model, 1)
const { gbPerS } = readBandwidth(device, state)
refreshCopies(device, state, model, precision)
if (precision === "bf16") for (const { name, matmul } of paramSpecs(model)) if (matmul) state.drop(name)

const length = prompt + count + 10 // tokens of a row: warm-up, and one more that a device ahead of us makes
if (length > model.blockSize)
  throw new Error(`--prompt=${prompt} and --new=${count} need ${length} positions, the model has ${model.blockSize}`)
const sampling = { temperature: Number(flags.temperature), topK: 40, topP: 1, minP: 0, repetitionPenalty: 1, seed: 1 }
const generator = createGenerator(device, state, model, {
  precision,
  slots: batch,
  length,
  vocabulary: model.vocabSize,
})
const ids = Array.from({ length: batch }, (_, b) => Array.from({ length: prompt }, (_, i) => (i * 7919 + b * 104729 + 1) % model.vocabSize))
generator.prefill({ slot: 0, ids: ids[0]!.map((id) => (id + 1) % model.vocabSize), sampling, draw: 0 })
let last: number[] = []
const prefillMs = timed(() => {
  last = ids.map((row, slot) => generator.prefill({ slot, ids: row, sampling, draw: 0 }).id)
})
const step = (draw: number) => {
  last = generator.decode(last.map((id, slot) => ({ slot, id, sampling, draw }))).map(({ id }) => id)
}
for (let i = 0; i < 8; i++) step(i + 1)
profile.clear()
profiled = 0
const cpuFrom = process.cpuUsage()
const times = Array.from({ length: count }, (_, i) => timed(() => step(i + 9))).sort((a, b) => a - b)
const cpu = process.cpuUsage(cpuFrom)
const total = times.reduce((a, b) => a + b, 0)
const [median, fastest] = [times[times.length >> 1]!, times[0]!]

const bytesPerWeight = precision === "bf16" ? 2 : 4
const read = paramSpecs(model).reduce(
  (sum, { name, shape, matmul }) =>
    sum + (matmul && !(name === "wte.weight" && !model.tie) ? bytesPerWeight : 0) * shape.reduce((n, d) => n * d, 1),
  0,
)
const round = (x: number, digits = 3) => Number(x.toPrecision(digits))
console.log(
  JSON.stringify({
    preset: flags.preset,
    device: device.description,
    dtype: precision,
    batch,
    prompt,
    new: count,
    decode_tokens_per_s: round((batch * count * 1000) / total, 4),
    ms_per_token: round(total / count, 4),
    ms_median: round(median, 4),
    ms_fastest: round(fastest, 4),
    cpu_ms_per_token: round((cpu.user + cpu.system) / 1000 / count, 4),
    prefill_tokens_per_s: round((batch * prompt * 1000) / prefillMs, 4),
    weight_bytes: read,
    read_gb_per_s: round(gbPerS),
    bandwidth_share: round(read / 1e6 / median / gbPerS),
  }),
)
if (flags.profile) {
  const rows = [...profile].map(([op, { ms, bytes, nodes }]) => ({
    op,
    nodes: nodes / profiled,
    ms: ms / profiled,
    gb_per_s: bytes / ms / 1e6,
  }))
  const nodesMs = rows.reduce((sum, { ms }) => sum + ms, 0)
  console.table(rows.sort((a, b) => b.ms - a.ms).map((row) => ({ ...row, ms: round(row.ms), gb_per_s: round(row.gb_per_s) })))
  console.log(`nodes ${round(nodesMs, 4)} ms per step`)
}
