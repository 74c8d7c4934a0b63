/** The update of all parameters in one dispatch: AdamW, Lion, SGD. */
import { type Body, bf16, type F32, f32, kernel, type ReadWriteBuffer, read, readWrite, u32, write } from "../src/spirv.ts"
import { CONTROL } from "./step-control.ts"
import { eachChunk, LIST, loadPack, storePack } from "./tensor-list.ts"

/** Addresses in a row of the table: p, g, m, v, copy. */
export const ROW = 5

/** Constants of a rule: β and 1 − β of the two moments, ln β, eps. */
const RULE = { beta1: f32, rest1: f32, log1: f32, beta2: f32, rest2: f32, log2: f32, eps: f32 }
type Constants = { readonly [N in keyof typeof RULE]: F32 }

/** What is subtracted from the decayed parameter, before the rate, and the new moments. v only where the rule has two. */
interface Update {
  readonly step: F32
  readonly m: F32
  readonly v: F32 | undefined
}
interface Rule {
  readonly hasSecond: boolean
  /** `t` = applied steps, this one counted. */
  update(k: Body, constants: Constants, t: F32): (g: F32, m: F32, v: F32 | undefined) => Update
}

function update(name: string, rule: Rule) {
  return kernel({
    name,
    workgroup: 256,
    buffers: { ...LIST, decays: read(f32), control: read(f32) },
    push: { n: u32, ...RULE },
    params: { lr: f32 },
    body(k, { addresses, sizes, chunks, decays, control, n, lr, ...constants }) {
      const scale = control.at(CONTROL.scale)
      k.if(scale.ne(0), () => {
        const next = rule.update(k, constants, control.at(CONTROL.applied))
        eachChunk(k, chunks, sizes, n, ({ tensor, each }) => {
          const [p, g, m, v] = ["p", "g", "m", "v"].map((part, j) =>
            k.memoryAt(part, addresses.at(tensor.mul(ROW).add(j)), readWrite(f32)),
          ) as [Floats, Floats, Floats, Floats]
          const copyAddress = addresses.at(tensor.mul(ROW).add(4))
          const copy = k.memoryAt("copy", copyAddress, write(bf16))
          const keep = k.f32(1).sub(lr.mul(decays.at(tensor)))
          each((index, pack) => {
            const [ps, gs, ms] = [loadPack(p, pack, index), loadPack(g, pack, index), loadPack(m, pack, index)]
            const vs = rule.hasSecond ? loadPack(v, pack, index) : []
            const updates = ms.map((value, j) => next(gs[j]!.mul(scale), value, vs[j]))
            const values = ps.map((value, j) => value.mul(keep).sub(lr.mul(updates[j]!.step)))
            storePack(p, pack, index, values)
            storePack(
              m,
              pack,
              index,
              updates.map((u) => u.m),
            )
            if (rule.hasSecond)
              storePack(
                v,
                pack,
                index,
                updates.map((u) => u.v!),
              )
            k.if(copyAddress.ne(0), () => storePack(copy, pack, index, values))
          }, 4)
        })
      })
    },
  })
}

type Floats = ReadWriteBuffer<typeof f32>

/** 1 − βᵗ without cancellation while t·ln β is small. */
function oneMinusPower(k: Body, log: F32, t: F32): F32 {
  const x = log.mul(t)
  const series = [8, 7, 6, 5, 4, 3, 2].reduce<F32>((sum, n) => sum.mul(x).div(n).add(1), k.f32(1))
  return x.gt(-0.5).select(x.mul(series).neg(), k.f32(1).sub(x.exp()))
}

/**
 * m ← β1·m + (1 − β1)·g, v ← β2·v + (1 − β2)·g², p ← p·(1 − lr·decay) − lr·(m/(1 − β1ᵗ))/(√(v/(1 − β2ᵗ)) + eps), copy ← p; g = gradient·scale;
 * nothing when scale is 0. addresses (tensors, 5), sizes, decays (tensors), chunks (n) as in `LIST`, control as in `step_control`.
 * Grid: any. Moves 28 bytes per parameter, 2 for its copy. Source: arXiv:1711.05101.
 */
export const adamw = update("adamw", {
  hasSecond: true,
  update(k, { beta1, rest1, log1, beta2, rest2, log2, eps }, t) {
    const [r1, r2] = [k.f32(1).div(oneMinusPower(k, log1, t)), k.f32(1).div(oneMinusPower(k, log2, t))]
    return (g, m, v) => {
      const first = m.mul(beta1).add(g.mul(rest1))
      const second = v!.mul(beta2).add(g.mul(g).mul(rest2))
      return { step: first.mul(r1).div(second.mul(r2).sqrt().add(eps)), m: first, v: second }
    }
  },
})

/** p ← p·(1 − lr·decay) − lr·sign(β1·m + (1 − β1)·g), m ← β2·m + (1 − β2)·g; tables as for `adamw`. Moves 20 bytes per parameter. arXiv:2302.06675. */
export const lion = update("lion", {
  hasSecond: false,
  update:
    (k, { beta1, rest1, beta2, rest2 }) =>
    (g, m) => {
      const mix = m.mul(beta1).add(g.mul(rest1))
      const sign = mix.gt(0).select(k.f32(1), mix.lt(0).select(k.f32(-1), mix)) // 0 and NaN stay
      return { step: sign, m: m.mul(beta2).add(g.mul(rest2)), v: undefined }
    },
})

/** m ← β1·m + g, p ← p·(1 − lr·decay) − lr·m; tables as for `adamw`. Moves 20 bytes per parameter. */
export const sgd = update("sgd", {
  hasSecond: false,
  update:
    (_, { beta1 }) =>
    (g, m) => {
      const next = m.mul(beta1).add(g)
      return { step: next, m: next, v: undefined }
    },
})
