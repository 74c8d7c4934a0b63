/** Logits between the model and the choice: adjusting them, and ln of their probabilities. */
import { constant, type F32, f32, i32, kernel, read, type U32, u32, vec2, write } from "../src/spirv.ts"

/** Tokens per workgroup of logit_adjust. */
export const ADJUST_SLICE = 1024
const LANES = 256
/** −2¹²⁷: e^((this − top)/temperature) is 0, and it is finite. */
const FORBIDDEN = -(2 ** 127)
const NONE = 0xffffffff

/**
 * y[b,v] = logits[b,v]; for v = ids[b,i], i < counts[b]: divided by scale[b,i] where positive, else multiplied, plus bias[b,i]; −2¹²⁷ where
 * `masked` and v's bit is 0. logits, y (B, V), ids, scale, bias (B, N), counts (B), mask (B, W). Grid (⌈V / 1024⌉, B). Moves 8·B·V bytes.
 */
export const logitAdjust = kernel({
  name: "logit_adjust",
  workgroup: LANES,
  buffers: { logits: read(f32), ids: read(i32), scale: read(f32), bias: read(f32), counts: read(i32), mask: read(i32), y: write(f32) },
  push: { V: u32, N: u32, W: u32, masked: u32 },
  body(k, { logits, ids, scale, bias, counts, mask, y, V, N, W, masked }) {
    const row = k.groupY
    const first = k.group.mul(ADJUST_SLICE)
    const entries = k.shared("1 + place in the list", u32, ADJUST_SLICE)
    const places = Array.from({ length: ADJUST_SLICE / LANES }, (_, i) => k.lane.add(i * LANES))
    for (const place of places) entries.set(place, 0)
    k.barrier()
    k.for(k.lane, counts.at(row).max(0).toU32().min(N), k.workgroup, (i) => {
      const place = ids.at(row.mul(N).add(i)).toU32().sub(first)
      k.if(place.lt(ADJUST_SLICE), () => entries.set(place, i.add(1)))
    })
    k.barrier()
    for (const place of places) {
      const v = first.add(place)
      k.if(v.lt(V), () => {
        const z = k.var(f32, logits.at(row.mul(V).add(v)))
        k.if(entries.at(place).ne(0), () => {
          const i = row.mul(N).add(entries.at(place)).sub(1)
          const factor = scale.at(i)
          z.update((now) => now.gt(0).select(now.div(factor), now.mul(factor)).add(bias.at(i)))
        })
        k.if(masked.ne(0), () => {
          const word = mask.at(row.mul(W).add(v.div(32))).toU32()
          k.if(word.shr(v.and(31)).and(1).eq(0), () => z.set(FORBIDDEN))
        })
        y.set(row.mul(V).add(v), z.get())
      })
    }
  },
})

/** Logits that a lane of logprobs loads before it uses them. */
const TOGETHER = 16

/** Bits of `wants`: the outputs that somebody reads. */
export const WANTS = { logprob: 1, topIds: 2, topLogprobs: 4, stats: 8 } as const

/**
 * logprob[r] = ln softmax(logits[r])[targets[r]]: 0 for a target below 0, NaN from V on; or, for logprob_of, stats = (max, ln Σ) of every row: no targets then. topIds, topLogprobs (R, top): the same of the largest
 * logits below `allowed`, the lower id first of equals; −1 and −2¹²⁷ where there are not so many. logits (R, V). `lanes` go by V alone. Grid: a workgroup per row.
 * Moves 4·R·V bytes, and reads a row again for each of its top, through the cache.
 */
export const logprobs = kernel({
  name: "logprobs",
  workgroup: "lanes",
  buffers: {
    logits: read(f32),
    targets: read(i32),
    logprob: write(f32),
    topIds: write(i32),
    topLogprobs: write(f32),
    stats: write(vec2(f32)),
  },
  push: { R: u32, V: u32, allowed: u32, top: u32, wants: u32 },
  constants: { lanes: constant(u32, LANES) },
  body(k, { logits, targets, logprob, topIds, topLogprobs, stats, R, V, allowed, top, wants }) {
    const none = k.f32(Number.NEGATIVE_INFINITY)
    const [one, isFirst] = [k.f32(1), k.lane.eq(0)]
    const isWanted = (output: keyof typeof WANTS) => wants.and(WANTS[output]).ne(0)
    k.for(k.group, R, k.groups, (row) => {
      const told = k.var(i32, -1)
      k.if(isWanted("stats").not(), () => told.set(targets.at(row)))
      const target = told.get()
      const at = (v: U32): F32 => logits.at(row.mul(V).add(v))
      k.if(target.lt(0).and(isFirst).and(isWanted("logprob")), () => logprob.set(row, 0))
      k.if(target.ge(0).or(isWanted("topIds")).or(isWanted("topLogprobs")).or(isWanted("stats")), () => {
        // A lane's largest logit so far, and Σ e^(logit − it).
        const [most, sum] = [k.var(f32, none), k.var(f32, 0)]
        k.for(k.lane, V, k.workgroup.mul(TOGETHER), (v) => {
          const values = Array.from({ length: TOGETHER }, (_, i) => {
            const token = v.add(k.workgroup.mul(i))
            return token.lt(V).select(at(token.min(V.sub(1))), none)
          })
          const largest = values.reduce((best, value) => value.gt(best).select(value, best), most.get()) // a NaN is never greater
          sum.update((now) => now.mul(largest.eq(most.get()).select(one, most.get().sub(largest).exp())))
          most.set(largest)
          for (const value of values) sum.add(value.eq(none).select(k.f32(0), value.eq(largest).select(one, value.sub(largest).exp())))
        })
        const max = k.workgroupMax(most.get())
        const total = k.workgroupSum(sum.get().mul(most.get().eq(max).select(one, most.get().sub(max).exp()))).log()
        k.if(isFirst.and(target.ge(0)).and(isWanted("logprob")), () => {
          const isToken = target.toU32().lt(V)
          const z = k.var(f32, Number.NaN)
          k.if(isToken, () => z.set(at(target.toU32())))
          logprob.set(row, z.get().sub(max).sub(total))
        })
        k.if(isFirst.and(isWanted("stats")), () => stats.set(row, k.vector(max, total)))
        // Each turn finds the next in the order of falling logits and rising ids.
        const [last, from] = [k.var(f32, Number.POSITIVE_INFINITY), k.var(u32, 0)]
        k.for(0, top, 1, (turn) => {
          const [best, id] = [k.var(f32, none), k.var(u32, NONE)]
          k.for(k.lane, allowed, k.workgroup, (v) => {
            const value = at(v)
            const isLeft = value.lt(last.get()).or(value.eq(last.get()).and(v.ge(from.get())))
            k.if(isLeft.and(value.gt(best.get()).or(value.eq(best.get()).and(v.lt(id.get())))), () => {
              best.set(value)
              id.set(v)
            })
          })
          const value = k.workgroupMax(best.get())
          const found = k.workgroupMin(best.get().eq(value).select(id.get(), NONE))
          last.set(value)
          from.set(found.add(1))
          k.if(isFirst, () => {
            const isFound = found.ne(NONE)
            const out = row.mul(top).add(turn)
            k.if(isWanted("topIds"), () => topIds.set(out, isFound.select(found.toI32(), -1)))
            k.if(isWanted("topLogprobs"), () => topLogprobs.set(out, isFound.select(value.sub(max).sub(total), FORBIDDEN)))
          })
        })
      })
    })
  },
})

/** Rows of a workgroup of logprob_of. */
export const ROWS = 64

/** logprob as the kernel above, from its stats (R). Grid: ⌈R / 64⌉. Moves 20·R bytes. */
export const logprobOf = kernel({
  name: "logprob_of",
  workgroup: ROWS,
  buffers: { logits: read(f32), targets: read(i32), stats: read(vec2(f32)), logprob: write(f32) },
  push: { R: u32, V: u32 },
  body(k, { logits, targets, stats, logprob, R, V }) {
    const row = k.group.mul(ROWS).add(k.lane)
    k.if(row.lt(R), () => {
      const target = targets.at(row)
      const result = k.var(f32, 0)
      k.if(target.ge(0), () => {
        const z = k.var(f32, Number.NaN)
        k.if(target.toU32().lt(V), () => z.set(logits.at(row.mul(V).add(target.toU32()))))
        const { x: max, y: total } = stats.at(row)
        result.set(z.get().sub(max).sub(total))
      })
      logprob.set(row, result.get())
    })
  },
})
