/** What every warp of a Hopper matrix product knows, and the order of the tiles. */
import type { Ptx, U32 } from "../src/ptx.ts"
import { columnsOf, type PtxTile, type placesOf, rowsOf } from "./ptx-gemm-tile.ts"

/** Activations as in activation.ts. */
export type PtxActivation = "gelu" | "gelu_tanh" | "relu" | "relu2" | "silu"

/**
 * What happens between a sum and memory, in the order of matmul-epilogue.ts. "bias": + bias; "add": scale·sum + bias + beta·addend; an activation:
 * + bias, pre written, activation; d_…: · the activation's derivative at pre. Where bias or pre has address 0 its part is left out.
 */
export type Finish = "none" | "bias" | "add" | PtxActivation | `d_${PtxActivation}`

/** nt: a (M, K), b (N, K); nn: a (M, K), b (K, N); tn: a (K, M), b (K, N). ntp is nt whose b is read by a permuting map, N a multiple of 32. */
export type PtxLayout = "nt" | "ntp" | "nn" | "tn"

export interface PtxGemm {
  readonly layout: PtxLayout
  readonly out: "f32" | "bf16"
  readonly tile: PtxTile
  readonly finish: Finish
}

/** What all warps know. */
export interface Frame {
  readonly gemm: PtxGemm
  readonly places: ReturnType<typeof placesOf>
  /** 0 … 3 in its warpgroup, and the lane in the warp. */
  readonly warp: U32
  readonly lane: U32
  /** Tiles of c down, across and of one split, and all. */
  readonly down: U32
  readonly across: U32
  readonly perSplit: U32
  readonly tiles: U32
  readonly M: U32
  readonly N: U32
  readonly steps: U32
  readonly splitSteps: U32
  readonly group: U32
}

/** A tile's place: its split, row and column of c, and the k steps it sums. */
export interface Place {
  readonly split: U32
  readonly row: U32
  readonly column: U32
  readonly firstStep: U32
  readonly stepCount: U32
}

/** Tile number t: splits after each other; in one, `group` tiles down lie beside each other, so that they use the same part of b from the L2 cache. */
function placeOf(k: Ptx, f: Frame, t: U32): Place {
  const split = k.div(t, f.perSplit)
  const inSplit = k.sub(t, k.mul(split, f.perSplit))
  const perGroup = k.mul(f.group, f.across)
  const group = k.div(inSplit, perGroup)
  const inGroup = k.sub(inSplit, k.mul(group, perGroup))
  const first = k.mul(group, f.group)
  const size = k.min(k.sub(f.down, first), f.group)
  const column = k.div(inGroup, size)
  const row = k.add(first, k.sub(inGroup, k.mul(column, size)))
  const firstStep = k.mul(split, f.splitSteps)
  return {
    split,
    row: k.mul(row, rowsOf(f.gemm.tile)),
    column: k.mul(column, columnsOf(f.gemm.tile)),
    firstStep,
    stepCount: k.min(k.sub(f.steps, firstStep), f.splitSteps),
  }
}

/** `body` for every tile of this block. */
export function eachTile(k: Ptx, f: Frame, body: (place: Place) => void): void {
  const t = k.special("%ctaid.x")
  const stride = k.special("%nctaid.x")
  k.while(
    "TILE",
    () => k.compare("lt", t, f.tiles),
    () => {
      body(placeOf(k, f, t))
      k.add(t, stride, t)
    },
  )
}
