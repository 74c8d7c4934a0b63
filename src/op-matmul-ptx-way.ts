/** Ways to do a product by PTX: its tile, how K is split, what processors take which part, and how long that takes. */
import {
  DEALT_TILE,
  DEEP_ENDED,
  DEEP_TILE,
  FLAT_TILE,
  NARROW_TILE,
  PTX_TILE,
  TALL_TILE,
  WIDE_DEALT,
  WIDE_TILE,
} from "../shaders/ptx-gemm-list.ts"
import { columnsOf, isDeep, type PtxTile, rowsOf, stepOf } from "../shaders/ptx-gemm-tile.ts"
import { dtypeOf, type GpuTarget } from "./op-gpu.ts"
import { bestDeal, type Deal } from "./op-matmul-ptx-deal.ts"
import type { Gemm } from "./op-matmul-request.ts"

/** How a product is done by PTX. */
export interface PtxWay {
  readonly tile: PtxTile
  readonly splits: number
  readonly group: number
  /** The last k steps, which blocks beyond those of the splits share in spans of so many; 0 and 1 where there is none. */
  readonly rest: number
  readonly span: number
  /** The first blocks, as many as `blocks`, begin before the others, and have so many tiles for themselves first. */
  readonly early?: { readonly blocks: number; readonly tiles: number }
  /** Columns from `from` on are done by other tiles, beside the others: both fill whole turns of the processors. Where they are spread, each has a block. */
  readonly beside?: { readonly from: number; readonly tile: PtxTile; readonly isSpread?: boolean }
  /** Tiles by lists. */
  readonly deal?: Deal
}

export interface TimedWay {
  readonly way: PtxWay
  readonly seconds: number
}

/** What a tile costs: TFLOP/s of its k steps on a whole H200, and seconds of its end. */
interface Cost {
  readonly rates: (given: Gemm) => number
  readonly ends: Readonly<Record<"bf16" | "f32" | "slope" | "factor", number>>
}
/** Columns of c that are few, so that a's rows come to few processors: measured at 768; */
const FEW_COLUMNS = 768
/** and some: measured at 1,024 and 1,280, with another outcome than at 4,096 (perf/LOG.md, "Lists of tiles"); the bound is an estimate. */
const hasSome = ({ N }: Gemm): boolean => N > FEW_COLUMNS && N <= 2048
/** Bytes of the L2 cache. */
const CACHE = 50e6
/** Whether the same columns of a's rows lie a multiple of 8 KiB apart and not all of a is in the cache: measured at 16384×1024×4096, not where K is 5,120. */
const isCrowded = ({ M, lda = 0 }: Gemm): boolean => lda % 4096 === 0 && 2 * M * lda > CACHE
/** The longest K at which narrow tiles were faster there: measured at 1,024, and not from 1,280 on. */
const SHORT = 1024
/** Elements between rows of a that are far apart, so that its rows are in many pages: an estimate between the measured 8,192 and 50,304. */
const FAR = 16384
/**
 * Rates and ends from the figures of perf/LOG.md, "Products in PTX: lines asked for ahead, four tiles, two side by side": 4096³, 8192³, products of
 * gpt2-124m at 65,536 rows, of widths 1,024 and 1,280, and of the classifiers, random numbers. What is there is whole products' TFLOP/s; how much of a
 * product's time is its ends, and so each rate, is an estimate that gives those. An end of 0 belongs to what the tile is not there for.
 */
const COSTS = new Map<PtxTile, Cost>([
  [
    PTX_TILE,
    {
      rates: (given) => {
        const { layout, N, lda = 0 } = given
        if (layout === "tn") return lda < FAR ? 650 : 520
        if (lda >= FAR) return 445
        if (N <= FEW_COLUMNS) return 630
        const [nt, nn] = !hasSome(given) ? [670, 645] : isCrowded(given) ? [645, 590] : [685, 675]
        return layout === "nt" ? nt : nn
      },
      ends: { bf16: 3e-6, f32: 3.5e-6, slope: 6e-6, factor: 6e-6 },
    },
  ],
  [
    FLAT_TILE,
    {
      rates: (given) => {
        const { layout, N, lda = 0 } = given
        if (layout === "tn") return 590
        if (lda >= FAR || N <= FEW_COLUMNS) return layout === "nt" ? 680 : 660
        if (!hasSome(given)) return 600
        return layout === "nt" ? 705 : isCrowded(given) ? 570 : 675
      },
      ends: { bf16: 5e-6, f32: 5e-6, slope: 0, factor: 0 },
    },
  ],
  [
    NARROW_TILE,
    {
      rates: (given) => {
        if (!hasSome(given)) return 540
        return given.K <= SHORT ? 585 : !isCrowded(given) ? 525 : given.layout === "nt" ? 490 : 460
      },
      ends: { bf16: 5e-7, f32: 0, slope: 0, factor: 5e-7 },
    },
  ],
  // Fitted to perf/LOG.md, "227 KiB of shared memory for a block on Vulkan": 4096³, 8192³, gpt2-124m at 65,536 rows; one rate, as what differs lies within two runs' spread.
  [DEEP_TILE, { rates: () => 820, ends: { bf16: 1.2e-6, f32: 0, slope: 2.5e-6, factor: 2e-6 } }],
  [TALL_TILE, { rates: () => 800, ends: { bf16: 1.2e-6, f32: 0, slope: 0, factor: 2e-6 } }],
  [DEEP_ENDED, { rates: () => 820, ends: { bf16: 1.7e-6, f32: 4e-6, slope: 0, factor: 0 } }],
  [WIDE_TILE, { rates: ({ layout }) => (layout === "tn" ? 840 : 820), ends: { bf16: 3e-6, f32: 5.5e-6, slope: 0, factor: 0 } }],
])
const costOf = (tile: PtxTile): Cost => COSTS.get(tile) ?? (COSTS.get(PTX_TILE) as Cost)

/** Seconds of a launch beside its tiles: an estimate, as in op-matmul-matrix.ts. */
export const DISPATCH = 4e-6
/**
 * The same of two launches side by side, which pays where there are few turns: an estimate by which they are taken where they won and not where they lost
 * (16384×1024×1024; the entry of COSTS, "beside").
 */
export const BESIDE = 1.3e-5
const FEW_TURNS = 4
/**
 * Tiles that lists deal out, beside those that have their costs, and what the products of a narrow one take of a wide one's: as many bytes come from the L2
 * cache; where more is on the way at a time, as the rates of WIDE_TILE and TALL_TILE have it (8192×1280×5120: 149 µs, measured nt 142, nn 148).
 */
const DEALT = [
  [DEALT_TILE, PTX_TILE, 6 / 7],
  [WIDE_DEALT, WIDE_TILE, 0.71],
] as const
/** Seconds until a block has its list: an estimate, a load from memory and a barrier of the block. */
const LIST = 1e-6
/** Bytes per second that sums of parts are read with: 2.7 to 3.3 TB/s (perf/LOG.md, "A training step of gpt2-124m without its products"). */
const BANDWIDTH = 3e12
/** How much longer a k step takes where all of K is dealt out, and processors are at different places of it: an estimate, as more comes from memory. */
const SCATTERED = 1.3
/** Bounds of what is looked at, not costs: most splits, and their fewest of K. */
const [MOST_SPLITS, SHORTEST] = [32, 256]
/** Of K that the blocks of splits may do beyond their share, as the others have more ends to do: also a bound. */
const MOST_EXTRA = 768
/**
 * Tiles along M that lie side by side: 8 was best of 4, 8, 11 and 16; for weights' gradients, which have few, all (+1 %): trials that the log leaves out.
 * Of deep tiles of 128 rows 16 (perf/LOG.md, "227 KiB of shared memory for a block on Vulkan").
 */
const [GROUP, FLAT_GROUP, FEW_DOWN] = [8, 16, 16]
export const groupOf = ({ layout, M }: Gemm, tile: PtxTile): number => {
  const down = Math.ceil(M / rowsOf(tile))
  return layout === "tn" && down <= FEW_DOWN ? down : isDeep(tile) && tile.units === 1 ? FLAT_GROUP : GROUP
}

export const stepsOf = ({ K }: Gemm, tile: PtxTile): number => Math.ceil(K / stepOf(tile))
export const tilesOf = ({ M, N }: Gemm, tile: PtxTile): number => Math.ceil(M / rowsOf(tile)) * Math.ceil(N / columnsOf(tile))

export const splitStepsOf = (given: Gemm, { tile, splits, rest }: PtxWay): number =>
  splits === 0 ? 0 : Math.ceil((stepsOf(given, tile) - rest) / splits)
export const spansOf = (given: Gemm, { tile, rest, span }: PtxWay): number => Math.ceil((tilesOf(given, tile) * rest) / span)

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
export const partsOf = (given: Gemm, way: PtxWay): number => way.splits + piecesOf(given, way).perTile

const endOf = ({ slope, factor, c }: Gemm): keyof Cost["ends"] =>
  slope !== undefined ? "slope" : factor !== undefined ? "factor" : (dtypeOf(c) as "bf16" | "f32")

/** Seconds of a tile of all k steps, or of so many, its end included, where all processors have one. */
export function tileSecondsOf(given: Gemm, tile: PtxTile, { units }: GpuTarget, steps = stepsOf(given, tile)): number {
  const { rates, ends } = costOf(tile)
  return (steps * 2 * rowsOf(tile) * columnsOf(tile) * stepOf(tile) * units) / (rates(given) * 1e12) + ends[endOf(given)]
}

/** Seconds until the parts of all tiles, so many on average, are summed. */
export const sumSecondsOf = ({ M, N }: Gemm, parts: number): number => DISPATCH + (4 * M * N * (parts + 1)) / BANDWIDTH

/** Seconds by waves of tiles. */
function secondsOf(given: Gemm, way: PtxWay, { units }: GpuTarget): number {
  const { tile, splits, span, rest } = way
  const { rates, ends } = costOf(tile)
  const tiles = tilesOf(given, tile)
  const turns = rest > 0 ? 1 : Math.ceil((tiles * splits) / units)
  const step = ((2 * rowsOf(tile) * columnsOf(tile) * stepOf(tile) * units) / (rates(given) * 1e12)) * (splits === 0 ? SCATTERED : 1)
  const { perSpan, all } = piecesOf(given, way)
  const isWhole = splits === 1 && rest === 0
  const end = ends[isWhole ? endOf(given) : "f32"]
  const longest = Math.max(turns * (splitStepsOf(given, way) * step + end), rest > 0 ? span * step + perSpan * end : 0)
  const sums = isWhole ? 0 : sumSecondsOf(given, splits + all / tiles)
  return DISPATCH + longest + sums
}

/** Whole splits for all turns, or for one turn as many as there are processors for and a rest for the others: all of K where there are more tiles. */
function* waysOf(given: Gemm, tile: PtxTile, { units }: GpuTarget): Generator<PtxWay> {
  const common = { tile, group: groupOf(given, tile) }
  const [steps, tiles] = [stepsOf(given, tile), tilesOf(given, tile)]
  const shortest = SHORTEST / stepOf(tile)
  yield { ...common, splits: 1, rest: 0, span: 1 }
  if (given.order !== "any") return
  for (let splits = 2; splits <= Math.min(MOST_SPLITS, Math.floor(steps / shortest)); splits++)
    if (Math.ceil(steps / splits) * (splits - 1) < steps) yield { ...common, splits, rest: 0, span: 1 } // no split is empty
  const splits = Math.floor(units / tiles)
  const others = units - splits * tiles
  if (splits === 0) yield { ...common, splits, rest: steps, span: Math.ceil((tiles * steps) / units) }
  if (splits === 0 || others === 0) return
  const fewest = Math.max(shortest, Math.ceil((steps * tiles) / units))
  for (let each = fewest; each < fewest + MOST_EXTRA / stepOf(tile) && splits * each < steps; each++) {
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
export function* besides(given: Gemm, target: GpuTarget): Generator<TimedWay> {
  const { units } = target
  if (tilesOf(given, PTX_TILE) > FEW_TURNS * units) return
  const { N } = given
  const [one, other] = [PTX_TILE, NARROW_TILE].map((tile) => tileSecondsOf(given, tile, target)) as [number, number]
  const common = { tile: PTX_TILE, splits: 1, rest: 0, span: 1, group: groupOf(given, PTX_TILE) }
  for (let from = columnsOf(PTX_TILE); from < N; from += columnsOf(PTX_TILE)) {
    const [tiles, others] = [tilesOf({ ...given, N: from }, PTX_TILE), tilesOf({ ...given, N: N - from }, NARROW_TILE)]
    yield {
      way: { ...common, beside: { from, tile: NARROW_TILE } },
      seconds: BESIDE + finished(units, [tiles, one], [others, other]),
    }
  }
}

/** The best lists of each tile that `has` has, where c has some columns and there are few turns. */
export function dealtWays(given: Gemm, target: GpuTarget, has: (tile: PtxTile) => boolean): TimedWay[] {
  const { M, N } = given
  const { units } = target
  if (!hasSome(given) || tilesOf(given, PTX_TILE) > FEW_TURNS * units) return []
  return DEALT.flatMap(([tile, alike, narrow]) => {
    if (!has(tile)) return []
    const end = costOf(alike).ends[endOf(given)]
    const group = groupOf(given, tile)
    const costs = { products: tileSecondsOf(given, alike, target) - end, narrow, end }
    const deal = bestDeal({ M, N, units, group }, costs)
    return deal ? [{ way: { tile, splits: 1, rest: 0, span: 1, group, deal }, seconds: DISPATCH + LIST + deal.seconds }] : []
  })
}

/**
 * All ways and their seconds; `has`: whether the pack has the kernels of a tile, and whether those of parts of its sums.
 */
export function* ptxWaysOf(given: Gemm, target: GpuTarget, has: (tile: PtxTile, isPart: boolean) => boolean): Generator<TimedWay> {
  for (const tile of COSTS.keys()) {
    if (!has(tile, false)) continue
    for (const way of waysOf(given, tile, target))
      if (partsOf(given, way) === 1 || has(tile, true)) yield { way, seconds: secondsOf(given, way, target) }
  }
  if (has(PTX_TILE, false) && has(NARROW_TILE, false)) yield* besides(given, target)
  yield* dealtWays(given, target, (tile) => has(tile, false))
}
