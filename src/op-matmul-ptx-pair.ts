/** A weight's gradient left whole beside the input's: processors without a tile of the one take more of the other's, and there are no parts to sum. */
import { FLAT_TILE, LATER_TILE, NARROW_TILE, PTX_TILE } from "../shaders/ptx-gemm-list.ts"
import { columnsOf } from "../shaders/ptx-gemm-tile.ts"
import type { GpuTarget, Launches } from "./op-gpu.ts"
import { cutOf, hasTile, ptxLaunchesOf, ptxWayOf, type RowSums } from "./op-matmul-ptx.ts"
import { BESIDE, DISPATCH, groupOf, type PtxWay, tileSecondsOf, tilesOf } from "./op-matmul-ptx-way.ts"
import type { Gemm } from "./op-matmul-request.ts"

/** The products of a pair, tn and nn, whatever their memory. */
export interface Pair {
  readonly weight: Gemm
  readonly input: Gemm
}

/** What must be won, of both products' seconds: an estimate of the estimates' errors, as the two share the L2 cache. */
const LEAST = 0.015
/** Seconds of a block that does one tile: its start, and its first copies. */
const START = 2e-6

/** What a pair does, and when processors are free that have a whole tile of the weight's last turn, and the others. */
interface Pairing {
  readonly seconds: number
  readonly way: PtxWay
}

/** Tiles of block `i` of `blocks`, of which the first `early` have `each` before all share the rest. */
const tilesOfBlock = (i: number, blocks: number, tiles: number, early: number, each: number): number =>
  (i < early ? each : 0) + Math.max(0, Math.ceil((tiles - early * each - i) / blocks))

/** When the last of `tiles` blocks of one tile ends, each taken by the processor that is free first. */
function lastEnd(free: readonly number[], tiles: number, seconds: number): number {
  const sorted = free.toSorted((a, b) => a - b)
  const times = [...sorted]
  for (let done = 0; done < tiles; done++) {
    let first = 0
    for (let i = 1; i < times.length; i++) if ((times[i] as number) < (times[first] as number)) first = i
    times[first] = (times[first] as number) + seconds
  }
  return Math.max(...times)
}

/** The best way for the input's gradient beside a whole weight's, and the seconds until both are done. */
function pairingOf({ weight, input }: Pair, target: GpuTarget): Pairing | undefined {
  const { units } = target
  const tiles = tilesOf(weight, PTX_TILE)
  const each = tileSecondsOf(weight, PTX_TILE, target)
  const base = Math.floor(tiles / units) * each
  const blocks = units - (tiles % units)
  if (blocks === units) return undefined
  const late = base + each
  const freeAt = (i: number) => (i < blocks ? base : late)
  let best: Pairing | undefined
  const offer = (seconds: number, way: PtxWay) => {
    if (seconds < (best?.seconds ?? Number.POSITIVE_INFINITY)) best = { seconds, way }
  }
  for (const tile of [PTX_TILE, FLAT_TILE, LATER_TILE, NARROW_TILE]) {
    if (!hasTile(input, target, tile)) continue
    const common = { tile, splits: 1, rest: 0, span: 1, group: groupOf(input, tile) }
    const [all, seconds] = [tilesOf(input, tile), tileSecondsOf(input, tile, target)]
    const most = Math.min(Math.ceil((late - base) / seconds) + 1, Math.floor(all / blocks))
    for (let tiles = 1; tiles <= most; tiles++) {
      const endOf = (i: number) => freeAt(i) + tilesOfBlock(i, units, all, blocks, tiles) * seconds
      offer(2 * DISPATCH + Math.max(endOf(0), endOf(blocks)), { ...common, early: { blocks, tiles } })
    }
  }
  if (!hasTile(input, target, PTX_TILE) || !hasTile(input, target, NARROW_TILE)) return best
  const common = { tile: PTX_TILE, splits: 1, rest: 0, span: 1, group: groupOf(input, PTX_TILE) }
  const [wide, narrow] = [PTX_TILE, NARROW_TILE].map((tile) => tileSecondsOf(input, tile, target)) as [number, number]
  for (let from = columnsOf(PTX_TILE); from < input.N; from += columnsOf(PTX_TILE)) {
    const [some, others] = [tilesOf({ ...input, N: from }, PTX_TILE), tilesOf({ ...input, N: input.N - from }, NARROW_TILE)]
    if (others > 2 * units) continue
    for (let tiles = 1; tiles <= Math.floor(some / blocks); tiles++) {
      const free = Array.from({ length: units }, (_, i) => freeAt(i) + tilesOfBlock(i, units, some, blocks, tiles) * wide)
      const end = Math.max(...free, lastEnd(free, others, narrow + START))
      offer(DISPATCH + BESIDE + end, { ...common, early: { blocks, tiles }, beside: { from, tile: NARROW_TILE, isSpread: true } })
    }
  }
  return best
}

const known = new Map<string, Pairing | undefined>()

/** How a pair is best done together; undefined where each for itself is as good, or a kernel is missing. */
export function pairedWay(pair: Pair, target: GpuTarget): PtxWay | undefined {
  const { weight, input } = pair
  const sizes = [weight, input].map(({ M, N, K, lda, ldb, ldc }) => [M, N, K, lda, ldb, ldc].join())
  const key = [...sizes, input.factor !== undefined, target.units, target.ptx].join(" ")
  if (!known.has(key)) {
    const [weightWay, inputWay] = [ptxWayOf(weight, target), ptxWayOf(input, target)]
    const apart = Math.min(weightWay?.seconds ?? 0, cutOf(weight, target)?.seconds ?? Number.POSITIVE_INFINITY) + (inputWay?.seconds ?? 0)
    const isThere = weightWay !== undefined && inputWay !== undefined && hasTile(weight, target, PTX_TILE)
    const made = isThere ? pairingOf(pair, target) : undefined
    known.set(key, made !== undefined && made.seconds < (1 - LEAST) * apart ? made : undefined)
  }
  return known.get(key)?.way
}

/** The weight's gradient of a pair, whole; with the sums of dy's columns. */
export const wholeLaunches = (weight: Gemm, target: GpuTarget, rowSums: RowSums | undefined): Launches =>
  ptxLaunchesOf(weight, { tile: PTX_TILE, splits: 1, rest: 0, span: 1, group: groupOf(weight, PTX_TILE) }, target, { rowSums })
