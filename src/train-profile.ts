/** Where the time of a step goes: one as the device really runs it, one launch by launch, the rows summed by kernel, and a trace for Chrome. */
import { writeAtomic } from "./base-file.ts"
import * as op from "./op.ts"
import {
  type Device,
  type Executable,
  type ProfileRow,
  plan,
  type RunInputs,
  type RunOutputs,
  type Stretch,
  trace,
  type Watch,
} from "./program.ts"
import { type Bubbles, type KernelTime, median, type ProfileEvent } from "./train-metrics.ts"

/** Launches of nothing in a row. */
const EMPTY_LAUNCHES = 64
/** Steps before the profiled one that are watched: the first of them is where the second begins. */
const WATCHED = 3

/** Milliseconds of a launch that adds two numbers, with the barrier behind it. */
function emptyLaunchMs(device: Device): number {
  const program = trace("nothing", (t) => {
    let x = t.state("nothing", "f32", [1])
    for (let i = 0; i < EMPTY_LAUNCHES; i++) x = op.add({ a: x, b: x }).y
    t.output("y", x)
  })
  const state = device.state()
  const run = device.compile(plan(program), state)
  run.profile({})
  const { rows } = run.profile({})
  run.free()
  state.free()
  return median(rows.map(({ ms }) => ms))
}

/** How long no launch ran in the shortest of the turns that follow another: from the end of the one before to its own end. */
export function bubblesOf(stretches: readonly Stretch[]): Bubbles | undefined {
  const found: Bubbles[] = []
  let end: number | undefined
  for (const [step, some] of Map.groupBy(stretches, ({ turn }) => turn)) {
    const began = end
    let [barriers_ms, submits_ms] = [0, 0]
    for (const { isFirst, startMs, endMs } of some) {
      const gap = startMs - (end ?? startMs)
      if (isFirst) submits_ms += gap
      else barriers_ms += gap
      end = endMs
    }
    if (began === undefined || end === undefined) continue
    const step_ms = end - began
    found.push({ step, step_ms, barriers_ms, submits_ms, share: (barriers_ms + submits_ms) / step_ms })
  }
  return found.toSorted((a, b) => a.step_ms - b.step_ms)[0]
}

/** A step under the clock, and those shortly before it. */
export class StepProfile {
  readonly #watch: Watch | undefined
  #stretches: readonly Stretch[] | undefined
  readonly #rows: (ProfileRow & { readonly program: string })[] = []
  #end = 0
  #barriers = 0

  constructor(
    readonly device: Device,
    /** The step that runs launch by launch. */
    readonly step: number,
  ) {
    this.#watch = device.watch?.()
  }

  /** Whether a step is the one that `profiled` asks for, or is watched before it. */
  static covers(step: number, profiled: number | undefined): boolean {
    return profiled !== undefined && step <= profiled && step >= profiled - WATCHED
  }

  /** Runs `program` once for a step. */
  run(step: number, program: Executable, inputs: RunInputs, onFinal?: (group: number) => void): RunOutputs {
    if (step < this.step) {
      if (this.#watch !== undefined) this.#watch.turn = step
      return program.submit(inputs, onFinal, this.#watch)
    }
    this.#stretches ??= this.#watch?.end() ?? []
    const { rows, outputs } = program.profile(inputs)
    this.#barriers += program.barriers
    const { name } = program.plan.program
    for (const row of rows) this.#rows.push({ ...row, startMs: this.#end + row.startMs, program: name })
    this.#end = Math.max(this.#end, ...this.#rows.slice(-1).map(({ startMs, ms }) => startMs + ms))
    return outputs
  }

  event(traceFile: string | undefined): ProfileEvent {
    const total = this.#rows.reduce((sum, { ms }) => sum + ms, 0)
    const groups = Map.groupBy(this.#rows, ({ op, kernel }) => `${op} ${kernel}`)
    const kernels = [...groups.values()].map((rows): KernelTime => {
      const sum = (of: (row: ProfileRow) => number) => rows.reduce((all, row) => all + of(row), 0)
      const ms = sum((row) => row.ms)
      const { op, kernel } = rows[0] as ProfileRow
      const [gb, tflop] = [sum((row) => row.bytes) / 1e6, sum((row) => row.flops) / 1e9]
      return { op, kernel, launches: rows.length, ms, share: ms / total, gb_per_s: gb / ms, tflop_per_s: tflop / ms }
    })
    if (traceFile !== undefined) writeAtomic(traceFile, JSON.stringify(this.#trace()))
    const bubbles = bubblesOf(this.#stretches ?? [])
    return {
      type: "profile",
      step: this.step,
      ms: total,
      launches: this.#rows.length,
      barriers: this.#barriers,
      ...(this.#barriers > 0 ? { barrier_ms: emptyLaunchMs(this.device) } : {}),
      ...(bubbles === undefined ? {} : { bubbles }),
      kernels: kernels.sort((a, b) => b.ms - a.ms),
      traceFile,
    }
  }

  /** Trace Event Format of Chrome: complete events, microseconds. One thread for the launches alone, a second for the steps before as they ran. */
  #trace() {
    const alone = this.#rows.map(({ op, kernel, startMs, ms, bytes, flops, program }) => ({
      ...{ name: kernel ?? op, cat: program, ph: "X", ts: startMs * 1000, dur: ms * 1000, pid: 1, tid: 1 },
      args: { op, program, bytes, flops },
    }))
    const asRun = (this.#stretches ?? []).map(({ program, kernels, turn, startMs, endMs }) => ({
      ...{ name: kernels.join(" | "), cat: program, ph: "X", ts: startMs * 1000, dur: (endMs - startMs) * 1000, pid: 1, tid: 2 },
      args: { step: turn, program },
    }))
    return { displayTimeUnit: "ms", traceEvents: [...alone, ...asRun] }
  }
}
