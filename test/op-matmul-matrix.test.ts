/** Matrix products by matrix instructions, in the kernel simulator against f64: every tile, layout, edge, split and epilogue. */
import { expect, test } from "bun:test"
import { matmulCombine } from "../shaders/matmul-combine.ts"
import { checkCase, muon, variants } from "../src/op.ts"
import { activate, activateDerivative } from "../src/op-activation.ts"
import { matmulOps } from "../src/op-matmul.ts"
import { launchesOf, TILES, type Way, wayOf } from "../src/op-matmul-matrix.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { GpuTarget, Launch, Memory, Scratch } from "../src/program.ts"
import { type Kernel, simulate } from "../src/spirv.ts"
import { fromBf16, toBf16, uniforms } from "./bf16.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

const target = (matrix: "nv2" | "khr"): GpuTarget => ({
  subgroupSize: 32,
  matrix,
  ptx: false,

  hasMatrixFunctions: true,
  units: 132,
  sharedBytes: 49152,
})

const random = uniforms(7)

/** Memory of a test, and its numbers. */
class Bench {
  readonly bytes = new Map<Memory, Uint16Array | Float32Array>()

  /** Numbers at random, or NaN. */
  place(dtype: "f32" | "bf16", elements: number, isFilled: boolean): Scratch {
    const memory: Scratch = { kind: "scratch", dtype, elements }
    const value = () => (isFilled ? random() : Number.NaN)
    this.bytes.set(
      memory,
      dtype === "f32" ? Float32Array.from({ length: elements }, value) : Uint16Array.from({ length: elements }, () => toBf16(value())),
    )
    return memory
  }
  numbers(memory: Memory): Float64Array {
    const given = this.bytes.get(memory)!
    return given instanceof Uint16Array ? Float64Array.from(given, fromBf16) : Float64Array.from(given)
  }
  run(launches: readonly (Launch | readonly Launch[])[]): void {
    for (const { kernel, variant, groups, buffers, push, params, constants } of launches.flat() as Launch[]) {
      const view = (memory: Memory | undefined) => {
        if (memory === undefined) return new Uint8Array(0)
        if (!this.bytes.has(memory)) this.bytes.set(memory, new Float32Array((memory as Scratch).elements).fill(Number.NaN))
        return this.bytes.get(memory)!
      }
      simulate(
        kernel as unknown as Kernel<Record<never, never>>,
        {
          variant,
          grid: groups,
          buffers: Object.fromEntries(Object.entries(buffers).map(([name, memory]) => [name, view(memory)])),
          push,
          params,
          constants,
          subgroupSize: 32,
        } as never,
      )
    }
  }
}

interface Asked {
  readonly layout: Gemm["layout"]
  readonly size: readonly [M: number, N: number, K: number]
  readonly out: "f32" | "bf16"
  readonly more?: "forward" | "factor" | "factor in place" | "beta" | "beta 0" | "scale"
  /** Added to each row's length. */
  readonly pad?: number
}

/** Worst error of a product in units of the allowed one; throws where the simulator finds fault. */
function worst({ layout, size: [M, N, K], out, more, pad = 0 }: Asked, wayFor: (request: Gemm) => Way): number {
  const bench = new Bench()
  const [lda, ldb, ldc] = [(layout === "tn" ? M : K) + pad, (layout === "nt" ? K : N) + pad, N + pad]
  const [a, b] = [bench.place("bf16", (layout === "tn" ? K : M) * lda, true), bench.place("bf16", (layout === "nt" ? N : K) * ldb, true)]
  const isInPlace = more === "factor in place"
  const c = bench.place(out, M * ldc, more === "beta" || isInPlace)
  const [bias, kept] = [bench.place("f32", N, true), isInPlace ? c : bench.place(out, M * ldc, more === "factor")]
  const request: Gemm = {
    ...{ layout, a, b, c, M, N, K, lda, ldb, ldc, order: "any" },
    ...(more === "forward" && { bias, slope: kept, activation: "gelu_tanh" as const }),
    ...(more?.startsWith("factor") && { factor: kept }),
    ...(more === "beta" && { beta: 0.5 }),
    ...(more === "beta 0" && { beta: 0 }),
    ...(more === "scale" && { scale: 0.25 }),
  }
  const before = { c: bench.numbers(c), kept: bench.numbers(kept) }
  bench.run(launchesOf(request, wayFor(request), target("nv2")))
  const [as, bs, cs, biases, slopes] = [a, b, c, bias, kept].map((memory) => bench.numbers(memory)) as Float64Array[]
  const allowed = (x: number) => (out === "bf16" ? 2 ** -8 * Math.abs(x) : 0) + 1e-5 * Math.sqrt(K)
  let error = 0
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let z = 0
      for (let k = 0; k < K; k++) z += as![layout === "tn" ? k * lda + m : m * lda + k]! * bs![layout === "nt" ? n * ldb + k : k * ldb + n]!
      const at = m * ldc + n
      if (more === "scale") z *= 0.25
      if (more === "forward") {
        z += biases![n]!
        const slope = activateDerivative("gelu_tanh", z)
        error = Math.max(error, Math.abs(slopes![at]! - slope) / allowed(slope))
        z = activate("gelu_tanh", z)
      }
      if (more?.startsWith("factor")) z *= before.kept[at]!
      if (more === "beta") z += 0.5 * before.c[at]!
      error = Math.max(error, Math.abs(cs![at]! - z) / allowed(z))
    }
    // What lies between rows is left alone.
    for (let n = N; n < ldc; n++) if (!Object.is(cs![m * ldc + n], before.c[m * ldc + n])) return Number.POSITIVE_INFINITY
  }
  return error
}

const LAYOUTS = ["nt", "nn", "tn"] as const
const CASES: readonly Omit<Asked, "layout" | "size">[] = [
  { out: "bf16" },
  { out: "f32", more: "beta" },
  { out: "bf16", more: "forward" },
  { out: "bf16", more: "factor" },
  { out: "f32", more: "factor in place" },
  { out: "f32", more: "scale" },
  { out: "bf16", more: "beta 0" },
]
const PATHS = ["nv2", "khr"] as const

/** For machines that are busy with other things, ms. */
const SLOW = 300_000

for (const path of PATHS) {
  TILES[path].forEach((tile, i) => {
    const { rows, columns, depth } = tile
    test(
      `${path} ${rows}×${columns}×${depth}: whole tiles, edges, splits`,
      () => {
        const way = (splits: number, group: number) => () => ({ path, tile, splits, group })
        for (const [l, layout] of LAYOUTS.entries()) {
          const given = CASES[(i + 2 * l) % CASES.length]!
          const other = CASES[(i + 2 * l + 1) % CASES.length]!
          const whole: Asked = { layout, size: [rows, columns, 2 * depth], ...given }
          expect(worst(whole, way(1, 1)), JSON.stringify(whole)).toBeLessThanOrEqual(1)
          const edge: Asked = { layout, size: [rows + 8, Math.max(8, columns - 24), depth + 8], ...other, pad: 8 }
          expect(worst(edge, way(1, 2)), JSON.stringify(edge)).toBeLessThanOrEqual(1)
          const split: Asked = { layout, size: [16, 24, 3 * depth], ...given }
          expect(worst(split, way(2, 1)), JSON.stringify(split)).toBeLessThanOrEqual(1)
        }
      },
      SLOW,
    )
  })
}

test("nv2 takes sizes and rows that are multiples of nothing", () => {
  const tile = TILES.nv2.at(-1)!
  for (const layout of LAYOUTS) {
    for (const given of CASES) {
      const odd: Asked = { layout, size: [17, 67, 33], ...given, pad: 1 }
      expect(
        worst(odd, () => ({ path: "nv2", tile, splits: 1, group: 1 })),
        JSON.stringify(odd),
      ).toBeLessThanOrEqual(1)
    }
  }
})

test("the choice: forward is never split, small gradients are, khr refuses rows that are not aligned", () => {
  const shape = (layout: Gemm["layout"], M: number, N: number, K: number, order: Gemm["order"]): Gemm => {
    const memory: Scratch = { kind: "scratch", dtype: "bf16", elements: 0 }
    return { layout, M, N, K, a: memory, b: memory, c: memory, order }
  }
  expect(wayOf(shape("nt", 64, 768, 3072, "forward"), target("nv2"))?.splits).toBe(1)
  expect(wayOf(shape("tn", 768, 768, 65536, "any"), target("nv2"))?.splits).toBeGreaterThan(1)
  expect(wayOf(shape("nt", 65536, 3072, 768, "forward"), target("khr"))?.tile).toBe(TILES.khr[0]!)
  const odd = [1, 16, 4096].map((M) => wayOf(shape("nt", M, 50257, 768, "forward"), target("nv2"))?.path)
  expect(odd).toEqual(["nv2", "nv2", "nv2"])
  const { splits } = wayOf(shape("tn", 768, 768, 16384, "any"), target("nv2"), TILES.nv2) as Way
  expect(16384 % (64 * splits)).toBe(0)
  expect(wayOf(shape("nt", 64, 50257, 768, "forward"), target("khr"))).toBeUndefined()
  for (const path of PATHS) {
    const way = wayOf(shape("nt", 5 * 128, 768, 768, "forward"), target(path), TILES[path]) as Way
    expect(Math.ceil((5 * 128) / way.tile.rows) % way.group).toBe(0)
  }
})

for (const path of PATHS) {
  test(
    `${path}: the linear layers' cases in bf16`,
    () => {
      const cases = matmulOps.flatMap((op) => variants(op as never)).filter(({ act }) => act === "bf16")
      expect(cases.length).toBeGreaterThan(5)
      for (const variant of cases) {
        const { worst, tensor } = checkCase(simulatedDevice(32, path), variant)
        expect(worst, `${variant.index} ${tensor}`).toBeLessThanOrEqual(1)
      }
    },
    SLOW,
  )
}

for (const path of PATHS) {
  test(
    `${path}: muon's products in bf16, of sizes that the matrix kernels refuse too`,
    () => {
      for (const variant of variants(muon as never)) {
        const { worst, tensor } = checkCase(simulatedDevice(32, path), variant)
        expect(worst, `${variant.index} ${tensor}`).toBeLessThanOrEqual(1)
      }
    },
    SLOW,
  )
}

test("a product of few rows is split where rows may differ in other company, and only there", () => {
  const memory = (dtype: "f32" | "bf16", elements: number): Scratch => ({ kind: "scratch", dtype, elements })
  const [M, N, K] = [64, 768, 3072]
  const product = (order: Gemm["order"]): Gemm => {
    const [a, b, c] = [memory("bf16", M * K), memory("bf16", N * K), memory("bf16", M * N)]
    return { layout: "nt", a, b, c, M, N, K, order }
  }
  for (const matrix of ["nv2", "khr"] as const) {
    expect(wayOf(product("forward"), target(matrix))?.splits).toBe(1)
    expect(wayOf(product("any"), target(matrix))?.splits).toBeGreaterThan(1)
  }
})

test("the sum of parts whose rows are longer than those of c writes no further than c's", () => {
  const [M, N, S, ld] = [3, 20, 2, 24]
  const parts = Float32Array.from({ length: S * M * ld }, (_, i) => (i % ld < N ? i : Number.NaN))
  const c = new Float32Array(M * N)
  const bytes = (of: Float32Array) => new Uint8Array(of.buffer as ArrayBuffer)
  const none = { bias: new Uint8Array(0), kept: new Uint8Array(0), addend: new Uint8Array(0) }
  simulate(
    matmulCombine as never as Kernel<Record<never, never>>,
    {
      ...{ variant: "matmul_combine.f32", grid: [1, 1, 1], subgroupSize: 32, constants: {} },
      ...{ buffers: { parts: bytes(parts), ...none, c: bytes(c) }, push: { M, N, S, ld, ldc: N, scale: 1 }, params: { beta: 0 } },
    } as never,
  )
  const wanted = Array.from(c, (_, i) => 2 * (Math.floor(i / N) * ld + (i % N)) + M * ld)
  expect(Array.from(c)).toEqual(wanted)
})
