/** The gradient of causal attention by VK_NV_cooperative_matrix2: dq, and dk with dv. bf16. */
import { type Body, bf16, type F32, f32, kernel, type MatrixType, type ReadBuffer, read, type U32, write } from "../src/spirv.ts"
import { PICK_ROWS } from "./attention-tensor-inputs.ts"
import { constants, type Kind, kept, kinds, masks, nameOf, places, push, STATISTICS } from "./attention-tensor-tile.ts"
import { rounded } from "./matrix-round.ts"

const gradientBuffers = { qkv: read(bf16), dy: read(bf16), statistics: read(bf16), picks: read(bf16), ...masks, dqkv: write(bf16) } as const

/** The constant factor that picks −lse/scale (0) or −δ (1), `rows` long, as an "a" or, turned, as a "b". */
function pick<M extends MatrixType>(k: Body, type: M, picks: ReadBuffer<typeof bf16>, which: 0 | 1, rows: U32, turned?: "transposed") {
  const table = k.tensor({ shape: [PICK_ROWS, STATISTICS] }).slice([0, rows], [0, STATISTICS])
  return k.loadTensor(type, picks, which * PICK_ROWS * STATISTICS, table, turned)
}

function queries({ isEdge, drops }: Kind) {
  return kernel({
    name: nameOf("_backward_q", { isEdge, drops }),
    workgroup: "WG",
    buffers: gradientBuffers,
    push,
    constants,
    body(k, { qkv, dy, statistics, picks, mask, dqkv, T, H, K, scale, factor, BR, BC, D }) {
      const [h, b] = [k.group, k.groupZ]
      const q0 = k.groupsY.sub(k.groupY).sub(1).mul(BR)
      const [Q, Kt, Kb, P] = [
        k.matrix(bf16, "a", BR, D),
        k.matrix(bf16, "b", D, BC),
        k.matrix(bf16, "b", BC, D),
        k.matrix(bf16, "a", BR, BC),
      ]
      const [A, B] = [k.matrix(bf16, "a", BR, STATISTICS), k.matrix(bf16, "b", STATISTICS, BC)]
      const [S, G] = [k.matrix(f32, "accumulator", BR, BC), k.matrix(f32, "accumulator", BR, D)]
      const at = places(k, { T, H, K, D }, b, h, isEdge)
      const scale2 = scale.mul(Math.LOG2E)
      const query = k.loadTensor(Q, qkv, at.query, at.packed(q0, BR))
      const gradient = k.loadTensor(Q, dy, at.output, at.plain(q0, BR))
      const known = k.loadTensor(A, statistics, at.number.mul(STATISTICS), at.statistics(q0, BR))
      const [logs, deltas] = [pick(k, B, picks, 0, BC, "transposed"), pick(k, B, picks, 1, BC, "transposed")]
      const sum = k.var(G, 0)
      const keep = kept(mask, { T, factor }, isEdge)
      const slope = (r: U32, c: U32, p: F32, dp: F32, delta: F32, q0: U32, j: U32, number: U32) =>
        p.mul(dp.fma(keep(number, q0.add(r), j.add(c)), delta))
      const add = (j: U32, isMasked: boolean) => {
        const block = at.packed(j, BC)
        const scores = k.mulAdd(query, k.loadTensor(Kt, qkv, at.key, block, "transposed"), k.mulAdd(known, logs, k.fill(S, 0)))
        const weights = isMasked
          ? scores.map((r, c, x, q0, j, scale2) => q0.add(r).ge(j.add(c)).select(x.mul(scale2).exp2(), 0), q0, j, scale2)
          : scores.map((_r, _c, x, scale2) => x.mul(scale2).exp2(), scale2)
        const values = k.loadTensor(Kt, qkv, at.value, block, "transposed")
        const delta = k.mulAdd(known, deltas, k.fill(S, 0))
        const ds = drops
          ? weights.map(slope, k.mulAdd(gradient, values, k.fill(S, 0)), delta, q0, j, at.number)
          : weights.mul(k.mulAdd(gradient, values, delta))
        sum.set(k.mulAdd(rounded(ds).convert(P), k.loadTensor(Kb, qkv, at.key, block), sum.get()))
      }
      k.for(0, q0, BC, (j) => add(j, false))
      k.for(q0, isEdge ? q0.add(BR).min(T) : q0.add(BR), BC, (j) => add(j, true))
      k.storeTensor(dqkv, at.query, at.packed(q0, BR), rounded(sum.get().scale(scale)).convert(k.matrix(bf16, "accumulator", BR, D)))
    },
  })
}

function keys({ isEdge, drops }: Kind) {
  return kernel({
    name: nameOf("_backward_kv", { isEdge, drops }),
    workgroup: "WG",
    buffers: gradientBuffers,
    push,
    constants,
    body(k, { qkv, dy, statistics, picks, mask, dqkv, T, H, K, scale, factor, BR, BC, D }) {
      const [keyHead, b] = [k.group, k.groupZ]
      const k0 = k.groupY.mul(BC) // early keys, which cost most, first
      const [Ka, Qt, Qb, P] = [
        k.matrix(bf16, "a", BC, D),
        k.matrix(bf16, "b", D, BR),
        k.matrix(bf16, "b", BR, D),
        k.matrix(bf16, "a", BC, BR),
      ]
      const [A, B] = [k.matrix(bf16, "a", BC, STATISTICS), k.matrix(bf16, "b", STATISTICS, BR)]
      const [S, G] = [k.matrix(f32, "accumulator", BC, BR), k.matrix(f32, "accumulator", BC, D)]
      const group = H.div(K)
      const first = keyHead.mul(group)
      const own = places(k, { T, H, K, D }, b, first, isEdge)
      const scale2 = scale.mul(Math.LOG2E)
      const ownKeys = k.loadTensor(Ka, qkv, own.key, own.packed(k0, BC))
      const ownValues = k.loadTensor(Ka, qkv, own.value, own.packed(k0, BC))
      const [logs, deltas] = [pick(k, A, picks, 0, BC), pick(k, A, picks, 1, BC)]
      const [dKeys, dValues] = [k.var(G, 0), k.var(G, 0)]
      const keep = kept(mask, { T, factor }, isEdge)
      const drop = (r: U32, c: U32, x: F32, k0: U32, i: U32, number: U32) => x.mul(keep(number, i.add(c), k0.add(r)))
      const slope = (r: U32, c: U32, p: F32, dp: F32, delta: F32, k0: U32, i: U32, number: U32) =>
        p.mul(dp.fma(keep(number, i.add(c), k0.add(r)), delta))
      k.for(first, first.add(group), 1, (h) => {
        const at = places(k, { T, H, K, D }, b, h, isEdge)
        const add = (i: U32, isMasked: boolean) => {
          const [query, gradient] = [at.packed(i, BR), at.plain(i, BR)]
          const known = k.loadTensor(B, statistics, at.number.mul(STATISTICS), at.statistics(i, BR), "transposed")
          const scores = k.mulAdd(ownKeys, k.loadTensor(Qt, qkv, at.query, query, "transposed"), k.mulAdd(logs, known, k.fill(S, 0)))
          const weights = isMasked
            ? scores.map((r, c, x, k0, i, scale2) => i.add(c).ge(k0.add(r)).select(x.mul(scale2).exp2(), 0), k0, i, scale2)
            : scores.map((_r, _c, x, scale2) => x.mul(scale2).exp2(), scale2)
          const dropped = drops ? weights.map(drop, k0, i, at.number) : weights
          dValues.set(k.mulAdd(rounded(dropped).convert(P), k.loadTensor(Qb, dy, at.output, gradient), dValues.get()))
          const turned = k.loadTensor(Qt, dy, at.output, gradient, "transposed")
          const delta = k.mulAdd(deltas, known, k.fill(S, 0))
          const ds = drops
            ? weights.map(slope, k.mulAdd(ownValues, turned, k.fill(S, 0)), delta, k0, i, at.number)
            : weights.mul(k.mulAdd(ownValues, turned, delta))
          dKeys.set(k.mulAdd(rounded(ds).convert(P), k.loadTensor(Qb, qkv, at.query, query), dKeys.get()))
        }
        const start = k0.div(BR).mul(BR)
        const full = k0.add(BC).add(BR).sub(1).div(BR).mul(BR) // from here on every query sees every key of the tile
        k.for(start, full.min(T), BR, (i) => add(i, true))
        k.for(full, T, BR, (i) => add(i, false))
      })
      const stored = k.matrix(bf16, "accumulator", BC, D)
      k.storeTensor(dqkv, own.key, own.packed(k0, BC), rounded(dKeys.get().scale(scale)).convert(stored))
      k.storeTensor(dqkv, own.value, own.packed(k0, BC), rounded(dValues.get()).convert(stored))
    },
  })
}

/**
 * dq, and dk with dv, as in attention-backward.ts: p = 2^(c·(q·k − lse/scale)) with c = scale·log2 e, ds = p·(dy·v − δ), where −lse/scale and −δ
 * come into the sums as a product of the statistics with a constant matrix. Grid: (H, ⌈T/BR⌉, B) and (K, ⌈T/BC⌉, B); inside: T a multiple of BR
 * and BC. 3 and 4 · B·T·T·H·D FLOP.
 */
export const tensorBackward = {
  queries: kinds(queries),
  keys: kinds(keys),
}
