/** Logits between the model and the choice: forbidden tokens, penalties and biases; ln of probabilities with the most likely tokens. */
import { constant, f32, i32, kernel, read, u32, write } from "../src/spirv.ts"

/** Logit of a token that must not be chosen. */
const FORBIDDEN = -(2 ** 127)
/** Below every logit, and finite: differences from it are no NaN. */
const LOWEST = -3.4e38
const NONE = 0xffffffff

/**
 * y[b,v] = logits[b,v] where bit v mod 32 of mask[b, ⌊v/32⌋] is 1 or there is no mask, else −2¹²⁷. logits, y (B, V), mask (B, ⌈V/32⌉).
 * Grid (⌈V/256⌉ at most, B). Moves 8·B·V bytes.
 */
export const logitMask = kernel({
  name: "logit_mask",
  workgroup: 256,
  buffers: { logits: read(f32), mask: read(u32), y: write(f32) },
  push: { V: u32 },
  constants: { isMasked: constant(u32, 0) },
  body(k, { logits, mask, y, V, isMasked }) {
    const row = k.groupY
    const words = V.add(31).div(32)
    k.for(k.group.mul(k.workgroup).add(k.lane), V, k.groups.mul(k.workgroup), (v) => {
      const bit = k.var(u32, 1)
      k.if(isMasked.ne(0), () =>
        bit.set(
          mask
            .at(row.mul(words).add(v.div(32)))
            .shr(v.and(31))
            .and(1),
        ),
      )
      y.set(
        row.mul(V).add(v),
        bit
          .get()
          .eq(1)
          .select(logits.at(row.mul(V).add(v)), FORBIDDEN),
      )
    })
  },
})

/**
 * y[b,t] for t = ids[b,i], i < counts[b], unless the mask forbids it: z = logits[b,t] divided by scale[b,i] where positive, else multiplied, plus
 * bias[b,i]. After logit_mask. ids, scale, bias (B, N), each id once in its row. Grid (B).
 */
export const logitLists = kernel({
  name: "logit_lists",
  workgroup: 256,
  buffers: { logits: read(f32), ids: read(i32), scale: read(f32), bias: read(f32), counts: read(i32), mask: read(u32), y: write(f32) },
  push: { V: u32, N: u32 },
  constants: { isMasked: constant(u32, 0) },
  body(k, { logits, ids, scale, bias, counts, mask, y, V, N, isMasked }) {
    const row = k.group
    const words = V.add(31).div(32)
    k.for(k.lane, counts.at(row).max(0).toU32().min(N), k.workgroup, (n) => {
      const i = row.mul(N).add(n)
      const t = ids.at(i).toU32()
      k.if(t.lt(V), () => {
        const bit = k.var(u32, 1)
        k.if(isMasked.ne(0), () =>
          bit.set(
            mask
              .at(row.mul(words).add(t.div(32)))
              .shr(t.and(31))
              .and(1),
          ),
        )
        k.if(bit.get().eq(1), () => {
          const z = logits.at(row.mul(V).add(t))
          y.set(
            row.mul(V).add(t),
            z
              .gt(0)
              .select(z.div(scale.at(i)), z.mul(scale.at(i)))
              .add(bias.at(i)),
          )
        })
      })
    })
  },
})

/**
 * logprob[r] = (z − max) − ln Σ_v e^(z_v − max), z = logits[r, targets[r]]; 0 for target −1, NaN beyond V. topIds, topLogprobs[r, 0 … top − 1]: of the
 * largest logits of ids below `allowed`, by falling logit, the lower id first of equals; id −1 and −2¹²⁷ where there are not so many.
 * logits (R, V). Grid: a workgroup per row, or every so many. Reads the row once, and again from the cache for each of `top`: a handful at most.
 * Source: the running maximum and sum are Milakov & Gimelshein 2018, arXiv:1805.02867.
 */
export const rowLogprobs = kernel({
  name: "row_logprobs",
  workgroup: "lanes",
  buffers: { logits: read(f32), targets: read(i32), logprob: write(f32), topIds: write(i32), topLogprobs: write(f32) },
  push: { R: u32, V: u32, allowed: u32, top: u32 },
  constants: { lanes: constant(u32, 256), hasLogprob: constant(u32, 1), hasIds: constant(u32, 0), hasLogprobs: constant(u32, 0) },
  body(k, { logits, targets, logprob, topIds, topLogprobs, R, V, allowed, top, hasLogprob, hasIds, hasLogprobs }) {
    k.for(k.group, R, k.groups, (row) => {
      const first = row.mul(V)
      const [max, sum] = [k.var(f32, LOWEST), k.var(f32, 0)]
      k.for(k.lane, V, k.workgroup, (v) => {
        const z = logits.at(first.add(v))
        const now = z.gt(max.get()).select(z, max.get()) // a NaN is never greater, and stays in the sum
        sum.update((before) => before.mul(max.get().sub(now).exp()).add(z.sub(now).exp()))
        max.set(now)
      })
      const most = k.workgroupMax(max.get())
      const lse = k.workgroupSum(sum.get().mul(max.get().sub(most).exp())).log()
      k.if(k.lane.eq(0), () =>
        k.if(hasLogprob.ne(0), () => {
          const target = targets.at(row)
          const isKnown = target.toU32().lt(V)
          const z = logits.at(first.add(isKnown.select(target.toU32(), 0)))
          const known = isKnown.select(z.sub(most).sub(lse), k.u32(0x7fc00000).asF32())
          logprob.set(row, target.lt(0).select(k.f32(0), known))
        }),
      )
      const [lastZ, lastId] = [k.var(f32, Number.POSITIVE_INFINITY), k.var(u32, NONE)]
      k.for(0, top, 1, (n) => {
        const [own, ownId] = [k.var(f32, LOWEST), k.var(u32, NONE)]
        k.for(k.lane, allowed, k.workgroup, (v) => {
          const z = logits.at(first.add(v))
          const isLater = z.lt(lastZ.get()).or(z.eq(lastZ.get()).and(v.gt(lastId.get())))
          k.if(isLater.and(z.gt(own.get())), () => {
            own.set(z)
            ownId.set(v)
          })
        })
        const best = k.workgroupMax(own.get())
        const id = k.workgroupMin(own.get().eq(best).select(ownId.get(), NONE))
        lastZ.set(best)
        lastId.set(id)
        k.if(k.lane.eq(0), () => {
          const at = row.mul(top).add(n)
          const isThere = id.ne(NONE)
          k.if(hasIds.ne(0), () => topIds.set(at, isThere.select(id.toI32(), -1)))
          k.if(hasLogprobs.ne(0), () => topLogprobs.set(at, isThere.select(best.sub(most).sub(lse), FORBIDDEN)))
        })
      })
    })
  },
})
