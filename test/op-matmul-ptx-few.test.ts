/** Matrix products of few rows in PTX, run on the CPU: every tile against f64 and bit by bit against the kernel of many rows; which tile is taken. */
import { expect, test } from "bun:test"
import { FEW_TILES, type FewTile, fewTileName } from "../shaders/ptx-few-tile.ts"
import { type Activation, activate } from "../src/op-activation.ts"
import { gemm } from "../src/op-matmul-gpu.ts"
import { ptxLaunchesOf, ptxWayOf } from "../src/op-matmul-ptx.ts"
import { fewLaunches, fewTiles, heldLaunches } from "../src/op-matmul-ptx-few.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { Launch, Launches, Memory, Scratch } from "../src/program.ts"
import { fromBf16, HOPPER, seedFrom, toBf16, uniforms } from "./bf16.ts"
import { runPtxLaunch } from "./ptx-launch.ts"
import type { Timing } from "./ptx-run.ts"

const random = uniforms(7)

interface Asked {
  readonly size: readonly [M: number, N: number, K: number]
  /** Undefined: by the kernel that keeps a in registers. */
  readonly tile?: FewTile
  readonly out?: "f32" | "bf16"
  readonly activation?: Activation
  readonly bias?: boolean
  /** Elements of a row of c. */
  readonly ldc?: number
  readonly timing?: Timing
}

function run({
  size: [M, N, K],
  tile,
  out = "bf16",
  activation = "none",
  bias = false,
  ldc = Math.ceil(N / 8) * 8,
  timing = "random",
}: Asked): void {
  const ld = Math.ceil(K / 8) * 8
  const bytes = new Map<Memory, Uint16Array | Float32Array>()
  const place = (dtype: "f32" | "bf16", elements: number, value: (i: number) => number): Scratch => {
    const memory: Scratch = { kind: "scratch", dtype, elements }
    const all = Array.from({ length: elements }, (_, i) => value(i))
    bytes.set(memory, dtype === "f32" ? Float32Array.from(all) : Uint16Array.from(all, toBf16))
    return memory
  }
  const inRow = (i: number) => (i % ld < K ? random() : Number.NaN) // what lies beyond a row's end must not reach the sums
  const [a, b, biases] = [place("bf16", M * ld, inRow), place("bf16", N * ld, inRow), place("f32", N, random)]
  const request = (c: Memory, pitch: number): Gemm => ({
    ...{ layout: "nt", a, b, c, M, N, K, lda: ld, ldb: ld, ldc: pitch, order: "forward", activation },
    ...(bias && { bias: biases }),
  })
  const viewOf = (memory: Memory) => {
    const { buffer, byteLength } = bytes.get(memory)!
    return new Uint8Array(buffer as ArrayBuffer, 0, byteLength)
  }
  const done = (launches: Launches) => {
    for (const launch of launches.flat() as Launch[]) runPtxLaunch(launch, viewOf, (value) => value as number, timing, seedFrom(random))
  }
  const c = place(out, M * ldc, () => Number.NaN)
  const asked = request(c, ldc)
  done(tile === undefined ? heldLaunches(asked, HOPPER) : fewLaunches(asked, tile, HOPPER))
  const pitch = Math.ceil(N / 8) * 8
  const other = place(out, M * pitch, () => Number.NaN)
  const many = { ...request(other, pitch), order: "any" } as const
  done(ptxLaunchesOf(many, { ...ptxWayOf(many, HOPPER)!.way, splits: 1 }, HOPPER))
  const [seen, wanted] = [bytes.get(c)!, bytes.get(other)!]
  const numberOf = (memory: Memory, i: number) => (memory === biases ? bytes.get(memory)![i]! : fromBf16(bytes.get(memory)![i]!))
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < ldc; n++) {
      const value = seen[m * ldc + n]!
      if (n >= N) expect(value).toEqual(out === "f32" ? Number.NaN : toBf16(Number.NaN))
      else if (value !== wanted[m * pitch + n]) throw new Error(`c[${m}, ${n}] is ${value}, not ${wanted[m * pitch + n]}`)
    }
    const n = (m * 7) % N
    let z = bias ? numberOf(biases, n) : 0
    for (let k = 0; k < K; k++) z += numberOf(a, m * ld + k) * numberOf(b, n * ld + k)
    z = activate(activation, z)
    const value = seen[m * ldc + n]!
    const error = Math.abs((out === "f32" ? value : fromBf16(value)) - z)
    expect(error).toBeLessThan((out === "bf16" ? 2 ** -8 * Math.abs(z) : 0) + 2e-5 * Math.sqrt(K))
  }
}

const tileOf = (rows: number, columns: number): FewTile => FEW_TILES.find((tile) => tile.rows === rows && tile.columns === columns)!

/** Several tiles per block, edges of all sizes, more steps than a ring has places. */
for (const tile of FEW_TILES) {
  test(`tiles of ${fewTileName(tile)}`, () => {
    run({ tile, size: [tile.rows, tile.columns, 64], timing: "late" })
    run({ tile, size: [tile.rows - 3, 2 * tile.columns + 6, 200], bias: true })
    run({ tile, size: [Math.min(64, tile.rows + 9), 3 * tile.columns - 5, 136], out: "f32", timing: "late", ldc: 3 * tile.columns - 5 })
  }, 300_000)
}

test("all of K in registers", () => {
  run({ size: [64, 64, 768], out: "f32", timing: "late" })
  run({ size: [17, 150, 768], out: "f32", bias: true, timing: "random" })
  run({ size: [33, 37, 768], out: "f32", timing: "early", ldc: 37 })
}, 300_000)

test("a long sum goes round the ring", () => {
  run({ tile: tileOf(32, 16), size: [33, 17, 1352], timing: "late" })
  run({ tile: tileOf(64, 64), size: [64, 64, 712], bias: true, out: "f32", timing: "early" })
}, 300_000)

for (const activation of ["gelu", "gelu_tanh", "relu", "relu2", "silu"] as const)
  test(activation, () => run({ tile: tileOf(32, 24), size: [20, 40, 72], activation, bias: true }))

test("rows of c of odd length are written number by number", () => {
  run({ tile: tileOf(16, 8), size: [18, 13, 40], ldc: 13 })
  run({ tile: tileOf(16, 8), size: [18, 13, 40], ldc: 13, out: "f32" })
  run({ tile: tileOf(16, 8), size: [18, 12, 40], ldc: 15 })
})

const h200 = { ...HOPPER, units: 132 }
const asked = (M: number, N: number, K: number, more: Partial<Gemm> = {}): Gemm => {
  const memory: Scratch = { kind: "scratch", dtype: "bf16", elements: 1 }
  return { layout: "nt", a: memory, b: memory, c: memory, M, N, K, order: "forward", ...more }
}
const kernelsOf = (given: Gemm): string[] => (gemm(given, h200).flat() as Launch[]).map(({ variant }) => variant)

const logits: Scratch = { kind: "scratch", dtype: "f32", elements: 1 }

test("few rows go by tiles that spread the weights over the processors", () => {
  expect(kernelsOf(asked(64, 768, 3072))).toEqual(["ptx_matmul_few_bf16_16x24"])
  expect(kernelsOf(asked(64, 3072, 768))).toEqual(["ptx_matmul_few_bf16_32x48"])
  expect(kernelsOf(asked(32, 3072, 768))).toEqual(["ptx_matmul_few_bf16_32x24"])
  expect(kernelsOf({ ...asked(64, 50257, 768), c: logits })).toEqual(["ptx_matmul_held_f32_64x32"])
  expect(kernelsOf({ ...asked(64, 50257, 1024), c: logits }).join()).toContain("few")
  expect(kernelsOf(asked(16, 768, 768)).join()).not.toContain("few")
  expect(kernelsOf(asked(65, 768, 768)).join()).not.toContain("few")
})

test("what is asked of training goes another way", () => {
  expect(fewTiles(asked(64, 768, 768, { slope: asked(1, 1, 1).c }), h200)).toEqual([])
  expect(fewTiles(asked(64, 768, 768, { beta: 1 }), h200)).toEqual([])
  expect(fewTiles(asked(64, 768, 100), h200)).toEqual([])
  expect(fewTiles(asked(64, 768, 768), { ...h200, ptx: false })).toEqual([])
})
