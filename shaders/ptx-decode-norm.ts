/** Layer norm in the decode kernel: each warp awaits its own part of the rows, the warps tell each other their means and squares. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import { type Address, addressOf, awaitAll, type Frame, GROUP, pitchOf, rest, WARPS } from "./ptx-decode-frame.ts"
import { fromStage, type Part, stageOf } from "./ptx-decode-stage.ts"

/** Sum over the lanes of a warp. */
function warpSum({ k }: Frame, own: F32): F32 {
  let sum = own
  for (let mask = 1; mask < 32; mask *= 2) sum = k.addFloat(sum, k.exchangeFloat(sum, mask))
  return sum
}
const sumOf = ({ k }: Frame, values: readonly F32[]): F32 => {
  let list = values
  while (list.length > 1)
    list = Array.from({ length: Math.ceil(list.length / 2) }, (_, i) =>
      list[2 * i + 1] === undefined ? list[2 * i]! : k.addFloat(list[2 * i]!, list[2 * i + 1]!),
    )
  return list[0]!
}

/** Reads the factors before the rows are known. Returns the rest: awaits the rows at `stream` (f32) and gives this warp's part of their norm. */
export function norm(f: Frame, w: Address, b: Address): (stream: U64, tag: U32) => Part {
  const { k, stack, warp, lane } = f
  const { C, hasBias } = stack
  const own = C / WARPS
  // pairs of neighbours of this lane
  const pairs = Array.from({ length: Math.ceil(own / 64) }, (_, i) => {
    const at = k.add(lane, 32 * i)
    // lanes without a pair ask for the last one: a load that all lanes make waits for no other loads
    return { at: k.min(at, own / 2 - 1), isThere: k.compare("lt", at, own / 2) }
  })
  const addressAt = (at: U32, width: number, from: U64): U64 => k.madWide(k.mad(warp, own, k.shl(at, 1)), width, from)
  const load = (name: Address): F32[][] =>
    pairs.map(({ at }) => {
      const two = k.registers("f32", 2)
      k.load("f32", two, addressAt(at, 4, addressOf(f, name)))
      return two
    })
  const factors = load(w)
  const added = hasBias ? load(b) : undefined
  return (stream, tag) => {
    const from = pairs.map(({ at }) => addressAt(at, 8, stream))
    const rows = Array.from({ length: stack.rows }, () => pairs.map(() => k.registers("f32", 2)))
    const tags = rows.map((row) => row.map(() => k.registers("u32", 2)))
    rest(f)
    awaitAll(f, tag, tags.flat(2), () =>
      rows.forEach((row, r) =>
        row.forEach((two, i) => {
          const own = tags[r]![i]!
          k.loadVolatile([two[0]!, own[0]!, two[1]!, own[1]!], from[i]!, 8 * r * C)
        }),
      ),
    )
    k.syncWarp()
    rows.forEach((row, r) => tellMoments(f, r, row, pairs))
    k.syncBlock()
    const moments = momentsOf(f)
    const stage = stageOf(f, own / GROUP)
    rows.forEach((row, r) => {
      const { mean, scale } = moments(r)
      row.forEach((two, i) => {
        const out = two.map((value, e) => {
          const scaled = k.mulFloat(k.subFloat(value, mean), scale)
          return added === undefined ? k.mulFloat(scaled, factors[i]![e]!) : k.fma(scaled, factors[i]![e]!, added[i]![e]!)
        })
        const word = k.packBf16(out[0]!, out[1]!)
        const to = { base: k.mad(pairs[i]!.at, 4, stage), bytes: r * pitchOf(own / GROUP) }
        k.when(pairs[i]!.isThere, () => k.storeShared(to, [word]))
      })
    })
    return fromStage(f, own / GROUP)
  }
}

/** Mean and squares of this warp's part of a row. */
function tellMoments(
  f: Frame,
  row: number,
  values: readonly F32[][],
  pairs: readonly { isThere: ReturnType<Frame["k"]["compare"]> }[],
): void {
  const { k, stack, places, warp, lane } = f
  const sum = (of: (value: F32) => F32) => {
    const each = values.flatMap((two, i) => two.map((value) => k.select(pairs[i]!.isThere, of(value), 0, "f32")))
    return warpSum(f, sumOf(f, each))
  }
  const mean = k.mulFloat(
    sum((value) => value),
    WARPS / stack.C,
  )
  const squares = sum((value) => {
    const distance = k.subFloat(value, mean)
    return k.mulFloat(distance, distance)
  })
  const place = { base: k.shl(warp, 3), bytes: places.moments + 8 * WARPS * row }
  k.when(k.compare("eq", lane, 0), () => k.storeShared(place, [mean, squares]))
}

/** Mean and 1/deviation of the rows from the warps' own: lane r computes those of row r. */
function momentsOf(f: Frame): (row: number) => { mean: F32; scale: F32 } {
  const { k, stack, places, lane } = f
  const { rows } = stack
  const told = Array.from({ length: WARPS / 2 }, () => k.registers("f32", 4))
  const base = k.mul(k.min(lane, rows - 1), 8 * WARPS)
  told.forEach((four, i) => k.loadShared(four, { base, bytes: places.moments + 16 * i }))
  const means = told.flatMap((four) => [four[0]!, four[2]!])
  const mean = k.mulFloat(sumOf(f, means), 1 / WARPS)
  const distances = means.map((one) => k.subFloat(one, mean))
  const between = sumOf(
    f,
    distances.map((one) => k.mulFloat(one, one)),
  )
  const within = sumOf(
    f,
    told.flatMap((four) => [four[1]!, four[3]!]),
  )
  const variance = k.fma(between, 1 / WARPS, k.mulFloat(within, Math.fround(1 / stack.C)))
  const scale = k.unary("rsqrt.approx.ftz.f32", k.addFloat(variance, stack.eps))
  return (row) => (rows === 1 ? { mean, scale } : { mean: k.pickFloat(mean, row), scale: k.pickFloat(scale, row) })
}
