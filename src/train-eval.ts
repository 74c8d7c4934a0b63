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

/**
 * Evaluates windows of T tokens that start `stride` (default T) tokens apart, B at a time: all of them, or `batches` groups spread evenly over the data (the same ones every time).
 * Adds the targets' log-probabilities in f64, in order: whoever adds those that `alpha serve` tells of the same windows gets the same bits.
 * `yieldNow` is awaited between batches.
 */
export async function evaluate(
  evaluator: Evaluator,
  dataset: Dataset,
  options: { stride?: number; batches?: number; onProgress?: (done: number, total: number) => void; yieldNow?: () => Promise<void> } = {},
): Promise<Evaluation> {
  const { B, T } = evaluator
  const windows = evalWindows(dataset, T, false, options.stride)
  const all = Math.ceil(windows.count / B)
  const wanted = Math.min(all, options.batches ?? all)
  const tokens = new Int32Array(B * T)
  const targets = new Int32Array(B * T)
  let [nats, counted, bytes, bytesKnown] = [0, 0, 0, true]
  for (let i = 0; i < wanted; i++) {
    const group = Math.floor((i * all) / wanted)
    const filled = windows.fill(group * B, B, tokens, targets)
    if (filled.targets > 0) for (const logprob of evaluator.logprobs(tokens, targets)) nats -= logprob
    counted += filled.targets
    if (filled.bytes === undefined) bytesKnown = false
    else bytes += filled.bytes
    options.onProgress?.(i + 1, wanted)
    await options.yieldNow?.()
  }
  const loss = nats / counted
  return {
    loss,
    perplexity: Math.exp(loss),
    bitsPerByte: bytesKnown && bytes > 0 ? nats / (Math.LN2 * bytes) : undefined,
    targets: counted,
  }
}
