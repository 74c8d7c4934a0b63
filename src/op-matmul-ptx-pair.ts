/** A weight's gradient in few parts beside the input's: processors that have none of the one take more of the other's, and less is left to sum. */
import { DEEP_ENDED, DEEP_TILE, FLAT_TILE, NARROW_TILE, PTX_TILE, TALL_TILE, WIDE_TILE } from "../shaders/ptx-gemm-list.ts"
import { columnsOf, type PtxTile } from "../shaders/ptx-gemm-tile.ts"
import { dtypeOf, type GpuTarget } from "./op-gpu.ts"
import { cutOf, hasTile, ptxWayOf } from "./op-matmul-ptx.ts"
import { BESIDE, DISPATCH, groupOf, type PtxWay, splitStepsOf, stepsOf, sumSecondsOf, tileSecondsOf, tilesOf } from "./op-matmul-ptx-way.ts"
import type { Gemm } from "./op-matmul-request.ts"

/** The products of a pair, tn and nn, whatever their memory. */
export interface Pair {
  readonly weight: Gemm
  readonly input: Gemm
}

/** What must be won, of both products' seconds and in seconds a processor: an estimate of the estimates' errors, as the two share the L2 cache. */
const [LEAST, LEAST_EACH] = [0.015, 4e-8]
/** Seconds of a block that does one tile: its start, and its first copies. */
const START = 2e-6

/** Ways of both that end at the same time, and the seconds until then, sums of parts included. */
export interface Pairing {
  readonly seconds: number
  readonly weight: PtxWay
  readonly input: PtxWay
}

/** Tiles that do the weight's gradient, and the input's. */
const WEIGHT_TILES: readonly PtxTile[] = [PTX_TILE, DEEP_ENDED]
const INPUT_TILES: readonly PtxTile[] = [PTX_TILE, FLAT_TILE, NARROW_TILE, DEEP_TILE, TALL_TILE, WIDE_TILE]

/** Tiles of block `i` of `blocks`, of which the first `early` have `each` before all share the rest. */
const tilesOfBlock = (i: number, blocks: number, tiles: number, early: number, each: number): number =>
  (i < early ? each : 0) + Math.max(0, Math.ceil((tiles - early * each - i) / blocks))

/** When the last of `tiles` blocks of one tile ends, each taken by the processor that is free first. */
function lastEnd(free: readonly number[], tiles: number, seconds: number): number {
  const times = [...free]
  for (let done = 0; done < tiles; done++) {
    let first = 0
    for (let i = 1; i < times.length; i++) if ((times[i] as number) < (times[first] as number)) first = i
    times[first] = (times[first] as number) + seconds
  }
  return Math.max(...times)
}

/** The best way for the input's gradient beside a weight's of so many splits, each of which a processor has for itself in its last turn. */
function pairingOf({ weight, input }: Pair, by: PtxTile, splits: number, target: GpuTarget): Pairing | undefined {
  const { units } = target
  const parts: PtxWay = { tile: by, splits, rest: 0, span: 1, group: groupOf(weight, by) }
  const steps = stepsOf(weight, by)
  const tiles = tilesOf(weight, by) * splits
  const blocks = units - (tiles % units)
  if (blocks === units || (splits > 1 && tiles > units) || Math.ceil(steps / splits) * (splits - 1) >= steps) return undefined
  const each = tileSecondsOf(weight, by, target, splitStepsOf(weight, parts))
  const base = Math.floor(tiles / units) * each
  const late = base + each
  const sums = splits === 1 ? 0 : sumSecondsOf(weight, splits)
  const freeAt = (i: number) => (i < blocks ? base : late)
  let best: Pairing | undefined
  const offer = (seconds: number, way: PtxWay) => {
    if (seconds + sums < (best?.seconds ?? Number.POSITIVE_INFINITY)) best = { seconds: seconds + sums, weight: parts, input: way }
  }
  for (const tile of INPUT_TILES) {
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
export function pairing(pair: Pair, target: GpuTarget): Pairing | undefined {
  const { weight, input } = pair
  const sizes = [weight, input].map(({ a, b, c, M, N, K }) => [M, N, K, dtypeOf(a), dtypeOf(b), dtypeOf(c)].join())
  const key = [...sizes, input.factor !== undefined, target.units, target.ptx, target.ptxRoom].join(" ")
  if (!known.has(key)) {
    const [weightWay, inputWay] = [ptxWayOf(weight, target), ptxWayOf(input, target)]
    const apart = Math.min(weightWay?.seconds ?? 0, cutOf(weight, target)?.seconds ?? Number.POSITIVE_INFINITY) + (inputWay?.seconds ?? 0)
    // f32 has parts in place of early blocks; products by a kept slope lost (774m: 450 µs against 417).
    const isPair = weightWay !== undefined && inputWay !== undefined && dtypeOf(input.c) === "bf16" && input.factor === undefined
    const made = WEIGHT_TILES.filter((tile) => isPair && hasTile(weight, target, tile)).flatMap((tile) => {
      const most = Math.max(1, Math.floor(target.units / tilesOf(weight, tile)))
      return Array.from({ length: most }, (_, i) => pairingOf(pair, tile, i + 1, target) ?? []).flat()
    })
    const [best] = made.toSorted((a, b) => a.seconds - b.seconds)
    known.set(key, best !== undefined && best.seconds < Math.min((1 - LEAST) * apart, apart - LEAST_EACH * target.units) ? best : undefined)
  }
  return known.get(key)
}
