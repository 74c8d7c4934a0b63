/** Batches and evaluation windows: which tokens a step sees, as a pure function of (seed, step, row). */

import { AlphaError, EXIT } from "./base-error.ts"
import { randomBits } from "./base-random.ts"
import type { Dataset } from "./data-types.ts"

/** Target of a position that takes no loss. */
export const NO_TARGET = -1

/** Philox streams: starts of random windows, order of an epoch. */
const WINDOW_STREAM = 0xda7a_0001
const EPOCH_STREAM = 0xda7a_0002

/** Which rows of which step. */
export interface BatchSpec {
  seed: number
  step: number
  /** First global row, in [0, globalBatch): micro-batches and ranks ask for their own rows. */
  row: number
  rows: number
  /** Window length. */
  T: number
  order: "random" | "sequential"
  /** Rows of the whole step. */
  globalBatch: number
  /** Start windows at document starts and give no target in another document. */
  boundaries: boolean
}

/**
 * Fills tokens and targets, both (rows, T): targets[r, t] is the token after tokens[r, t], or NO_TARGET where no loss is taken.
 *
 * random: start = floor(u · (tokens − T)), u uniform in [0, 1) with 53 bits from Philox (seed, stream, step, global row).
 * sequential: an epoch is all W = floor((tokens − 1) / T) windows that follow each other from an offset drawn per epoch (so that the
 * remainder left out varies), each once, in an order drawn per epoch; sample step · globalBatch + row takes the next.
 * boundaries: a random window whose document starts less than T tokens before it moves back to that start; the target of an
 * end-of-text token (the first token of another document) is NO_TARGET. Attention still sees the documents before in the window.
 *
 * Throws AlphaError when the data has fewer than T + 1 tokens.
 */
export function fillBatch(dataset: Dataset, spec: BatchSpec, tokens: Int32Array, targets: Int32Array): void {
  const { T, row, rows } = spec
  requireWindow(dataset, T)
  const window = new Int32Array(T + 1)
  for (let r = 0; r < rows; r++) {
    dataset.read(windowStart(dataset, spec, row + r), window)
    writeRow(window, T, spec.boundaries ? dataset.endOfText : undefined, r * T, tokens, targets)
  }
}

/** Throws AlphaError unless one window of T tokens and its targets fit. */
export function requireWindow(dataset: Dataset, T: number): void {
  if (dataset.tokens > T) return
  throw new AlphaError(`data ${dataset.name}: ${dataset.tokens} tokens, but one window needs context + 1 = ${T + 1}`, {
    hint: "give more text, or a smaller --context",
    code: EXIT.data,
  })
}

/** Index of the first token of global row `row` of a step. */
function windowStart(dataset: Dataset, spec: BatchSpec, row: number): number {
  const { seed, step, T, order, globalBatch, boundaries } = spec
  if (order === "random") {
    const start = Math.floor(uniform53(seed, WINDOW_STREAM, step, row) * (dataset.tokens - T))
    return boundaries ? documentStart(dataset, start, T) : start
  }
  const windows = Math.floor((dataset.tokens - 1) / T)
  const sample = step * globalBatch + row
  const epoch = Math.floor(sample / windows)
  const slack = dataset.tokens - 1 - windows * T
  const offset = Math.floor(uniform53(seed, EPOCH_STREAM, epoch, 0) * (slack + 1))
  return offset + permuted(sample % windows, windows, seed, epoch) * T
}

/** Uniform in [0, 1), 53 bits of the Philox values 2·index and 2·index + 1. */
function uniform53(seed: number, stream: number, step: number, index: number): number {
  const high = randomBits(seed, stream, step, 2 * index) >>> 5
  const low = randomBits(seed, stream, step, 2 * index + 1) >>> 6
  return (high * 2 ** 26 + low) / 2 ** 53
}

/** The start of the document that holds token `at`, when it lies less than T before; otherwise `at`. */
function documentStart(dataset: Dataset, at: number, T: number): number {
  const back = Math.min(at, T)
  if (dataset.endOfText === undefined || back === 0) return at
  const before = new Int32Array(back)
  dataset.read(at - back, before)
  for (let i = back - 1; i >= 0; i--) if (idOf(before[i]!) === dataset.endOfText) return at - back + i + 1
  return back < T ? 0 : at
}

/**
 * Value `index` of a permutation of 0 … count − 1 drawn by (seed, epoch), without a table: a Feistel network of 8 rounds over the next
 * power of 4, walked until it lands below count. Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
 */
export function permuted(index: number, count: number, seed: number, epoch: number): number {
  let half = 1
  while (4 ** half < count) half++
  const size = 2 ** half
  let value = index
  do {
    let left = Math.floor(value / size)
    let right = value % size
    for (let round = 0; round < 8; round++) {
      const mixed = randomBits(seed, EPOCH_STREAM, epoch, 4 * (1 + round * size + right)) % size
      ;[left, right] = [right, (left ^ mixed) >>> 0]
    }
    value = left * size + right
  } while (value >= count)
  return value
}

/** Id of a value read from a dataset. */
function idOf(value: number): number {
  return value < 0 ? ~value : value
}

/** Writes T tokens and targets of a window of T + 1 at `at`. A target after `endOfText` belongs to another document. */
function writeRow(window: Int32Array, T: number, endOfText: number | undefined, at: number, tokens: Int32Array, targets: Int32Array): void {
  for (let t = 0; t < T; t++) {
    const id = idOf(window[t]!)
    const target = window[t + 1]!
    tokens[at + t] = id
    targets[at + t] = target < 0 || id === endOfText ? NO_TARGET : target
  }
}

/** The held-out split cut into windows. */
export interface EvalWindows {
  /** Number of windows of T: 1 + ceil((tokens − 1 − T) / stride), at least 1 where there is a target. */
  readonly count: number
  /**
   * Fills rows windows from `index` on, both arrays (rows, T); what lies past the end is token 0 with NO_TARGET.
   * Returns how many targets there are and the bytes of text they stand for (undefined when unknown).
   */
  fill(index: number, rows: number, tokens: Int32Array, targets: Int32Array): { targets: number; bytes: number | undefined }
}

/**
 * Evaluation in order: windows of T tokens, each `stride` tokens after the one before, so that each token but the first is a target
 * exactly once, in the first window that holds it: with a stride below T, windows but the first take a loss on their last `stride` targets only.
 * bits per byte = Σ nats / (ln 2 · Σ bytes) over all windows is then exact.
 */
export function evalWindows(dataset: Dataset, T: number, boundaries = false, stride = T): EvalWindows {
  const total = dataset.tokens - 1
  const count = total < 1 ? 0 : 1 + Math.max(0, Math.ceil((total - T) / stride))
  const { byteLengths } = dataset
  return {
    count,
    fill(index, rows, tokens, targets) {
      tokens.fill(0, 0, rows * T)
      targets.fill(NO_TARGET, 0, rows * T)
      for (let r = 0; r < rows && index + r < count; r++) {
        const start = (index + r) * stride
        const length = Math.min(T, total - start)
        const window = new Int32Array(length + 1)
        dataset.read(start, window)
        writeRow(window, length, boundaries ? dataset.endOfText : undefined, r * T, tokens, targets)
        if (index + r > 0) targets.fill(NO_TARGET, r * T, r * T + T - stride)
      }
      let counted = 0
      let bytes = 0
      for (let i = 0; i < rows * T; i++) {
        const target = targets[i]!
        if (target === NO_TARGET) continue
        counted++
        if (byteLengths) bytes += byteLengths[target]!
      }
      return { targets: counted, bytes: byteLengths && bytes }
    },
  }
}
