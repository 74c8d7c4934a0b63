/** Where the time of a step goes: its programs run launch by launch, the rows summed by kernel, and a trace for Chrome. */
import { writeAtomic } from "./base-file.ts"
import * as op from "./op.ts"
import { type Device, type Executable, type ProfileRow, plan, type RunInputs, type RunOutputs, trace } from "./program.ts"
import { type KernelTime, median, type ProfileEvent } from "./train-metrics.ts"

/** Launches of nothing in a row. */
const EMPTY_LAUNCHES = 64

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

/** The programs of one step under the clock. */
export class StepProfile {
  readonly #rows: (ProfileRow & { readonly program: string })[] = []
  #end = 0
  #barriers = 0

  /** Runs `program` once in place of a submit. */
  run(program: Executable, inputs: RunInputs): RunOutputs {
    const { rows, outputs } = program.profile(inputs)
    this.#barriers += program.barriers
    const { name } = program.plan.program
    for (const row of rows) this.#rows.push({ ...row, startMs: this.#end + row.startMs, program: name })
    this.#end = Math.max(this.#end, ...this.#rows.slice(-1).map(({ startMs, ms }) => startMs + ms))
    return outputs
  }

  event(step: number, traceFile: string | undefined, device: Device): ProfileEvent {
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
    return {
      type: "profile",
      step,
      ms: total,
      launches: this.#rows.length,
      barriers: this.#barriers,
      ...(this.#barriers > 0 ? { barrier_ms: emptyLaunchMs(device) } : {}),
      kernels: kernels.sort((a, b) => b.ms - a.ms),
      traceFile,
    }
  }

  /** Trace Event Format of Chrome: complete events, microseconds. */
  #trace() {
    return {
      displayTimeUnit: "ms",
      traceEvents: this.#rows.map(({ op, kernel, startMs, ms, bytes, flops, program }) => ({
        name: kernel ?? op,
        cat: program,
        ph: "X",
        ts: startMs * 1000,
        dur: ms * 1000,
        pid: 1,
        tid: 1,
        args: { op, program, bytes, flops },
      })),
    }
  }
}
