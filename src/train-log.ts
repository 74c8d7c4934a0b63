/** What steps have to tell: their results are read when the device is as far ahead as it wants to be, and become step events. */
import { flopsPerToken } from "./gpt.ts"
import { CONTROL } from "./op.ts"
import type { RunOutputs } from "./program.ts"
import { type GpuColumns, median } from "./train-metrics.ts"
import { refreshPeak } from "./train-peak.ts"
import type { Session } from "./train-session.ts"

/** A step that was given to the device. */
export interface Submitted {
  /** Number of the step, counted from 1. */
  readonly step: number
  /** Tokens of the run with this step. */
  readonly tokens: number
  readonly lr: number
  /** When its batch began to be made, by performance.now(). */
  readonly at: number
  /** Of making its batch, and of giving it to the device. */
  readonly dataMs: number
  readonly submitMs: number
  /** loss and count (sums), control. */
  readonly out: RunOutputs
}

export class StepLog {
  /** Loss of the newest step that was read. */
  loss = Number.NaN
  readonly #pending: Submitted[] = []
  /** Milliseconds of every step. */
  readonly #times: number[] = []
  /** How much of that its results were waited for. */
  readonly #waits: number[] = []
  #readAt = 0
  /** Milliseconds since the last row, of so many steps. */
  #phases = { data: 0, submit: 0, wait: 0, steps: 0 }
  /** Step at which the device was last asked how it fares. */
  #looked = 0
  readonly #flops: number
  readonly #tokensPerStep: number

  constructor(
    private readonly session: Session,
    private readonly first: number,
    private readonly started: number,
  ) {
    const { job, prepared } = session
    this.#flops = flopsPerToken(prepared.model, job.values.context)
    this.#tokensPerStep = job.values.batch * job.values.accumSteps * job.values.context
  }

  push(step: Submitted): void {
    const { values } = this.session.job
    const { debugGpu, adaptiveSyncDeferredThreshold, adaptiveSyncPendingThreshold } = values
    const { device, ranks } = this.session
    // The host has waited for the step where it debugs it, or sums its gradients: read later, it would seem to have taken no time.
    const isDone = debugGpu || ranks?.isOrdered === true
    const ahead = isDone ? 0 : Math.min(device.ahead, adaptiveSyncDeferredThreshold, adaptiveSyncPendingThreshold - 1)
    this.#pending.push(step)
    if (this.#pending.length <= ahead) return
    const left = Math.max(0, ahead + 1 - values.adaptiveSyncMinInterval)
    while (this.#pending.length > left) this.#read()
  }

  /** Waits for all steps given to the device. */
  drain(): void {
    while (this.#pending.length > 0) this.#read()
  }

  #read(): void {
    const submitted = this.#pending.shift() as Submitted
    const { step, lr, out, at, dataMs, submitMs } = submitted
    const asked = performance.now()
    const control = out.read("control")
    const count = out.read("count")[0] as number
    this.loss = (out.read("loss")[0] as number) / count
    const now = performance.now()
    const { data, submit, wait, steps } = this.#phases
    this.#phases = { data: data + dataMs, submit: submit + submitMs, wait: wait + now - asked, steps: steps + 1 }
    this.#times.push(now - Math.max(at, this.#readAt)) // steps overlap: each has the time from the one before
    this.#waits.push(now - asked)
    this.#readAt = now
    const { emit, device, job } = this.session
    const { values } = job
    if (control[CONTROL.skip] === 1) {
      emit({ type: "note", step, level: "warn", message: `step ${step} skipped: ${skipReason(control, count)}` })
    }
    if (step % values.logInterval !== 0 && step !== values.steps && step !== this.first + 1) return
    const recent = this.#times.slice(-values.logInterval)
    const ms = recent.reduce((a, b) => a + b, 0) / recent.length
    const rate = (this.#flops * this.#tokensPerStep * 1000) / ms / (this.session.ranks?.size ?? 1)
    emit({
      type: "step",
      step,
      loss: this.loss,
      lr,
      gradNorm: control[CONTROL.norm] as number,
      tokens: submitted.tokens,
      tokens_per_s: (this.#tokensPerStep * 1000) / ms,
      ms_per_step: ms,
      ...this.#takePhases(),
      mfu: rate / refreshPeak(device, values.precision, rate),
      skipped: control[CONTROL.skipped] as number,
      ...this.#look(step),
      elapsed_s: (performance.now() - this.started) / 1000,
      eta_s: ((values.steps - step) * ms) / 1000,
    })
  }

  /** The GPU's own numbers, each as often as it was asked for: by the first logged step of every such interval. */
  #look(step: number): GpuColumns {
    const { device, job } = this.session
    const { adaptiveMemStatsPollEvery, gpuMetricsSampleEvery } = job.values
    const isDue = (every: number) => Math.floor(step / every) > Math.floor(this.#looked / every) || this.#looked === 0
    const [memory, rest] = [isDue(adaptiveMemStatsPollEvery), isDue(gpuMetricsSampleEvery)]
    const sample = memory || rest ? device.telemetry() : undefined
    this.#looked = step
    if (sample === undefined) return {}
    return {
      ...(memory ? { gpu_memory_bytes: sample.memoryUsedBytes } : {}),
      ...(rest
        ? {
            gpu_utilisation: sample.utilisation,
            gpu_power_w: sample.powerWatts,
            gpu_temperature_c: sample.temperatureCelsius,
            gpu_sm_mhz: sample.smClockMhz,
            gpu_memory_mhz: sample.memoryClockMhz,
          }
        : {}),
    }
  }

  /** Means over the steps since the row before. */
  #takePhases() {
    const { data, submit, wait, steps } = this.#phases
    this.#phases = { data: 0, submit: 0, wait: 0, steps: 0 }
    return { data_ms: data / steps, submit_ms: submit / steps, wait_ms: wait / steps }
  }

  /** Over all steps but the first; over all where there are few. */
  speed(): { tokens_per_s: number; ms_per_step: number } {
    const steady = this.#times.slice(steadyFrom(this.#times, this.#waits))
    const some = steady.length > 0 ? steady : this.#times
    const total = some.reduce((a, b) => a + b, 0)
    return { tokens_per_s: (this.#tokensPerStep * 1000 * some.length) / total || 0, ms_per_step: median(steady) }
  }
}

/**
 * Step from which times are speed: the first tenth is none. Where the host was held up there (a library loads, connections are made), the device had
 * steps ready before they were asked for, which took no time: they end with the first that was waited for, in part.
 */
export function steadyFrom(times: readonly number[], waits: readonly number[]): number {
  const tenth = Math.ceil(times.length / 10)
  const usual = median(times.slice(tenth))
  const waited = waits.findIndex((wait, i) => i >= tenth && wait > usual / 2)
  const isHeldUp = times.slice(tenth, waited).some((ms) => ms < usual / 2)
  return waited >= 0 && isHeldUp && waited + 1 < times.length ? waited + 1 : tenth
}

function skipReason(control: ArrayLike<number>, count: number): string {
  if (count === 0) return "no token of its batch takes the loss"
  const norm = (control[CONTROL.norm] as number).toPrecision(4)
  if (!Number.isFinite(control[CONTROL.norm])) return `gradient norm ${norm}`
  return `gradient norm ${norm} is a spike, the running mean is ${(control[CONTROL.meanNorm] as number).toPrecision(4)}`
}
