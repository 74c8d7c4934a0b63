/** Loss, perplexity and bits per byte on held-out windows. */
import { type Dataset, evalWindows } from "./data.ts"
import type { Device, Plan, State } from "./program.ts"
import { evaluationPlan, type StepShape, scoredTogether } from "./train-step.ts"

/** Scores B sequences of T tokens at a time. */
export interface Evaluator {
  readonly B: number
  readonly T: number
  /** ln of the probability of each of targets (B·T) after tokens (B·T); 0 where the target is −1. */
  logprobs(tokens: Int32Array, targets: Int32Array): Float32Array
  free(): void
}

/** `plan`: where the evaluation's is there already. */
export function createEvaluator(device: Device, state: State, shape: StepShape, plan: Plan = evaluationPlan(shape)): Evaluator {
  const { B, T } = shape
  const run = device.compile(plan, state)
  const most = scoredTogether(shape)
  const starts = Array.from({ length: Math.ceil((B * T) / most) }, (_, i) => i * most)
  const rows = Object.fromEntries(
    starts.map((from, i) => [`rows.${i}`, Int32Array.from({ length: Math.min(most, B * T - from) }, (_, r) => from + r)]),
  )
  const logprobs = new Float32Array(B * T)
  return {
    B,
    T,
    logprobs(tokens, targets) {
      const parts = Object.fromEntries(starts.map((from, i) => [`targets.${i}`, targets.subarray(from, from + most)]))
      const out = run.submit({ tokens, ...rows, ...parts })
      starts.forEach((from, i) => {
        logprobs.set(out.read(`logprob.${i}`), from)
      })
      return logprobs
    },
    free: () => run.free(),
  }
}

export interface Evaluation {
  /** Nats per counted target. */
  readonly loss: number
  readonly perplexity: number
  /** Undefined where the bytes behind the tokens are not known. */
  readonly bitsPerByte: number | undefined
  readonly targets: number
}

/** What one group of windows adds to an evaluation. */
interface Scored {
  readonly targets: number
  /** NaN where unknown. */
  readonly bytes: number
  /** (B·T); all 0 where there is no target. */
  readonly logprobs: Float32Array
}

/** The ranks that share an evaluation. */
export interface EvalRanks {
  readonly rank: number
  readonly size: number
  /** Every rank's bytes (equal lengths), in rank order. */
  allGather(mine: Uint8Array): Uint8Array
}

/** Every rank's group, in rank order. */
function gatherScored(mine: Scored, ranks: EvalRanks): Scored[] {
  const header = 16
  const bytes = new Uint8Array(header + mine.logprobs.byteLength)
  bytes.set(new Uint8Array(new Float64Array([mine.targets, mine.bytes]).buffer))
  bytes.set(new Uint8Array(mine.logprobs.buffer, mine.logprobs.byteOffset, mine.logprobs.byteLength), header)
  const all = ranks.allGather(bytes)
  return Array.from({ length: ranks.size }, (_, r) => {
    const one = all.slice(r * bytes.length, (r + 1) * bytes.length).buffer
    const [targets, known] = new Float64Array(one, 0, 2) as unknown as [number, number]
    return { targets, bytes: known, logprobs: new Float32Array(one, header) }
  })
}

/**
 * Evaluates windows of T tokens that start `stride` (default T) tokens apart, B at a time: all of them, or `batches` groups spread evenly over the data (the same ones every time).
 * Adds the targets' log-probabilities in f64, in order: whoever adds those that `alpha serve` tells of the same windows gets the same bits.
 * `ranks` score one group each at a time; all add all of them in the same order, and get the bits that one rank gets.
 * `yieldNow` is awaited between batches.
 */
export async function evaluate(
  evaluator: Evaluator,
  dataset: Dataset,
  options: {
    stride?: number
    batches?: number
    ranks?: EvalRanks | undefined
    onProgress?: (done: number, total: number) => void
    yieldNow?: () => Promise<void>
  } = {},
): Promise<Evaluation> {
  const { B, T } = evaluator
  const windows = evalWindows(dataset, T, false, options.stride)
  const all = Math.ceil(windows.count / B)
  const wanted = Math.min(all, options.batches ?? all)
  const tokens = new Int32Array(B * T)
  const targets = new Int32Array(B * T)
  const nothing: Scored = { targets: 0, bytes: 0, logprobs: new Float32Array(B * T) }
  const score = (i: number): Scored => {
    if (i >= wanted) return nothing
    const filled = windows.fill(Math.floor((i * all) / wanted) * B, B, tokens, targets)
    const logprobs = filled.targets > 0 ? evaluator.logprobs(tokens, targets) : nothing.logprobs
    return { targets: filled.targets, bytes: filled.bytes ?? Number.NaN, logprobs }
  }
  const { ranks } = options
  const [rank, size] = [ranks?.rank ?? 0, ranks?.size ?? 1]
  let [nats, counted, bytes] = [0, 0, 0]
  for (let i = 0; i < wanted; i += size) {
    const mine = score(i + rank)
    for (const one of ranks === undefined ? [mine] : gatherScored(mine, ranks)) {
      if (one.targets > 0) for (const logprob of one.logprobs) nats -= logprob
      counted += one.targets
      bytes += one.bytes
    }
    options.onProgress?.(Math.min(i + size, wanted), wanted)
    await options.yieldNow?.()
  }
  const loss = nats / counted
  return {
    loss,
    perplexity: Math.exp(loss),
    bitsPerByte: bytes > 0 ? nats / (Math.LN2 * bytes) : undefined,
    targets: counted,
  }
}
