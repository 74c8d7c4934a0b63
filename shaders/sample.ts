/** Sampling, first part: logits of all tokens become penalised logits and a few numbers per slice of the vocabulary. */
import { type F32, f32, i32, kernel, read, u32, vec4, write } from "../src/spirv.ts"

/** Tokens per slice. */
export const SLICE = 1024
const LANES = 256

/** e^(−(top − z)·sharpness), 1 for the top itself, also an infinite one; 0 for NaN and what is too small. */
export const weightBelow = (top: F32, z: F32, sharpness: F32, one: F32): F32 => {
  const d = top.sub(z).mul(sharpness)
  return z.eq(top).select(one, d.lt(80).select(d.neg().exp(), 0))
}

/**
 * z[b,v] = logits[b,v], divided by penalty[b] where positive, else multiplied, for the tokens in history[b, : lengths[b]]; −∞ from `allowed` on.
 * Per slice of 1024 tokens: stats = (largest logit, Σ e^(logit − it), largest z, Σ e^((z − it)/temperature[b])), place = lowest token with that z.
 * logits (B, V), z (B, S·1024), stats (B, S), place (B, S); settings (B); history (B, longest), longest 0: none. Grid (S, B).
 * Moves 8·B·V bytes. Source: Keskar et al. 2019, arXiv:1909.05858.
 */
export const sampleSlices = kernel({
  name: "sample_slices",
  workgroup: LANES,
  buffers: {
    logits: read(f32),
    temperature: read(f32),
    penalty: read(f32),
    history: read(i32),
    lengths: read(i32),
    z: write(f32),
    stats: write(vec4(f32)),
    place: write(u32),
  },
  push: { V: u32, allowed: u32, longest: u32 },
  body(k, { logits, temperature, penalty, history, lengths, z, stats, place, V, allowed, longest }) {
    const row = k.groupY
    const first = k.group.mul(SLICE)
    const none = k.f32(Number.NEGATIVE_INFINITY)
    const factor = penalty.at(row)
    const marks = k.shared("tokens of the history", u32, SLICE / 32)
    k.if(k.lane.lt(SLICE / 32), () => marks.set(k.lane, 0))
    k.barrier()
    k.if(longest.ne(0), () =>
      k.if(factor.ne(1), () =>
        k.for(k.lane, lengths.at(row).max(0).toU32().min(longest), k.workgroup, (i) => {
          const place = history.at(row.mul(longest).add(i)).toU32().sub(first)
          k.if(place.lt(SLICE), () => void marks.atomicOr(place.div(32), k.u32(1).shl(place.and(31))))
        }),
      ),
    )
    k.barrier()

    const tokens = Array.from({ length: SLICE / LANES }, (_, i) => {
      const place = k.lane.add(i * LANES)
      const v = first.add(place)
      const raw = v.lt(V).select(logits.at(row.mul(V).add(v.min(V.sub(1)))), none)
      const isMarked = marks.at(place.div(32)).shr(place.and(31)).and(1).eq(1)
      const penalised = raw.gt(0).select(raw.div(factor), raw.mul(factor))
      const kept = v.lt(allowed).select(isMarked.select(penalised, raw), none)
      z.set(row.mul(k.groups).add(k.group).mul(SLICE).add(place), kept)
      return { v, raw, z: kept }
    })
    const largest = (of: (token: (typeof tokens)[number]) => F32): F32 =>
      k.workgroupMax(tokens.map(of).reduce((top, value) => value.gt(top).select(value, top), none)) // a NaN is never greater
    const rawTop = largest(({ raw }) => raw)
    const top = largest(({ z }) => z)
    const one = k.f32(1)
    const sharpness = one.div(temperature.at(row))
    const sum = (of: (token: (typeof tokens)[number]) => F32): F32 => k.workgroupSum(tokens.map(of).reduce((a, b) => a.add(b)))
    const rawSum = sum(({ v, raw }) => v.lt(V).select(raw.eq(rawTop).select(one, raw.sub(rawTop).exp()), 0))
    const weights = sum(({ v, z }) => v.lt(allowed).select(weightBelow(top, z, sharpness, one), 0))
    const lowest = k.workgroupMin(tokens.map(({ v, z }) => v.lt(allowed).and(z.eq(top)).select(v, 0xffffffff)).reduce((a, b) => a.min(b)))
    k.if(k.lane.eq(0), () => {
      const slice = row.mul(k.groups).add(k.group)
      stats.set(slice, k.vector(rawTop, rawSum, top, weights))
      place.set(slice, lowest)
    })
  },
})
