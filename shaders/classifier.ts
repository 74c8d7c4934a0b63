/** Cross-entropy of rows of logits, and its gradient in their place. */
import {
  type Body,
  bf16,
  choice,
  constant,
  type F32,
  f32,
  i32,
  kernel,
  read,
  type U32,
  u32,
  vec4,
  type WriteBuffer,
  write,
} from "../src/spirv.ts"
import { tanh } from "./elementwise.ts"

/** Logits per load: 16 bytes of bf16, twice 16 of f32. */
const PACK = 8
/** Loads of a lane in flight. */
const AHEAD = 4
/** Below every logit, and finite: differences from it are no NaN. */
const LOWEST = -3.4e38

const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i)

/** Writes a pack of numbers that are no NaN. */
type Put = (i: U32, values: readonly F32[]) => void

/** Rounded to the nearest bf16, halves to even. A row has no NaN or nothing else, so none is looked for here: the rounding is half of the work. */
const putBf16 =
  (k: Body, to: WriteBuffer<typeof bf16>): Put =>
  (i, values) => {
    const up = values.map((value) => {
      const bits = value.bits()
      return bits.shr(16).and(1).add(bits).add(0x7fff)
    })
    const word = (j: number) => up[2 * j]!.shr(16).or(up[2 * j + 1]!.and(0xffff0000))
    to.as(vec4(u32)).set(i, k.vector(word(0), word(1), word(2), word(3)))
  }

function crossEntropyTo<T extends typeof f32 | typeof bf16>(name: string, type: T, putTo: (k: Body, to: WriteBuffer<T>) => Put) {
  return kernel({
    name,
    workgroup: "lanes",
    buffers: { logits: read(choice("logits")), targets: read(i32), losses: write(f32), gradient: write(type) },
    push: { V: u32, pitch: u32, cap: f32 },
    constants: { lanes: constant(u32, 256), isCapped: constant(u32, 0), writesGradient: constant(u32, 1) },
    body(k, { logits, targets, losses, gradient, V, pitch, cap, isCapped, writesGradient }) {
      const target = targets.at(k.group)
      const packs = pitch.div(PACK)
      const first = k.group.mul(packs)
      const put = putTo(k, gradient as unknown as WriteBuffer<T>)
      const capped = (x: F32): F32 => {
        const z = k.var(f32, x)
        k.if(isCapped.ne(0), () => z.set(tanh(k, x.div(cap)).mul(cap)))
        return z.get()
      }
      // Lane l takes the packs l, l + lanes, …: several at a time while all lanes have them, then those left, then those that are not all logits.
      const whole = V.div(PACK)
      const together = whole.div(k.workgroup.mul(AHEAD)).mul(k.workgroup.mul(AHEAD))
      const eachPack = (body: (packs: readonly U32[], isInside: (pack: U32, j: number) => ReturnType<U32["lt"]> | undefined) => void) => {
        k.for(k.lane, together, k.workgroup.mul(AHEAD), (i) =>
          body(
            count(AHEAD).map((j) => i.add(k.workgroup.mul(j))),
            () => undefined,
          ),
        )
        k.for(together.add(k.lane), whole, k.workgroup, (i) => body([i], () => undefined))
        const own = whole.add(k.lane.add(k.workgroup).sub(whole.mod(k.workgroup)).mod(k.workgroup))
        k.for(own, packs, k.workgroup, (i) => body([i], (pack, j) => pack.mul(PACK).add(j).lt(V)))
      }
      const fill = (value: F32) => k.for(k.lane, packs, k.workgroup, (i) => put(first.add(i), Array(PACK).fill(value)))
      k.if(
        target.lt(0),
        () => {
          k.if(k.lane.eq(0), () => losses.set(k.group, 0))
          k.if(writesGradient.ne(0), () => fill(k.f32(0)))
        },
        () => {
          const [max, sum] = [k.var(f32, LOWEST), k.var(f32, 0)]
          eachPack((all, isInside) => {
            const z = all
              .map((i) => logits.pack(PACK).at(first.add(i)))
              .flatMap((row, p) => row.map((x, j) => isInside(all[p]!, j)?.select(capped(x), LOWEST) ?? capped(x)))
            const now = z.reduce((most, v) => most.max(v), max.get())
            const terms = z.map((v, j) => {
              const term = v.sub(now).exp()
              return isInside(all[j >> 3]!, j % PACK)?.select(term, 0) ?? term
            })
            sum.update((before) => terms.reduce((total, term) => total.add(term), before.mul(max.get().sub(now).exp())))
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
            losses.set(k.group, isKnown.select(lse.sub(goal), k.u32(NAN).asF32()))
          })
          const slopes = () =>
            eachPack((all, isInside) => {
              const before = all.map((i) => logits.pack(PACK).at(first.add(i)))
              before.forEach((row, p) => {
                const pack = all[p]!
                const z = row.map(capped)
                const dz = z.map((v) => k.var(f32, v.sub(lse).exp()))
                k.if(isKnown.and(pack.eq(at.div(PACK))), () =>
                  dz.forEach((slope, j) => slope.update((d) => d.sub(at.mod(PACK).eq(j).select(k.f32(1), 0)))),
                )
                k.if(isCapped.ne(0), () =>
                  dz.forEach((slope, j) => {
                    const ratio = z[j]!.div(cap)
                    slope.update((d) => d.mul(k.f32(1).sub(ratio.mul(ratio))))
                  }),
                )
                put(
                  first.add(pack),
                  dz.map((slope, j) => isInside(pack, j)?.select(slope.get(), 0) ?? slope.get()),
                )
              })
            })
          k.if(writesGradient.ne(0), () => k.if(lse.eq(lse), slopes, () => fill(k.u32(NAN).asF32())))
        },
      )
    },
  })
}
const NAN = 0x7fc00000

/**
 * losses[r] = ln Σ_v exp z[r,v] − z[r, targets[r]], z = logits or cap·tanh(logits/cap); gradient[r,v] = ∂losses[r]/∂logits[r,v] when
 * `writesGradient`, and 0 from V to the end of the row; gradient may be the logits themselves. Target −1: loss and gradient 0; beyond V: loss NaN.
 * A row with a NaN has a gradient of NaN only. logits (R, pitch), pitch a multiple of 8 ≥ V. Grid: R workgroups of `lanes`. Moves 3·R·V·s bytes, the
 * second reading through the cache. By type of the gradient.
 * Source: the fused classifier of llm.c; the running maximum and sum are Milakov & Gimelshein 2018, arXiv:1805.02867.
 */
export const crossEntropy = {
  f32: crossEntropyTo("cross_entropy", f32, (_, to) => (i, values) => to.pack(PACK).set(i, values)),
  bf16: crossEntropyTo("cross_entropy_bf16", bf16, putBf16),
} as const

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
