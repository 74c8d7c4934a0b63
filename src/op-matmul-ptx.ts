/** Matrix products by Hopper's own instructions: tensor maps of the factors, how K is split, and the launches. */
import { matmulCombineSpans } from "../shaders/matmul-combine-spans.ts"
import type { GemmKernel } from "../shaders/ptx-gemm.ts"
import { sumColumnsOf } from "../shaders/ptx-gemm-deep.ts"
import type { Finish, PtxLayout } from "../shaders/ptx-gemm-frame.ts"
import { DEEP_ENDED, PTX_TILE, ptxGemmOf } from "../shaders/ptx-gemm-list.ts"
import { CHUNK_COLUMNS, columnsOf, isDeep, type PtxTile, roomOf, rowsOf, stepOf } from "../shaders/ptx-gemm-tile.ts"
import { dtypeOf, type GpuTarget, groupsFor, type Launch, type Launches, launch, part, scratch, sideBySide, table } from "./op-gpu.ts"
import { bestOf } from "./op-matmul-matrix.ts"
import { epilogueOf, type Sized, sized } from "./op-matmul-portable.ts"
import { dealtValues } from "./op-matmul-ptx-deal.ts"
import { type PtxWay, partsOf, ptxWaysOf, spansOf, splitStepsOf, stepsOf, type TimedWay, tilesOf } from "./op-matmul-ptx-way.ts"
import type { Gemm } from "./op-matmul-request.ts"
import { MOST_DYNAMIC, type TensorMapSpec, tensorMapWords } from "./ptx.ts"
import type { Tensor } from "./tensor.ts"

export type { PtxWay }

/** Most bytes of sums of splits. */
const MOST_PARTS = 2 ** 28

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
  if (!target.ptx || roomOf(tile) > (target.ptxRoom ?? MOST_DYNAMIC) || finish === undefined || (tile.later && g.N % 8 !== 0))
    return undefined
  if (dtypeOf(a) !== "bf16" || dtypeOf(b) !== "bf16" || [lda, ldb, ldc].some((size) => size % 8 !== 0)) return undefined
  return ptxGemmOf({ layout: layoutOf(g), out: dtypeOf(c) as "f32" | "bf16", finish, tile })
}

/** Whether the pack has the kernel of a product whose sums have no parts. */
export const hasTile = (given: Gemm, target: GpuTarget, tile: PtxTile): boolean => kernelOf(sized(given), target, tile) !== undefined

/** Only some ways: with so many parts of the sums at least, by this tile, with sums of a's rows. */
interface Wanted {
  readonly least?: number
  readonly tile?: PtxTile
  readonly hasSums?: boolean
}

/** The best way to do a product by PTX, and its seconds; undefined where no kernel does it. */
export function ptxWayOf(given: Gemm, target: GpuTarget, { least = 1, tile: only, hasSums = false }: Wanted = {}): TimedWay | undefined {
  const g = sized(given)
  const room = MOST_PARTS / (4 * given.M * given.N)
  const layout = layoutOf(g)
  const has = (tile: PtxTile, isPart: boolean) => {
    if (only !== undefined && tile !== only) return false
    const hasParts = (finish: Finish) => ptxGemmOf({ layout, out: "f32", finish, tile }) !== undefined
    if (hasSums && !hasParts("sums")) return false
    return isPart ? hasParts("none") : kernelOf(g, target, tile) !== undefined
  }
  let best: TimedWay | undefined
  for (const one of ptxWaysOf(g, target, has)) {
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

/** A product as some launches, and their seconds. */
interface Cut {
  readonly seconds: number
  readonly launches: () => Launches
}

/**
 * A weight's gradient with some more tiles than processors, in two: whole turns of whole tiles side by side, then the last columns, whose K is dealt
 * out; each of them keeps to few lines of the factors at a time. `rowSums` come with the second.
 */
export function cutOf(given: Gemm, target: GpuTarget, rowSums?: RowSums): Cut | undefined {
  const cuts = [PTX_TILE, DEEP_ENDED].flatMap((tile) => (hasTile(given, target, tile) ? (cutBy(tile, given, target, rowSums) ?? []) : []))
  return cuts.toSorted((a, b) => a.seconds - b.seconds)[0]
}

function cutBy(tile: PtxTile, given: Gemm, target: GpuTarget, rowSums?: RowSums): Cut | undefined {
  const g = sized(given)
  const { b, c, M, N } = g
  const isPlain = (memory: typeof b) => !("kind" in memory) || memory.kind === "scratch"
  if (g.layout !== "tn" || g.order !== "any" || !isPlain(b) || !isPlain(c)) return undefined
  const [down, columns] = [Math.ceil(M / rowsOf(tile)), columnsOf(tile)]
  const turns = Math.floor(tilesOf(g, tile) / target.units)
  const kept = Math.floor((target.units * turns) / down) * columns
  if (kept === 0 || kept >= N) return undefined
  const [whole, rest]: readonly [Gemm, Gemm] = [
    { ...g, N: kept },
    { ...g, b: part(b as Tensor, kept), c: part(c as Tensor, kept), N: N - kept },
  ]
  const [first, second] = [ptxWayOf(whole, target), ptxWayOf(rest, target, { least: 2, hasSums: rowSums !== undefined })]
  if (first === undefined || second === undefined || partsOf(whole, first.way) > 1) return undefined
  const idle = 1 - (down * kept) / columns / (target.units * turns)
  return {
    seconds: first.seconds * (1 - idle) + second.seconds,
    launches: () => sideBySide(ptxLaunchesOf(whole, first.way, target), ptxLaunchesOf(rest, second.way, target, { rowSums })),
  }
}

/** Undefined where the other kernels do it, or are faster; with `rowSums` (of tn in f32) also where they would not come along. */
export function ptxGemmLaunches(given: Gemm, target: GpuTarget, rowSums?: RowSums): Launches | undefined {
  const best = ptxWayOf(given, target, { hasSums: rowSums !== undefined })
  if (best === undefined) return undefined
  const other = bestOf(given, target)?.seconds ?? Number.POSITIVE_INFINITY
  const cut = cutOf(given, target, rowSums)
  if (cut !== undefined && cut.seconds < Math.min(best.seconds, other)) return cut.launches()
  if (best.seconds >= other && !isBound(given)) return undefined
  if (rowSums !== undefined && partsOf(given, best.way) === 1) return undefined
  return ptxLaunchesOf(given, best.way, target, { rowSums })
}

/** Tensor maps of both factors: a box has 64 rows or columns, or in a stage of rows along K all of the tile. */
function mapsOf({ a, b, M, N, K, lda, ldb }: Sized, layout: PtxLayout, tile: PtxTile) {
  const step = stepOf(tile)
  const swizzle = isDeep(tile) ? "128B" : "64B"
  const [down, columns] = isDeep(tile) ? [rowsOf(tile), tile.dealt ? CHUNK_COLUMNS : columnsOf(tile)] : [64, 64]
  const alongK = (rows: number, ld: number, count: number): TensorMapSpec => ({
    element: "bf16",
    size: [K, rows],
    strides: [2 * ld],
    box: [step, count],
    swizzle,
  })
  const across = (columns: number, ld: number): TensorMapSpec => ({
    element: "bf16",
    size: [columns, K],
    strides: [2 * ld],
    box: [64, step],
    swizzle: "128B",
  })
  const permuted: TensorMapSpec = {
    element: "bf16",
    size: [K, 2, 4, 4, N / 32],
    strides: [1, 8, 2, 32].map((rows) => 2 * ldb * rows),
    box: [step, 2, 4, 4, columns / 32],
    swizzle,
  }
  const left = layout === "tn" ? across(M, lda) : alongK(M, lda, down)
  const right = layout === "ntp" ? permuted : layout === "nt" ? alongK(N, ldb, columns) : across(N, ldb)
  if ([a, b].some((memory) => "kind" in memory && memory.kind === "table")) throw new TypeError("gemm: a factor is a table")
  return table("u64", [a as never, ...tensorMapWords(left), b as never, ...tensorMapWords(right)])
}

/** The launches of a way; `kernelFor` finds other kernels than the pack's (perf/, tests). */
export function ptxLaunchesOf(
  given: Gemm,
  way: PtxWay,
  target: GpuTarget,
  { kernelFor = ptxGemmOf, rowSums }: { readonly kernelFor?: typeof ptxGemmOf; readonly rowSums?: RowSums | undefined } = {},
): Launches {
  const g = sized(given)
  const { M, N } = g
  const layout = layoutOf(g)
  const { tile, splits, rest, span, group, beside, early, deal } = way
  const launchOf = (into: Sized, finish: Finish, by = tile, from = 0, to = N, kept?: Tensor): Launch => {
    const { values } = epilogueOf(into)
    const kernel = kernelFor({ layout, out: dtypeOf(into.c) as "f32" | "bf16", finish, tile: by })
    if (kernel === undefined) throw new TypeError(`gemm: no PTX kernel for ${layout} ${finish}`)
    const first = early === undefined || from > 0 ? { rest, span } : { rest: early.blocks * early.tiles, span: early.blocks }
    const sizes = { M, N: to, from, steps: stepsOf(g, by), splitSteps: splitStepsOf(g, way), splits, ...first, group }
    const wholes = tilesOf({ ...g, N: to - from }, by) * splits
    const isSpread = from > 0 && beside?.isSpread === true
    const blocks = deal ? deal.lists.length : rest > 0 ? wholes + spansOf(g, way) : isSpread ? wholes : Math.min(target.units, wholes)
    return launch(
      kernel,
      { maps: mapsOf(g, layout, by), ...values, ...(kept && { kept }), ...sizes, ...(deal && dealtValues(deal)) },
      blocks,
    )
  }
  const most = partsOf(g, way)
  const finish = finishOf(g) as Finish
  if (beside !== undefined) return [[launchOf(g, finish, tile, 0, beside.from), launchOf(g, finish, beside.tile, beside.from)]]
  if (most === 1) return [rowSums === undefined ? launchOf(g, finish) : launchOf(g, "sums", tile, 0, N, rowSums.into)]
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
      isSummed: rowSums === undefined ? 0 : isDeep(tile) ? sumColumnsOf(N, tile) : 1,
    }),
  ]
}
