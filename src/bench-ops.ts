/** Speed of ops: every case of every op, or the ops of a training step at their true sizes, as a share of the device's measured roofline. */
import { benchInfer } from "./bench-infer.ts"
import type { Measurement } from "./bench-measure.ts"
import { collect, type Sampling } from "./bench-sample.ts"
import { median } from "./bench-stats.ts"
import { stepProgram } from "./bench-step.ts"
import { machineFacts } from "./engine.ts"
import { type Precision, refreshCopies } from "./gpt.ts"
import { type CaseVariant, caseProgram, ops, variants } from "./op.ts"
import type { Device, ProfileRow } from "./program.ts"
import { measureBandwidth, productRate } from "./train.ts"

/** Bytes and FLOP per second that the device reaches at best. */
export interface Roofline {
  readonly bytes: number
  readonly flops: Readonly<Record<Precision, number>>
}

/** Length of each measurement of matrix products. */
const PRODUCT_MS = 200

export function measureRoofline(device: Device): Roofline {
  const bytes = measureBandwidth(device, machineFacts().cache_bytes, device.memoryBytes() ?? 2 ** 33)
  return { bytes, flops: { f32: productRate(device, "f32", PRODUCT_MS), bf16: productRate(device, "bf16", PRODUCT_MS) } }
}

/** Time that the roofline allows over the time taken. */
const share = (ms: number, bytes: number, flops: number, precision: Precision, roof: Roofline): number =>
  (Math.max(bytes / roof.bytes, flops / roof.flops[precision]) * 1000) / ms

interface Work {
  readonly name: string
  readonly precision: Precision
  /** Milliseconds of one run, and what it touched and computed. */
  readonly samples: readonly number[]
  readonly bytes: number
  readonly flops: number
  readonly launches: number
}

function measured(
  { name, precision, samples, bytes, flops, launches }: Work,
  device: Device,
  roof: Roofline,
  command: string,
): Measurement {
  const ms = median(samples)
  return {
    bench: "ops",
    name,
    device: device.description,
    unit: "µs",
    better: "less",
    samples: samples.map((one) => one * 1000),
    facts: {
      launches,
      "GB/s": bytes / ms / 1e6,
      "TFLOP/s": flops / ms / 1e9,
      "of roofline": `${Number((100 * share(ms, bytes, flops, precision, roof)).toPrecision(3))} %`,
    },
    command,
  }
}

const total = (rows: readonly ProfileRow[], of: "ms" | "bytes" | "flops"): number => rows.reduce((sum, row) => sum + row[of], 0)

/** Every case whose name matches, at the sizes of the tests: what a launch costs. Cases that the device refuses are left out and told. */
export function benchCases(device: Device, only: RegExp, sampling: Sampling, roof: Roofline, tell: (note: string) => void): Measurement[] {
  const measurements: Measurement[] = []
  for (const variant of ops.flatMap(variants)) {
    const name = caseName(variant)
    if (!only.test(name)) continue
    try {
      const { run, inputs, free } = caseProgram(device, variant)
      let rows: readonly ProfileRow[] = []
      const samples = collect(() => {
        rows = run.profile(inputs).rows
        return total(rows, "ms")
      }, sampling)
      free()
      const work = {
        name,
        precision: variant.act,
        samples,
        bytes: total(rows, "bytes"),
        flops: total(rows, "flops"),
        launches: rows.length,
      }
      measurements.push(measured(work, device, roof, `alpha bench ops --only='${name}'`))
    } catch (error) {
      tell(`${name}: ${(error as Error).message}`)
    }
  }
  return measurements
}

const caseName = ({ op, index, act, beta }: CaseVariant): string => `${op.name} ${index} ${act}${beta === 1 ? " added" : ""}`

/** Times and launches of ops by name, over all runs. */
type Runs = Map<string, { ms: number[]; rows: readonly ProfileRow[] }>

/** Adds one run's ops to `runs`; returns the milliseconds of all. */
function addRun(rows: readonly ProfileRow[], runs: Runs): number {
  for (const [name, some] of Map.groupBy(rows, ({ op, kernel }) => (kernel === undefined ? op : `${op}: ${kernel}`))) {
    const known = runs.get(name) ?? { ms: [], rows: [] }
    runs.set(name, { ms: [...known.ms, total(some, "ms")], rows: some })
  }
  return total(rows, "ms")
}

export interface StepOps {
  readonly preset: string
  readonly precision: Precision
  readonly batch: number | undefined
  readonly program: "train" | "decode"
  readonly only: RegExp
}

/** The ops of a preset's training step, or of a step of its generation, by op and kernel: the longest first. */
export function benchStepOps(device: Device, job: StepOps, sampling: Sampling, roof: Roofline): Measurement[] {
  const { preset, precision, batch, program, only } = job
  const runs: Runs = new Map()
  if (program === "train") {
    const step = stepProgram(device, preset, precision, batch)
    refreshCopies(device, step.state, step.model, precision)
    collect(() => addRun(step.run.profile(step.inputs).rows, runs), sampling)
    step.free()
  } else {
    const infer = { preset, model: undefined, precision, prompt: 16, generate: 8, batches: [batch ?? 1] }
    benchInfer(
      watched(device, (rows) => addRun(rows, runs)),
      infer,
      sampling,
      roof.bytes,
    )
  }
  const command = `alpha bench ops --preset=${preset} --precision=${precision}${program === "train" ? "" : ` --program=${program}`}`
  const measurements = [...runs].flatMap(([name, { ms, rows }]) => {
    if (!only.test(name)) return []
    const work = { name, precision, samples: ms, bytes: total(rows, "bytes"), flops: total(rows, "flops"), launches: rows.length }
    return measured(work, device, roof, command)
  })
  return measurements.sort((a, b) => median(b.samples) - median(a.samples))
}

/** The device, with every step of one token a sequence run again launch by launch. */
function watched(device: Device, tell: (rows: readonly ProfileRow[]) => void): Device {
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
          tell(run.profile(inputs).rows)
          return outputs
        },
      }
    },
  }
}
