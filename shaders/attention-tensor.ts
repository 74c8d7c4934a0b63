/** Causal attention and its gradient by VK_NV_cooperative_matrix2: a workgroup multiplies whole tiles that the driver brings from memory. bf16. */
import {
  type Body,
  bf16,
  constant,
  type F32,
  type FloatMatrix,
  f32,
  kernel,
  type MatrixType,
  type ReadBuffer,
  read,
  readWrite,
  type U32,
  u32,
  write,
} from "../src/spirv.ts"

/** Fixed when the pipeline is made: lanes, query rows and keys of a tile, head size. */
const constants = { WG: constant(u32, 128), BR: constant(u32, 64), BC: constant(u32, 64), D: constant(u32, 64) }
const push = { T: u32, H: u32, K: u32, scale: f32 } as const

/** Numbers per position and head that the gradients take as factors: −lse/scale in three parts, −δ in three parts, zeros. */
export const STATISTICS = 16
/** Rows of the two constant tables that pick the parts of −lse/scale, or of −δ, out of the statistics. */
export const PICK_ROWS = 128
/** Weights are 2^(score − reference); beyond this sum the reference was too small and the tile is done again with the largest score. */
const MOST = 2 ** 64
/** Less than any score. */
const LOWEST = -1.7e38

/** The tables as pairs of bf16: row r of table p holds ones in columns 3p, 3p + 1, 3p + 2. */
export function pickTables(): number[] {
  const one = 0x3f80
  const row = (p: number) =>
    Array.from({ length: STATISTICS / 2 }, (_, pair) => [0, 1].map((i) => (Math.floor((2 * pair + i) / 3) === p ? one : 0)))
  const words = (p: number) => row(p).map(([low, high]) => ((low as number) | ((high as number) << 16)) >>> 0)
  return [0, 1].flatMap((p) => Array.from({ length: PICK_ROWS }, () => words(p)).flat())
}

interface Sizes {
  readonly T: U32
  readonly H: U32
  readonly K: U32
  readonly D: U32
}

/** Rows [at, at + length) of head h (queries), of its key head, of that one's values, and of y, in sequence b. */
function places(k: Body, { T, H, K, D }: Sizes, b: U32, h: U32, isEdge: boolean) {
  const outside = isEdge ? "zero" : "none"
  const width = H.add(K.mul(2)).mul(D)
  const packed = k.tensor({ shape: [T, D], strides: [width, 1], outside })
  const plain = k.tensor({ shape: [T, D], strides: [H.mul(D), 1], outside })
  const statistics = k.tensor({ shape: [T, STATISTICS], strides: [STATISTICS, 1], outside })
  const first = b.mul(T).mul(width)
  const keyHead = H.add(h.mul(K).div(H))
  return {
    query: first.add(h.mul(D)),
    key: first.add(keyHead.mul(D)),
    value: first.add(keyHead.add(K).mul(D)),
    output: b.mul(T).mul(H).add(h).mul(D),
    /** Number of the head's first position among all sequences and heads, head-major. */
    number: b.mul(H).add(h).mul(T),
    packed: (at: U32, length: U32) => packed.slice([at, length], [0, D]),
    plain: (at: U32, length: U32) => plain.slice([at, length], [0, D]),
    statistics: (at: U32, length: U32) => statistics.slice([at, length], [0, STATISTICS]),
  }
}

const larger = (a: F32, b: F32): F32 => a.max(b)
const together = (a: F32, b: F32): F32 => a.add(b)

function forward(isEdge: boolean) {
  return kernel({
    name: `attention_tensor${isEdge ? "_edge" : ""}`,
    workgroup: "WG",
    buffers: { qkv: read(bf16), y: write(bf16), lse: readWrite(f32) },
    push,
    constants,
    body(k, { qkv, y, lse, T, H, K, scale, BR, BC, D }) {
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

      const add = (s: FloatMatrix<"accumulator">, j: U32) => {
        const weights = s.map(exp, scale2)
        sum.set(sum.get().add(weights))
        out.set(k.mulAdd(weights.convert(P), k.loadTensor(V, qkv, at.value, at.packed(j, BC)), out.get()))
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
      k.storeTensor(
        y,
        at.output,
        at.plain(q0, BR),
        out
          .get()
          .div(total.get())
          .convert(k.matrix(bf16, "accumulator", BR, D)),
      )
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
export const tensorAttention = { inside: forward(false), edge: forward(true) }

/** Lanes that sum one row and head. */
const SUMMING = 4

/** x in three parts whose bf16 are exact, the last rounded. */
function parts(x: F32): readonly [F32, F32, F32] {
  const cut = (v: F32) => v.bits().and(0xffff0000).asF32()
  const high = cut(x)
  const rest = x.sub(high)
  const middle = cut(rest)
  return [high, middle, rest.sub(middle)]
}

/**
 * statistics[b, h, t] = −lse/scale and −δ = −Σ dy·y in three bf16 each, and zeros to 16. y, dy (B·T, H·D), lse (B·T, H); rows = B·T·H. 8 | D.
 * Grid: any; ⌈rows / 64⌉ gives each four lanes one. Moves rows·(4·D + 36) bytes.
 */
export const tensorStatistics = kernel({
  name: "attention_tensor_statistics",
  workgroup: 256,
  buffers: { y: read(bf16), dy: read(bf16), lse: read(f32), statistics: write(bf16) },
  push: { ...push, D: u32, rows: u32 },
  body(k, { y, dy, lse, statistics, T, H, scale, D, rows }) {
    const part = k.lane.and(SUMMING - 1)
    const perGroup = 256 / SUMMING
    k.for(k.group.mul(perGroup), rows, k.groups.mul(perGroup), (first) => {
      const row = first.add(k.lane.shr(2)).min(rows.sub(1))
      const sum = k.var(f32, 0)
      k.for(part, D.shr(3), SUMMING, (d) => {
        const at = row.mul(D.shr(3)).add(d)
        const [left, right] = [y.pack(8).at(at), dy.pack(8).at(at)]
        left.forEach((value, e) => sum.set(value.fma(right[e]!, sum.get())))
      })
      for (const mask of [1, 2]) sum.add(k.subgroupShuffleXor(sum.get(), mask))
      const [l, d] = [parts(lse.at(row).div(scale).neg()), parts(sum.get().neg())]
      const [h, position] = [row.mod(H), row.div(H)]
      const place = position.div(T).mul(H).add(h).mul(T).add(position.mod(T))
      const zero = k.f32(0)
      const own = (a: F32, b: F32) => part.eq(0).select(a, part.eq(1).select(b, zero))
      k.if(first.add(k.lane.shr(2)).lt(rows), () =>
        statistics.pack(4).set(place.mul(SUMMING).add(part), [own(l[0], d[1]), own(l[1], d[2]), own(l[2], zero), own(d[0], zero)]),
      )
    })
  },
})

const gradientBuffers = { qkv: read(bf16), dy: read(bf16), statistics: read(bf16), picks: read(bf16), dqkv: write(bf16) } as const

/** The constant factor that picks −lse/scale (0) or −δ (1), `rows` long, as an "a" or, turned, as a "b". */
function pick<M extends MatrixType>(k: Body, type: M, picks: ReadBuffer<typeof bf16>, which: 0 | 1, rows: U32, turned?: "transposed") {
  const table = k.tensor({ shape: [PICK_ROWS, STATISTICS] }).slice([0, rows], [0, STATISTICS])
  return k.loadTensor(type, picks, which * PICK_ROWS * STATISTICS, table, turned)
}

function queries(isEdge: boolean) {
  return kernel({
    name: `attention_tensor_backward_q${isEdge ? "_edge" : ""}`,
    workgroup: "WG",
    buffers: gradientBuffers,
    push,
    constants,
    body(k, { qkv, dy, statistics, picks, dqkv, T, H, K, scale, BR, BC, D }) {
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
      const add = (j: U32, isMasked: boolean) => {
        const block = at.packed(j, BC)
        const scores = k.mulAdd(query, k.loadTensor(Kt, qkv, at.key, block, "transposed"), k.mulAdd(known, logs, k.fill(S, 0)))
        const weights = isMasked
          ? scores.map((r, c, x, q0, j, scale2) => q0.add(r).ge(j.add(c)).select(x.mul(scale2).exp2(), 0), q0, j, scale2)
          : scores.map((_r, _c, x, scale2) => x.mul(scale2).exp2(), scale2)
        const products = k.mulAdd(gradient, k.loadTensor(Kt, qkv, at.value, block, "transposed"), k.mulAdd(known, deltas, k.fill(S, 0)))
        sum.set(k.mulAdd(weights.mul(products).convert(P), k.loadTensor(Kb, qkv, at.key, block), sum.get()))
      }
      k.for(0, q0, BC, (j) => add(j, false))
      k.for(q0, isEdge ? q0.add(BR).min(T) : q0.add(BR), BC, (j) => add(j, true))
      k.storeTensor(
        dqkv,
        at.query,
        at.packed(q0, BR),
        sum
          .get()
          .scale(scale)
          .convert(k.matrix(bf16, "accumulator", BR, D)),
      )
    },
  })
}

function keys(isEdge: boolean) {
  return kernel({
    name: `attention_tensor_backward_kv${isEdge ? "_edge" : ""}`,
    workgroup: "WG",
    buffers: gradientBuffers,
    push,
    constants,
    body(k, { qkv, dy, statistics, picks, dqkv, T, H, K, scale, BR, BC, D }) {
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
      k.for(first, first.add(group), 1, (h) => {
        const at = places(k, { T, H, K, D }, b, h, isEdge)
        const add = (i: U32, isMasked: boolean) => {
          const [query, gradient] = [at.packed(i, BR), at.plain(i, BR)]
          const known = k.loadTensor(B, statistics, at.number.mul(STATISTICS), at.statistics(i, BR), "transposed")
          const scores = k.mulAdd(ownKeys, k.loadTensor(Qt, qkv, at.query, query, "transposed"), k.mulAdd(logs, known, k.fill(S, 0)))
          const weights = isMasked
            ? scores.map((r, c, x, k0, i, scale2) => i.add(c).ge(k0.add(r)).select(x.mul(scale2).exp2(), 0), k0, i, scale2)
            : scores.map((_r, _c, x, scale2) => x.mul(scale2).exp2(), scale2)
          dValues.set(k.mulAdd(weights.convert(P), k.loadTensor(Qb, dy, at.output, gradient), dValues.get()))
          const turned = k.loadTensor(Qt, dy, at.output, gradient, "transposed")
          const products = k.mulAdd(ownValues, turned, k.mulAdd(deltas, known, k.fill(S, 0)))
          dKeys.set(k.mulAdd(weights.mul(products).convert(P), k.loadTensor(Qb, qkv, at.query, query), dKeys.get()))
        }
        const start = k0.div(BR).mul(BR)
        const full = k0.add(BC).add(BR).sub(1).div(BR).mul(BR) // from here on every query sees every key of the tile
        k.for(start, full.min(T), BR, (i) => add(i, true))
        k.for(full, T, BR, (i) => add(i, false))
      })
      const stored = k.matrix(bf16, "accumulator", BC, D)
      k.storeTensor(dqkv, own.key, own.packed(k0, BC), dKeys.get().scale(scale).convert(stored))
      k.storeTensor(dqkv, own.value, own.packed(k0, BC), dValues.get().convert(stored))
    },
  })
}

/**
 * dq, and dk with dv, as in attention-backward.ts: p = 2^(c·(q·k − lse/scale)) with c = scale·log2 e, ds = p·(dy·v − δ), where −lse/scale and −δ
 * come into the sums as a product of the statistics with a constant matrix. Grid: (H, ⌈T/BR⌉, B) and (K, ⌈T/BC⌉, B); inside: T a multiple of BR
 * and BC. 3 and 4 · B·T·T·H·D FLOP.
 */
export const tensorBackward = {
  queries: { inside: queries(false), edge: queries(true) },
  keys: { inside: keys(false), edge: keys(true) },
}

export const tensorAttentions = [
  ...Object.values(tensorAttention),
  tensorStatistics,
  ...Object.values(tensorBackward.queries),
  ...Object.values(tensorBackward.keys),
]
