/** Sampling, first part: the logits that count, and a few numbers per slice of the vocabulary. */
import { type F32, f32, kernel, read, u32, vec2, write } from "../src/spirv.ts"

/** Random stream of sampling, apart from every dropout site. */
export const STREAM = 0x73616d70
/** Tokens per slice. */
export const SLICE = 1024
const LANES = 256

/** e^(−(top − z)·sharpness), 1 for the top itself, also an infinite one; 0 for NaN and what is too small. */
export const weightBelow = (top: F32, z: F32, sharpness: F32, one: F32): F32 => {
  const d = top.sub(z).mul(sharpness)
  return z.eq(top).select(one, d.lt(80).select(d.neg().exp(), 0))
}

/**
 * z[b,v] = logits[b,v], −∞ from `allowed` on, where temperature[b] is above 0. Per slice of 1024 tokens: stats = (largest z, Σ e^((z − it)/temperature[b])), place = lowest token
 * with that z. logits (B, V), z (B, S·1024), stats (B, S), place (B, S), temperature (B). Grid (S, B). Moves 8·B·V bytes.
 */
export const sampleSlices = kernel({
  name: "sample_slices",
  workgroup: LANES,
  buffers: { logits: read(f32), temperature: read(f32), z: write(f32), stats: write(vec2(f32)), place: write(u32) },
  push: { V: u32, allowed: u32 },
  body(k, { logits, temperature, z, stats, place, V, allowed }) {
    const row = k.groupY
    const first = k.group.mul(SLICE)
    const none = k.f32(Number.NEGATIVE_INFINITY)
    const isDrawn = temperature.at(row).gt(0) // else nobody reads z
    const tokens = Array.from({ length: SLICE / LANES }, (_, i) => {
      const place = k.lane.add(i * LANES)
      const v = first.add(place)
      const kept = v.lt(allowed).select(logits.at(row.mul(V).add(v.min(V.sub(1)))), none)
      k.if(isDrawn, () => z.set(row.mul(k.groups).add(k.group).mul(SLICE).add(place), kept))
      return { v, z: kept }
    })
    const top = k.workgroupMax(tokens.reduce((most, { z }) => z.gt(most).select(z, most), none)) // a NaN is never greater
    const one = k.f32(1)
    const sharpness = one.div(temperature.at(row))
    const weights = k.workgroupSum(
      tokens.map(({ v, z }) => v.lt(allowed).select(weightBelow(top, z, sharpness, one), 0)).reduce((a, b) => a.add(b)),
    )
    const lowest = k.workgroupMin(tokens.map(({ v, z }) => v.lt(allowed).and(z.eq(top)).select(v, 0xffffffff)).reduce((a, b) => a.min(b)))
    k.if(k.lane.eq(0), () => {
      const slice = row.mul(k.groups).add(k.group)
      stats.set(slice, k.vector(top, weights))
      place.set(slice, lowest)
    })
  },
})
