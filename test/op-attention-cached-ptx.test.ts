/** Attention over pages in PTX, run on the CPU: against the SPIR-V kernel in the simulator, sequences of all lengths, pages in any order, NaN behind the end. */
import { expect, test } from "bun:test"
import { attentionCachedLaunches } from "../src/op-attention-gpu.ts"
import type { Launch, Memory } from "../src/program.ts"
import { type Kernel, simulate } from "../src/spirv.ts"
import type { Tensor } from "../src/tensor.ts"
import { fromBf16, HOPPER, seedFrom, toBf16, uniforms } from "./bf16.ts"
import { runPtxLaunch } from "./ptx-launch.ts"
import type { Timing } from "./ptx-run.ts"

const [D, PAGE] = [64, 64]

/** Positions before the new one by sequence; negative: an empty slot. */
function run(lengths: readonly number[], H: number, timing: Timing): void {
  const random = uniforms(5)
  const B = lengths.length
  const maxPages = Math.max(...lengths.map((length) => Math.floor(Math.max(0, length) / PAGE) + 1)) + 1
  const P = B * maxPages
  const order = Array.from({ length: P }, (_, i) => (i * 13 + 3) % P) // 13 and P have no common factor here
  expect(new Set(order).size).toBe(P)
  const tensor = (name: string, dtype: Tensor["dtype"], ...shape: number[]): Tensor =>
    ({ id: 0, name, dtype, shape, role: "state" }) as unknown as Tensor
  const inputs = {
    qkv: tensor("qkv", "bf16", B, 3 * H * D),
    kPages: tensor("kPages", "bf16", P, H, PAGE, D),
    vPages: tensor("vPages", "bf16", P, H, PAGE, D),
    pages: tensor("pages", "i32", B, maxPages),
    lengths: tensor("lengths", "i32", B),
    counts: tensor("counts", "i32", B),
  }
  const y = tensor("y", "bf16", B, H * D)
  const halves = (count: number, scale: number) => Uint16Array.from({ length: count }, () => toBf16(random() * scale))
  const qkv = halves(B * 3 * H * D, 2)
  const cached = ["kPages", "vPages"].map(() => halves(P * H * PAGE * D, 1))
  lengths.forEach((length, b) => {
    // behind the newest position nothing is a number
    for (let p = Math.max(0, length); p < maxPages * PAGE; p++)
      for (let h = 0; h < H; h++)
        for (const memory of cached)
          memory.fill(
            0x7fc0,
            ((order[b * maxPages + Math.floor(p / PAGE)]! * H + h) * PAGE + (p % PAGE)) * D,
            ((order[b * maxPages + Math.floor(p / PAGE)]! * H + h) * PAGE + (p % PAGE) + 1) * D,
          )
  })
  const results = [true, false].map((ptx) => {
    const bytes = new Map<Memory, Uint8Array<ArrayBuffer>>([
      [inputs.qkv, new Uint8Array(qkv.slice().buffer)],
      [inputs.kPages, new Uint8Array(cached[0]!.slice().buffer)],
      [inputs.vPages, new Uint8Array(cached[1]!.slice().buffer)],
      [inputs.pages, new Uint8Array(Int32Array.from(order).buffer)],
      [inputs.lengths, new Uint8Array(Int32Array.from(lengths, (length) => Math.max(0, length)).buffer)],
      [inputs.counts, new Uint8Array(Int32Array.from(lengths, (length) => (length < 0 ? 0 : 1)).buffer)],
      [y, new Uint8Array(new Uint16Array(B * H * D).fill(0x7fc0).buffer)],
    ])
    const attrs = { T: 1, nHead: H, nKvHead: H, headDim: D, scale: 0.125, pageSize: PAGE }
    for (const launch of attentionCachedLaunches(inputs, y, attrs, { ...HOPPER, ptx }).flat() as Launch[]) {
      expect("text" in launch.kernel).toBe(ptx)
      if (ptx) {
        runPtxLaunch(
          launch,
          (memory) => bytes.get(memory)!,
          (value) => value as number,
          timing,
          seedFrom(random),
        )
        continue
      }
      const { variant, groups, push, params, constants, kernel } = launch
      const buffers = Object.fromEntries(Object.entries(launch.buffers).map(([name, memory]) => [name, bytes.get(memory as Memory)!]))
      simulate(
        kernel as unknown as Kernel<Record<never, never>>,
        { variant, grid: groups, buffers, push, params, constants, subgroupSize: 32 } as never,
      )
    }
    return bytes
  })
  const [ours, theirs] = results as [Map<Memory, Uint8Array<ArrayBuffer>>, Map<Memory, Uint8Array<ArrayBuffer>>]
  for (const pages of [inputs.kPages, inputs.vPages]) expect(Buffer.compare(ours.get(pages)!, theirs.get(pages)!)).toBe(0)
  const [a, b] = [new Uint16Array(ours.get(y)!.buffer), new Uint16Array(theirs.get(y)!.buffer)]
  let different = 0
  a.forEach((bits, i) => {
    if (bits === b[i]) return
    different++ // a division of f32 that rounds otherwise shows in few results, by one step of bf16
    expect(Math.abs(fromBf16(bits) - fromBf16(b[i]!))).toBeLessThanOrEqual(2 ** -7 * Math.abs(fromBf16(b[i]!)))
  })
  expect(different).toBeLessThanOrEqual(a.length / 200)
}

test("short and empty sequences, several heads for each block", () => run([0, 63, -1, 64], 2, "random"), 300_000)
test("long sequences go round the rings, and their lengths differ", () => run([640, 70, 300], 2, "late"), 300_000)
test("more blocks of keys than a warp has lanes", () => run([33 * 64 + 5, 3], 2, "random"), 300_000)
