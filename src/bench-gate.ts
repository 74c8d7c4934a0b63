/** The gate: are two builds equally fast? Blocks A B B A of fresh processes, an interval, a threshold of the metric's own noise, a second run. */
import { AlphaError } from "./base-error.ts"
import { blockRatio, bootstrap, type Interval, median, quantile } from "./bench-stats.ts"

export type Verdict = "ok" | "improved" | "regression" | "inconclusive"

/** Exit codes of `alpha bench gate`. */
export const GATE_EXIT: Readonly<Record<Verdict, number>> = { ok: 0, improved: 0, regression: 3, inconclusive: 4 }

/** What one fresh process tells: milliseconds by metric (less is better), and the bits of its loss where it has one. */
export interface Taken {
  readonly metrics: Readonly<Record<string, number>>
  readonly loss: string | undefined
}
export type Side = "A" | "B"

export interface GateOptions {
  /** Blocks before the first look, and at most; between the looks their number doubles. */
  readonly blocks: number
  readonly maxBlocks: number
  /** Share by which a metric may differ with the same build on both sides: 0.02 = 2 %. */
  readonly threshold: (metric: string) => number
  readonly seed: number
  readonly onBlock?: (done: number, of: number) => void
}

type Order = readonly [Side, Side, Side, Side]
const ORDERS: readonly Order[] = [
  ["A", "B", "B", "A"],
  ["B", "A", "A", "B"],
]

/** One of the two independent runs: log(B / A) of every block by metric, and what they say. */
export interface Session {
  readonly ratios: ReadonlyMap<string, readonly number[]>
  readonly raw: ReadonlyMap<string, Readonly<Record<Side, readonly number[]>>>
  readonly findings: ReadonlyMap<string, Finding>
}

export interface Finding extends Interval {
  /** log(B / A), median of the blocks. */
  readonly ratio: number
  readonly blocks: number
  readonly says: "slower" | "faster" | "same" | "unclear"
}

/**
 * What the blocks of one metric say. "slower" and "faster" need the whole interval beyond the threshold; "same" is a proof of silence: the interval
 * ends below the threshold, so that a slow-down of that size would have been seen.
 */
export function judge(ratios: readonly number[], threshold: number, confidence: number, seed: number): Finding {
  const interval = bootstrap([ratios], ([all]) => median(all!), { confidence, seed })
  const limit = Math.log1p(threshold)
  const says = interval.low > limit ? "slower" : interval.high < -limit ? "faster" : interval.high <= limit ? "same" : "unclear"
  return { ratio: median(ratios), ...interval, blocks: ratios.length, says }
}

/** Chance that an interval of one metric misses the truth, shared by all metrics. */
const ERROR = 0.01

/** Takes blocks until every metric is decided, or the most are taken. Throws AlphaError where a loss differs. */
async function session(take: (side: Side) => Promise<Taken>, options: GateOptions, number: number): Promise<Session> {
  const ratios = new Map<string, number[]>()
  const raw = new Map<string, Record<Side, number[]>>()
  const losses: Partial<Record<Side, string | undefined>> = {}
  let findings = new Map<string, Finding>()
  let look = Math.min(options.blocks, options.maxBlocks)
  for (let done = 1; done <= options.maxBlocks; done++) {
    const order = ORDERS[(done + number) % 2]!
    const times: Record<Side, Taken[]> = { A: [], B: [] }
    for (const side of order) {
      const taken = await take(side)
      times[side].push(taken)
      checkLoss(losses, side, taken.loss)
    }
    for (const metric of Object.keys(times.A[0]!.metrics)) {
      const [a, b] = [times.A, times.B].map((list) => list.map(({ metrics }) => metrics[metric] as number)) as [number[], number[]]
      const known = raw.get(metric) ?? { A: [], B: [] }
      raw.set(metric, { A: [...known.A, ...a], B: [...known.B, ...b] })
      ratios.set(metric, [...(ratios.get(metric) ?? []), blockRatio([a[0]!, b[0]!, b[1]!, a[1]!])])
    }
    options.onBlock?.(done, options.maxBlocks)
    if (done < look) continue
    look = Math.min(2 * look, options.maxBlocks)
    const confidence = 1 - ERROR / ratios.size
    findings = new Map(
      [...ratios].map(([metric, list]) => [metric, judge(list, options.threshold(metric), confidence, options.seed + number)]),
    )
    if ([...findings.values()].every(({ says }) => says !== "unclear")) break
  }
  return { ratios, raw, findings }
}

/** Speed counts only with the same result: every process must end with the same bits. */
function checkLoss(losses: Partial<Record<Side, string | undefined>>, side: Side, loss: string | undefined): void {
  losses[side] ??= loss
  const other = side === "A" ? "B" : "A"
  if (losses[side] !== loss) {
    throw new AlphaError(`gate: ${side} is not deterministic: loss ${losses[side]}, then ${loss}`, { hint: "its speed cannot be judged" })
  }
  if (losses[other] !== undefined && losses[other] !== loss) {
    throw new AlphaError(`gate: the builds compute different losses: A ${losses.A}, B ${losses.B}`, {
      hint: "speed counts only with the same result; if the change of result is wanted, B is the new baseline",
    })
  }
}

export interface GateRow {
  readonly metric: string
  readonly threshold: number
  readonly verdict: Verdict
  readonly first: Finding
  /** Of the confirming run, where the first asked for one. */
  readonly second: Finding | undefined
  readonly raw: readonly Readonly<Record<Side, readonly number[]>>[]
}

export interface GateResult {
  readonly verdict: Verdict
  readonly rows: readonly GateRow[]
}

/** Compares build B with build A. What looks slower or faster is measured again, independently; only what both runs say is said. */
export async function gate(take: (side: Side) => Promise<Taken>, options: GateOptions): Promise<GateResult> {
  const first = await session(take, options, 0)
  const isLoud = [...first.findings.values()].some(({ says }) => says === "slower" || says === "faster")
  const second = isLoud ? await session(take, options, 1) : undefined
  const rows = [...first.findings].map(([metric, finding]): GateRow => {
    const again = finding.says === "slower" || finding.says === "faster" ? second?.findings.get(metric) : undefined
    const raw = [first, second].flatMap((one) => one?.raw.get(metric) ?? [])
    return { metric, threshold: options.threshold(metric), verdict: verdictOf(finding, again), first: finding, second: again, raw }
  })
  return { verdict: worst(rows.map(({ verdict }) => verdict)), rows }
}

function verdictOf({ says }: Finding, second: Finding | undefined): Verdict {
  if (says === "same") return "ok"
  if (says === "unclear" || second?.says !== says) return "inconclusive"
  return says === "slower" ? "regression" : "improved"
}

/** The verdict over several: an alarm wins, then doubt, then joy. */
export const worst = (verdicts: readonly Verdict[]): Verdict =>
  (["regression", "inconclusive", "improved"] as const).find((verdict) => verdicts.includes(verdict)) ?? "ok"

/** Threshold where too few runs of a build against itself are stored, and the least. */
export const [USUAL_THRESHOLD, LEAST_THRESHOLD] = [0.03, 0.01]
/** Stored runs that a threshold is learned from, at least and at most (the newest). */
const [FEWEST, MOST] = [5, 50]

/** The metric's own noise: what 95 of 100 intervals of a build against itself stayed within; undefined where too few are stored. */
export function learnThreshold(stored: readonly Interval[]): number | undefined {
  const newest = stored.slice(-MOST)
  if (newest.length < FEWEST) return undefined
  return Math.max(
    LEAST_THRESHOLD,
    Math.expm1(
      quantile(
        newest.map(({ low, high }) => Math.max(-low, high)),
        0.95,
      ),
    ),
  )
}

/** Counters that must not grow, with the share by which one may: code that is added needs some room. */
const ROOM: Readonly<Record<string, number>> = { spirv_words: 0.02, binary_bytes: 0.02 }

export interface CounterRow {
  readonly counter: string
  readonly a: number
  readonly b: number
  readonly verdict: Verdict
}

/** Exact counters need no statistics: more is a regression, less an improvement; those in `allowed` may grow. */
export function compareCounters(
  a: Readonly<Record<string, number>>,
  b: Readonly<Record<string, number>>,
  allowed: readonly string[],
): CounterRow[] {
  return Object.keys(b)
    .filter((counter) => a[counter] !== undefined)
    .map((counter) => {
      const [before, after] = [a[counter]!, b[counter]!]
      const isMore = after > before * (1 + (ROOM[counter] ?? 0)) && !allowed.includes(counter)
      return { counter, a: before, b: after, verdict: isMore ? "regression" : after < before ? "improved" : "ok" }
    })
}
