/** Checks a device: every case of every op against the f64 reference, or a golden run. */
import { AlphaError, EXIT } from "./base-error.ts"
import { deviceMachine, type GoldenRow, isWithin, replayGolden } from "./engine-golden.ts"
import { type MachineFacts, machineFacts } from "./engine-machine.ts"
import type { Precision } from "./gpt.ts"
import { checkCase, ops, variants } from "./op.ts"
import type { Device, Op } from "./program.ts"
import { measureBandwidth, productRate, type StopFlag } from "./train.ts"

export interface DoctorJob {
  /** Directory of a golden run to replay instead of the op table. */
  readonly golden: string | undefined
  readonly precision: Precision
}

export interface OpRow {
  readonly op: string
  /** Cases run, in all dtypes. */
  readonly cases: number
  /** Distance of the worst from the reference as a share of what is allowed: right if ≤ 1. */
  readonly worst: number
  /** What the device answered instead of running a case; null when all ran. */
  readonly error: string | null
  readonly ok: boolean
}

/** Ops checked, or training steps replayed. */
export interface DoctorEvent {
  readonly done: number
  readonly total: number
}

export interface DoctorReport {
  readonly device: string
  readonly description: string
  readonly machine: MachineFacts
  /** Measured; null in the replay of a golden run. */
  readonly speed: { readonly read_bytes_per_s: number; readonly f32_flops: number; readonly bf16_flops: number } | null
  readonly ops: readonly OpRow[]
  readonly golden: readonly (GoldenRow & { readonly ok: boolean })[]
  readonly ok: boolean
}

/** Length of each measurement of matrix products. */
const MEASURE_MS = 100

export async function doctor(job: DoctorJob, device: Device, flag: StopFlag, emit: (event: DoctorEvent) => void): Promise<DoctorReport> {
  const tell = (done: number, total: number) => {
    if (flag.stopped) throw new AlphaError("doctor: stopped before the end, there is no verdict", { code: EXIT.interrupted })
    emit({ done, total })
  }
  const machine = machineFacts()
  const about = () => ({ device: device.name, description: device.description, machine })
  if (job.golden !== undefined) {
    const run = deviceMachine(device)
    try {
      const golden = replayGolden(job.golden, job.precision, run, tell).map((row) => ({ ...row, ok: isWithin(row) }))
      return { ...about(), speed: null, ops: [], golden, ok: golden.every(({ ok }) => ok) }
    } finally {
      run.close()
    }
  }
  const rows = ops.map((op, i) => {
    tell(i, ops.length)
    return checkOp(device, op)
  })
  tell(ops.length, ops.length)
  const speed = {
    read_bytes_per_s: measureBandwidth(device, machine.cache_bytes, machine.memory_free_bytes),
    f32_flops: productRate(device, "f32", MEASURE_MS),
    bf16_flops: productRate(device, "bf16", MEASURE_MS),
  }
  return { ...about(), speed, ops: rows, golden: [], ok: rows.every(({ ok }) => ok) }
}

function checkOp(device: Device, op: Op): OpRow {
  const all = variants(op)
  let worst = 0
  for (const variant of all) {
    try {
      worst = Math.max(worst, checkCase(device, variant).worst)
    } catch (error) {
      return {
        op: op.name,
        cases: all.length,
        worst,
        error: `case ${variant.index}, ${variant.act}: ${(error as Error).message}`,
        ok: false,
      }
    }
  }
  return { op: op.name, cases: all.length, worst, error: null, ok: worst <= 1 }
}
