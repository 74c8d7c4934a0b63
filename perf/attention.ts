/**
 * Speed of attention on the first Vulkan device: bun perf/attention.ts [--only=REGEX] [--way=REGEX] [--chosen] [--runs=10] [--warm=500] [--peer=PYTHON].
 * --build=FILE writes an executable for a machine without Bun. Per shape: the portable kernels, matrices of subgroups, tiles of workgroups (--chosen: only
 * those in use), then PTX: TFLOP/s of forward and backward (2 and 5 products over half of T × T), each many times in one recording behind --warm milliseconds of
 * load, as clocks idle low; milliseconds of every launch; and the relative L2 distance of y and dqkv from those of the first way (bf16 rounding gives
 * about 3e-3). --peer: PyTorch's flash attention of the same shape beside it, and the ratio. Then decode over pages: µs and GB/s.
 */
import { writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { kernels } from "../shaders/kernels.ts"
import type { BuildInfo } from "../src/base-build.ts"
import { openGpu } from "../src/gpu.ts"
import { nativeLibraryPath } from "../src/native-load.ts"
import { attention, attentionBackward, attentionCached } from "../src/op.ts"
import { TENSOR_TILES, type TensorTile, type TensorTiles } from "../src/op-attention-tensor.ts"
import { type Device, plan, type Tracer, trace } from "../src/program.ts"
import { pack } from "../src/spirv.ts"
import type { Tensor } from "../src/tensor.ts"

const { values: flags } = parseArgs({
  options: {
    build: { type: "string" },
    only: { type: "string", default: "" },
    chosen: { type: "boolean", default: false },
    runs: { type: "string", default: "10" },
    warm: { type: "string", default: "500" },
    way: { type: "string", default: "" },
    peer: { type: "string", default: "" },
  },
})
if (flags.build !== undefined) {
  const info: BuildInfo = { version: "perf", commit: "perf", target: "linux-x64", compiler: "", bun: Bun.version }
  const embedded: Record<string, string> = {
    "alpha:native-library": nativeLibraryPath(),
    "alpha:kernel-pack": join(tmpdir(), "attention-kernels.pack"),
  }
  writeFileSync(embedded["alpha:kernel-pack"]!, pack(kernels))
  await Bun.build({
    entrypoints: [import.meta.path],
    target: "bun",
    define: { ALPHA_BUILD: JSON.stringify(info) },
    loader: { ".so": "file", ".pack": "file" },
    plugins: [{ name: "embed", setup: (build) => void build.onResolve({ filter: /^alpha:/ }, ({ path }) => ({ path: embedded[path]! })) }],
    compile: { outfile: flags.build },
  })
  process.exit(0)
}

/** Standard normals times `factor` as bf16 bits, the same for the same seed. */
function normals(count: number, seed: number, factor = 1): Uint16Array {
  let state = seed
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state + 1) / 2 ** 32
  }
  const pattern = Float32Array.from(
    { length: 65_521 },
    () => factor * Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random()),
  )
  const words = new Uint32Array(pattern.buffer)
  return Uint16Array.from({ length: count }, (_, i) => words[i % words.length]! >>> 16)
}
const fromBf16 = (bits: Uint16Array): Float32Array => new Float32Array(Uint32Array.from(bits, (b) => b << 16).buffer)
const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]!

/** A device on one of its paths: portable kernels, matrices of subgroups, tiles of workgroups, Hopper's own instructions. */
function open(path: "none" | "khr" | "nv2" | "ptx"): Device {
  process.env.HELIOS_MATRIX = path === "ptx" ? "nv2" : path
  process.env.HELIOS_DISABLE_PTX = path === "ptx" ? "0" : "1"
  return openGpu(0)
}

interface Run {
  /** Median milliseconds per kernel. */
  readonly ms: ReadonlyMap<string, number>
  /** Milliseconds of a run, many at once. */
  readonly whole: number
  readonly read: (name: string, most: number) => Float32Array
  free(): void
}

function run(
  device: Device,
  values: Readonly<Record<string, Uint16Array>>,
  inputs: Record<string, Int32Array>,
  body: (t: Tracer) => void,
): Run {
  const traced = plan(trace("attention", body))
  const state = device.state()
  state.ensure("end", "f32", [1])
  const compiled = device.compile(traced, state)
  for (const [name, given] of Object.entries(values)) state.write(name, given)
  const submitFor = (atLeast: number): number => {
    let count = 0
    const start = performance.now()
    do compiled.submit(inputs)
    while (++count < 4 || performance.now() - start < atLeast)
    state.read("end") // waits for all
    return (performance.now() - start) / count
  }
  submitFor(Number(flags.warm))
  const times = new Map<string, number[]>()
  for (let i = 0; i < Number(flags.runs); i++)
    for (const { kernel, ms } of compiled.profile(inputs).rows) {
      if (!times.has(kernel ?? "")) times.set(kernel ?? "", [])
      times.get(kernel ?? "")!.push(ms)
    }
  const whole = median(Array.from({ length: 5 }, () => submitFor(Number(flags.warm) / 5)))
  return {
    whole,
    ms: new Map([...times].map(([name, list]) => [name, median(list)])),
    read: (name, most) => fromBf16((state.read(name) as Uint16Array).subarray(0, most)),
    free() {
      compiled.free()
      state.free()
    },
  }
}

/** Lets outputs of the last node be read. */
function keep(t: Tracer, name: string, of: Tensor): Tensor {
  const made = t.state(name, of.dtype, of.shape)
  t.program.nodes.at(-1)!.outputs[name] = made
  return made
}

const SHAPES = [
  { B: 64, T: 1024, nHead: 12, nKvHead: 12, headDim: 64 },
  { B: 16, T: 1024, nHead: 12, nKvHead: 12, headDim: 64 },
  { B: 64, T: 256, nHead: 6, nKvHead: 6, headDim: 64 },
  { B: 8, T: 4096, nHead: 16, nKvHead: 4, headDim: 128 },
  { B: 8, T: 2048, nHead: 8, nKvHead: 8, headDim: 256 },
  { B: 64, T: 1000, nHead: 12, nKvHead: 12, headDim: 64 },
]
const tile = (WG: number, BR: number, BC: number): TensorTile => ({ WG, BR, BC })
const MORE = [
  tile(128, 64, 64),
  tile(256, 64, 64),
  tile(256, 128, 64),
  tile(128, 128, 64),
  tile(256, 128, 128),
  tile(128, 64, 32),
  tile(64, 64, 32),
  tile(64, 32, 32),
  tile(128, 32, 32),
  tile(256, 64, 32),
]

/** Times that an op comes in a program, so that launches follow each other as in a training step. */
const REPEATS = 8

/** Forward and backward of a shape; y and dqkv can be read from the second. */
function training(device: Device, { B, T, ...heads }: (typeof SHAPES)[number]): { forward: Run; backward: Run } {
  const [width, rows] = [(heads.nHead + 2 * heads.nKvHead) * heads.headDim, B * T]
  const attrs = { ...heads, T, scale: 1 / Math.sqrt(heads.headDim), dropout: 0, site: 0 }
  const values = { qkv: normals(rows * width, 1), dy: normals(rows * heads.nHead * heads.headDim, 2) }
  const given = (t: Tracer) => {
    const qkv = t.state("qkv", "bf16", [rows, width])
    const { y, lse } = attention({ qkv }, attrs)
    return { qkv, y: keep(t, "y", y), lse: keep(t, "lse", lse) }
  }
  const forward = run(device, { qkv: values.qkv }, {}, (t) => {
    for (let i = 0; i < REPEATS; i++) given(t)
  })
  const backward = run(device, values, {}, (t) => {
    const outputs = given(t)
    const dy = t.state("dy", "bf16", [rows, heads.nHead * heads.headDim])
    for (let i = 0; i < REPEATS; i++) keep(t, "dqkv", attentionBackward({ ...outputs, dy }, attrs).dqkv)
  })
  return { forward, backward }
}

function distance(a: Float32Array, b: Float32Array): number {
  let [far, norm] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    far += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(far / norm)
}

const short = (name: string) => name.replace(/^attention_?/, "").replace(/\.bf16$/, "") || "forward"
const devices = { ptx: open("ptx"), tiled: open("nv2"), subgroups: open("khr"), portable: open("none") }
console.log(devices.ptx.description)
const inUse = [...TENSOR_TILES]
for (const shape of SHAPES) {
  const { B, T, nHead, nKvHead, headDim } = shape
  const title = `B ${B} T ${T} H ${nHead}/${nKvHead} D ${headDim}`
  if (!new RegExp(flags.only).test(title)) continue
  const product = B * T * T * nHead * headDim
  const most = 2 ** 22
  let reference: { y: Float32Array; dqkv: Float32Array } | undefined
  let [forwardMs, bothMs] = [0, 0]
  const report = (device: Device, name: string) => {
    if (!new RegExp(flags.way).test(name)) return
    try {
      const { forward, backward } = training(device, shape)
      const [y, dqkv] = [backward.read("y", most), backward.read("dqkv", most)]
      reference ??= { y, dqkv }
      const parts = [...new Map([...forward.ms, ...backward.ms])].map(([kernel, ms]) => `${short(kernel)} ${ms.toFixed(3)}`)
      forwardMs = forward.whole / REPEATS
      const backwardMs = (backward.whole - forwardMs) / REPEATS
      bothMs = forwardMs + backwardMs
      const rates = [(2 * product) / forwardMs, (5 * product) / backwardMs, (7 * product) / bothMs].map((rate) => (rate / 1e9).toFixed(1))
      const whole = [forwardMs, backwardMs].map((ms) => ms.toFixed(3)).join(" + ")
      const far = [distance(y, reference.y), distance(dqkv, reference.dqkv)].map((d) => d.toExponential(1))
      console.log(
        `${title}  ${name.padEnd(12)} ${whole} ms  ${rates.join(" / ")} TFLOP/s  ${parts.join("  ")}  from first ${far.join(" ")}`,
      )
      for (const one of [forward, backward]) one.free()
    } catch (error) {
      console.log(`${title}  ${name.padEnd(12)} ${(error as Error).message}`)
    }
  }
  report(devices.portable, "portable")
  if (devices.subgroups.description !== devices.portable.description) report(devices.subgroups, "subgroups")
  if (devices.tiled.description.includes("NV cooperative")) {
    report(devices.tiled, "tiles in use")
    for (const one of flags.chosen ? [] : MORE) {
      const list = TENSOR_TILES as { most: number; tiles: TensorTiles }[]
      list.splice(0, list.length, { most: 256, tiles: { forward: one, queries: one, keys: one } })
      report(devices.tiled, `${one.BR}×${one.BC}/${one.WG}`)
      list.splice(0, list.length, ...inUse)
    }
  }
  if (devices.ptx.description.includes("PTX")) report(devices.ptx, "ptx")
  if (flags.peer === "" || bothMs === 0) continue
  const script = join(import.meta.dir, "attention-peer.py")
  const sizes = [B, T, nHead, nKvHead, headDim, Number(flags.warm)].map(String)
  const { BUN_BE_BUN: _, ...env } = process.env
  const peer = Bun.spawnSync([flags.peer, script, ...sizes], { stdout: "pipe", stderr: "pipe", env })
  if (peer.exitCode !== 0) throw new Error(peer.stderr.toString())
  for (const line of peer.stdout.toString().trim().split("\n")) {
    const { name, forward, backward } = JSON.parse(line) as { name: string; forward: number; backward: number }
    const rates = [(2 * product) / forward, (5 * product) / backward, (7 * product) / (forward + backward)]
    const told = `${forward.toFixed(3)} + ${backward.toFixed(3)} ms  ${rates.map((rate) => (rate / 1e9).toFixed(1)).join(" / ")} TFLOP/s`
    const ratios = [forward / forwardMs, backward / (bothMs - forwardMs), (forward + backward) / bothMs]
    console.log(
      `${title}  ${`torch ${name}`.padEnd(12)} ${told}  alpha is ${ratios.map((ratio) => ratio.toFixed(2)).join(" / ")} times as fast`,
    )
  }
}

for (const [B, positions] of [
  [1, 128],
  [1, 1023],
  [64, 1023],
  [8, 4095],
] as const) {
  const heads = { nHead: 12, nKvHead: 12, headDim: 64 }
  const title = `decode B ${B} at ${positions}`
  if (!new RegExp(flags.only).test(title)) continue
  const [width, pageSize] = [36 * 64, 16]
  const perSequence = Math.ceil((positions + 1) / pageSize)
  const cache = [B * perSequence, 12, pageSize, 64]
  const count = B * perSequence * 12 * pageSize * 64
  const values = { qkv: normals(B * width, 1), kPages: normals(count, 2), vPages: normals(count, 3) }
  const ints = {
    pages: Int32Array.from({ length: B * perSequence }, (_, i) => i),
    lengths: new Int32Array(B).fill(positions),
    counts: new Int32Array(B).fill(1),
  }
  const done = run(devices.ptx, values, ints, (t) => {
    const pages = t.input("pages", "i32", [B, perSequence])
    const [lengths, counts] = [t.input("lengths", "i32", [B]), t.input("counts", "i32", [B])]
    const [kPages, vPages] = [t.state("kPages", "bf16", cache), t.state("vPages", "bf16", cache)]
    const inputs = { qkv: t.state("qkv", "bf16", [B, width]), kPages, vPages, pages, lengths, counts }
    keep(t, "y", attentionCached(inputs, { ...heads, T: 1, scale: 0.125, pageSize }).y)
  })
  const ms = [...done.ms.values()].reduce((sum, part) => sum + part, 0)
  console.log(`${title}  ${(1e3 * ms).toFixed(1)} µs  ${((4 * count) / ms / 1e6).toFixed(0)} GB/s`)
  done.free()
}
