/** Cross-entropy of rows of logits, and its gradient in their place. */
import { choice, constant, type F32, f32, i32, kernel, read, type U32, u32, write } from "../src/spirv.ts"
import { tanh } from "./elementwise.ts"

/** Logits per lane and turn: 16 bytes of bf16, twice 16 of f32. */
const PACK = 8
/** Below every logit, and finite: differences from it are no NaN. */
const LOWEST = -3.4e38

/**
 * losses[r] = ln Σ_v exp z[r,v] − z[r, targets[r]], z = logits or cap·tanh(logits/cap); gradient[r,v] = ∂losses[r]/∂logits[r,v] when
 * `writesGradient`, and 0 from V to the end of the row; gradient may be the logits themselves. Target −1: loss and gradient 0; beyond V: loss NaN.
 * logits (R, pitch), pitch a multiple of 8 ≥ V. Grid: R workgroups of `lanes`. Moves 3·R·V·s bytes, the second reading through the cache.
 * Source: the fused classifier of llm.c; the running maximum and sum are Milakov & Gimelshein 2018, arXiv:1805.02867.
 */
export const crossEntropy = kernel({
  name: "cross_entropy",
  workgroup: "lanes",
  buffers: { logits: read(choice("logits")), targets: read(i32), losses: write(f32), gradient: write(choice("gradient")) },
  push: { V: u32, pitch: u32, cap: f32 },
  variants: [
    { logits: "f32", gradient: "f32" },
    { logits: "bf16", gradient: "bf16" },
    { logits: "f32", gradient: "bf16" },
  ],
  constants: { lanes: constant(u32, 256), isCapped: constant(u32, 0), writesGradient: constant(u32, 1) },
  body(k, { logits, targets, losses, gradient, V, pitch, cap, isCapped, writesGradient }) {
    const target = targets.at(k.group)
    const packs = pitch.div(PACK)
    const first = k.group.mul(packs)
    const capped = (x: F32): F32 => {
      const z = k.var(f32, x)
      k.if(isCapped.ne(0), () => z.set(tanh(k, x.div(cap)).mul(cap)))
      return z.get()
    }
    const eachPack = (body: (i: U32) => void) => k.for(k.lane, packs, k.workgroup, body)
    k.if(
      target.lt(0),
      () => {
        k.if(k.lane.eq(0), () => losses.set(k.group, 0))
        k.if(writesGradient.ne(0), () => eachPack((i) => gradient.pack(PACK).set(first.add(i), Array(PACK).fill(k.f32(0)))))
      },
      () => {
        const [max, sum] = [k.var(f32, LOWEST), k.var(f32, 0)]
        eachPack((i) => {
          const isInside = (j: number) => i.mul(PACK).add(j).lt(V)
          const z = logits
            .pack(PACK)
            .at(first.add(i))
            .map((x, j) => isInside(j).select(capped(x), LOWEST))
          const now = z.reduce((most, v) => most.max(v), max.get())
          sum.update((before) =>
            z.reduce((total, v, j) => total.add(isInside(j).select(v.sub(now).exp(), 0)), before.mul(max.get().sub(now).exp())),
          )
          max.set(now)
        })
        const most = k.workgroupMax(max.get())
        const lse = k
          .workgroupSum(sum.get().mul(max.get().sub(most).exp()))
          .log()
          .add(most)
        const isKnown = target.toU32().lt(V)
        const at = isKnown.select(target.toU32(), 0)
        // The lane that overwrites the target's logit reads it.
        k.if(k.lane.eq(at.div(PACK).mod(k.workgroup)), () => {
          const goal = capped(logits.at(k.group.mul(pitch).add(at)))
          losses.set(k.group, isKnown.select(lse.sub(goal), k.u32(0x7fc00000).asF32()))
        })
        k.if(writesGradient.ne(0), () =>
          eachPack((i) => {
            const before = logits.pack(PACK).at(first.add(i))
            const slopes = before.map((x, j) => {
              const v = i.mul(PACK).add(j)
              const z = capped(x)
              const dz = k.var(
                f32,
                z
                  .sub(lse)
                  .exp()
                  .sub(v.eq(target.toU32()).select(k.f32(1), 0)),
              )
              k.if(isCapped.ne(0), () => {
                const ratio = z.div(cap)
                dz.update((d) => d.mul(k.f32(1).sub(ratio.mul(ratio))))
              })
              return v.lt(V).select(dz.get(), 0)
            })
            gradient.pack(PACK).set(first.add(i), slopes)
          }),
        )
      },
    )
  },
})

/** loss = Σ losses, count = the targets ≥ 0, R of each, in a fixed order; each when asked for. Grid: one workgroup. */
export const lossSum = kernel({
  name: "loss_sum",
  workgroup: 1024,
  buffers: { losses: read(f32), targets: read(i32), loss: write(f32), count: write(f32) },
  push: { R: u32 },
  constants: { hasLoss: constant(u32, 1), hasCount: constant(u32, 1) },
  body(k, { losses, targets, loss, count, R, hasLoss, hasCount }) {
    const [sum, counted] = [k.var(f32, 0), k.var(u32, 0)]
    k.for(k.lane, R, k.workgroup, (r) => {
      sum.add(losses.at(r))
      counted.add(targets.at(r).ge(0).select(k.u32(1), 0))
    })
    const [total, rows] = [k.workgroupSum(sum.get()), k.workgroupSum(counted.get())]
    k.if(k.lane.eq(0), () => {
      k.if(hasLoss.ne(0), () => loss.set(0, total))
      k.if(hasCount.ne(0), () => count.set(0, rows.toF32()))
    })
  },
})
