/** Hopper's matrix product with stages beyond 48 KiB of shared memory: one lane brings a and b of a stage, products read both from there. */
import type { F32, Operand, Ptx, U32, U64 } from "../src/ptx.ts"
import { byWidth } from "./ptx-gemm-deal.ts"
import { type EpilogueMemory, epilogueOf } from "./ptx-gemm-epilogue.ts"
import { type Epilogue, eachTile, type Frame, type Place, type PtxGemm, type PtxLayout } from "./ptx-gemm-frame.ts"
import { laterOf } from "./ptx-gemm-later.ts"
import {
  columnsOf,
  DESCRIPTOR,
  type DeepTile,
  NEXT_K,
  ONES,
  ONES_BYTES,
  onesAt,
  REGISTERS,
  STAGE_PIECE,
  stageBytes,
  stepOf,
} from "./ptx-gemm-tile.ts"

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** Makes the barriers of the stages: one arrival and all bytes fill one, a lane of every warp that reads it empties it. */
export function initStages(k: Ptx, tile: DeepTile, { fullA, emptyA }: Frame["places"]): void {
  for (const i of range(tile.stages)) {
    k.barrierInit(fullA + 8 * i, 1)
    k.barrierInit(emptyA + 8 * i, 8)
  }
}

/** A place among the stages: its number, and the parity of its visit. */
function stageAt(k: Ptx, tile: DeepTile, first: 0 | 1) {
  const [stage, parity] = [k.variable("u32", 0), k.variable("u32", first)]
  return {
    parity,
    barrier: () => k.add(k.base, k.shl(stage, 3)),
    memory: () => k.add(k.base, k.mul(stage, stageBytes(tile))),
    goOn: () => {
      k.add(stage, 1, stage)
      const isRound = k.compare("eq", stage, tile.stages)
      k.when(isRound, () => {
        k.copy(stage, 0)
        k.xor(parity, 1, parity)
      })
    },
  }
}

/** Descriptor of 16 × 8 ones at address 0, by which products sum a's rows. */
const ONES_DESCRIPTOR = 0x0000000800080000n

/** Fills the ones; before the block's first barrier. */
export function placeOnes(k: Ptx, thread: U32, { end }: Frame["places"]): void {
  k.if(k.compare("lt", thread, ONES_BYTES / 4), () => {
    k.storeShared({ base: k.shl(thread, 2), bytes: onesAt(end) }, [k.variable("u32", ONES)])
    k.fenceCopies()
  })
}

/** Ends the kernel for all but one lane, which brings all k steps of all tiles, as far ahead as there are stages. */
export function produceStages(k: Ptx, f: Frame, maps: U64): void {
  const { layout, tile } = f.gemm as PtxGemm<DeepTile>
  k.comment("---- the warpgroup that brings: one lane of it")
  k.registerBudget("dec", REGISTERS.producer)
  const end = k.label("PRODUCED")
  k.jump(end, k.compare("ne", k.or(f.warp, f.lane), 0))
  const mapB = k.addLong(maps, 128)
  for (const map of [maps, mapB]) k.acquireMap(map)
  const at = stageAt(k, tile, 1)
  eachTile(k, f, (place) => {
    const kx = k.mul(place.firstStep, stepOf(tile))
    const last = k.add(kx, k.mul(place.stepCount, stepOf(tile)))
    k.while(
      "BRING",
      () => k.compare("lt", kx, last),
      () => {
        const [barrier, memory] = [at.barrier(), at.memory()]
        const full = { base: barrier, bytes: f.places.fullA }
        k.wait({ base: barrier, bytes: f.places.emptyA }, at.parity)
        const { dealt } = place
        const isWhole = dealt && k.compare("eq", dealt.width, columnsOf(tile))
        const expect = (less: number) => () => k.expect(full, stageBytes(tile) - less)
        if (isWhole === undefined) expect(0)()
        else k.if(isWhole, expect(0), expect(STAGE_PIECE))
        const boxes = [...boxesOfA(k, f, place, kx), ...boxesOfB(k, layout, tile, place, kx)]
        boxes.forEach(({ map, bytes, from }, i) => {
          const copy = () =>
            k.copyBox({ base: memory, bytes: bytes + (map === "a" ? f.places.a : f.places.b) }, map === "a" ? maps : mapB, full, from)
          if (isWhole !== undefined && i === boxes.length - 1) k.if(isWhole, copy)
          else copy()
        })
        at.goOn()
        k.add(kx, stepOf(tile), kx)
      },
    )
  })
  k.place(end)
}

interface Box {
  readonly map: "a" | "b"
  readonly bytes: number
  readonly from: readonly Operand<"u32">[]
}

/** Along K one box has all rows; where they lie along M, each has 64. */
function boxesOfA(k: Ptx, { gemm: { layout, tile } }: Frame, { row }: Place, kx: U32): readonly Box[] {
  if (layout !== "tn") return [{ map: "a", bytes: 0, from: [kx, row] }]
  return range(2 * tile.units).map((i) => ({ map: "a", bytes: STAGE_PIECE * i, from: [k.add(row, 64 * i), kx] }))
}

/** Of a tile that is dealt out each box has 64 columns, so that the last may be left out. */
function boxesOfB(k: Ptx, layout: PtxLayout, { chunks, dealt }: DeepTile, { column }: Place, kx: U32): readonly Box[] {
  const each = (from: (first: U32) => Box["from"]): readonly Box[] =>
    range(chunks).map((i) => ({ map: "b", bytes: STAGE_PIECE * i, from: from(k.add(column, 64 * i)) }))
  if (dealt && layout === "ntp") return each((first) => [kx, 0, 0, 0, k.shr(first, 5)])
  if (layout === "nt") return [{ map: "b", bytes: 0, from: [kx, column] }]
  if (layout === "ntp") return [{ map: "b", bytes: 0, from: [kx, 0, 0, 0, k.shr(column, 5)] }]
  return each((first) => [first, kx])
}

/** Columns that sums of rows may have, one for each tile beside another. */
const SUM_COLUMNS = 8
export const sumColumnsOf = (N: number, tile: DeepTile): number => Math.min(Math.ceil(N / columnsOf(tile)), SUM_COLUMNS)

/**
 * The k steps of a tile whose rows of a it sums: tiles beside each other share those of a whole split, as each has a column for its sums; else the
 * first has them all.
 */
function shareOf(k: Ptx, f: Frame, { split, column, stepCount }: Place, { kept }: EpilogueMemory): readonly [from: U32, end: U32] {
  const { tile } = f.gemm
  const number = k.div(column, columnsOf(tile))
  const isShared = k.both(k.compare("eq", kept, 0), k.compare("lt", split, f.splits))
  const count = k.select(isShared, k.min(f.across, SUM_COLUMNS), 1, "u32")
  const bound = (of: U32) => k.div(k.mul(stepCount, k.min(of, count)), count)
  const isOut = k.compare("ge", number, count)
  const [from, end] = [bound(number), bound(k.add(number, 1))]
  return [k.select(isOut, 0, from, "u32"), k.select(isOut, 0, end, "u32")]
}

/** Into a column of their own behind c's: of a whole split each tile's, else the first's and zeros; or where they are asked for. */
function storeRowSums(
  k: Ptx,
  f: Frame,
  warpgroup: U32,
  place: Place,
  rowSums: readonly (readonly F32[])[],
  { c, kept, ldc }: EpilogueMemory,
): void {
  const { tile } = f.gemm
  const number = k.div(place.column, columnsOf(tile))
  const [isFirst, isApart] = [k.compare("eq", number, 0), k.compare("ne", kept, 0)]
  const isColumn = k.both(k.compare("eq", kept, 0), k.compare("lt", place.split, f.splits))
  const isRest = k.both(k.both(k.compare("eq", kept, 0), isFirst), k.not(isColumn))
  const isLane = k.compare("eq", k.and(f.lane, 3), 0)
  const row = k.add(k.add(place.row, k.mul(warpgroup, 64 * tile.units)), k.add(k.shl(f.warp, 4), k.shr(f.lane, 2)))
  const stored = k.madWide(place.split, f.M, k.long(row))
  const [first, pitch] = [k.register("u64"), k.shl(ldc, 2)]
  k.emit("mad.lo.u64", first, stored, k.long(pitch), k.madWide(k.sub(ldc, SUM_COLUMNS), 4, c))
  const own = k.madWide(row, 4, kept)
  const none = k.variable("f32", 0)
  rowSums.forEach((sum, unit) => {
    for (const h of [0, 1]) {
      const below = 64 * unit + 8 * h
      const isThere = k.both(isLane, k.compare("lt", k.add(row, below), f.M))
      const address = k.madWide(pitch, below, first)
      const value = sum[2 * h]!
      k.when(k.both(k.both(isThere, isApart), isFirst), () => k.store("f32", own, 4 * below, [value]))
      k.when(k.both(k.both(isThere, isColumn), k.compare("lt", number, SUM_COLUMNS)), () => {
        k.store("f32", k.madWide(number, 4, address), 0, [value])
      })
      k.when(k.both(isThere, isRest), () => k.store("f32", address, 0, [value]))
      for (let i = 1; i < SUM_COLUMNS; i++) k.when(k.both(isThere, isRest), () => k.store("f32", address, 4 * i, [none]))
    }
  })
}

/** The products of all tiles: those of a stage are under way while those of the stage before end, and what `meanwhile` does is done. */
export function consumeStages(k: Ptx, f: Frame, warpgroup: U32, memory: EpilogueMemory): void {
  const { layout, tile, finish } = f.gemm as PtxGemm<DeepTile>
  k.comment("---- the warpgroups that multiply")
  k.registerBudget("inc", REGISTERS.consumer)
  const epilogue: Epilogue = tile.later ? laterOf(k, f, warpgroup, memory) : epilogueOf(k, f, warpgroup, memory)
  const sums = range(tile.units).map(() => range(tile.chunks).map(() => k.registers("f32", 32)))
  const rowSums = finish === "sums" ? range(tile.units).map(() => k.registers("f32", 4)) : []
  const ones = rowSums.length > 0 ? k.addLong(k.long(k.shr(k.base, 4)), ONES_DESCRIPTOR + BigInt(onesAt(f.places.end) >> 4)) : undefined
  const always = k.compare("eq", k.variable("u32", 0), 0)
  const isFirstLane = k.compare("eq", f.lane, 0)
  const at = stageAt(k, tile, 0)
  const before = k.variable("u32", 0)
  const ways = { isAlongM: layout === "tn", isAlongN: !layout.startsWith("nt") }
  const [nextA, nextB] = [ways.isAlongM, ways.isAlongN].map((isAcross) => NEXT_K[isAcross ? "alongN" : "alongK"])
  /** The stage before is free where all lanes of a warp have come by. */
  const release = (isThere = isFirstLane) => {
    k.syncWarp()
    k.when(isThere, () => k.arrive({ base: before, bytes: f.places.emptyA }))
  }
  const step = (place: Place, i: U32, chunks: number, isSummed: boolean): void => {
    const barrier = at.barrier()
    k.wait({ base: barrier, bytes: f.places.fullA }, at.parity)
    const start = k.long(k.shr(at.memory(), 4))
    const own = k.madWide(warpgroup, (tile.units * STAGE_PIECE) >> 4, start)
    const left = range(tile.units).map((unit) => k.addLong(own, DESCRIPTOR.inStage + BigInt((f.places.a + unit * STAGE_PIECE) >> 4)))
    const right = k.addLong(start, DESCRIPTOR.inStage + BigInt(f.places.b >> 4))
    const adds = k.compare("ne", i, 0)
    k.multiplyFence()
    for (const quarter of range(stepOf(tile) / 16)) {
      const b = quarter === 0 ? right : k.addLong(right, nextB! * BigInt(quarter))
      sums.forEach((sum, unit) => {
        const a = quarter === 0 ? left[unit]! : k.addLong(left[unit]!, nextA! * BigInt(quarter))
        k.multiplyShared(sum.slice(0, chunks).flat(), a, b, quarter === 0 ? adds : always, ways)
        if (isSummed) k.multiplyShared(rowSums[unit]!, a, ones!, always, { ...ways, isAlongN: false })
      })
    }
    k.multiplyCommit()
    epilogue.meanwhile?.(i, place)
    k.multiplyWait(1)
    release(k.both(isFirstLane, adds))
    k.copy(before, barrier)
    at.goOn()
  }
  eachTile(k, f, (place) => {
    epilogue.begin(place)
    const i = k.variable("u32", 0)
    const until = (end: U32, chunks: number, isSummed = false): void => {
      k.while(
        "STEP",
        () => k.compare("lt", i, end),
        () => {
          step(place, i, chunks, isSummed)
          k.add(i, 1, i)
        },
      )
    }
    const steps = (chunks: number): void => {
      if (rowSums.length > 0) {
        const [from, end] = shareOf(k, f, place, memory)
        until(from, chunks)
        k.multiplyWait(0)
        for (const sum of rowSums.flat()) k.copy(sum, 0)
        until(end, chunks, true)
        k.multiplyWait(0)
      }
      until(place.stepCount, chunks)
      epilogue.last?.(place)
      k.multiplyWait(0)
    }
    byWidth(k, tile, place.dealt, steps)
    release()
    if (rowSums.length > 0) storeRowSums(k, f, warpgroup, place, rowSums, memory)
    epilogue.end(sums, [], place)
  })
  epilogue.flush?.()
}
