/** Matrix products by Hopper's own instructions: tensor maps of the factors, how K is split, and the launches. */
import { matmulCombine } from "../shaders/matmul-combine.ts"
import type { GemmKernel } from "../shaders/ptx-gemm.ts"
import type { Finish, PtxLayout } from "../shaders/ptx-gemm-frame.ts"
import { PTX_TILE, ptxGemmOf } from "../shaders/ptx-gemm-list.ts"
import { columnsOf, type PtxTile, rowsOf, STEP } from "../shaders/ptx-gemm-tile.ts"
import { dtypeOf, type GpuTarget, groupsFor, type Launch, type Launches, launch, scratch, table } from "./op-gpu.ts"
import { bestOf } from "./op-matmul-matrix.ts"
import { epilogueOf, type Sized, sized } from "./op-matmul-portable.ts"
import type { Gemm } from "./op-matmul-request.ts"
import { type TensorMapSpec, tensorMapWords } from "./ptx.ts"

/** TFLOP/s of the tile on a whole H200, and seconds of a tile's end: measured in the exploration (epilogue about 2 µs). */
const RATES: Readonly<Record<Gemm["layout"], number>> = { nt: 520, nn: 510, tn: 490 }
const ENDS = 2e-6
const DISPATCH = 4e-6
const BANDWIDTH = 4e12
const MOST_SPLITS = 32
/** Most bytes of sums of splits. */
const MOST_PARTS = 2 ** 28
/** Fewest k steps of a split. */
const SHORTEST = 8
/** Tiles along M that lie side by side: 8 was best of 8, 11 and 16. */
const GROUP = 8

/** How a product is done by PTX. */
export interface PtxWay {
  readonly tile: PtxTile
  readonly splits: number
  readonly group: number
}

/** What the kernel does at the end; undefined where none does it. */
function finishOf({ layout, bias, activation = "none", pre, derivative, beta, scale }: Gemm): Finish | undefined {
  const adds = beta !== undefined || scale !== undefined
  if (activation !== "none") return derivative === undefined && !adds ? activation : undefined
  if (pre !== undefined) return undefined
  if (derivative !== undefined)
    return bias === undefined && !adds && derivative.activation !== "none" ? `d_${derivative.activation}` : undefined
  if (adds) return layout === "nt" || bias === undefined ? "add" : undefined
  if (bias === undefined) return "none"
  return layout === "nt" ? "bias" : undefined
}

/** b's rows are permuted where whole groups of 32 are there: then no lanes must exchange what they store. */
const layoutOf = ({ layout, N }: Gemm): PtxLayout => (layout === "nt" && N % 32 === 0 ? "ntp" : layout)

/** The pack's kernel for a product, which does not depend on M. */
function kernelOf(g: Sized, target: GpuTarget): GemmKernel | undefined {
  const finish = finishOf(g)
  const { a, b, c, lda, ldb, ldc } = g
  if (!target.ptx || finish === undefined) return undefined
  if (dtypeOf(a) !== "bf16" || dtypeOf(b) !== "bf16" || [lda, ldb, ldc].some((size) => size % 8 !== 0)) return undefined
  return ptxGemmOf({ layout: layoutOf(g), out: dtypeOf(c) as "f32" | "bf16", finish })
}

const stepsOf = ({ K }: Gemm): number => Math.ceil(K / STEP)
const tilesOf = ({ M, N }: Gemm, tile: PtxTile): number => Math.ceil(M / rowsOf(tile)) * Math.ceil(N / columnsOf(tile))

/** Seconds by waves of tiles. */
function cost(given: Gemm, { tile, splits }: PtxWay, { units }: GpuTarget): number {
  const steps = Math.ceil(stepsOf(given) / splits)
  const turns = Math.ceil((tilesOf(given, tile) * splits) / units)
  const step = (2 * rowsOf(tile) * columnsOf(tile) * STEP * units) / (RATES[given.layout] * 1e12)
  const sums = splits > 1 ? DISPATCH + (8 * splits * given.M * given.N) / BANDWIDTH : 0
  return DISPATCH + turns * (steps * step + ENDS) + sums
}

/** The best way to do a product by PTX, and its seconds; undefined where no kernel does it. */
export function ptxWayOf(given: Gemm, target: GpuTarget): { readonly way: PtxWay; readonly seconds: number } | undefined {
  const g = sized(given)
  if (kernelOf(g, target) === undefined) return undefined
  const steps = stepsOf(given)
  const room = Math.floor(MOST_PARTS / (4 * given.M * given.N))
  const most = given.order === "any" ? Math.min(MOST_SPLITS, Math.floor(steps / SHORTEST), room) : 1
  const ways = Array.from({ length: Math.max(1, most) }, (_, i): PtxWay => ({ tile: PTX_TILE, splits: i + 1, group: GROUP }))
  const whole = ways.filter(({ splits }) => Math.ceil(steps / splits) * (splits - 1) < steps) // no split is empty
  return whole.map((way) => ({ way, seconds: cost(given, way, target) })).reduce((best, one) => (one.seconds < best.seconds ? one : best))
}

/** Undefined where the other kernels do it, or are faster. */
export function ptxGemmLaunches(given: Gemm, target: GpuTarget): Launches | undefined {
  const best = ptxWayOf(given, target)
  if (best === undefined || best.seconds >= (bestOf(given, target)?.seconds ?? Number.POSITIVE_INFINITY)) return undefined
  return ptxLaunchesOf(given, best.way, target)
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

/** The launches of a way; `kernel` other than the pack's for trials. */
export function ptxLaunchesOf(given: Gemm, way: PtxWay, target: GpuTarget, kernelFor = ptxGemmOf): Launches {
  const g = sized(given)
  const { M, N, c } = g
  const layout = layoutOf(g)
  const launchOf = (into: Sized, finish: Finish): Launch => {
    const { values } = epilogueOf(into)
    const kernel = kernelFor({ layout, out: dtypeOf(into.c) as "f32" | "bf16", finish })
    if (kernel === undefined) throw new TypeError(`gemm: no PTX kernel for ${layout} ${finish}`)
    const steps = stepsOf(g)
    const sizes = { M, N, steps, splitSteps: Math.ceil(steps / way.splits), splits: way.splits, group: way.group }
    const blocks = Math.min(target.units, tilesOf(g, way.tile) * way.splits)
    return launch(kernel, { maps: mapsOf(g, layout), ...values, ...sizes }, blocks)
  }
  if (way.splits === 1) return [launchOf(g, finishOf(g) as Finish)]
  const ld = Math.ceil(N / 8) * 8
  const parts = scratch("f32", way.splits * M * ld)
  const { a, b, K, lda, ldb } = g
  const { values, constants } = epilogueOf({ ...g, c })
  return [
    launchOf({ layout: g.layout, a, b, c: parts, M, N, K, lda, ldb, ldc: ld, order: "any" }, "none"),
    launch(matmulCombine, { parts, ...values, M, N, S: way.splits, ld }, groupsFor(M * ld, 4, target), constants),
  ]
}
