/** Dropout by counter. */
import { act, type Body, constant, type F32, f32, type I32, i32, kernel, read, type U32, u32, write } from "../src/spirv.ts"
import { randomBits, randomBlockAfter } from "./random.ts"

/** x·scale where the 24 high bits reach the threshold, else 0, also where x is not finite. */
const kept = (k: Body, bits: U32, threshold: U32, x: F32, scale: F32): F32 => bits.shr(8).ge(threshold).select(x.mul(scale), k.f32(0))

/** What a kernel declares that drops elements of its own accord; `drops` 0: it does not. */
export const DROPS = {
  push: { site: u32, threshold: u32, scale: f32 },
  params: { seed: i32, step: i32, row: i32 },
  constants: { drops: constant(u32, 0) },
} as const
export interface Drops {
  readonly site: U32
  readonly threshold: U32
  readonly scale: F32
  readonly seed: I32
  readonly step: I32
  readonly row: I32
  readonly drops: U32
}

/** Four neighbours, from element 4·place of rows of C on (a multiple of 4), as `dropout` leaves them; others as they are. */
export function dropped(
  k: Body,
  { site, threshold, scale, seed, step, row, drops }: Drops,
  C: U32,
  place: U32,
  values: readonly F32[],
): readonly F32[] {
  if (values.length !== 4) return values
  const out = values.map((value) => k.var(f32, value))
  k.if(drops.ne(0), () => {
    const source = { seed: seed.toU32(), stream: site, step: step.toU32() }
    const begin = row.toU32().toU64().mul(C.toU64()).shr(2)
    randomBlockAfter(k, source, begin, place).forEach((bits, j) => out[j]!.update((value) => kept(k, bits, threshold, value, scale)))
  })
  return out.map((value) => value.get())
}

const declared = {
  workgroup: 256,
  buffers: { x: read(act), y: write(act) },
  push: { n: u32, C: u32, site: u32, threshold: u32, scale: f32 },
  params: { seed: i32, step: i32, row: i32 },
} as const

/**
 * y[i] = x[i]·scale where the 24 high bits of random value row·C + i of (seed, site, step) are ≥ threshold, else 0; n = R·C elements, C a
 * multiple of 4. Grid: any; ⌈n / 2048⌉ workgroups give each lane one pack. Moves 2·n·s bytes, about 20 integer instructions per element.
 */
export const dropout = kernel({
  name: "dropout",
  ...declared,
  body(k, { x, y, n, C, site, threshold, scale, seed, step, row }) {
    const source = { seed: seed.toU32(), stream: site, step: step.toU32() }
    const begin = row.toU32().toU64().mul(C.toU64()).shr(2) // block of the first element
    const first = k.group.mul(k.workgroup).add(k.lane)
    const packs = n.div(8)
    k.for(first, packs, k.groups.mul(k.workgroup), (i) => {
      const words = [0, 1].flatMap((half) => randomBlockAfter(k, source, begin, i.mul(2).add(half)))
      const values = x.pack(8).at(i)
      y.pack(8).set(
        i,
        words.map((bits, j) => kept(k, bits, threshold, values[j]!, scale)),
      )
    })
    k.if(first.eq(0).and(n.and(4).ne(0)), () => {
      const last = packs.mul(2)
      const values = x.pack(4).at(last)
      y.pack(4).set(
        last,
        randomBlockAfter(k, source, begin, last).map((bits, j) => kept(k, bits, threshold, values[j]!, scale)),
      )
    })
  },
})

/** As dropout, for any C: a block of random numbers for each element. Grid: any; ⌈n / 256⌉ workgroups give each lane one element. Moves 2·n·s bytes. */
export const dropoutEdge = kernel({
  name: "dropout_edge",
  ...declared,
  body(k, { x, y, n, C, site, threshold, scale, seed, step, row }) {
    const source = { seed: seed.toU32(), stream: site, step: step.toU32() }
    const begin = row.toU32().toU64().mul(C.toU64())
    k.for(k.group.mul(k.workgroup).add(k.lane), n, k.groups.mul(k.workgroup), (i) =>
      y.set(i, kept(k, randomBits(k, source, begin.add(i.toU64())), threshold, x.at(i), scale)),
    )
  },
})
