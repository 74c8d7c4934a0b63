/** What every warp of a Hopper matrix product knows, and the order of the tiles. */
import type { F32, Ptx, U32 } from "../src/ptx.ts"
import { type Dealt, eachDealt } from "./ptx-gemm-deal.ts"
import { columnsOf, type PtxTile, type placesOf, rowsOf } from "./ptx-gemm-tile.ts"

/** Activations as in activation.ts. */
export type PtxActivation = "gelu" | "gelu_tanh" | "relu" | "relu2" | "silu"

/**
 * What happens between a sum and memory, in the order of matmul-epilogue.ts. "bias": + bias; "add": scale·sum + bias + beta·addend; an activation:
 * + bias, activation; …_slope: its derivative goes to kept as well; "factor": · what is kept. Where bias has address 0 it is left out. "sums" is "none"
 * with the sums of a's rows in kept (M), or where that has address 0 in the column 8 before the end of c's rows.
 */
export type Finish = "none" | "sums" | "bias" | "add" | PtxActivation | `${PtxActivation}_slope` | "factor"

/** nt: a (M, K), b (N, K); nn: a (M, K), b (K, N); tn: a (K, M), b (K, N). ntp is nt whose b is read by a permuting map, N a multiple of 32. */
export type PtxLayout = "nt" | "ntp" | "nn" | "tn"

export interface PtxGemm<T extends PtxTile = PtxTile> {
  readonly layout: PtxLayout
  readonly out: "f32" | "bf16"
  readonly tile: T
  readonly finish: Finish
}

/** What all warps know. */
export interface Frame {
  readonly gemm: PtxGemm
  readonly places: ReturnType<typeof placesOf>
  /** 0 … 3 in its warpgroup, and the lane in the warp. */
  readonly warp: U32
  readonly lane: U32
  /** Tiles of c: down, across, all, and of all splits that are whole. */
  readonly down: U32
  readonly across: U32
  readonly perSplit: U32
  readonly tiles: U32
  readonly M: U32
  readonly N: U32
  /** The first column of c that is done. */
  readonly from: U32
  /** k steps of all, and of a whole split. */
  readonly steps: U32
  readonly splitSteps: U32
  /** Whole splits; then the last k steps, as many as `rest`, of tile after tile are dealt out to the blocks that are left, `span` to each (f32; bf16: eachWhole). */
  readonly splits: U32
  readonly rest: U32
  readonly span: U32
  readonly group: U32
}

/** A tile's place: its part among those of a sum, row and column of c, and the k steps it sums. */
export interface Place {
  readonly split: U32
  readonly row: U32
  readonly column: U32
  readonly firstStep: U32
  readonly stepCount: U32
  readonly dealt?: Dealt
}

/** sums[unit][chunk]: 64 × 64 of f32, 32 per lane. */
export type Sums = readonly (readonly (readonly F32[])[])[]

/** What becomes of a tile's sums. */
export interface Epilogue {
  /** Before a tile's first product. */
  begin(place: Place): void
  /** While the products of a tile's k step `i` are under way. */
  readonly meanwhile?: (i: U32, place: Place) => void
  /** While the last products of a tile are under way. */
  readonly last?: (place: Place) => void
  end(sums: Sums, rowSums: readonly (readonly F32[])[], place: Place): void
  /** After the last tile. */
  readonly flush?: () => void
}

/** Row and column of a tile; `group` tiles down lie beside each other, so that they use the same part of b from the L2 cache. */
function cornerOf(k: Ptx, f: Frame, tile: U32): Pick<Place, "row" | "column"> {
  const perGroup = k.mul(f.group, f.across)
  const group = k.div(tile, perGroup)
  const inGroup = k.sub(tile, k.mul(group, perGroup))
  const first = k.mul(group, f.group)
  const size = k.min(k.sub(f.down, first), f.group)
  const column = k.div(inGroup, size)
  const row = k.add(first, k.sub(inGroup, k.mul(column, size)))
  return { row: k.mul(row, rowsOf(f.gemm.tile)), column: k.add(f.from, k.mul(column, columnsOf(f.gemm.tile))) }
}

/**
 * `body` for every tile of this block where none has parts, as those are f32. The first `rest` tiles belong to the first `span` blocks, which begin while
 * the others wait for what runs beside; `span` divides `rest`.
 */
function eachWhole(k: Ptx, f: Frame, body: (place: Place) => void): void {
  const block = k.special("%ctaid.x")
  const [none, stride] = [k.variable("u32", 0), k.special("%nctaid.x")]
  const tile = k.variable("u32", k.add(block, k.select(k.compare("lt", block, f.span), 0, f.rest, "u32")))
  k.while(
    "TILE",
    () => k.compare("lt", tile, f.perSplit),
    () => {
      body({ split: none, ...cornerOf(k, f, tile), firstStep: none, stepCount: f.steps })
      k.add(tile, k.select(k.compare("lt", tile, f.rest), f.span, stride, "u32"), tile)
    },
  )
}

/**
 * `body` for every tile of this block. Blocks below `tiles` take whole splits, split after split; the others a span each of the line of the rest: `rest`
 * k steps of one tile after the other. Or what its list says.
 */
export const eachTile = (k: Ptx, f: Frame, body: (place: Place) => void): void =>
  f.gemm.tile.dealt ? eachListed(k, f, body) : f.gemm.out === "bf16" ? eachWhole(k, f, body) : eachPart(k, f, body)

/** A list's tiles, whole ones. */
function eachListed(k: Ptx, f: Frame, body: (place: Place) => void): void {
  const none = k.variable("u32", 0)
  eachDealt(k, f.places.end, (place) => body({ ...place, split: none, firstStep: none, stepCount: f.steps }))
}

function eachPart(k: Ptx, f: Frame, body: (place: Place) => void): void {
  const block = k.special("%ctaid.x")
  const stride = k.special("%nctaid.x")
  const isRest = k.compare("ge", block, f.tiles)
  const index = k.sub(block, f.tiles)
  const whole = k.variable("u32", block)
  const at = k.mul(index, f.span)
  const end = k.min(k.add(at, f.span), k.mul(f.perSplit, f.rest))
  const wholeSteps = k.sub(f.steps, f.rest)
  const choose = (rest: U32, other: U32) => k.select(isRest, rest, other, "u32")
  k.while(
    "TILE",
    () => k.compare("lt", choose(at, whole), choose(end, f.tiles)),
    () => {
      const [tile, split, firstStep, stepCount] = k.registers("u32", 4) as [U32, U32, U32, U32]
      const be = (...values: readonly [U32, U32, U32, U32]) =>
        [tile, split, firstStep, stepCount].forEach((to, i) => k.copy(to, values[i]!))
      k.if(
        isRest,
        () => {
          const number = k.div(at, f.rest)
          const begin = k.mul(number, f.rest)
          const inRest = k.sub(at, begin)
          const first = k.div(begin, f.span) // the first block that has a part of this tile's rest
          const count = k.min(k.sub(f.rest, inRest), k.sub(end, at))
          be(number, k.sub(k.add(f.splits, index), first), k.add(wholeSteps, inRest), count)
        },
        () => {
          const of = k.div(whole, f.perSplit)
          const first = k.mul(of, f.splitSteps)
          be(k.sub(whole, k.mul(of, f.perSplit)), of, first, k.min(k.sub(wholeSteps, first), f.splitSteps))
        },
      )
      body({ split, ...cornerOf(k, f, tile), firstStep, stepCount })
      k.add(at, stepCount, at)
      k.add(whole, stride, whole)
    },
  )
}
