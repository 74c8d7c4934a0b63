/** Matrix kernels, with cooperative matrix 2 and KHR: written in the language, held against SPIRV-Tools. */
import { expect, test } from "bun:test"
import { assemble, type Body, bf16, constant, f32, type Kernel, kernel, read, type U32, u32, vec4, write } from "../src/spirv.ts"
import { testWith } from "./require.ts"
import { disassemble, missingValidator, validate } from "./spirv-validator.ts"

const testValid = testWith("spirv-validator", missingValidator)
const wordsOf = (given: unknown): Uint32Array => assemble(given as Kernel, (given as Kernel).variants[0]!).words

/** y = gelu_tanh(a·b), a (M, K), b (K, N), y (M, N) bf16. Grid: (N / TN, M / TM). */
const gemm = kernel({
  name: "gemm_cm2",
  workgroup: "WG",
  buffers: { a: read(bf16), b: read(bf16), y: write(bf16) },
  constants: {
    WG: constant(u32, 256),
    TM: constant(u32, 128),
    TN: constant(u32, 256),
    TK: constant(u32, 64),
    M: constant(u32, 4096),
    N: constant(u32, 4096),
    K: constant(u32, 4096),
  },
  body(k, { a, b, y, TM, TN, TK, M, N, K }) {
    const [A, B] = [k.matrix(bf16, "a", TM, TK), k.matrix(bf16, "b", TK, TN)]
    const [C, Y] = [k.matrix(f32, "accumulator", TM, TN), k.matrix(bf16, "accumulator", TM, TN)]
    const [m, n] = [k.groupY.mul(TM), k.group.mul(TN)]
    const [as, bs, ys] = [k.tensor({ shape: [M, K] }), k.tensor({ shape: [K, N] }), k.tensor({ shape: [M, N] })]
    const sum = k.var(C, 0)
    k.for(0, K, TK, (i) => {
      const left = k.loadTensor(A, a, 0, as.slice([m, TM], [i, TK]))
      const right = k.loadTensor(B, b, 0, bs.slice([i, TK], [n, TN]))
      sum.set(k.mulAdd(left, right, sum.get()))
    })
    const gelu = sum.get().map((_row, _column, x) => {
      const u = x.mul(x).mul(x).mul(0.044715).add(x).mul(0.7978845608)
      return x.mul(0.5).mul(u.tanh().add(1))
    })
    k.storeTensor(y, 0, ys.slice([m, TM], [n, TN]), gelu.convert(Y))
  },
})

const flash = {
  workgroup: "WG",
  constants: {
    WG: constant(u32, 128),
    BR: constant(u32, 64),
    BC: constant(u32, 64),
    D: constant(u32, 64),
    T: constant(u32, 1024),
    scale: constant(f32, 0.125),
  },
} as const

/** o = softmax(q·kᵀ·scale, causal)·v and lse = log of the sum of exponentials; (BH, T, D) bf16, lse (BH, T). Grid: (T / BR, BH). */
const flashForward = kernel({
  ...flash,
  name: "flash_forward_cm2",
  buffers: { q: read(bf16), key: read(bf16), v: read(bf16), o: write(bf16), lse: write(f32) },
  body(k, { q, key, v, o, lse, BR, BC, D, T, scale }) {
    const [Q, Kt, V, P] = [k.matrix(bf16, "a", BR, D), k.matrix(bf16, "b", D, BC), k.matrix(bf16, "b", BC, D), k.matrix(bf16, "a", BR, BC)]
    const [S, O, Ob] = [k.matrix(f32, "accumulator", BR, BC), k.matrix(f32, "accumulator", BR, D), k.matrix(bf16, "accumulator", BR, D)]
    const q0 = k.group.mul(BR)
    const base = k.groupY.mul(T.mul(D))
    const rows = k.tensor({ shape: [T, D] })
    const block = (at: U32, length: U32) => rows.slice([at, length], [0, D])
    const query = k.loadTensor(Q, q, base, block(q0, BR))
    const [max, sum, out] = [k.var(S, -1.7e38), k.var(S, 0), k.var(O, 0)]
    k.for(0, q0.add(BR), BC, (j) => {
      const scores = k
        .mulAdd(query, k.loadTensor(Kt, key, base, block(j, BC), "transposed"), k.fill(S, 0))
        .map((r, c, x, q0, j) => q0.add(r).ge(j.add(c)).select(x.mul(scale), -1.7e38), q0, j)
      const top = scores.reduce("row", (a, b) => a.max(b)).map((_r, _c, a, b) => a.max(b), max.get())
      const exp = (_r: U32, _c: U32, x: typeof scale) => x.exp()
      const p = scores.sub(top).map(exp)
      const old = max.get().sub(top).map(exp)
      sum.set(
        sum
          .get()
          .mul(old)
          .add(p.reduce("row", (a, b) => a.add(b))),
      )
      const kept = out.get().mul(old.reduce("row", (a) => a, O))
      out.set(k.mulAdd(p.convert(P), k.loadTensor(V, v, base, block(j, BC)), kept))
      max.set(top)
    })
    const normal = out.get().div(sum.get().reduce("row", (a) => a, O))
    k.storeTensor(o, base, block(q0, BR), normal.convert(Ob))
    sum.get().map(
      (r, c, total, top, at) => {
        const value = top.add(total.log())
        k.if(c.eq(0), () => lse.set(at.add(r), value))
        return value
      },
      max.get(),
      k.groupY.mul(T).add(q0),
    )
  },
})

const backwardBuffers = { q: read(bf16), key: read(bf16), v: read(bf16), dO: read(bf16), lse: read(f32), delta: read(f32) }

/** dq of causal attention from the saved lse and delta = rowsum(do∘o). Grid: (T / BR, BH). */
const flashBackwardQuery = kernel({
  ...flash,
  name: "flash_backward_dq_cm2",
  buffers: { ...backwardBuffers, dq: write(bf16) },
  body(k, { q, key, v, dO, lse, delta, dq, BR, BC, D, T, scale }) {
    const [Qa, Kt, Kb, Pa] = [
      k.matrix(bf16, "a", BR, D),
      k.matrix(bf16, "b", D, BC),
      k.matrix(bf16, "b", BC, D),
      k.matrix(bf16, "a", BR, BC),
    ]
    const [S, G, Gb] = [k.matrix(f32, "accumulator", BR, BC), k.matrix(f32, "accumulator", BR, D), k.matrix(bf16, "accumulator", BR, D)]
    const q0 = k.group.mul(BR)
    const [base, row] = [k.groupY.mul(T.mul(D)), k.groupY.mul(T)]
    const rows = k.tensor({ shape: [T, D] })
    const own = rows.slice([q0, BR], [0, D])
    const [query, gradient] = [k.loadTensor(Qa, q, base, own), k.loadTensor(Qa, dO, base, own)]
    const sum = k.var(G, 0)
    k.for(0, q0.add(BR), BC, (j) => {
      const block = rows.slice([j, BC], [0, D])
      const p = k.mulAdd(query, k.loadTensor(Kt, key, base, block, "transposed"), k.fill(S, 0)).map(
        (r, c, x, q0, j, row) => {
          const i = q0.add(r)
          return i.ge(j.add(c)).select(
            x
              .mul(scale)
              .sub(lse.at(row.add(i)))
              .exp(),
            0,
          )
        },
        q0,
        j,
        row,
      )
      const dp = k.mulAdd(gradient, k.loadTensor(Kt, v, base, block, "transposed"), k.fill(S, 0))
      const ds = p.map(
        (r, _c, p, dp, at) =>
          dp
            .sub(delta.at(at.add(r)))
            .mul(p)
            .mul(scale),
        dp,
        row.add(q0),
      )
      sum.set(k.mulAdd(ds.convert(Pa), k.loadTensor(Kb, key, base, block), sum.get()))
    })
    k.storeTensor(dq, base, own, sum.get().convert(Gb))
  },
})

/** dk and dv of causal attention, on transposed scores. Grid: (T / BC, BH). */
const flashBackwardKeys = kernel({
  ...flash,
  name: "flash_backward_dkv_cm2",
  buffers: { ...backwardBuffers, dk: write(bf16), dv: write(bf16) },
  body(k, { q, key, v, dO, lse, delta, dk, dv, BR, BC, D, T, scale }) {
    const [Ka, Qt, Qb, Pa] = [
      k.matrix(bf16, "a", BC, D),
      k.matrix(bf16, "b", D, BR),
      k.matrix(bf16, "b", BR, D),
      k.matrix(bf16, "a", BC, BR),
    ]
    const [S, G, Gb] = [k.matrix(f32, "accumulator", BC, BR), k.matrix(f32, "accumulator", BC, D), k.matrix(bf16, "accumulator", BC, D)]
    const k0 = k.group.mul(BC)
    const [base, row] = [k.groupY.mul(T.mul(D)), k.groupY.mul(T)]
    const rows = k.tensor({ shape: [T, D] })
    const own = rows.slice([k0, BC], [0, D])
    const [keys, values] = [k.loadTensor(Ka, key, base, own), k.loadTensor(Ka, v, base, own)]
    const [dKeys, dValues] = [k.var(G, 0), k.var(G, 0)]
    k.for(k0.div(BR).mul(BR), T, BR, (i) => {
      const block = rows.slice([i, BR], [0, D])
      const p = k.mulAdd(keys, k.loadTensor(Qt, q, base, block, "transposed"), k.fill(S, 0)).map(
        (r, c, x, k0, i, row) => {
          const query = i.add(c)
          return query.ge(k0.add(r)).select(
            x
              .mul(scale)
              .sub(lse.at(row.add(query)))
              .exp(),
            0,
          )
        },
        k0,
        i,
        row,
      )
      dValues.set(k.mulAdd(p.convert(Pa), k.loadTensor(Qb, dO, base, block), dValues.get()))
      const dp = k.mulAdd(values, k.loadTensor(Qt, dO, base, block, "transposed"), k.fill(S, 0))
      const ds = p.map(
        (_r, c, p, dp, at) =>
          dp
            .sub(delta.at(at.add(c)))
            .mul(p)
            .mul(scale),
        dp,
        row.add(i),
      )
      dKeys.set(k.mulAdd(ds.convert(Pa), k.loadTensor(Qb, q, base, block), dKeys.get()))
    })
    k.storeTensor(dk, base, own, dKeys.get().convert(Gb))
    k.storeTensor(dv, base, own, dValues.get().convert(Gb))
  },
})

/** y = a·bᵀ·scale with KHR matrices of 16×16×16 from shared memory: a (M, K), b (N, K) bf16, y (M, N) f32. 4 subgroups of 32, tile 32×32. */
const gemmShared = kernel({
  name: "gemm_khr",
  workgroup: 128,
  buffers: { a: read(bf16), b: read(bf16), y: write(f32) },
  push: { N: u32, K: u32, scale: f32 },
  body(k: Body, { a, b, y, N, K, scale }) {
    const [A, B, C] = [
      k.matrix(bf16, "a", 16, 16, "subgroup"),
      k.matrix(bf16, "b", 16, 16, "subgroup"),
      k.matrix(f32, "accumulator", 16, 16, "subgroup"),
    ]
    // 32 rows of 16 bf16 = 2 uvec4, padded to 3.
    const [as, bs] = [k.shared("as", vec4(u32), 96), k.shared("bs", vec4(u32), 96)]
    const [row, column] = [k.groupY.mul(32), k.group.mul(32)]
    const [mine, other] = [k.subgroup.shr(1).mul(16), k.subgroup.and(1).mul(16)]
    const sum = k.var(C, 0)
    k.for(
      0,
      K,
      16,
      (i) => {
        k.if(k.lane.lt(64), () => {
          const [r, half] = [k.lane.shr(1), k.lane.and(1)]
          const from = (first: U32) => first.add(r).mul(K).add(i).shr(3).add(half)
          as.set(r.mul(3).add(half), a.as(vec4(u32)).at(from(row)))
          bs.set(r.mul(3).add(half), b.as(vec4(u32)).at(from(column)))
        })
        k.barrier()
        sum.set(k.mulAdd(k.loadMatrix(A, as, mine.mul(3), 3, "row"), k.loadMatrix(B, bs, other.mul(3), 3, "column"), sum.get()))
        k.barrier()
      },
      { unroll: true },
    )
    k.storeMatrix(y, row.add(mine).mul(N).add(column.add(other)), N, "row", sum.get().scale(scale))
  },
})

for (const given of [gemm, flashForward, flashBackwardQuery, flashBackwardKeys, gemmShared] as unknown as Kernel[]) {
  testValid(`${given.name} is valid`, () => {
    expect(validate(wordsOf(given))).toBeUndefined()
  })
}

testValid("the validator refuses a swapped multiplication, and shows where", () => {
  const swapped = kernel({
    name: "swapped",
    workgroup: 32,
    buffers: { y: write(f32) },
    body(k, { y }) {
      const [A, B, C] = [k.matrix(bf16, "a", 16, 16), k.matrix(bf16, "b", 16, 16), k.matrix(f32, "accumulator", 16, 16)]
      const sum = k.fill(C, 0)
      // @ts-expect-error the first factor must be an "a"
      k.storeMatrix(y, 0, 16, "row", k.mulAdd(sum.convert(B), sum.convert(A), sum))
    },
  })
  expect(validate(wordsOf(swapped))).toContain("Cooperative matrix type must be A Type")
})

testValid("matrix modules are small, and one function serves equal callbacks", () => {
  const text = disassemble(wordsOf(flashForward))
  expect(text.match(/= OpFunction /g)!.length).toBe(9)
  expect(wordsOf(gemm).byteLength).toBeLessThan(3000)
})

test("bf16 matrices have no arithmetic", () => {
  const broken = kernel({
    name: "broken",
    workgroup: 32,
    buffers: { y: write(f32) },
    body(k) {
      const m = k.fill(k.matrix(f32, "accumulator", 16, 16), 1).convert(k.matrix(bf16, "accumulator", 16, 16))
      // @ts-expect-error no add
      m.add(m)
    },
  })
  expect(broken.name).toBe("broken")
})
