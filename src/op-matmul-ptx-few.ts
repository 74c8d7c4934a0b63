/** Matrix products of few rows by Hopper's own instructions: which tile, and the launch. */
import { HELD_COLUMNS, HELD_K, HELD_ROWS, ptxFewHeld } from "../shaders/ptx-few-held.ts"
import { ptxFewOf } from "../shaders/ptx-few-list.ts"
import { depthOf, FEW_TILES, type FewTile, placeBytes, STEP, warpsOf } from "../shaders/ptx-few-tile.ts"
import { activationIndex } from "./op-activation.ts"
import { dtypeOf, type GpuTarget, type Launches, launch, table } from "./op-gpu.ts"
import { sized } from "./op-matmul-portable.ts"
import { isBound, ptxWayOf } from "./op-matmul-ptx.ts"
import type { Gemm } from "./op-matmul-request.ts"
import { tensorMapWords } from "./ptx.ts"

/** Rows that these kernels are for; below, those of matmul-skinny.ts do it. */
const [FEWEST, MOST] = [17, 64]
/**
 * Of an H200: seconds from a copy's start to its arrival from the L2 cache, of a step with nothing to load, of a tile's beginning and end. Estimates:
 * what they choose took at most 2 % more than the best tile that was measured in nine of ten products (perf/LOG.md, "Products of 17 to 64 rows in PTX").
 */
const LATENCY = 8e-7
const STEP_SECONDS = 1.1e-7
const ENDS = 1e-6
/** Bytes per second of the device's memory (it copies 4.26 TB/s), and that one processor brings (an estimate). */
const BANDWIDTH = 4e12
const UNIT_BANDWIDTH = 8e10

/** Seconds by tiles per processor, each of which waits for its factors. */
function cost(given: Gemm, tile: FewTile, { units }: GpuTarget): number {
  const turns = Math.ceil(Math.ceil(given.N / tile.columns) / Math.floor(units / Math.ceil(given.M / tile.rows)))
  const rate = Math.min(UNIT_BANDWIDTH, (depthOf(tile) * placeBytes(tile)) / LATENCY)
  const step = Math.max(placeBytes(tile) / rate, (STEP_SECONDS * Math.ceil(warpsOf(tile) / 4) * tile.each) / 16)
  return ENDS + Math.max(turns * (Math.ceil(given.K / STEP) * step + ENDS / 4), (2 * given.N * given.K) / BANDWIDTH)
}

/** The tiles for a product, the fastest first; none where these kernels do not do it. */
export function fewTiles(given: Gemm, target: GpuTarget): readonly FewTile[] {
  const { layout, a, b, M, lda, ldb, slope, factor, beta, scale, order } = sized(given)
  const isPlain = [slope, factor, beta, scale].every((part) => part === undefined)
  if (!target.ptx || !isPlain || order !== "forward" || layout !== "nt" || M > MOST) return []
  if (dtypeOf(a) !== "bf16" || dtypeOf(b) !== "bf16" || [lda, ldb].some((size) => size % 8 !== 0)) return []
  const seconds = new Map(FEW_TILES.map((tile) => [tile, cost(given, tile, target)]))
  return FEW_TILES.toSorted((x, y) => seconds.get(x)! - seconds.get(y)!)
}

/**
 * Tiles for each processor from which on it pays to bring all of a into registers: an estimate; with 12, the logits of gpt2-124m, it does (perf/LOG.md,
 * "Generation with all layers in one launch of PTX, 1 to 64 sequences").
 */
const HELD_TURNS = 4

/** Whether the kernel that keeps all of a in registers does it: M rows and many columns, the logits of a model of 768 channels. */
function isHeld(given: Gemm, target: GpuTarget): boolean {
  const { M, N, K, c } = sized(given)
  return (
    fewTiles(given, target).length > 0 &&
    M <= HELD_ROWS &&
    K === HELD_K &&
    dtypeOf(c) === "f32" &&
    N >= HELD_TURNS * HELD_COLUMNS * target.units
  )
}

/** Undefined where other kernels do it. */
export function ptxFewLaunches(given: Gemm, target: GpuTarget): Launches | undefined {
  const isOurs = isBound(given) ? ptxWayOf(given, target) !== undefined : given.M >= FEWEST
  if (isOurs && isHeld(given, target)) return heldLaunches(given, target)
  const [tile] = isOurs ? fewTiles(given, target) : []
  return tile && fewLaunches(given, tile, target)
}

/** The launch of a product by a tile. */
export function fewLaunches(given: Gemm, tile: FewTile, target: GpuTarget): Launches {
  const { c, bias, M, N, K, ldc, activation = "none" } = sized(given)
  const maps = mapsOf(given, tile)
  const sizes = { M, N, steps: Math.ceil(K / STEP), ldc, activation: activationIndex(activation) }
  const across = Math.ceil(N / tile.columns)
  const down = Math.ceil(M / tile.rows)
  const kernel = ptxFewOf.get(tile)![dtypeOf(c) as "f32" | "bf16"]
  return [launch(kernel, { maps, bias, c, ...sizes }, [Math.min(Math.max(1, Math.floor(target.units / down)), across), down])]
}

/** The launch of a product of which a block keeps a in registers. */
export function heldLaunches(given: Gemm, { units }: GpuTarget): Launches {
  const { c, bias, M, N, ldc, activation = "none" } = sized(given)
  const maps = mapsOf(given, { rows: HELD_ROWS, columns: HELD_COLUMNS })
  const sizes = { M, N, ldc, activation: activationIndex(activation) }
  return [launch(ptxFewHeld, { maps, bias, c, ...sizes }, [Math.min(units, Math.ceil(N / HELD_COLUMNS))])]
}

/** Tensor maps of a and b, by boxes of so many rows and 64 of K. */
function mapsOf(given: Gemm, { rows, columns }: Pick<FewTile, "rows" | "columns">) {
  const { a, b, M, N, K, lda, ldb } = sized(given)
  if ([a, b].some((memory) => "kind" in memory && memory.kind === "table")) throw new TypeError("gemm: a factor is a table")
  const map = (count: number, ld: number, box: number) =>
    tensorMapWords({ element: "bf16", size: [K, count], strides: [2 * ld], box: [STEP, box], swizzle: "128B" })
  return table("u64", [a as never, ...map(M, lda, rows), b as never, ...map(N, ldb, columns)])
}
