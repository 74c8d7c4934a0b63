/** Matrix products on Hopper: two warpgroups multiply what a third brings by tensor maps, tile after tile. */

import { type Ptx, type PtxKernel, ptxKernel } from "../src/ptx.ts"
import { bf16, f32, read, readWrite, u32, u64, write } from "../src/spirv.ts"
import { consume } from "./ptx-gemm-consumer.ts"
import { type DealtMemory, loadList } from "./ptx-gemm-deal.ts"
import { consumeStages, initStages, placeOnes, produceStages } from "./ptx-gemm-deep.ts"
import { finishName } from "./ptx-gemm-epilogue.ts"
import type { Frame, PtxGemm } from "./ptx-gemm-frame.ts"
import { produce } from "./ptx-gemm-producer.ts"
import { columnsOf, isDeep, placesOf, roomOf, rowsOf, stepOf, THREADS, tileName } from "./ptx-gemm-tile.ts"

/** What a kernel has besides whose tiles are dealt out: a list of so many items for each block. */
const DEALT = { buffers: { list: read(u32) }, push: { items: u32 } } as const

const buffers = (out: typeof f32 | typeof bf16) => ({
  /** Tensor maps of a, then of b; 128 bytes each. */
  maps: read(u64),
  bias: read(f32),
  /** Written: the slope, or sums of a's rows; read: the factor. */
  kept: readWrite(out),
  addend: read(out),
  c: write(out),
})
const push = {
  ...{ M: u32, N: u32, steps: u32, splitSteps: u32, splits: u32, rest: u32, span: u32 },
  ...{ from: u32, ldc: u32, group: u32, scale: f32 },
} as const
const params = { beta: f32 } as const
export type GemmKernel = PtxKernel<ReturnType<typeof buffers>, typeof push, typeof params>

/** Makes the barriers of the rings: one arrival and all bytes fill a place; a lane of every warp that read it empties it. */
function initBarriers(k: Ptx, gemm: PtxGemm, places: Frame["places"]): void {
  const { tile } = gemm
  k.comment("one thread makes the barriers: full ones wait for 1 arrival and the bytes, empty ones for the warps that read")
  if (isDeep(tile)) {
    initStages(k, tile, places)
    k.fenceBarrierInit()
    return
  }
  for (let i = 0; i < 2 * tile.ringA; i++) {
    k.barrierInit(places.fullA + 8 * i, 1)
    k.barrierInit(places.emptyA + 8 * i, 4)
  }
  for (let i = 0; i < tile.ringB; i++) {
    k.barrierInit(places.fullB + 8 * i, 1)
    k.barrierInit(places.emptyB + 8 * i, 8)
  }
  if (tile.ahead) k.storeShared(places.end, [k.variable("u32", 0)])
  k.fenceBarrierInit()
}

/**
 * c = epilogue(a·b) (M, N), bf16 factors, summed in f32; ldc a multiple of 8, in splits of `splitSteps` k steps each (c then holds their sums, f32, one
 * after the other, ldc · M elements each). Where `rest` is not 0, the last `rest` k steps of all tiles, one tile after the other, are cut into spans of
 * `span`, which blocks after those of the splits take; their sums of a tile come after those of its splits. Grid: as many blocks as there are
 * processors, or tiles of all splits; with a rest, tiles of all splits and spans. In bf16 the first `rest` tiles are those of the first `span` blocks.
 * Tiles that are dealt out are done by as many blocks as have a list.
 * 2·M·N·K FLOP.
 * Sources: PTX ISA 8.0 (wgmma, cp.async.bulk.tensor, mbarrier, setmaxnreg); its layouts and orders as measured on an H200.
 */
export function ptxGemm(gemm: PtxGemm): GemmKernel {
  const { layout, out, tile, finish } = gemm
  if (isDeep(tile) && tile.dealt && layout === "nt")
    throw new TypeError("ptx gemm: stages that are dealt out need b's rows permuted or across")
  const places = placesOf(tile)
  const more = tile.dealt ? DEALT : { buffers: {}, push: {} }
  return ptxKernel({
    name: `ptx_matmul_${layout}_${out}_${tileName(tile)}${finishName(finish)}`,
    about: `c = epilogue(a*b): ${layout}, ${out}, tiles of ${rowsOf(tile)} x ${columnsOf(tile)}, ${stepOf(tile)} of K at a time; one block per processor`,
    threads: THREADS,
    sharedBytes: roomOf(tile),
    buffers: { ...buffers(out === "f32" ? f32 : bf16), ...more.buffers },
    push: { ...push, ...more.push },
    params,
    body(k, all) {
      const given = all as typeof all & Partial<DealtMemory>
      const { M, N, from, steps, splitSteps, splits, rest, span, group } = given
      const thread = k.special("%tid.x")
      const warpgroup = k.uniform(k.shr(thread, 7))
      const warp = k.uniform(k.and(k.shr(thread, 5), 3))
      const lane = k.and(thread, 31)
      const down = k.div(k.add(M, rowsOf(tile) - 1), rowsOf(tile))
      const across = k.div(k.add(k.sub(N, from), columnsOf(tile) - 1), columnsOf(tile))
      const perSplit = k.mul(down, across)
      const tiles = k.mul(perSplit, splits)
      const sizes = { down, across, perSplit, tiles, M, N, from, steps, splitSteps, splits, rest, span, group }
      const frame: Frame = { gemm, places, warp, lane, ...sizes }
      k.if(k.compare("eq", thread, 0), () => initBarriers(k, gemm, places))
      if (isDeep(tile) && finish === "sums") placeOnes(k, thread, places)
      if (tile.dealt) loadList(k, places.end, thread, given as DealtMemory)
      k.syncBlock()
      k.if(
        k.compare("eq", warpgroup, 2),
        () => (isDeep(tile) ? produceStages(k, frame, given.maps) : produce(k, frame, given.maps)),
        () => (isDeep(tile) ? consumeStages : consume)(k, frame, warpgroup, given),
      )
      k.emit("ret")
    },
  })
}
