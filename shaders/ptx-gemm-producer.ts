/** The third warpgroup of a Hopper matrix product: one lane brings a, another b, as far ahead as the rings allow. */
import type { Operand, Ptx, U32, U64 } from "../src/ptx.ts"
import { aheadOf } from "./ptx-gemm-ahead.ts"
import { eachTile, type Frame, type Place, type PtxGemm } from "./ptx-gemm-frame.ts"
import { type Counter, counter, keep, next } from "./ptx-gemm-ring.ts"
import { CHUNK_COLUMNS, PIECE, REGISTERS, type RingTile, stepOf } from "./ptx-gemm-tile.ts"

/** Ends the kernel for all but lane 0 of warps 0 and 1. */
export function produce(k: Ptx, f: Frame, maps: U64): void {
  k.comment("---- the warpgroup that brings: warp 0 a, warp 1 b, one lane each")
  k.registerBudget("dec", REGISTERS.producer)
  const end = k.label("PRODUCED")
  if (f.gemm.tile.ahead) {
    const brings = k.label("BRINGS")
    k.jump(brings, k.compare("lt", f.warp, 2))
    k.if(
      k.compare("eq", f.warp, 2),
      () => aheadOf(k, f, maps, "a"),
      () => aheadOf(k, f, k.addLong(maps, 128), "b"),
    )
    k.jump(end)
    k.place(brings)
  }
  k.jump(end, k.compare("ne", f.lane, 0))
  k.jump(end, k.compare("gt", f.warp, 1))
  k.if(
    k.compare("eq", f.warp, 0),
    () => {
      const count = f.gemm.tile.ahead ? k.variable("u32", 0) : undefined
      bring(k, f, maps, (place, step, at) => {
        if (count !== undefined) {
          k.storeSharedVolatile(f.places.end, count)
          k.add(count, 1, count)
        }
        bringA(k, f, maps, place, step, at)
      })
    },
    () => {
      const map = k.addLong(maps, 128)
      bring(k, f, map, (place, step, at) => bringB(k, f, map, place, step, at))
    },
  )
  k.place(end)
}

/** All k steps of all tiles, without a stop between tiles: the next tile's first steps are on their way while this one is stored. */
function bring(k: Ptx, f: Frame, map: U64, copy: (place: Place, kx: U32, at: Counter) => void): void {
  const step = stepOf(f.gemm.tile)
  k.acquireMap(map)
  const at = counter(k, 1, k.base)
  eachTile(k, f, (place) => {
    const kx = k.mul(place.firstStep, step)
    const last = k.add(kx, k.mul(place.stepCount, step))
    k.while(
      "BRING",
      () => k.compare("lt", kx, last),
      () => {
        copy(place, kx, at)
        k.add(kx, step, kx)
      },
    )
  })
}

function bringA(k: Ptx, { gemm, places }: Frame, map: U64, { row }: Place, kx: U32, at: Counter): void {
  const { layout, tile } = gemm as PtxGemm<RingTile>
  for (let unit = 0; unit < tile.units; unit++) {
    for (let g = 0; g < 2; g++) {
      const q = g * tile.ringA
      const full = { base: at.barrier, bytes: places.fullA + 8 * q }
      const first = k.add(row, (g * tile.units + unit) * 64)
      k.wait({ base: at.barrier, bytes: places.emptyA + 8 * q }, at.parity)
      k.expect(full, PIECE)
      k.copyBox({ base: k.add(k.base, at.memory), bytes: places.a + PIECE * q }, map, full, layout === "tn" ? [first, kx] : [kx, first])
    }
    keep(k, at, next(k, at, tile.ringA, k.base))
  }
}

function bringB(k: Ptx, { gemm, places }: Frame, map: U64, { column, dealt }: Place, kx: U32, at: Counter): void {
  const { layout, tile } = gemm as PtxGemm<RingTile>
  const none = dealt && k.label("NARROW")
  for (let chunk = 0; chunk < tile.chunks; chunk++) {
    const full = { base: at.barrier, bytes: places.fullB }
    const first = k.add(column, chunk * CHUNK_COLUMNS)
    const along: Record<typeof layout, () => readonly Operand<"u32">[]> = {
      nt: () => [kx, first],
      ntp: () => [kx, 0, 0, 0, k.shr(first, 5)],
      nn: () => [first, kx],
      tn: () => [first, kx],
    }
    if (none !== undefined && chunk === tile.chunks - 1) k.jump(none, k.compare("le", dealt!.width, chunk * CHUNK_COLUMNS))
    k.wait({ base: at.barrier, bytes: places.emptyB }, at.parity)
    k.expect(full, PIECE)
    k.copyBox({ base: k.add(k.base, at.memory), bytes: places.b }, map, full, along[layout]())
    keep(k, at, next(k, at, tile.ringB, k.base))
  }
  if (none !== undefined) k.place(none)
}
