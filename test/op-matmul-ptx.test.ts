/** Matrix products in PTX, their instructions run on the CPU, against f64: layouts, edges, splits, epilogues, timings of copies and products. */
import { expect, test } from "bun:test"
import { DEEP_TILE, FLAT_TILE, NARROW_TILE, TALL_TILE, WIDE_TILE } from "../shaders/ptx-gemm-list.ts"
import { type DeepTile, tileName } from "../shaders/ptx-gemm-tile.ts"
import { ROOM } from "../shaders/ptx-room.ts"
import { targetOf } from "../src/gpu-info.ts"
import type { VulkanFacts } from "../src/native.ts"
import { gemm } from "../src/op-matmul-gpu.ts"
import { ptxGemmLaunches, ptxWayOf } from "../src/op-matmul-ptx.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { GpuTarget, Launch, Scratch } from "../src/program.ts"
import type { Tensor } from "../src/tensor.ts"
import { HOPPER } from "./bf16.ts"
import { type Asked, run } from "./op-matmul-ptx-run.ts"
import type { Timing } from "./ptx-run.ts"

const TIMINGS: readonly Timing[] = ["random", "late"]

/** As the deep tiles in use, but small. */
const SMALL: DeepTile = { units: 1, chunks: 2, stages: 2 }
const SMALL_LATER: DeepTile = { ...SMALL, later: true }
const SMALL_TALL: DeepTile = { units: 2, chunks: 1, stages: 3 }

const CASES: readonly Asked[] = [
  // One tile, its rings' first steps, in every timing: a copy that overtakes a reader, or a product that is read too early, shows as a wrong sum.
  ...(["nt", "nn", "tn"] as const).flatMap((layout) =>
    TIMINGS.map((timing): Asked => ({ layout, size: [256, 192, 64], out: layout === "tn" ? "f32" : "bf16", timing })),
  ),
  // More k steps than the rings have places, several tiles per block, edges of all three sizes.
  { layout: "nt", size: [520, 224, 264], out: "bf16", bias: true, timing: "late" },
  { layout: "nt", size: [300, 200, 264], out: "bf16" },
  { layout: "nn", size: [264, 200, 264], out: "bf16", timing: "late" },
  { layout: "tn", size: [296, 232, 264], out: "f32" },
  // Results stored during the next tile's first steps, of which there are enough, or too few.
  { layout: "nt", size: [520, 160, 264], out: "bf16", bias: true, tile: NARROW_TILE, timing: "late" },
  { layout: "nt", size: [520, 160, 264], out: "bf16", activation: "gelu_tanh", keepsSlope: true, bias: true, tile: NARROW_TILE },
  {
    layout: "nt",
    size: [260, 96, 600],
    out: "bf16",
    activation: "silu",
    keepsSlope: true,
    bias: true,
    tile: NARROW_TILE,
  },
  { layout: "nn", size: [520, 136, 600], out: "bf16", factor: "in place", tile: NARROW_TILE, timing: "late" },
  { layout: "nn", size: [260, 136, 72], out: "bf16", factor: "apart", tile: NARROW_TILE },
  { layout: "nn", size: [520, 152, 72], out: "bf16", tile: { ...NARROW_TILE, ringA: 4, ringB: 3 } },
  { layout: "nn", size: [264, 200, 264], out: "bf16", timing: "late", tile: NARROW_TILE },
  { layout: "tn", size: [264, 200, 200], out: "f32", beta: 0.5, splits: 2, rest: [3, 5], sumsBeta: 0.5 },
  // More tiles per block, of odd numbers of k steps, than lines are asked for ahead.
  { layout: "nn", size: [1100, 392, 72], out: "bf16" },
  // Columns by two tiles; a tile for few columns.
  { layout: "nt", size: [300, 416, 136], out: "bf16", bias: true, beside: { from: 192, tile: NARROW_TILE } },
  { layout: "nn", size: [520, 424, 264], out: "bf16", beside: { from: 192, tile: NARROW_TILE }, timing: "late" },
  { layout: "nt", size: [264, 416, 264], out: "bf16", bias: true, tile: FLAT_TILE, timing: "late" },
  { layout: "nn", size: [140, 408, 264], out: "bf16", tile: FLAT_TILE },
  { layout: "tn", size: [264, 408, 200], out: "f32", beta: 0.5, splits: 2, rest: [3, 5], sumsBeta: 0.5, tile: FLAT_TILE },
  // The first blocks begin before the others and do more; the other columns with a block for each tile. A whole gradient with the sums of dy's columns.
  { layout: "nn", size: [1100, 392, 72], out: "bf16", early: { blocks: 1, tiles: 3 }, timing: "late" },
  { layout: "nn", size: [1030, 136, 104], out: "bf16", factor: "in place", tile: NARROW_TILE, early: { blocks: 2, tiles: 2 } },
  {
    layout: "nn",
    size: [520, 424, 264],
    out: "bf16",
    beside: { from: 192, tile: NARROW_TILE, isSpread: true },
    early: { blocks: 1, tiles: 2 },
  },
  { layout: "tn", size: [520, 424, 200], out: "f32", sumsBeta: 0, timing: "late" },
  { layout: "tn", size: [131, 61, 100], out: "f32", sumsBeta: 0 },
  // Sizes that are no multiples of anything; rows are padded to 8.
  { layout: "nt", size: [5, 17, 19], out: "bf16", bias: true },
  { layout: "nt", size: [131, 65, 33], out: "f32", bias: true },
  { layout: "nt", size: [7, 50, 100], out: "bf16", activation: "silu", bias: true },
  { layout: "nn", size: [130, 77, 41], out: "bf16", factor: "apart" },
  { layout: "nn", size: [3, 201, 77], out: "f32", beta: 0.5, scale: 0.25 },
  { layout: "tn", size: [67, 129, 45], out: "f32", beta: 1 },
  // Epilogues.
  { layout: "nt", size: [140, 96, 72], out: "f32", bias: true },
  { layout: "nt", size: [140, 96, 72], out: "bf16", bias: true, beta: 1 },
  { layout: "nt", size: [140, 96, 72], out: "f32", beta: 0.5, scale: 2 },
  { layout: "nt", size: [140, 100, 72], out: "bf16", beta: 0.5 },
  ...(["gelu", "gelu_tanh", "relu", "relu2", "silu"] as const).flatMap((kind): Asked[] => [
    { layout: "nt", size: [140, 96, 72], out: "bf16", activation: kind, bias: true },
    { layout: "nt", size: [140, 96, 72], out: "bf16", activation: kind, bias: true, keepsSlope: true },
  ]),
  { layout: "nt", size: [140, 96, 72], out: "bf16", activation: "gelu" },
  { layout: "nn", size: [140, 104, 72], out: "bf16", factor: "apart" },
  { layout: "nn", size: [300, 200, 72], out: "bf16", factor: "in place", timing: "late" },
  { layout: "nn", size: [140, 96, 72], out: "bf16", beta: 0 },
  { layout: "tn", size: [140, 96, 72], out: "f32", beta: 0 },
  // Sums of splits, the last of fewer steps, with the epilogue behind them.
  { layout: "tn", size: [264, 200, 300], out: "f32", beta: 1, splits: 3, timing: "late" },
  { layout: "nn", size: [264, 200, 300], out: "bf16", factor: "apart", splits: 4 },
  // A rest of k steps, dealt out: tiles in several spans, spans of several tiles; the sums of dy's columns on the way.
  { layout: "tn", size: [264, 200, 200], out: "f32", beta: 0.5, splits: 2, rest: [3, 5], sumsBeta: 0.5, timing: "late" },
  { layout: "tn", size: [131, 61, 200], out: "f32", splits: 1, rest: [5, 3] },
  // In two: 6 of 9 tiles whole, the last columns' K dealt out.
  { layout: "tn", size: [520, 410, 600], out: "f32", beta: 0.5, cut: 6, sumsBeta: 0.5 },
  { layout: "tn", size: [300, 400, 600], out: "f32", cut: 5, sumsBeta: 0 },
  // All of K dealt out.
  { layout: "tn", size: [264, 200, 200], out: "f32", beta: 0.5, splits: 0, rest: [7, 3], sumsBeta: 0.5, timing: "late" },
  { layout: "nn", size: [300, 200, 200], out: "bf16", factor: "in place", splits: 0, rest: [7, 9] },
  { layout: "tn", size: [131, 61, 100], out: "f32", splits: 3, sumsBeta: 0 },
  // Stages of 64 k: fewer than steps, of a K that is no multiple; several tiles per block, edges, all layouts and ways to end.
  { layout: "nt", size: [140, 200, 264], out: "bf16", bias: true, tile: SMALL, timing: "late" },
  { layout: "nt", size: [260, 224, 136], out: "bf16", bias: true, tile: SMALL_LATER },
  { layout: "nt", size: [131, 65, 33], out: "f32", bias: true, tile: SMALL_TALL },
  { layout: "nt", size: [140, 96, 72], out: "bf16", bias: true, beta: 0.5, tile: SMALL },
  { layout: "nt", size: [131, 50, 100], out: "bf16", activation: "silu", bias: true, tile: SMALL },
  {
    layout: "nt",
    size: [260, 96, 200],
    out: "bf16",
    activation: "gelu_tanh",
    keepsSlope: true,
    bias: true,
    tile: SMALL_LATER,
    timing: "late",
  },
  { layout: "nn", size: [140, 136, 200], out: "bf16", factor: "in place", tile: SMALL_LATER, timing: "late" },
  { layout: "nn", size: [260, 72, 72], out: "bf16", factor: "apart", tile: { ...SMALL_TALL, later: true }, early: { blocks: 1, tiles: 1 } },
  { layout: "nn", size: [131, 201, 77], out: "f32", beta: 0.5, scale: 0.25, tile: SMALL },
  { layout: "tn", size: [136, 136, 328], out: "f32", beta: 0.5, splits: 2, rest: [1, 2], sumsBeta: 0.5, tile: SMALL, timing: "late" },
  { layout: "tn", size: [267, 61, 200], out: "f32", sumsBeta: 0, tile: SMALL_TALL },
  { layout: "tn", size: [131, 72, 200], out: "f32", beta: 1, splits: 0, rest: [4, 3], tile: SMALL },
  // The deep tiles in use.
  { layout: "nt", size: [140, 288, 136], out: "bf16", bias: true, tile: DEEP_TILE, timing: "late" },
  { layout: "nn", size: [140, 264, 72], out: "bf16", tile: DEEP_TILE },
  { layout: "nn", size: [264, 136, 72], out: "bf16", tile: TALL_TILE },
  { layout: "tn", size: [264, 200, 72], out: "f32", tile: WIDE_TILE, timing: "late" },
]
for (const asked of CASES) {
  const { layout, size, tile, ...rest } = asked
  const name = `${layout} ${size.join(" × ")} ${JSON.stringify(rest)}${tile === undefined ? "" : ` ${tileName(tile)}`}`
  test(name, () => expect(run(asked).error).toBeLessThan(1), 300_000)
}

test("the bits do not depend on the tile", () => {
  const common = { layout: "nt", size: [140, 160, 200], out: "f32", bias: true, seed: 11 } as const
  const bitsOf = (tile: Asked["tile"]) => new Uint8Array(run({ ...common, ...(tile && { tile }) }).c.buffer)
  expect(Buffer.compare(bitsOf(undefined), bitsOf(SMALL))).toBe(0)
})

/** A product of memory that is never touched. */
const asked = (layout: Gemm["layout"], M: number, N: number, K: number, more: Partial<Gemm> = {}): Gemm => {
  const memory = (dtype: "f32" | "bf16"): Scratch => ({ kind: "scratch", dtype, elements: 1 })
  return { layout, a: memory("bf16"), b: memory("bf16"), c: memory(layout === "tn" ? "f32" : "bf16"), M, N, K, order: "any", ...more }
}
const h200 = { ...HOPPER, units: 132 }
const kernelsOf = (given: Gemm, on: GpuTarget): string[] => (gemm(given, on).flat() as Launch[]).map(({ variant }) => variant)

test("products go by PTX where the device has it, and only there", () => {
  const forward = asked("nt", 65536, 2304, 768, { order: "forward", bias: asked("tn", 1, 1, 1).c })
  expect(kernelsOf(forward, h200)).toEqual(["ptx_matmul_ntp_bf16_256x192_a3b5f6_bias"])
  expect(kernelsOf(asked("nn", 65536, 2304, 768), h200)).toEqual(["ptx_matmul_nn_bf16_256x192_a3b5f6"])
  expect(kernelsOf({ ...forward, N: 50257, ldc: 50264 }, h200)).toEqual(["ptx_matmul_nt_bf16_256x192_a3b5f6_bias"])
  expect(kernelsOf(forward, { ...h200, ptx: false }).join()).not.toContain("ptx")
})

test("the tile is what is fastest: a flat one for few columns or rows far apart, one whose results wait, two widths by lists", () => {
  const nn = (M: number, N: number, K: number, more: Partial<Gemm> = {}) =>
    kernelsOf(asked("nn", M, N, K, more), h200).map((name) => name.replace("ptx_matmul_nn_bf16_", ""))
  expect(nn(65536, 768, 3072)).toEqual(["128x384_a2b7f12"])
  expect(nn(8448, 768, 50304)).toEqual(["128x384_a2b7f12"])
  expect(nn(65536, 3072, 768, { factor: asked("nn", 1, 1, 1).c })).toEqual(["256x192_a3b5f6_factor"])
  expect(nn(16384, 1024, 4096)).toEqual(["256x192d_a3b5f6"])
  expect(nn(8192, 8192, 8192)).toEqual(["256x192_a3b5f6"])
})

test("with 227 KiB for a block the tiles are deep: results wait where they can", () => {
  const room = { ...h200, ptxRoom: ROOM }
  const named = (given: Gemm) => kernelsOf(given, room).map((name) => name.replace("ptx_matmul_", ""))
  const bias = asked("tn", 1, 1, 1).c
  const forward = asked("nt", 65536, 3072, 768, { order: "forward", bias })
  expect(named(forward)).toEqual(["ntp_bf16_128x256l_s4_bias"])
  expect(named({ ...forward, activation: "gelu_tanh", slope: asked("nt", 1, 1, 1).c })).toEqual(["ntp_bf16_128x256l_s4_gelu_tanh_slope"])
  expect(named({ ...forward, activation: "gelu_tanh" })).toEqual(["ntp_bf16_128x256_s4_gelu_tanh"])
  expect(named({ ...forward, N: 50257, ldc: 50264 })).toEqual(["nt_bf16_128x256_s4_bias"])
  expect(named(asked("nn", 65536, 3072, 768, { factor: asked("nn", 1, 1, 1).c }))).toEqual(["nn_bf16_128x256l_s4_factor"])
  const into = asked("tn", 1, 1, 1).c as never as Tensor
  const sums = ptxGemmLaunches(asked("tn", 2304, 768, 65536), room, { into, beta: 0 })!.flat() as Launch[]
  expect(sums.map(({ variant }) => variant)).toEqual(["ptx_matmul_tn_f32_256x192_s4_sums", "matmul_combine_spans.f32"])
  expect(kernelsOf(forward, { ...h200, ptxRoom: 49152 })).toEqual(kernelsOf(forward, h200))
})

test("an activation's bits do not depend on the number of rows: without a slope all go by PTX", () => {
  for (const M of [1, 8, 16, 17, 40, 64, 65, 100, 300, 16384])
    expect(kernelsOf(asked("nt", M, 3072, 768, { order: "forward", activation: "gelu_tanh" }), h200).join()).toContain("ptx")
  for (const given of [{ M: 8 }, { M: 8, N: 3076, activation: "gelu_tanh" as const }, { M: 40, N: 3076, activation: "gelu_tanh" as const }])
    expect(kernelsOf(asked("nt", given.M, given.N ?? 3072, 768, { order: "forward", ...given }), h200).join()).not.toContain("ptx")
})

test("a device with Hopper's chip and the extension has PTX, unless HELIOS_DISABLE_PTX is 1", () => {
  const shape = { m: 16, n: 16, k: 16, a: 1000141000, result: 1, scope: 3, invocations: 0 }
  const facts = (name: string, extensions: readonly string[]) =>
    ({ name, extensions, bfloat16Matrix: 1, matrixShapes: [shape] }) as unknown as VulkanFacts
  const hasPtx = (name: string, ...extensions: string[]) => targetOf(facts(name, extensions)).ptx
  for (const name of ["NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA GH200 480GB"]) expect(hasPtx(name, "VK_NVX_binary_import")).toBe(true)
  for (const name of ["NVIDIA L4", "NVIDIA B200", "llvmpipe"]) expect(hasPtx(name, "VK_NVX_binary_import")).toBe(false)
  expect(hasPtx("NVIDIA H200")).toBe(false)
  process.env.HELIOS_DISABLE_PTX = "1"
  expect(hasPtx("NVIDIA H200", "VK_NVX_binary_import")).toBe(false)
  delete process.env.HELIOS_DISABLE_PTX
})

test("a weight's gradient is split so that every processor has a tile", () => {
  const { way } = ptxWayOf(asked("tn", 2304, 768, 65536), h200)!
  expect(way.splits).toBe(3) // 36 tiles three times, and 24 processors for the rest
  expect(Math.ceil((36 * way.rest) / way.span)).toBe(24)
  expect((2048 - way.rest) / 3).toBeGreaterThan(way.span)
  expect(ptxWayOf(asked("tn", 768, 768, 65536), h200)!.way).toMatchObject({ splits: 11, rest: 0 })
  expect(ptxWayOf(asked("tn", 5120, 1280, 8192), h200)!.way).toMatchObject({ splits: 0, rest: 256, span: 272 })
  const groups = (ptxGemmLaunches(asked("tn", 5120, 1280, 8192), h200)!.flat() as Launch[]).map((one) => one.groups[0])
  expect(groups.slice(0, 2)).toEqual([120, 132]) // of 140 tiles 120 are whole, the others cut along K
  expect(kernelsOf(asked("tn", 2304, 768, 65536), h200)).toEqual(["ptx_matmul_tn_f32_256x192_a3b5f6", "matmul_combine_spans.f32"])
  expect(kernelsOf(asked("tn", 64, 64, 64), h200).join()).not.toContain("ptx")
})

test("the sums of dy's columns come with the product where it has parts", () => {
  const into = asked("tn", 1, 1, 1).c as never as Tensor
  const variants = (...[M, N, K]: readonly [number, number, number]) =>
    ptxGemmLaunches(asked("tn", M, N, K), h200, { into, beta: 0 })?.map((one) => (one as Launch).variant)
  expect(variants(2304, 768, 16384)).toEqual(["ptx_matmul_tn_f32_256x192_a3b5f6_sums", "matmul_combine_spans.f32"])
  expect(variants(50304, 768, 8192)).toBeUndefined()
})

test("rows that are not aligned to 16 bytes, and factors in f32, go another way", () => {
  expect(ptxWayOf(asked("nt", 4096, 4096, 4100), h200)).toBeUndefined()
  expect(ptxWayOf(asked("nt", 4096, 4096, 4096, { a: asked("tn", 1, 1, 1).c }), h200)).toBeUndefined()
})
