/** Checks a device: every case of every op against the f64 reference, and golden runs. */
import { checkCase, ops, variants } from "./op.ts"
import { deviceMachine, type GoldenRow, replayGolden } from "./engine-golden.ts"
import type { Precision } from "./gpt.ts"
import type { Device } from "./program.ts"
import type { StopFlag } from "./train.ts"

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
}

export type DoctorEvent = { readonly done: number; readonly total: number }

export interface DoctorReport {
  readonly device: string
  readonly description: string
  readonly ops: readonly OpRow[]
  readonly golden: readonly GoldenRow[]
  readonly ok: boolean
}

export async function doctor(job: DoctorJob, device: Device, _: StopFlag, emit: (event: DoctorEvent) => void): Promise<DoctorReport> {
  const about = { device: device.name, description: device.description }
  if (job.golden !== undefined) {
    const machine = deviceMachine(device)
    const golden = replayGolden(job.golden, job.precision, machine)
    machine.close()
    return { ...about, ops: [], golden, ok: golden.every((row) => row.far <= row.limit) }
  }
  const rows: OpRow[] = []
  for (const op of ops) {
    const all = variants(op)
    const worst = all.reduce((most, variant) => Math.max(most, checkCase(device, variant).worst), 0)
    if (all.length > 0) rows.push({ op: op.name, cases: all.length, worst })
    emit({ done: rows.length, total: ops.length })
  }
  return { ...about, ops: rows, golden: [], ok: rows.every((row) => row.worst <= 1) }
}

