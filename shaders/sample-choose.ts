/** Sampling, second part: one token per row, from the numbers of its slices and the logits. */
import { type Body, type F32, f32, i32, kernel, read, type SharedArray, type U32, u32, vec2, write } from "../src/spirv.ts"
import { randomBlock, uniform } from "./random.ts"
import { SLICE, weightBelow } from "./sample.ts"
import { coarseBins, draw, fineBins, keyOf, LAST, weightOf } from "./sample-cut.ts"
import { firstHit, largest, NONE, scan, slotsOf, smallest } from "./workgroup.ts"

const LANES = 1024
/** Loads of 16 bytes that a lane has under way at once: one workgroup has to hide the memory's latency alone. */
const BATCH = 4

/** What a token counts for in a choice by rising id. */
type Measure = (z: F32) => F32

/**
 * token[b] by the settings of row b from z and the numbers of sample_slices, see the op `sample`. z (B, S·1024), stats, place (B, S), S ≤ 1024 slices; the others (B). Grid (B). Reads z once for the cuts by top k, top p and
 * min p and 1 to 3 times for each that needs a finer look; without cuts one slice of it. Same bits alone and in a batch.
 */
export const sampleChoose = kernel({
  name: "sample_choose",
  workgroup: LANES,
  buffers: {
    z: read(f32),
    stats: read(vec2(f32)),
    place: read(u32),
    temperature: read(f32),
    topK: read(i32),
    topP: read(f32),
    minP: read(f32),
    seed: read(i32),
    draw: read(i32),
    token: write(i32),
  },
  push: { allowed: u32, S: u32, scale: f32, stream: u32 },
  body(k, { z, stats, place, temperature, topK, topP, minP, seed, draw: counter, token, ...numbers }) {
    const { allowed, S, scale, stream } = numbers
    const row = k.group
    const slots = slotsOf(k)
    const one = k.f32(1)
    const none = k.f32(Number.NEGATIVE_INFINITY)
    const isSlice = k.lane.lt(S)
    const slice = row.mul(S).add(isSlice.select(k.lane, 0))
    const [own, lowest] = [stats.at(slice), place.at(slice)]
    const top = largest(k, slots, isSlice.select(own.x, none))
    const first = smallest(k, slots, isSlice.and(own.x.eq(top)).select(lowest, NONE))
    const chosen = k.var(u32, first.min(allowed.sub(1)))

    k.if(temperature.at(row).gt(0), () => {
      const sharpness = one.div(temperature.at(row))
      const source = { seed: seed.at(row).toU32(), stream, step: counter.at(row).toU32() }
      const random = uniform(randomBlock(k, source, k.u32(0), k.u32(0))[0])
      const keyAt = (value: F32): U32 => keyOf(k, top, value, sharpness)
      const fine = fineBins(k)
      const [p, least, kLimit] = [topP.at(row), minP.at(row), topK.at(row).max(1).toU32()]
      const isCut = kLimit.lt(allowed).or(p.lt(1))
      // Tokens with keys in [key, key + span) count 1 each, the nth of them is wanted; span 0: each counts its weight.
      const [key, span, nth] = [k.var(u32, 0), k.var(u32, 0), k.var(u32, 0)]
      k.if(isCut, () => {
        const packs = S.mul(SLICE / 4)
        const eachKey = (use: (key: U32) => void) =>
          k.for(k.lane, packs, LANES * BATCH, (i) => {
            const places = Array.from({ length: BATCH }, (_, j) => i.add(j * LANES))
            const values = places.map((place) => z.pack(4).at(row.mul(packs).add(place.min(packs.sub(1)))))
            places.forEach((place, j) => {
              for (const value of values[j]!) use(place.lt(packs).select(keyAt(value), LAST))
            })
          })
        const cut = { k, slots, eachKey, scale, kLimit, topP: p, minP: least, uniform: random }
        const drawn = draw(cut, coarseBins(k), fine)
        key.set(drawn.key)
        span.set(drawn.span)
        nth.set(drawn.nth)
      })
      const measure: Measure = (value) => {
        const at = keyAt(value)
        const weight = at.lt(LAST).and(weightOf(at).ge(least)).select(weightOf(at), 0)
        return isCut.select(at.sub(key.get()).lt(span.get()).select(one, 0), weight)
      }
      k.barrier() // the bins are free
      const sums = fine.weights
      k.if(
        isCut.or(least.gt(0)),
        () =>
          sumSlices(
            k,
            S,
            sums,
            (s, i) =>
              z.pack(4).at(
                row
                  .mul(S)
                  .add(s)
                  .mul(SLICE / 4)
                  .add(i),
              ),
            measure,
          ),
        () => k.if(isSlice, () => sums.set(k.lane, own.y.mul(weightBelow(top, own.x, sharpness, one)).bits())),
      )
      k.barrier()
      const mine = k.var(f32, 0)
      k.if(isSlice, () => mine.set(sums.at(k.lane).asF32()))
      const bySlice = scan(k, slots, k.u32(0), mine.get()).weight
      const target = isCut.select(nth.get().toF32(), bySlice.total.mul(random))
      const from = firstHit(k, slots, k.lane, mine.get().gt(0).and(bySlice.upTo.gt(target)), mine.get().gt(0))
      k.if(k.lane.eq(from), () => sums.set(0, bySlice.before.bits()))
      k.barrier()
      k.if(from.ne(NONE), () => {
        const value = measure(z.at(row.mul(S).add(from).mul(SLICE).add(k.lane)))
        const upTo = sums
          .at(0)
          .asF32()
          .add(scan(k, slots, k.u32(0), value).weight.upTo)
        const at = firstHit(k, slots, k.lane, value.gt(0).and(upTo.gt(target)), value.gt(0))
        k.if(at.ne(NONE), () => chosen.set(from.mul(SLICE).add(at)))
      })
    })

    k.if(k.lane.eq(0), () => {
      const id = chosen.get().min(allowed.sub(1)) // where every logit is −∞ or NaN, what pads the last slice was as good
      token.set(row, id.toI32())
    })
  },
})

/** sums[s] = bits of Σ measure over slice s, for every slice, a subgroup for each. */
function sumSlices(k: Body, S: U32, sums: SharedArray<typeof u32>, packAt: (slice: U32, i: U32) => readonly F32[], measure: Measure): void {
  k.for(k.subgroup, S, k.workgroup.div(k.subgroupSize), (s) => {
    const sum = k.var(f32, 0)
    k.for(k.subgroupLane, SLICE / 4, k.subgroupSize.mul(BATCH), (i) => {
      const packs = Array.from({ length: BATCH }, (_, j) => packAt(s, i.add(k.subgroupSize.mul(j))))
      sum.add(
        packs
          .flat()
          .map(measure)
          .reduce((a, b) => a.add(b)),
      )
    })
    const total = k.subgroupAdd(sum.get())
    k.if(k.subgroupElect(), () => sums.set(s, total.bits()))
  })
}
