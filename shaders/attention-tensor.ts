/** Causal attention by VK_NV_cooperative_matrix2: a workgroup multiplies whole tiles that the driver brings from memory. bf16. */
import { bf16, type F32, type FloatMatrix, f32, kernel, read, readWrite, type U32, u32, write } from "../src/spirv.ts"
import { constants, type Kind, kept, kinds, masks, nameOf, places, push } from "./attention-tensor-tile.ts"
import { rounded } from "./matrix-round.ts"

/** Weights are 2^(score − reference); beyond this sum the reference was too small and the tile is done again with the largest score. */
const MOST = 2 ** 64
/** Less than any score. */
const LOWEST = -1.7e38

const larger = (a: F32, b: F32): F32 => a.max(b)
const together = (a: F32, b: F32): F32 => a.add(b)

function forward({ isEdge, drops }: Kind) {
  return kernel({
    name: nameOf("", { isEdge, drops }),
    workgroup: "WG",
    buffers: { qkv: read(bf16), ...masks, y: write(bf16), lse: readWrite(f32) },
    push,
    constants,
    body(k, { qkv, mask, y, lse, T, H, K, scale, factor, BR, BC, D }) {
      const [h, b] = [k.group, k.groupZ]
      const q0 = k.groupsY.sub(k.groupY).sub(1).mul(BR) // late positions, which cost most, first
      const [Q, Kt, V, P] = [
        k.matrix(bf16, "a", BR, D),
        k.matrix(bf16, "b", D, BC),
        k.matrix(bf16, "b", BC, D),
        k.matrix(bf16, "a", BR, BC),
      ]
      const [S, O] = [k.matrix(f32, "accumulator", BR, BC), k.matrix(f32, "accumulator", BR, D)]
      const at = places(k, { T, H, K, D }, b, h, isEdge)
      const row0 = b.mul(T).add(q0).mul(H).add(h)
      const scale2 = scale.mul(Math.LOG2E)
      const query = k.loadTensor(Q, qkv, at.query, at.packed(q0, BR))
      const scores = (j: U32, start: FloatMatrix<"accumulator">) =>
        k.mulAdd(query, k.loadTensor(Kt, qkv, at.key, at.packed(j, BC), "transposed"), start)
      const masked = (s: FloatMatrix<"accumulator">, j: U32) => s.map((r, c, x, q0, j) => q0.add(r).ge(j.add(c)).select(x, LOWEST), q0, j)
      const exp = (_r: U32, _c: U32, x: F32, scale2: F32) => x.mul(scale2).exp2()
      /** −reference, the same along a row: added to scores before they are weights. */
      const reference = k.var(S, 0)
      const [sum, out] = [k.var(S, 0), k.var(O, 0)]
      const total = k.var(O, 0)
      const end = isEdge ? q0.add(BR).min(T) : q0.add(BR)

      const keep = kept(mask, { T, factor }, isEdge)
      const drop = (r: U32, c: U32, x: F32, q0: U32, j: U32, number: U32) => x.mul(keep(number, q0.add(r), j.add(c)))
      const add = (s: FloatMatrix<"accumulator">, j: U32) => {
        const all = s.map(exp, scale2)
        sum.set(sum.get().add(all))
        const weights = drops ? all.map(drop, q0, j, at.number) : all
        out.set(k.mulAdd(rounded(weights).convert(P), k.loadTensor(V, qkv, at.value, at.packed(j, BC)), out.get()))
      }
      k.for(0, 2, 1, (attempt) => {
        const own = masked(scores(q0, k.fill(S, 0)), q0)
        k.if(
          attempt.eq(0),
          () => reference.set(own.reduce("row", larger).neg()), // every row sees the first of these keys
          () => {
            const top = k.var(S, own)
            const raise = (s: FloatMatrix<"accumulator">) => top.set(s.map((_r, _c, a, b) => a.max(b), top.get()))
            k.for(0, end, BC, (j) => raise(masked(scores(j, k.fill(S, 0)), j)))
            reference.set(top.get().reduce("row", larger).neg())
          },
        )
        sum.set(k.fill(S, 0))
        out.set(k.fill(O, 0))
        add(own.add(reference.get()), q0)
        k.for(q0.add(BC), end, BC, (j) => add(masked(scores(j, reference.get()), j), j))
        k.for(0, q0, BC, (j) => add(scores(j, reference.get()), j))
        total.set(sum.get().reduce("row", together, O))
        k.barrier("buffers") // the sums of the attempt before have been looked at
        total.get().map(
          (r, c, x, row0, rows) => {
            k.if(c.eq(0).and(r.lt(rows)), () => lse.set(row0.add(r.mul(H)), x))
            return x
          },
          row0,
          T.sub(q0),
        )
        k.barrier("buffers")
        const isBad = k.var(u32, 0)
        k.for(k.lane, BR.min(T.sub(q0)), k.workgroup, (r) => {
          const isFine = lse.at(row0.add(r.mul(H))).lt(MOST)
          isBad.update((before) => isFine.select(before, 1))
        })
        k.breakIf(k.workgroupMax(isBad.get()).eq(0))
      })
      k.barrier("buffers") // the sums have been looked at
      k.storeTensor(y, at.output, at.plain(q0, BR), rounded(out.get().div(total.get())).convert(k.matrix(bf16, "accumulator", BR, D)))
      reference.get().map(
        (r, c, x, row0, rows, scale2) => {
          k.if(c.eq(0).and(r.lt(rows)), () => {
            const place = row0.add(r.mul(H))
            lse.set(place, lse.at(place).log2().sub(x.mul(scale2)).mul(Math.LN2))
          })
          return x
        },
        row0,
        T.sub(q0),
        scale2,
      )
    },
  })
}

/**
 * y = softmax(scale·q·kᵀ, causal)·v and lse (ln Σ e^score) as in attention.ts, weights rounded to bf16 before they meet v. The reference of a
 * row's weights is the largest score of its first tile, so nothing is rescaled on the way; where the sum then passes 2^64 (or is NaN) the tile is
 * done again with the largest score of all. qkv (B·T, (H + 2K)·D), y (B·T, H·D), lse (B·T, H). Grid: (H, ⌈T/BR⌉, B); inside: T a multiple of BR
 * and BC. 2·B·T·T·H·D FLOP (and the masked part of the last tiles).
 */
export const tensorAttention = kinds(forward)
