/** The products of perf/libcuda.ts that need more room than Vulkan gives, run on the CPU; and what the script says where there is no CUDA. */
import { expect, test } from "bun:test"
import { join } from "node:path"
import { type DeepTile, deepBlocks, deepGemm } from "../perf/libcuda-gemm.ts"
import { type CudaWay, DEEP, deepWay, RINGS, ringWay, SIZES } from "../perf/libcuda-ways.ts"
import { fromBf16, HOPPER, toBf16, uniforms } from "./bf16.ts"
import { GlobalMemory } from "./ptx-memory.ts"
import { runPtx, type Timing } from "./ptx-run.ts"

const random = uniforms(3)

/** Worst error of c in units of what rounding to bf16 allows; infinite where an element was not written. */
function worst({ kernel, blocks, cells }: CudaWay, [M, N, K]: readonly [number, number, number], timing: Timing): number {
  const memory = new GlobalMemory()
  const place = (words: Uint16Array | BigUint64Array) => BigInt(memory.place(new Uint8Array(words.buffer)))
  const numbers = (count: number) => Uint16Array.from({ length: count }, () => toBf16(random()))
  const [a, b, c] = [numbers(M * K), numbers(N * K), new Uint16Array(M * N).fill(0x7fc0)]
  const bytes = new BigUint64Array(cells([place(a), place(b), place(c)], (words) => place(BigUint64Array.from(words))).buffer)
  const parameters = Object.fromEntries(kernel.cells.map(({ name }, i) => [name, bytes[i]!]))
  const floats = Object.fromEntries(kernel.cells.map(({ name }) => [name, 0]))
  runPtx({ ...kernel, blocks: [blocks, 1, 1], parameters, floats, memory, timing, shared: kernel.sharedBytes })
  let most = 0
  for (let m = 0; m < M; m++)
    for (let n = 0; n < N; n++) {
      let sum = 0
      for (let k = 0; k < K; k++) sum += fromBf16(a[m * K + k]!) * fromBf16(b[n * K + k]!)
      const error = Math.abs(fromBf16(c[m * N + n]!) - sum) / (2 ** -8 * Math.abs(sum) + 2e-5 * Math.sqrt(K))
      most = Number.isNaN(error) ? Number.POSITIVE_INFINITY : Math.max(most, error)
    }
  return most
}

test.each([
  ["late, edges, one block after another's tiles", { units: 2, chunks: 2, stages: 2, cluster: 1, isLate: true }, [300, 288, 320], "random"],
  ["at once, fewer stages than steps", { units: 1, chunks: 4, stages: 3, cluster: 1, isLate: false }, [200, 288, 256], "late"],
] as const)("a product with a ring beyond 48 KiB: %s", (_, tile, size, timing) => {
  expect(worst(deepWay(size, tile, 2)!, size, timing)).toBeLessThanOrEqual(1)
})

test("the generator in use with a long ring", () => {
  expect(worst(ringWay([300, 224, 512], RINGS[1]!, HOPPER), [300, 224, 512], "random")).toBeLessThanOrEqual(1)
})

test("every way has all that its launch needs", () => {
  for (const size of SIZES)
    for (const way of [...RINGS.map((tile) => ringWay(size, tile, HOPPER)), ...DEEP.map((tile) => deepWay(size, tile, 132)!)])
      expect(way.cells([256n, 512n, 768n], () => 1024n)).toHaveLength(8 * way.kernel.cells.length)
})

test("clusters of two need two tiles below each other", () => {
  const tile: DeepTile = { units: 1, chunks: 4, stages: 4, cluster: 2, isLate: false }
  expect(deepBlocks(tile, [256, 256, 256], 132, 8)).toBe(2)
  expect(deepBlocks(tile, [128, 256, 256], 132, 8)).toBeUndefined()
  expect(deepGemm(tile).text).toContain("multicast::cluster")
})

test.each([
  [["--library=/nowhere/libcuda.so.1"], 4, "/nowhere/libcuda.so.1 not found"],
  [["--ruds=3"], 2, "Unknown option '--ruds'"],
  [["--runs=many"], 2, "--runs=many: expected a number"],
] as const)("the script says what it lacks: %s", async (args, code, text) => {
  const run = Bun.spawn([process.execPath, join(import.meta.dir, "../perf/libcuda.ts"), ...args], { stdout: "pipe", stderr: "pipe" })
  expect(await new Response(run.stderr).text()).toContain(text)
  expect(await run.exited).toBe(code)
})
