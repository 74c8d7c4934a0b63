/** Launches of the embeddings: lookups, and table gradients by sorting rows into buckets. */
import { embeddings } from "../shaders/embedding.ts"
import { bucketFolds, bucketSums, FOLD, periodicSums } from "../shaders/embedding-backward.ts"
import { clear, DIGITS, SORT_BLOCK, sortBounds, sortCount, sortScan, sortScatter } from "../shaders/sort.ts"
import { groupsFor, launch, scratch } from "./op-gpu.ts"
import type { GpuTarget, Launch, Launches, Memory } from "./program.ts"
import { elements, lastDim, type Tensor } from "./tensor.ts"

interface Embedding {
  readonly tokens: Tensor
  readonly positions: Tensor | undefined
  readonly wte: Tensor
  readonly wpe: Tensor | undefined
  readonly y: Tensor
  readonly T: number
}

export function embeddingLaunches({ tokens, positions, wte, wpe, y, T }: Embedding, target: GpuTarget): Launches {
  const C = lastDim(wte)
  const pack = C % 8 === 0 ? 8 : 1
  const n = (elements(tokens) * C) / pack
  const constants = { adds: wpe === undefined ? 0 : 1, given: positions === undefined ? 0 : 1 }
  const kernel = pack === 8 ? embeddings.packed : embeddings.uneven
  return [launch(kernel, { tokens, positions, wte, wpe, y, n, width: C / pack, T }, groupsFor(n, 1, target), constants)]
}

/** How a matrix of C columns is taken in packs of f32. */
function packing(C: number) {
  return C % 4 === 0 ? ({ kind: "packed", width: C / 4 } as const) : ({ kind: "uneven", width: C } as const)
}

/** y[p] = beta·y[p] + Σ of the rows r of x with r mod T = p. */
export function periodicSumLaunches(x: Tensor, y: Tensor, T: number, beta: Tensor | undefined, target: GpuTarget): Launches {
  const { kind, width } = packing(lastDim(x))
  const n = (y.shape[0] as number) * width
  const values = { x, y, R: elements(x) / lastDim(x), T, n, width, beta: beta ?? 0 }
  return [launch(periodicSums[kind], values, groupsFor(n, 1, target))]
}

/** y[key] = beta·y[key] + Σ of the rows r of x with keys[r] = key: a radix sort of the rows, sums of whole chunks, sums of buckets. */
export function bucketSumLaunches(keys: Tensor, x: Tensor, y: Tensor, beta: Tensor | undefined, target: GpuTarget): Launches {
  const [R, count] = [elements(keys), y.shape[0] as number]
  const { kind, width } = packing(lastDim(x))
  const bounds = scratch("u32", 2 * count)
  const sort = sorting(keys, R, count)
  const folded = (span: number) => Math.floor(R / span)
  const fold = (span: number) => (folded(span) === 0 ? undefined : scratch("f32", folded(span) * lastDim(x)))
  const [folds, folds2] = [fold(FOLD), fold(FOLD * FOLD)]
  const folding = (from: Memory, to: Memory, span: number): Launch => {
    const n = folded(span) * width
    const values = { keys: sort.keys, rows: sort.rows, x: from, y: to, n, width, span }
    return launch(bucketFolds[kind], values, groupsFor(n, 1, target), { first: span === FOLD ? 1 : 0 })
  }
  const n = count * width
  return [
    [launch(clear, { y: bounds, n: 2 * count }, groupsFor(2 * count, 1, target)), ...sort.steps.slice(0, 1)],
    ...sort.steps.slice(1),
    [
      launch(sortBounds, { keys: sort.keys, bounds, R }, groupsFor(R, 1, target)),
      ...(folds === undefined ? [] : [folding(x, folds, FOLD)]),
    ],
    ...(folds === undefined || folds2 === undefined ? [] : [folding(folds, folds2, FOLD * FOLD)]),
    launch(bucketSums[kind], { bounds, rows: sort.rows, x, folds, folds2, y, n, width, beta: beta ?? 0 }, groupsFor(n, 1, target)),
  ]
}

/** The rows 0 … R − 1 in the order of their keys, which are below `count`. */
function sorting(keys: Tensor, R: number, count: number): { steps: Launch[]; keys: Memory; rows: Memory } {
  const passes = count <= DIGITS ? 1 : Math.ceil(Math.log2(count) / Math.log2(DIGITS))
  const blocks = Math.ceil(R / SORT_BLOCK)
  const steps: Launch[] = []
  let [from, rows]: [Memory, Memory | undefined] = [keys, undefined]
  for (let pass = 0; pass < passes; pass++) {
    const counts = scratch("u32", DIGITS * blocks)
    const [toKeys, toRows] = [scratch("i32", R), scratch("u32", R)]
    const digit = { R, shift: pass * Math.log2(DIGITS) }
    steps.push(
      launch(sortCount, { keys: from, counts, ...digit }, blocks),
      launch(sortScan, { counts, n: DIGITS * blocks }, 1),
      launch(sortScatter, { keys: from, rows, starts: counts, toKeys, toRows, ...digit }, blocks, { first: pass === 0 ? 1 : 0 }),
    )
    from = toKeys
    rows = toRows
  }
  return { steps, keys: from, rows: rows as Memory }
}
