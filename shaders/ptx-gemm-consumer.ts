/** The two warpgroups of a Hopper matrix product that multiply: a into registers, b by descriptor, then the epilogue. */
import type { F32, Predicate, Ptx, U32 } from "../src/ptx.ts"
import { byWidth } from "./ptx-gemm-deal.ts"
import { type EpilogueMemory, epilogueOf } from "./ptx-gemm-epilogue.ts"
import { type Epilogue, eachTile, type Frame, type Place, type PtxGemm, type Sums } from "./ptx-gemm-frame.ts"
import { laterOf } from "./ptx-gemm-later.ts"
import { counter, keep, next, type Slot, slotOf } from "./ptx-gemm-ring.ts"
import { DESCRIPTOR, NEXT_K, ONES, PIECE, REGISTERS, type RingTile } from "./ptx-gemm-tile.ts"

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** What a warp needs for its k steps. */
interface Role {
  readonly frame: Frame
  readonly tile: RingTile
  /** sums[unit][chunk]: 64 × 64 of f32, 32 per lane. */
  readonly sums: Sums
  /** Addresses of this lane's row of the first and second 16 of K, in place 0 of its ring. */
  readonly rows: readonly U32[]
  /** Where the warpgroup's ring of units has its barriers. */
  readonly start: U32
  readonly isFirstLane: Predicate
  /** Always true. */
  readonly always: Predicate
  /** Where the sums of a's rows are asked for: 16 × 8 sums of f32 for each unit, all columns alike. */
  readonly rowSums: readonly (readonly F32[])[]
}

export function consume(k: Ptx, frame: Frame, warpgroup: U32, memory: EpilogueMemory): void {
  const { tile, layout } = frame.gemm as PtxGemm<RingTile>
  k.comment("---- the warpgroups that multiply")
  k.registerBudget("inc", REGISTERS.consumer)
  const epilogue = tile.later ? laterOf(k, frame, warpgroup, memory) : epilogueOf(k, frame, warpgroup, memory)
  const role: Role = {
    frame,
    tile,
    sums: range(tile.units).map(() => range(tile.chunks).map(() => k.registers("f32", 32))),
    rows: rowAddresses(k, frame, tile, warpgroup, layout === "tn"),
    start: k.add(k.mul(warpgroup, 8 * tile.ringA), k.base),
    isFirstLane: k.compare("eq", frame.lane, 0),
    always: k.compare("eq", k.variable("u32", 0), 0),
    rowSums: frame.gemm.finish === "sums" ? range(tile.units).map(() => k.registers("f32", 4)) : [],
  }
  eachStep(k, role, epilogue)
}

/** Address of this lane's 16 bytes for ldmatrix, for both 16 of K. */
function rowAddresses(k: Ptx, { warp, lane, places }: Frame, tile: RingTile, warpgroup: U32, isTransposed: boolean): readonly U32[] {
  const ring = k.add(k.mul(warpgroup, tile.ringA * PIECE), k.base)
  if (isTransposed) {
    k.comment(
      "a unit is 32 rows of k, 128 bytes each: lane l names row (l mod 8) + 8*(l div 16), 8 columns from 16*warp + 8*(l div 8 mod 2) on",
    )
    const row = k.add(k.and(lane, 7), k.shl(k.shr(lane, 4), 3))
    const piece = k.add(k.shl(warp, 1), k.and(k.shr(lane, 3), 1))
    const swizzled = k.shl(k.xor(piece, k.and(row, 7)), 4)
    const first = k.add(k.add(k.add(ring, places.a), k.shl(row, 7)), swizzled)
    return [first, k.add(first, 16 * 128)]
  }
  k.comment("a unit is 64 rows of 32 k, 64 bytes each: lane l names row 16*warp + (l mod 16), 8 of k from 8*(l div 16) on")
  const row = k.add(k.shl(warp, 4), k.and(lane, 15))
  const turn = k.and(k.shr(row, 1), 3)
  const begin = k.add(k.add(ring, places.a), k.shl(row, 6))
  return [0, 1].map((half) => k.add(begin, k.shl(k.xor(k.add(k.shr(lane, 4), 2 * half), turn), 4)))
}

/** One k step: the units come into registers, then chunk by chunk the products; at most one group of products is under way while a chunk is awaited. */
function step(
  k: Ptx,
  { frame, sums, rows, isFirstLane, always, rowSums }: Role,
  place: Place,
  units: readonly Slot[],
  chunks: readonly Slot[],
  adds: Predicate,
  meanwhile?: () => void,
): void {
  const { places, gemm } = frame
  const isTransposed = gemm.layout === "tn"
  const [zero, nextK] = gemm.layout.startsWith("nt") ? [DESCRIPTOR.alongK, NEXT_K.alongK] : [DESCRIPTOR.alongN, NEXT_K.alongN]
  const release = (place: Slot, barriers: number) => {
    k.syncWarp()
    k.when(isFirstLane, () => k.arrive(place.barrier(barriers)))
  }
  const fragments = units.map((unit) => {
    k.wait(unit.barrier(places.fullA), unit.parity)
    return rows.map((row) => {
      const to = k.registers("u32", 4)
      k.loadMatrix(to, unit.at(row), isTransposed)
      return to
    })
  })
  if (rowSums.length > 0) {
    const others = k.label("NO_SUMS")
    k.jump(others, k.compare("ne", place.column, 0))
    const ones = k.variable("u32", ONES)
    rowSums.forEach((sum, m) => fragments[m]!.forEach((fragment) => k.multiplyWarp(sum, fragment, [ones, ones])))
    k.place(others)
  }
  chunks.forEach((chunk, j) => {
    k.wait(chunk.barrier(places.fullB), chunk.parity)
    const descriptors = [chunk.descriptor(zero + BigInt(places.b >> 4))]
    descriptors.push(k.addLong(descriptors[0]!, nextK))
    k.multiplyFence()
    descriptors.forEach((descriptor, half) =>
      units.forEach((_, m) =>
        k.multiply(sums[m]![j]!, fragments[m]![half]!, descriptor, half === 0 ? adds : always, !gemm.layout.startsWith("nt")),
      ),
    )
    k.multiplyCommit()
    if (j === 0) {
      k.comment("the products are under way, so a has been read from shared memory: only now may copies write there")
      for (const unit of units) release(unit, places.emptyA)
    }
    const isLast = j === chunks.length - 1
    if (isLast && meanwhile !== undefined) {
      k.multiplyWait(1)
      if (j > 0) release(chunks[j - 1]!, places.emptyB)
      meanwhile()
      k.multiplyWait(0)
      release(chunk, places.emptyB)
      return
    }
    k.multiplyWait(isLast ? 0 : 1)
    if (j > 0) release(chunks[j - 1]!, places.emptyB)
    if (isLast) release(chunk, places.emptyB)
  })
}

function begin(k: Ptx, { rowSums }: Role, epilogue: Epilogue, place: Place): void {
  for (const sum of rowSums.flat()) k.copy(sum, 0)
  epilogue.begin(place)
}

/** All k steps of all tiles; the places of the rings go on from tile to tile. */
function eachStep(k: Ptx, role: Role, epilogue: Epilogue): void {
  const { tile } = role
  const [a, b] = [counter(k, 0, role.start), counter(k, 0, k.base)]
  eachTile(k, role.frame, (place) => {
    begin(k, role, epilogue, place)
    const i = k.variable("u32", 0)
    const steps = (count: number): void =>
      k.while(
        "STEP",
        () => k.compare("lt", i, place.stepCount),
        () => {
          let [atA, atB] = [a, b]
          const units = range(tile.units).map(() => {
            const slot = slotOf(k, atA)
            atA = next(k, atA, tile.ringA, role.start)
            return slot
          })
          const chunks = range(count).map(() => {
            const slot = slotOf(k, atB)
            atB = next(k, atB, tile.ringB, k.base)
            return slot
          })
          const { meanwhile } = epilogue
          step(k, role, place, units, chunks, k.compare("ne", i, 0), meanwhile && (() => meanwhile(i, place)))
          keep(k, a, atA)
          keep(k, b, atB)
          k.add(i, 1, i)
        },
      )
    byWidth(k, tile, place.dealt, steps)
    epilogue.last?.(place)
    epilogue.end(role.sums, role.rowSums, place)
  })
  epilogue.flush?.()
}
