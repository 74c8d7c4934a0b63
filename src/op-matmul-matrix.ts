/** Matrix products by matrix instructions: which tile, how K is split, and the launches. */
import { matmulCombine } from "../shaders/matmul-combine.ts"
import { MATRIX_TILES, matrixMatmuls, tileName } from "../shaders/matmul-matrix.ts"
import { tensorEpilogues, tensorMatmuls } from "../shaders/matmul-tensor.ts"
import { dtypeOf, type GpuTarget, groupsFor, type Launch, type Launches, launch, scratch } from "./op-gpu.ts"
import { epilogueOf, type Sized, sized } from "./op-matmul-portable.ts"
import type { Gemm } from "./op-matmul-request.ts"

/** A tile of c that a workgroup of so many lanes sums, `depth` of K at a time. */
export interface Tile {
  /** For messages. */
  readonly name: string
  readonly rows: number
  readonly columns: number
  readonly depth: number
  readonly lanes: number
  /** TFLOP/s of the whole device with many such tiles, as measured on an H200 at 4096³; only the ratios matter. */
  readonly rates: Readonly<Record<Gemm["layout"], number>>
}

/** Tiles by path. For nv2 any sizes within the device's granularity go; for khr each is a kernel of its own. */
export const TILES: Readonly<Record<"nv2" | "khr", readonly Tile[]>> = {
  nv2: [
    tensorTile(128, 256, 64, 256, 280),
    tensorTile(128, 128, 64, 256, 285),
    tensorTile(64, 128, 64, 128, 242),
    tensorTile(64, 64, 64, 128, 190),
    tensorTile(16, 64, 64, 64, 40),
  ],
  khr: MATRIX_TILES.map((tile) => ({ ...tile, name: tileName(tile), lanes: tile.subgroups[0] * tile.subgroups[1] * 32 })),
}
/** A tile of cooperative matrix 2, which is as fast in each layout. */
export function tensorTile(rows: number, columns: number, depth: number, lanes: number, rate: number): Tile {
  return { name: `${rows}x${columns}x${depth}/${lanes}`, rows, columns, depth, lanes, rates: { nt: rate, nn: rate, tn: rate } }
}

/** Of an H200: bytes per second, seconds of a dispatch that waits for another, of a tile's beginning and end, of a step of K with nothing to do. */
const BANDWIDTH = 4e12
const DISPATCH = 4e-6
const ENDS = 1.2e-6
const LATENCY = 6e-7
/** Bytes per second that one processor reads. An estimate. */
const UNIT_BANDWIDTH = 6e10
/** Seconds for 128 × 128 elements, where they are to speak of: an activation. */
const ACTIVATION = { nv2: 2.4e-6, khr: 0 } as const
/** Time that tiles take which may cross an edge, relative to those that may not: as measured. */
const EDGE = { nv2: 2.2, khr: 2.5 } as const
/** Tiles that a tile without a second one on its processor loses. An estimate. */
const LONELY = 0.4
/** Most steps of K in straight code. */
const MOST_TURNS = 64
/** Most tiles along M that lie side by side. */
const MOST_GROUPED = 16
const MOST_SPLITS = 32
/** Most bytes of sums of splits. */
const MOST_PARTS = 2 ** 28

/** How a product is done. */
export interface Way {
  readonly path: "nv2" | "khr"
  readonly tile: Tile
  /** Parts that K is summed in. */
  readonly splits: number
  /** Tiles along M that lie side by side in the grid; divides their number. */
  readonly group: number
}

/** Whether some kernel of a path does this product; that must not depend on M, so that a row's bits do not. */
function isPossible({ layout, a, b, N, K, M, lda, ldb, ldc }: Sized, path: Way["path"], { subgroupSize, sharedBytes }: GpuTarget): boolean {
  if (dtypeOf(a) !== "bf16" || dtypeOf(b) !== "bf16") return false
  if (path === "nv2") return true
  const along = [lda, ldb, ldc, N, layout === "tn" ? M : K]
  return subgroupSize === 32 && sharedBytes >= 48 * 1024 && along.every((size) => size % 8 === 0)
}

const tilesAlong = ({ M, N }: Gemm, { rows, columns }: Tile): readonly [number, number] => [Math.ceil(M / rows), Math.ceil(N / columns)]

/** The largest divisor of `count` up to a limit. */
function divisorOf(count: number, most: number): number {
  let divisor = Math.min(count, most)
  while (count % divisor !== 0) divisor--
  return divisor
}

/** K of one split, a multiple of the tile's depth; the last split may have less. */
const depthOf = (K: number, { depth }: Tile, splits: number): number => Math.ceil(K / splits / depth) * depth

const isInside = ({ M, N, K }: Gemm, tile: Tile, splits: number): boolean =>
  M % tile.rows === 0 && N % tile.columns === 0 && depthOf(K, tile, splits) * splits === K

/** Seconds, by tiles per processor: of few lanes it has two at a time, which hide each other's waiting. */
export function cost(given: Gemm, path: Way["path"], tile: Tile, splits: number, { units }: GpuTarget): number {
  const [up, across] = tilesAlong(given, tile)
  const turns = Math.ceil((up * across * splits) / units)
  const waits = path === "khr" && tile.lanes < 256 && turns % 2 === 1 ? LONELY : 0
  const depth = depthOf(given.K, tile, splits)
  const flops = 2 * tile.rows * tile.columns * depth * (turns + waits) * (isInside(given, tile, splits) ? 1 : EDGE[path])
  const waiting = (depth / tile.depth) * (LATENCY + (2 * (tile.rows + tile.columns) * tile.depth) / UNIT_BANDWIDTH) * Math.max(1, turns / 4)
  const sum = Math.max(flops / ((tile.rates[given.layout] * 1e12) / units), waiting)
  const elements = given.M * given.N
  if (splits > 1) return sum + 2 * DISPATCH + turns * ENDS + (8 * splits * elements) / BANDWIDTH
  const { c, slope, factor, beta, activation = "none" } = given
  const moved = [c, slope, factor, beta].filter((part) => part !== undefined).length * (dtypeOf(c) === "bf16" ? 2 : 4)
  const slow = activation === "none" ? 0 : ACTIVATION[path] * (slope === undefined ? 1 : 2)
  return sum + DISPATCH + turns * (ENDS + (slow * tile.rows * tile.columns) / 2 ** 14) + (moved * elements) / BANDWIDTH
}

/** Paths of a device: what has the tiles of cooperative matrix 2 has those of KHR too. */
const PATHS = { none: [], khr: ["khr"], nv2: ["nv2", "khr"] } as const satisfies Record<GpuTarget["matrix"], readonly Way["path"][]>

const pathOf = (tile: Tile): Way["path"] => (TILES.khr.includes(tile) ? "khr" : "nv2")

/**
 * Rows of "forward" have the same bits whatever their number. Both paths add in one order and round alike (equal on an H200: perf/decode-bits.ts,
 * perf/gemm.ts --check); what a driver makes of an activation's arithmetic may differ from kernel to kernel, so there it is KHR for all.
 */
const forwardPaths = ({ activation = "none" }: Gemm, paths: readonly Way["path"][]): readonly Way["path"][] =>
  activation !== "none" && paths.includes("khr") ? ["khr"] : paths

/** The cheapest way of those by `tiles`; undefined where no matrix kernel does it. */
export const wayOf = (given: Gemm, target: GpuTarget, tiles?: readonly Tile[]): Way | undefined => bestOf(given, target, tiles)?.way

/** The same with the seconds it should take. */
export function bestOf(given: Gemm, target: GpuTarget, tiles: readonly Tile[] = [...TILES.khr, ...TILES.nv2]) {
  const paths = PATHS[target.matrix].filter((path) => tiles.some((tile) => pathOf(tile) === path) && isPossible(sized(given), path, target))
  let best: { way: Way; seconds: number } | undefined
  for (const path of given.order === "forward" ? forwardPaths(given, paths) : paths) {
    for (const tile of tiles.filter((one) => pathOf(one) === path)) {
      const most =
        given.order === "any"
          ? Math.min(MOST_SPLITS, Math.floor(given.K / tile.depth / 4), Math.floor(MOST_PARTS / (4 * given.M * given.N)))
          : 1
      for (let splits = 1; splits <= Math.max(1, most); splits++) {
        if (splits > 1 && (splits - 1) * depthOf(given.K, tile, splits) >= given.K) continue // the last would be empty
        const seconds = cost(given, path, tile, splits, target)
        if (best === undefined || seconds < best.seconds)
          best = { way: { path, tile, splits, group: divisorOf(tilesAlong(given, tile)[0], MOST_GROUPED) }, seconds }
      }
    }
  }
  return best
}

/** The launches of a way to do a product. */
export function launchesOf(given: Gemm, way: Way, target: GpuTarget): Launches {
  const g = sized(given)
  const { M, N } = g
  const byPath = way.path === "nv2" ? tensorLaunch : matrixLaunch
  if (way.splits === 1) return [byPath(g, way)]
  const ld = Math.ceil(N / 8) * 8
  const parts = scratch("f32", way.splits * M * ld)
  const { layout, a, b, K, lda, ldb } = g
  const { values, constants } = epilogueOf(g)
  return [
    byPath({ layout, a, b, c: parts, M, N, K, lda, ldb, ldc: ld, order: "any" }, way),
    launch(matmulCombine, { parts, ...values, M, N, S: way.splits, ld }, groupsFor(M * ld, 4, target), constants),
  ]
}

/** Undefined where the portable kernels must do it. */
export function matrixGemm(given: Gemm, target: GpuTarget): Launches | undefined {
  const way = wayOf(given, target)
  return way && launchesOf(given, way, target)
}

/** Grid, and the constants that all kernels have. */
function frame(g: Sized, { tile, splits, group }: Way) {
  const { M, N, K, lda, ldb } = g
  const [up, across] = tilesAlong(g, tile)
  const grid = [across * group, up / group, splits] as const
  return {
    grid,
    where: isInside(g, tile, splits) ? "inside" : "edge",
    sizes: { M, N, K, KS: depthOf(K, tile, splits), GROUP: group, LDA: lda, LDB: ldb },
  } as const
}

function tensorLaunch(g: Sized, way: Way): Launch {
  const { layout, a, b, c, ldc } = g
  const { grid, where, sizes } = frame(g, way)
  const { rows, columns, depth, lanes } = way.tile
  const turns = divisorOf(sizes.KS / depth, MOST_TURNS)
  const all = { ...sizes, WG: lanes, TM: rows, TN: columns, TK: depth, TURNS: turns, LDC: ldc }
  const out = dtypeOf(c) as "f32" | "bf16"
  const { values, constants } = epilogueOf(g)
  if (Object.values(constants).every((flag) => flag === 0)) return launch(tensorMatmuls[layout][out][where], { a, b, c }, grid, all)
  return launch(tensorEpilogues[layout][out][where], { a, b, ...values }, grid, { ...all, ...constants })
}

function matrixLaunch(g: Sized, way: Way): Launch {
  const { layout, a, b } = g
  const { grid, where, sizes } = frame(g, way)
  const { values, constants } = epilogueOf(g)
  const kernel = matrixMatmuls[layout][TILES.khr.indexOf(way.tile)] as (typeof matrixMatmuls)["nt"][number]
  return launch(kernel, { a, b, ...values }, grid, { ...sizes, ...constants, EDGE: where === "inside" ? 0 : 1 })
}
