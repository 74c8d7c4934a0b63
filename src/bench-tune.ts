/** The tuner: draws settings, trains with each, keeps the better half for a longer round, until few are left. */
import { availableParallelism } from "node:os"
import { uniform } from "./base-random.ts"
import type { LoopStatus } from "./bench-loop.ts"

/** One thing that may be set: the variable that sets it, the values to try, the usual one first. */
export interface Knob {
  readonly variable: string
  /** Column of the results. */
  readonly column: string
  readonly values: readonly (string | undefined)[]
  /** Other kernels round differently, so that the loss may move a little. */
  readonly isKernel: boolean
}

const knob = (variable: string, column: string, values: readonly (string | number | undefined)[], isKernel = false): Knob => ({
  ...{ variable, column, isKernel },
  values: values.map((value) => (value === undefined ? undefined : String(value))),
})

/** What can be tuned on a device, within bounds that make sense; undefined leaves a knob alone. */
export function knobsOf(device: "cpu" | "gpu", cores = availableParallelism()): readonly Knob[] {
  const always = [knob("ALPHA_CALLBACK_YIELD_EVERY", "yield_every", [undefined, 4, 25])]
  if (device === "cpu") {
    const threads = [...new Set([cores - 1, cores >> 1, 2 * cores])].filter((count) => count > 0 && count !== cores)
    return [...always, knob("ALPHA_THREADS", "threads", [undefined, ...threads]), knob("ALPHA_ISA", "isa", [undefined, "v3"], true)]
  }
  return [
    ...always,
    knob("ALPHA_ADAPTIVE_MEM_STATS_POLL_EVERY", "mem_poll", [undefined, 8, 64, 256]),
    knob("ALPHA_ADAPTIVE_SYNC_MIN_INTERVAL", "sync_interval", [undefined, 1, 2, 4]),
    knob("ALPHA_ADAPTIVE_SYNC_DEFERRED_THRESHOLD", "deferred_threshold", [undefined, 1, 2, 3]),
    knob("ALPHA_ADAPTIVE_SYNC_PENDING_THRESHOLD", "pending_threshold", [undefined, 2, 3, 4]),
    knob("ALPHA_GPU_METRICS_SAMPLE_EVERY", "gpu_metrics_sample_every", [undefined, 25, 500]),
    knob("HELIOS_MATRIX", "matrix", [undefined, "khr", "none"], true),
  ]
}

/** Values by variable; what is left alone is missing. */
export type Settings = Readonly<Record<string, string>>

/** Different settings: the usual ones, each knob alone, then draws of all knobs. */
export function candidates(knobs: readonly Knob[], count: number, seed: number): Settings[] {
  const usual: Settings = {}
  const alone = knobs.flatMap(({ variable, values }) => values.flatMap((value) => (value === undefined ? [] : [{ [variable]: value }])))
  const found = new Map([usual, ...alone].map((one) => [JSON.stringify(one), one as Settings]))
  const most = knobs.reduce((all, { values }) => all * values.length, 1)
  for (let draw = 0; found.size < Math.min(count, most); draw++) {
    const one = Object.fromEntries(
      knobs.flatMap(({ variable, values }, i) => {
        const value = values[Math.floor(uniform(seed, 31, draw, i) * values.length)]
        return value === undefined ? [] : [[variable, value] as const]
      }),
    )
    found.set(JSON.stringify(one), one)
  }
  return [...found.values()].slice(0, count)
}

/** What one training with some settings came to. */
export interface Trial {
  readonly settings: Settings
  readonly steps: number
  readonly status: LoopStatus | "other_loss"
  readonly rate: number
  readonly loss: number | null
}

/** Whether a loss is that of the usual settings: bit for bit, or within the bound where kernels are others. */
export function isSameLoss(loss: number | null, usual: number | null, settings: Settings, knobs: readonly Knob[], bound: number): boolean {
  if (loss === null || usual === null) return loss === usual
  const isOther = knobs.some(({ variable, isKernel }) => isKernel && settings[variable] !== undefined)
  return isOther ? Math.abs(loss - usual) <= bound * Math.abs(usual) : loss === usual
}

/**
 * Successive halving: every round trains the survivors, in turns, for twice as long as the one before and keeps the faster half. The usual settings are in
 * every round, since its loss is the yardstick; only what is ok survives. Returns all trials, the best of the last round first there.
 */
export async function halve(
  all: readonly Settings[],
  steps: number,
  run: (settings: Settings, steps: number, usual: Trial | undefined) => Promise<Trial>,
): Promise<{ trials: Trial[]; last: Trial[] }> {
  const rounds = Math.max(1, Math.ceil(Math.log2(all.length)))
  const trials: Trial[] = []
  const [usual, ...others] = all as readonly [Settings, ...Settings[]]
  let left = others
  for (let round = 0; ; round++) {
    const isLast = round === rounds - 1
    const count = Math.max(8, Math.round(steps / 2 ** (rounds - 1 - round)))
    const first = await run(usual, count, undefined)
    const results = [first]
    for (const settings of left) results.push(await run(settings, count, first))
    trials.push(...results)
    const good = results.filter(({ status }) => status === "ok").toSorted((a, b) => b.rate - a.rate)
    if (isLast) return { trials, last: good }
    const survivors = good.filter(({ settings }) => settings !== usual)
    left = survivors.slice(0, Math.max(1, Math.ceil(left.length / 2))).map(({ settings }) => settings)
  }
}
