/** Loss, perplexity and bits per byte on held-out windows. */
import { type Dataset, evalWindows } from "./data.ts"
import type { Executable } from "./program.ts"

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
 * Sums in f64, in order: the same bits for the same data and program. `yieldNow` is awaited between batches.
 */
export async function evaluate(
  run: Executable,
  dataset: Dataset,
  shape: { B: number; T: number; stride?: number },
  options: { batches?: number; onProgress?: (done: number, total: number) => void; yieldNow?: () => Promise<void> } = {},
): Promise<Evaluation> {
  const { B, T, stride } = shape
  const windows = evalWindows(dataset, T, false, stride)
  const all = Math.ceil(windows.count / B)
  const wanted = Math.min(all, options.batches ?? all)
  const tokens = new Int32Array(B * T)
  const targets = new Int32Array(B * T)
  let [nats, counted, bytes, bytesKnown] = [0, 0, 0, true]
  for (let i = 0; i < wanted; i++) {
    const group = Math.floor((i * all) / wanted)
    const filled = windows.fill(group * B, B, tokens, targets)
    if (filled.targets > 0) nats += run.submit({ tokens, targets }).read("loss")[0] as number
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
