/** Speed of ops: every case of every op, or the ops of a training step at their true sizes, as a share of the device's measured roofline. */
import type { Measurement } from "./bench-measure.ts"
import { collect, type Sampling } from "./bench-sample.ts"
import { median } from "./bench-stats.ts"
import { type StepPrograms, stepPrograms } from "./bench-step.ts"
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
      "of roofline": `${(100 * share(ms, bytes, flops, precision, roof)).toPrecision(3)} %`,
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

/** The ops of a training step of `preset`, by op and kernel. */
export function benchStepOps(
  device: Device,
  preset: string,
  precision: Precision,
  batch: number | undefined,
  only: RegExp,
  sampling: Sampling,
  roof: Roofline,
): Measurement[] {
  const step = stepPrograms(device, preset, precision, batch)
  refreshCopies(device, step.state, step.model, precision)
  const runs = new Map<string, { ms: number[]; rows: ProfileRow[] }>()
  collect(() => profileStep(step, runs), sampling)
  step.free()
  const measurements = [...runs].flatMap(([name, { ms, rows }]) => {
    if (!only.test(name)) return []
    const work = { name, precision, samples: ms, bytes: total(rows, "bytes"), flops: total(rows, "flops"), launches: rows.length }
    return measured(work, device, roof, `alpha bench ops --preset=${preset} --precision=${precision}`)
  })
  return measurements.sort((a, b) => median(b.samples) - median(a.samples))
}

/** Profiles one step and adds its ops' times to `runs`; returns the milliseconds of all. */
function profileStep({ micro, update, inputs }: StepPrograms, runs: Map<string, { ms: number[]; rows: ProfileRow[] }>): number {
  const rows = [...micro.profile(inputs.micro).rows, ...update.profile(inputs.update).rows]
  for (const [name, some] of Map.groupBy(rows, ({ op, kernel }) => (kernel === undefined ? op : `${op}: ${kernel}`))) {
    const known = runs.get(name) ?? { ms: [], rows: [] }
    runs.set(name, { ms: [...known.ms, total(some, "ms")], rows: some })
  }
  return total(rows, "ms")
}
