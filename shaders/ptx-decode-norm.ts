/** Layer norm in the decode kernel: each warp awaits its own part of the rows, the warps tell each other their means and squares. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import { type Address, addressOf, awaitAll, type Frame, GROUP, HALF, halvesOf, ownPart, WARPS } from "./ptx-decode-frame.ts"
import type { Part } from "./ptx-decode-product.ts"

/** Numbers of a group that a lane has. */
const PACK = 8

/** Sum over the four lanes of a row. */
function sumOfFour({ k }: Frame, own: F32): F32 {
  const pair = k.addFloat(own, k.exchangeFloat(own, 1))
  return k.addFloat(pair, k.exchangeFloat(pair, 2))
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
  const { k, stack, places, warp, row, quarter } = f
  const { C, rows, eps, hasBias } = stack
  const groups = C / WARPS / GROUP
  const first = ownPart(f, C)
  const load = (name: Address): F32[][] => {
    const from = k.madWide(first, 4, addressOf(f, name))
    return Array.from({ length: groups }, (_, j) => {
      const values = k.registers("f32", PACK)
      for (const half of [0, 4]) k.load("f32", values.slice(half, half + 4), from, 4 * (GROUP * j + half))
      return values
    })
  }
  const factors = load(w)
  const added = hasBias ? load(b) : undefined
  return (stream, tag) => {
    const halves = Array.from({ length: halvesOf(stack) }, (_, half) => {
      const packs = Array.from({ length: groups }, () => Array.from({ length: PACK }, () => k.variable("f32", 0)))
      const isRow = k.compare("lt", row, rows - HALF * half)
      k.if(isRow, () => {
        const tags = packs.map(() => k.registers("u32", PACK))
        const from = k.madWide(k.mad(row, C, first), 8, stream)
        awaitAll(f, tag, tags.flat(), () =>
          packs.forEach((values, j) => {
            for (let e = 0; e < PACK; e += 2)
              k.loadVolatile([values[e]!, tags[j]![e]!, values[e + 1]!, tags[j]![e + 1]!], from, 8 * (GROUP * j + e + HALF * half * C))
          }),
        )
      })
      return { packs, isRow }
    })
    k.syncWarp()
    halves.forEach(({ packs, isRow }, half) => {
      const all = packs.flat()
      const mean = k.mulFloat(sumOfFour(f, sumOf(f, all)), WARPS / C)
      const apart = all.map((value) => k.subFloat(value, mean))
      const squares = sumOfFour(
        f,
        sumOf(
          f,
          apart.map((value) => k.mulFloat(value, value)),
        ),
      )
      const place = { base: k.mad(row, 8 * WARPS, k.shl(warp, 3)), bytes: places.moments + 8 * WARPS * HALF * half }
      k.when(k.both(isRow, k.compare("eq", quarter, 0)), () => k.storeShared(place, [mean, squares]))
    })
    k.syncBlock()
    return halves.map(({ packs, isRow }, half) => {
      const told = Array.from({ length: WARPS / 2 }, () => k.registers("f32", 4))
      const base = k.select(isRow, k.mul(row, 8 * WARPS), 0, "u32")
      told.forEach((four, i) => k.loadShared(four, { base, bytes: places.moments + 8 * WARPS * HALF * half + 16 * i }))
      const means = told.flatMap((four) => [four[0]!, four[2]!])
      const total = k.mulFloat(sumOf(f, means), 1 / WARPS)
      const distances = means.map((one) => k.subFloat(one, total))
      const between = sumOf(
        f,
        distances.map((one) => k.mulFloat(one, one)),
      )
      const within = sumOf(
        f,
        told.flatMap((four) => [four[1]!, four[3]!]),
      )
      const variance = k.fma(between, 1 / WARPS, k.mulFloat(within, Math.fround(1 / C)))
      const scale = k.unary("rsqrt.approx.ftz.f32", k.addFloat(variance, eps))
      return packs.map((values, j) => {
        const out = values.map((value, e) => {
          const scaled = k.mulFloat(k.subFloat(value, total), scale)
          return added === undefined ? k.mulFloat(scaled, factors[j]![e]!) : k.fma(scaled, factors[j]![e]!, added[j]![e]!)
        })
        return [0, 2, 4, 6].map((e) => k.packBf16(out[e]!, out[e + 1]!))
      })
    })
  }
}
