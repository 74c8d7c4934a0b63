/** Hopper's matrix product with stages beyond 48 KiB of shared memory: one lane brings a and b of a stage, products read both from there. */
import type { Operand, Ptx, U32, U64 } from "../src/ptx.ts"
import { type EpilogueMemory, epilogueOf } from "./ptx-gemm-epilogue.ts"
import { type Epilogue, eachTile, type Frame, type Place, type PtxGemm, type PtxLayout } from "./ptx-gemm-frame.ts"
import { laterOf } from "./ptx-gemm-later.ts"
import {
  columnsOf,
  DESCRIPTOR,
  type DeepTile,
  NEXT_K,
  REGISTERS,
  STAGE_PIECE,
  SUMMING_REGISTERS,
  stageBytes,
  stepOf,
} from "./ptx-gemm-tile.ts"

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** Warps that sum a's rows, where that is asked for: the second and third of the warpgroup that brings. */
const SUMMING = 2

/** Registers per thread of the warpgroups that multiply, and of the one that brings. */
const budgetOf = ({ finish }: PtxGemm) => (finish === "sums" ? SUMMING_REGISTERS : REGISTERS)

/** Makes the barriers of the stages: one arrival and all bytes fill one, a lane of every warp that reads it empties it. */
export function initStages(k: Ptx, { tile, finish }: PtxGemm<DeepTile>, { fullA, emptyA }: Frame["places"]): void {
  for (const i of range(tile.stages)) {
    k.barrierInit(fullA + 8 * i, 1)
    k.barrierInit(emptyA + 8 * i, 8 + (finish === "sums" ? SUMMING : 0))
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

/** Ends the kernel for all but one lane, which brings all k steps of all tiles, as far ahead as there are stages, and those that sum a's rows. */
export function produceStages(k: Ptx, f: Frame, maps: U64, memory: EpilogueMemory): void {
  const { layout, tile, finish } = f.gemm as PtxGemm<DeepTile>
  k.comment("---- the warpgroup that brings: one lane of it")
  k.registerBudget("dec", budgetOf(f.gemm).producer)
  const end = k.label("PRODUCED")
  if (finish === "sums") {
    const others = k.label("BRINGS")
    k.jump(others, k.compare("eq", f.warp, 0))
    k.jump(end, k.compare("gt", f.warp, SUMMING))
    sumRows(k, f, memory)
    k.jump(end)
    k.place(others)
  }
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

/** Sums of a's rows over the k steps of the tiles of the first column, a stored along M: 8 rows and every fourth k to a lane, 64 rows a unit. */
function sumRows(k: Ptx, f: Frame, { c, kept, ldc }: EpilogueMemory): void {
  const { tile } = f.gemm as PtxGemm<DeepTile>
  k.comment("---- the warps that sum a's rows")
  const firstUnit = k.mul(k.sub(f.warp, 1), tile.units)
  const [piece, first] = [k.and(f.lane, 7), k.shr(f.lane, 3)]
  // Of every 8 k this lane has two, whose 16-byte pieces are swizzled by their number.
  const offsets = [0, 4].map((more) => {
    const row = k.add(first, more)
    return k.add(k.shl(row, 7), k.shl(k.xor(piece, row), 4))
  })
  const sums = range(tile.units).map(() => k.registers("f32", 8))
  const at = stageAt(k, tile, 0)
  const isFirstLane = k.compare("eq", f.lane, 0)
  eachTile(k, f, (place) => {
    for (const sum of sums.flat()) k.copy(sum, 0)
    const isHere = k.compare("eq", place.column, 0)
    const i = k.variable("u32", 0)
    k.while(
      "SUM",
      () => k.compare("lt", i, place.stepCount),
      () => {
        const barrier = at.barrier()
        k.wait({ base: barrier, bytes: f.places.fullA }, at.parity)
        k.if(isHere, () => {
          const start = k.add(at.memory(), k.mul(firstUnit, STAGE_PIECE))
          const bases = offsets.map((offset) => k.add(start, offset))
          for (const eight of range(stepOf(tile) / 8))
            sums.forEach((sum, unit) => {
              for (const base of bases) {
                const words = k.registers("u32", 4)
                k.loadSharedWords(words, { base, bytes: STAGE_PIECE * unit + 1024 * eight })
                sum.forEach((one, j) => k.addFloat(one, k.unpackBf16(words[j >> 1]!, (j & 1) as 0 | 1), one))
              }
            })
          k.fenceCopies()
        })
        k.syncWarp()
        k.when(isFirstLane, () => k.arrive({ base: barrier, bytes: f.places.emptyA }))
        at.goOn()
        k.add(i, 1, i)
      },
    )
    for (const mask of [8, 16]) for (const sum of sums.flat()) k.addFloat(sum, k.exchangeFloat(sum, mask), sum)
    const row = k.add(k.add(place.row, k.mul(firstUnit, 64)), k.shl(piece, 3))
    const mine = k.both(isHere, k.compare("eq", first, 0))
    const [address, pitch] = [k.register("u64"), k.variable("u32", 4)]
    k.if(
      k.compare("ne", kept, 0),
      () => k.copy(address, k.madWide(row, 4, kept)),
      () => {
        k.shl(ldc, 2, pitch)
        const stored = k.madWide(place.split, f.M, k.long(row))
        k.emit("mad.lo.u64", address, stored, k.long(pitch), k.madWide(k.sub(ldc, 8), 4, c))
      },
    )
    sums.forEach((sum, unit) =>
      sum.forEach((one, j) => {
        const below = 64 * unit + j
        const p = k.both(mine, k.compare("gt", k.sub(f.M, k.min(row, f.M)), below))
        k.when(p, () => k.store("f32", k.madWide(pitch, below, address), 0, [one]))
      }),
    )
  })
}

/** The products of all tiles: those of a stage are under way while those of the stage before end, and what `meanwhile` does is done. */
export function consumeStages(k: Ptx, f: Frame, warpgroup: U32, memory: EpilogueMemory): void {
  const { layout, tile } = f.gemm as PtxGemm<DeepTile>
  k.comment("---- the warpgroups that multiply")
  k.registerBudget("inc", budgetOf(f.gemm).consumer)
  const epilogue: Epilogue = tile.later ? laterOf(k, f, warpgroup, memory) : epilogueOf(k, f, warpgroup, memory)
  const sums = range(tile.units).map(() => range(tile.chunks).map(() => k.registers("f32", 32)))
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
  const step = (place: Place, i: U32, chunks: number): void => {
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
    const steps = (chunks: number): void => {
      k.while(
        "STEP",
        () => k.compare("lt", i, place.stepCount),
        () => {
          step(place, i, chunks)
          k.add(i, 1, i)
        },
      )
      epilogue.last?.(place)
      k.multiplyWait(0)
    }
    if (place.dealt === undefined) steps(tile.chunks)
    else
      k.if(
        k.compare("lt", place.dealt.width, columnsOf(tile)),
        () => steps(tile.chunks - 1),
        () => steps(tile.chunks),
      )
    release()
    epilogue.end(sums, [], place)
  })
  epilogue.flush?.()
}
