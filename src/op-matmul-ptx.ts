/** Matrix products by Hopper's own instructions: tensor maps of the factors, how K is split, and the launches. */
import { matmulCombineSpans } from "../shaders/matmul-combine-spans.ts"
import type { GemmKernel } from "../shaders/ptx-gemm.ts"
import type { Finish, PtxLayout } from "../shaders/ptx-gemm-frame.ts"
import { LATER_TILE, NARROW_TILE, PTX_TILE, ptxGemmOf } from "../shaders/ptx-gemm-list.ts"
import { columnsOf, type PtxTile, rowsOf, STEP } from "../shaders/ptx-gemm-tile.ts"
import { dtypeOf, type GpuTarget, groupsFor, type Launch, type Launches, launch, part, scratch, sideBySide, table } from "./op-gpu.ts"
import { bestOf } from "./op-matmul-matrix.ts"
import { epilogueOf, type Sized, sized } from "./op-matmul-portable.ts"
import type { Gemm } from "./op-matmul-request.ts"
import { type TensorMapSpec, tensorMapWords } from "./ptx.ts"
import type { Tensor } from "./tensor.ts"

/** What a tile costs: TFLOP/s of its k steps on a whole H200, and seconds of its end. */
interface Cost {
  readonly tile: PtxTile
  readonly rates: Readonly<Record<Gemm["layout"], number>>
  readonly ends: Readonly<Record<"bf16" | "f32" | "slope" | "factor", number>>
}
/** From 4096³, 8192³ and the products of gpt2-124m at 65,536 rows, of random numbers. */
const WIDE: Cost = {
  tile: PTX_TILE,
  rates: { nt: 670, nn: 640, tn: 650 },
  ends: { bf16: 3.5e-6, f32: 3.5e-6, slope: 7.4e-6, factor: 8.4e-6 },
}
const LATER: Cost = { tile: LATER_TILE, rates: { nt: 460, nn: 460, tn: 460 }, ends: { bf16: 5e-7, f32: 5e-7, slope: 2e-6, factor: 5e-7 } }
const NARROW: Cost = { ...LATER, tile: NARROW_TILE, rates: { nt: 520, nn: 520, tn: 520 } }
const DISPATCH = 4e-6
/** Bytes per second that the sums of parts are read with: 2.7 to 3.3 TB/s in a step of gpt2-124m (perf/LOG.md, "without its products"). */
const BANDWIDTH = 3e12
const MOST_SPLITS = 32
/** Most bytes of sums of splits. */
const MOST_PARTS = 2 ** 28
/** What a k step takes where all of K is dealt out, and processors are at different places of it: more of the factors comes from memory. */
const SCATTERED = 1.3
/** Fewest k steps of a split. */
const SHORTEST = 8
/** k steps that the blocks of splits may do beyond their share, as the others have more ends to do. */
const MOST_EXTRA = 24
/** Tiles along M that lie side by side: 8 was best of 4, 8, 11 and 16; for weights' gradients, which have few, all. */
const [GROUP, FEW_DOWN] = [8, 16]
const groupOf = ({ layout, M }: Gemm, tile: PtxTile): number => {
  const down = Math.ceil(M / rowsOf(tile))
  return layout === "tn" && down <= FEW_DOWN ? down : GROUP
}

/** How a product is done by PTX. */
export interface PtxWay {
  readonly tile: PtxTile
  readonly splits: number
  readonly group: number
  /** The last k steps, which blocks beyond those of the splits share in spans of so many; 0 and 1 where there is none. */
  readonly rest: number
  readonly span: number
  /** Columns from `from` on are done by other tiles, beside the others: both fill whole turns of the processors. */
  readonly beside?: { readonly from: number; readonly tile: PtxTile }
}

/** Row sums of a, which a weight's gradient brings along. */
export interface RowSums {
  readonly into: Tensor
  readonly beta: Tensor | number
}

/** What the kernel does at the end; undefined where none does it. */
function finishOf({ layout, bias, activation = "none", slope, factor, beta, scale }: Gemm): Finish | undefined {
  const adds = beta !== undefined || scale !== undefined
  if (activation !== "none") {
    if (factor !== undefined || adds) return undefined
    return slope === undefined ? activation : `${activation}_slope`
  }
  if (slope !== undefined) return undefined
  if (factor !== undefined) return bias === undefined && !adds ? "factor" : undefined
  if (adds) return layout === "nt" || bias === undefined ? "add" : undefined
  if (bias === undefined) return "none"
  return layout === "nt" ? "bias" : undefined
}

/** b's rows are permuted where whole groups of 32 are there: then no lanes must exchange what they store. */
const layoutOf = ({ layout, N }: Gemm): PtxLayout => (layout === "nt" && N % 32 === 0 ? "ntp" : layout)

/** The pack's kernel for a product, which does not depend on M. */
function kernelOf(g: Sized, target: GpuTarget, tile: PtxTile): GemmKernel | undefined {
  const finish = finishOf(g)
  const { a, b, c, lda, ldb, ldc } = g
  if (!target.ptx || finish === undefined || (tile.later && g.N % 8 !== 0)) return undefined
  if (dtypeOf(a) !== "bf16" || dtypeOf(b) !== "bf16" || [lda, ldb, ldc].some((size) => size % 8 !== 0)) return undefined
  return ptxGemmOf({ layout: layoutOf(g), out: dtypeOf(c) as "f32" | "bf16", finish, tile })
}

const stepsOf = ({ K }: Gemm): number => Math.ceil(K / STEP)
const tilesOf = ({ M, N }: Gemm, tile: PtxTile): number => Math.ceil(M / rowsOf(tile)) * Math.ceil(N / columnsOf(tile))

const splitStepsOf = (given: Gemm, { splits, rest }: PtxWay): number => (splits === 0 ? 0 : Math.ceil((stepsOf(given) - rest) / splits))
const spansOf = (given: Gemm, { tile, rest, span }: PtxWay): number => Math.ceil((tilesOf(given, tile) * rest) / span)

/** What is dealt out of the rest: the most tiles that a span touches, the most spans that a tile does, and the pieces there are. */
function piecesOf(given: Gemm, way: PtxWay) {
  const { tile, rest, span } = way
  if (rest === 0) return { perSpan: 0, perTile: 0, all: 0 }
  const all = tilesOf(given, tile) * rest
  const touched = (each: number, other: number) =>
    Array.from(
      { length: Math.ceil(all / each) },
      (_, i) => Math.floor((Math.min((i + 1) * each, all) - 1) / other) - Math.floor((i * each) / other) + 1,
    )
  const perSpan = touched(span, rest)
  return { perSpan: Math.max(...perSpan), perTile: Math.max(...touched(rest, span)), all: perSpan.reduce((sum, count) => sum + count, 0) }
}

/** Parts of the sums of a tile, at most. */
const partsOf = (given: Gemm, way: PtxWay): number => way.splits + piecesOf(given, way).perTile

const endOf = ({ slope, factor, c }: Gemm): keyof Cost["ends"] =>
  slope !== undefined ? "slope" : factor !== undefined ? "factor" : (dtypeOf(c) as "bf16" | "f32")

/** Seconds by waves of tiles. */
function secondsOf(given: Gemm, way: PtxWay, { rates, ends }: Cost, { units }: GpuTarget): number {
  const { tile, splits, span, rest } = way
  const { M, N } = given
  const tiles = tilesOf(given, tile)
  const turns = rest > 0 ? 1 : Math.ceil((tiles * splits) / units)
  const step = ((2 * rowsOf(tile) * columnsOf(tile) * STEP * units) / (rates[given.layout] * 1e12)) * (splits === 0 ? SCATTERED : 1)
  const { perSpan, all } = piecesOf(given, way)
  const isWhole = splits === 1 && rest === 0
  const end = ends[isWhole ? endOf(given) : "f32"]
  const longest = Math.max(turns * (splitStepsOf(given, way) * step + end), rest > 0 ? span * step + perSpan * end : 0)
  const sums = isWhole ? 0 : DISPATCH + (4 * M * N * (splits + all / tiles + 1)) / BANDWIDTH
  return DISPATCH + longest + sums
}

/** Whole splits for all turns, or for one turn as many as there are processors for and a rest for the others: all of K where there are more tiles. */
function* waysOf(given: Gemm, tile: PtxTile, { units }: GpuTarget): Generator<PtxWay> {
  const common = { tile, group: groupOf(given, tile) }
  const [steps, tiles] = [stepsOf(given), tilesOf(given, tile)]
  yield { ...common, splits: 1, rest: 0, span: 1 }
  if (given.order !== "any" || tile.later) return
  for (let splits = 2; splits <= Math.min(MOST_SPLITS, Math.floor(steps / SHORTEST)); splits++)
    if (Math.ceil(steps / splits) * (splits - 1) < steps) yield { ...common, splits, rest: 0, span: 1 } // no split is empty
  const splits = Math.floor(units / tiles)
  const others = units - splits * tiles
  if (splits === 0) yield { ...common, splits, rest: steps, span: Math.ceil((tiles * steps) / units) }
  if (splits === 0 || others === 0) return
  const fewest = Math.max(SHORTEST, Math.ceil((steps * tiles) / units))
  for (let each = fewest; each < fewest + MOST_EXTRA && splits * each < steps; each++) {
    const rest = steps - splits * each
    yield { ...common, splits, rest, span: Math.ceil((tiles * rest) / others) }
  }
}

/** Seconds until all tiles are done, as many `first` as there are and then `second`, each processor taking the next blocks when it is free. */
function finished(units: number, [tiles, seconds]: readonly [number, number], [more, each]: readonly [number, number]): number {
  const turns = Math.floor(tiles / units)
  const free = Array.from({ length: units }, (_, i) => (turns + (units - 1 - i < tiles % units ? 1 : 0)) * seconds)
  const blocks = Math.min(units, more)
  return Math.max(free.at(-1)!, ...Array.from({ length: blocks }, (_, i) => free[i]! + Math.ceil((more - i) / blocks) * each))
}

/** Columns by a wide and a narrow tile, which together may fill whole turns where one alone does not. */
function* besides(given: Gemm, { units }: GpuTarget): Generator<{ readonly way: PtxWay; readonly seconds: number }> {
  const { N, layout } = given
  const secondsOfTile = ({ tile, rates, ends }: Cost) =>
    (stepsOf(given) * 2 * rowsOf(tile) * columnsOf(tile) * STEP * units) / (rates[layout] * 1e12) + ends[endOf(given)]
  const [one, other] = [secondsOfTile(WIDE), secondsOfTile(NARROW)]
  const common = { tile: PTX_TILE, splits: 1, rest: 0, span: 1, group: groupOf(given, PTX_TILE) }
  for (let from = columnsOf(PTX_TILE); from < N; from += columnsOf(PTX_TILE)) {
    const [tiles, others] = [tilesOf({ ...given, N: from }, PTX_TILE), tilesOf({ ...given, N: N - from }, NARROW_TILE)]
    yield {
      way: { ...common, beside: { from, tile: NARROW_TILE } },
      seconds: 2 * DISPATCH + finished(units, [tiles, one], [others, other]),
    }
  }
}

/** The best way to do a product by PTX with `least` parts of the sums, and its seconds; undefined where no kernel does it. */
export function ptxWayOf(given: Gemm, target: GpuTarget, least = 1): { readonly way: PtxWay; readonly seconds: number } | undefined {
  const g = sized(given)
  const room = MOST_PARTS / (4 * given.M * given.N)
  const has = (tile: PtxTile) => kernelOf(g, target, tile) !== undefined
  const ways = [WIDE, LATER].flatMap((cost) =>
    has(cost.tile) ? [...waysOf(given, cost.tile, target)].map((way) => ({ way, seconds: secondsOf(given, way, cost, target) })) : [],
  )
  if (has(PTX_TILE) && has(NARROW_TILE)) ways.push(...besides(given, target))
  let best: (typeof ways)[number] | undefined
  for (const one of ways) {
    const parts = partsOf(given, one.way)
    if (parts >= least && (parts === 1 || parts <= room) && one.seconds < (best?.seconds ?? Number.POSITIVE_INFINITY)) best = one
  }
  return best
}

/**
 * Whether a product is done in PTX for any number of rows or for none: its activation has other bits in other kernels, and a row's bits may not
 * depend on how many there are. Where `slope` is kept the program trains, and always has the same rows.
 */
export const isBound = ({ order, activation = "none", slope }: Gemm): boolean =>
  order === "forward" && activation !== "none" && slope === undefined

/**
 * A weight's gradient with some more tiles than processors, in two: whole turns of whole tiles side by side, then the last columns, whose K is dealt
 * out; each of them keeps to few lines of the factors at a time. `rowSums` come with the second.
 */
export function cutOf(given: Gemm, target: GpuTarget, rowSums?: RowSums): { seconds: number; launches: () => Launches } | undefined {
  const g = sized(given)
  const { b, c, M, N } = g
  const isPlain = (memory: typeof b) => !("kind" in memory) || memory.kind === "scratch"
  if (g.layout !== "tn" || g.order !== "any" || !isPlain(b) || !isPlain(c)) return undefined
  const [down, columns] = [Math.ceil(M / rowsOf(PTX_TILE)), columnsOf(PTX_TILE)]
  const turns = Math.floor(tilesOf(g, PTX_TILE) / target.units)
  const kept = Math.floor((target.units * turns) / down) * columns
  if (kept === 0 || kept >= N) return undefined
  const [whole, rest]: readonly [Gemm, Gemm] = [
    { ...g, N: kept },
    { ...g, b: part(b as Tensor, kept), c: part(c as Tensor, kept), N: N - kept },
  ]
  const [first, second] = [ptxWayOf(whole, target), ptxWayOf(rest, target, 2)]
  if (first === undefined || second === undefined || partsOf(whole, first.way) > 1) return undefined
  const idle = 1 - (down * kept) / columns / (target.units * turns)
  return {
    seconds: first.seconds * (1 - idle) + second.seconds,
    launches: () => sideBySide(ptxLaunchesOf(whole, first.way, target), ptxLaunchesOf(rest, second.way, target, { rowSums })),
  }
}

/** Undefined where the other kernels do it, or are faster; with `rowSums` (of tn in f32) also where they would not come along. */
export function ptxGemmLaunches(given: Gemm, target: GpuTarget, rowSums?: RowSums): Launches | undefined {
  const best = ptxWayOf(given, target)
  if (best === undefined) return undefined
  const other = bestOf(given, target)?.seconds ?? Number.POSITIVE_INFINITY
  const cut = cutOf(given, target, rowSums)
  if (cut !== undefined && cut.seconds < Math.min(best.seconds, other)) return cut.launches()
  if (best.seconds >= other && !isBound(given)) return undefined
  if (rowSums !== undefined && partsOf(given, best.way) === 1) return undefined
  return ptxLaunchesOf(given, best.way, target, { rowSums })
}

/** Tensor maps of both factors. */
function mapsOf({ a, b, M, N, K, lda, ldb }: Sized, layout: PtxLayout) {
  const alongK = (rows: number, ld: number): TensorMapSpec => ({
    element: "bf16",
    size: [K, rows],
    strides: [2 * ld],
    box: [STEP, 64],
    swizzle: "64B",
  })
  const across = (columns: number, ld: number): TensorMapSpec => ({
    element: "bf16",
    size: [columns, K],
    strides: [2 * ld],
    box: [64, STEP],
    swizzle: "128B",
  })
  const permuted: TensorMapSpec = {
    element: "bf16",
    size: [K, 2, 4, 4, N / 32],
    strides: [1, 8, 2, 32].map((rows) => 2 * ldb * rows),
    box: [STEP, 2, 4, 4, 2],
    swizzle: "64B",
  }
  const left = layout === "tn" ? across(M, lda) : alongK(M, lda)
  const right = layout === "ntp" ? permuted : layout === "nt" ? alongK(N, ldb) : across(N, ldb)
  if ([a, b].some((memory) => "kind" in memory && memory.kind === "table")) throw new TypeError("gemm: a factor is a table")
  return table("u64", [a as never, ...tensorMapWords(left), b as never, ...tensorMapWords(right)])
}

/** The launches of a way; `kernelFor` other than the pack's for trials. */
export function ptxLaunchesOf(
  given: Gemm,
  way: PtxWay,
  target: GpuTarget,
  { kernelFor = ptxGemmOf, rowSums }: { readonly kernelFor?: typeof ptxGemmOf; readonly rowSums?: RowSums | undefined } = {},
): Launches {
  const g = sized(given)
  const { M, N } = g
  const layout = layoutOf(g)
  const { tile, splits, rest, span, group, beside } = way
  const launchOf = (into: Sized, finish: Finish, by = tile, from = 0, to = N): Launch => {
    const { values } = epilogueOf(into)
    const kernel = kernelFor({ layout, out: dtypeOf(into.c) as "f32" | "bf16", finish, tile: by })
    if (kernel === undefined) throw new TypeError(`gemm: no PTX kernel for ${layout} ${finish}`)
    const sizes = { M, N: to, from, steps: stepsOf(g), splitSteps: splitStepsOf(g, way), splits, rest, span, group }
    const wholes = tilesOf({ ...g, N: to - from }, by) * splits
    const blocks = rest > 0 ? wholes + spansOf(g, way) : Math.min(target.units, wholes)
    return launch(kernel, { maps: mapsOf(g, layout), ...values, ...sizes }, blocks)
  }
  const most = partsOf(g, way)
  const finish = finishOf(g) as Finish
  if (beside !== undefined) return [[launchOf(g, finish, tile, 0, beside.from), launchOf(g, finish, beside.tile, beside.from)]]
  if (most === 1) return [launchOf(g, finish)]
  // Row sums have a column of their own, and columns come in eights.
  const ld = Math.ceil(N / 8) * 8 + (rowSums === undefined ? 0 : 8)
  const parts = scratch("f32", most * M * ld)
  const { a, b, K, lda, ldb } = g
  const { values, constants } = epilogueOf(g)
  const sizes = { M, N, S: splits, ld, rest, span }
  const summed = { rowSums: rowSums?.into, sumsBeta: rowSums?.beta ?? 0 }
  return [
    launchOf({ layout: g.layout, a, b, c: parts, M, N, K, lda, ldb, ldc: ld, order: "any" }, rowSums === undefined ? "none" : "sums"),
    launch(matmulCombineSpans, { parts, ...summed, ...values, ...sizes }, groupsFor(M * ld, 8, target, 128), {
      ...constants,
      group,
      rows: rowsOf(tile),
      columns: columnsOf(tile),
      isSummed: rowSums === undefined ? 0 : 1,
    }),
  ]
}
