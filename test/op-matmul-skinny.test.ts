/** Matrix products of few rows: in the kernel simulator the same bits as by big tiles, for every number of rows, edge and epilogue. */
import { expect, test } from "bun:test"
import { SKINNY_ROWS } from "../shaders/matmul-skinny.ts"
import { checkCase, linear } from "../src/op.ts"
import { gemm } from "../src/op-matmul-gpu.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { GpuTarget, Launch, Op, Scratch } from "../src/program.ts"
import { simulatedDevice } from "./gpu-simulated.ts"

const target = (matrix: "nv2" | "khr"): GpuTarget => ({
  subgroupSize: 32,
  matrix,
  ptx: false,

  hasMatrixFunctions: true,
  units: 132,
  sharedBytes: 49152,
})
const SLOW = 300_000

for (const path of ["khr", "nv2"] as const) {
  test(
    `${path}: a row alone, among few and among many is the same`,
    () => {
      for (const [N, K, out] of [
        [80, 264, "bf16"],
        [33, 136, "f32"],
        [200, 600, "f32"],
      ] as const) {
        const rowsOf = (M: number) => {
          const opCase = { inputs: { x: [M, K], w: [N, K], b: [N] }, attrs: { activation: "gelu_tanh", out } }
          const { bits, worst } = checkCase(simulatedDevice(32, path), { op: linear as Op, opCase, index: 0, act: "bf16", beta: 0 })
          expect(worst, `${M} rows`).toBeLessThanOrEqual(1)
          return bits.get("out.y") as Uint8Array
        }
        const all = rowsOf(SKINNY_ROWS + 7)
        for (const M of N === 80 ? [1, 5, 16, 17, 33, 64] : [3]) {
          const some = rowsOf(M)
          expect(Buffer.from(some).equals(Buffer.from(all.subarray(0, some.length))), `${M} rows, ${N} columns`).toBe(true)
        }
      }
    },
    SLOW,
  )
}

test("which kernel: few rows have their own, many where no other takes them; sizes that it cannot read go elsewhere", () => {
  const memory: Scratch = { kind: "scratch", dtype: "bf16", elements: 0 }
  const nameOf = (M: number, N: number, K: number, path: "nv2" | "khr", order: Gemm["order"] = "forward") =>
    (gemm({ layout: "nt", a: memory, b: memory, c: memory, M, N, K, order }, target(path))[0] as Launch).kernel.name
  expect(nameOf(1, 768, 768, "khr")).toBe("matmul_skinny_16x16x256")
  expect(nameOf(17, 50257, 768, "nv2")).toBe("matmul_skinny_32x64x64")
  expect(nameOf(64, 768, 3072, "nv2")).toBe("matmul_skinny_64x16x128")
  expect(nameOf(65, 768, 3072, "nv2")).toMatch(/^matmul_(matrix|tensor)_nt/)
  expect(nameOf(65, 50257, 768, "khr")).toBe("matmul_skinny_64x64x64")
  expect(nameOf(65, 50257, 768, "nv2")).toStartWith("matmul_tensor_nt")
  for (const M of [1, 65]) expect(nameOf(M, 64, 60, "khr")).toStartWith("matmul_")
  expect(nameOf(1, 768, 60, "khr")).not.toStartWith("matmul_skinny")
  expect(nameOf(64, 768, 768, "khr", "any")).toStartWith("matmul_matrix")
})
