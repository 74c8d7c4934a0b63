/**
 * Speed of attention's kernels on the first Vulkan device, by every way of doing it: bun perf/attention-matrix.ts [--only=REGEX] [--tiny] [--way=REGEX]
 * [--dropout=P]. All pipelines are compiled first, on threads. Then, shape by shape, 300 ms of back-to-back submits bring the clocks up and each launch
 * of each way is timed in the same recording, without the host. Lines: ms by the median time between the device's timestamps, TFLOP/s (2 products
 * forward, 3 for dq, 4 for dk with dv, 2 and 3 for dv and dk alone, over half of T × T), and the relative L2 distance of y and dqkv from the portable kernels'.
 */
import { parseArgs } from "node:util"
import { type DeviceBuffer, Driver, HOST, LOCAL, type Recording } from "../src/gpu-driver.ts"
import { findGpus, targetOf } from "../src/gpu-info.ts"
import { vulkan } from "../src/native-vulkan.ts"
import { attentionBackwardLaunches, attentionLaunches } from "../src/op-attention-gpu.ts"
import { type PlainWay, trial } from "../src/op-attention-matrix.ts"
import type { GpuTarget, Launch, Launches, Memory } from "../src/program.ts"
import { type Kernel, type PackEntry, pack, pushBytes, readPack } from "../src/spirv.ts"
import type { Tensor } from "../src/tensor.ts"
import { compileAll, type Job } from "./gemm-compile.ts"

const began = performance.now()
const { values: flags } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    way: { type: "string", default: "" },
    tiny: { type: "boolean", default: false },
    dropout: { type: "string", default: "0" },
    compile: { type: "string", default: "30" },
    warm: { type: "string", default: "300" },
  },
})
const SHAPES = flags.tiny
  ? [{ B: 1, H: 2, K: 1, T: 70, D: 64 }]
  : [
      { B: 16, H: 12, K: 12, T: 1024, D: 64 },
      { B: 64, H: 6, K: 6, T: 256, D: 64 },
      { B: 4, H: 16, K: 16, T: 4096, D: 128 },
    ]
/** Ways to try, by head size. */
const TRIALS: Record<number, PlainWay[]> = {
  64: [0, 1, 2, 3].map((i) => ({ forward: Math.min(i, 2), queries: Math.min(i, 2), keys: i })),
  128: [0, 1, 2].map((i) => ({ forward: Math.min(i, 1), queries: Math.min(i, 1), keys: i })),
}

/** bf16 of uniform numbers in [−1, 1); odd, so that rows differ. */
const PATTERN = 4_000_037
const word = new Uint32Array(1)
const float = new Float32Array(word.buffer)
let seed = 1
const bits = Uint16Array.from({ length: PATTERN }, () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
  float[0] = seed / 2 ** 31 - 1
  return word[0]! >>> 16
})

const info = findGpus().usable[0]
if (info === undefined) throw new Error(`no Vulkan device: ${findGpus().problems.join("; ")}`)
const { facts } = info
const target = targetOf(facts)
const driver = new Driver(info, undefined)
const v = vulkan()
console.log(`${facts.name}, ${facts.driver} ${facts.driverInfo}, subgroups of ${facts.subgroupSize}, matrix ${target.matrix}`)
const staging = driver.buffer(PATTERN * 2, HOST, 0, "staging")
new Uint16Array(staging.view(0, PATTERN * 2)).set(bits)
const pattern = driver.buffer(PATTERN * 2, LOCAL, 0, "pattern")
driver.now("upload", (commands) => v.gpu_copy(driver.gpu, commands, staging.handle, 0, pattern.handle, 0, PATTERN * 2))
/** Live scalars, all 0. */
const live = driver.buffer(64, HOST, 0, "live scalars")

type Module = PackEntry & { readonly module: Uint32Array<ArrayBuffer> }
const modules = new Map<string, Module>()
function moduleOf({ kernel, variant }: Launch): Module {
  if (!modules.has(variant)) for (const [name, entry] of readPack(pack([kernel as Kernel]))) modules.set(name, entry)
  return modules.get(variant)!
}
const wanted = new Map<string, Job>()
const made = new Map<string, Awaited<ReturnType<typeof compileAll>>[number]>()
const keyOf = ({ variant, constants }: Launch): string => `${variant} ${JSON.stringify(constants)}`
function want(launch: Launch): void {
  const key = keyOf(launch)
  if (wanted.has(key)) return
  const module = moduleOf(launch)
  const constants = new Uint32Array(Math.max(1, ...module.constants.map(({ id }) => id + 1)))
  for (const { name, id, value } of module.constants) constants[id] = id === 0 ? target.subgroupSize : (launch.constants[name] ?? value)
  const subgroup = module.constants.some(({ id }) => id === 0) ? target.subgroupSize : 0
  const push = module.push.reduce((sum, { type }) => sum + (type === "address" ? 8 : 4), 0)
  wanted.set(key, { gpu: driver.gpu as unknown as number, code: module.module, push, constants, subgroup })
}

/** Stands for a tensor in launches. */
type Stand = Tensor & { readonly elements: number }
const stand = (dtype: "f32" | "bf16", ...shape: number[]): Stand =>
  ({ kind: "scratch", dtype, shape, elements: shape.reduce((a, b) => a * b, 1) }) as unknown as Stand
const bytesOf = (memory: Memory): number => {
  if ("kind" in memory && memory.kind === "table") return memory.values.length * 4
  const { dtype, elements } = memory as Stand
  return Math.ceil((elements * (dtype === "bf16" ? 2 : 4)) / 16) * 16
}
const flat = (launches: Launches): Launch[] => launches.flatMap((step) => step as Launch | Launch[])

interface Named {
  readonly name: string
  readonly launches: readonly Launch[]
}
type Shape = (typeof SHAPES)[number]

function bench({ B, H, K, T, D }: Shape) {
  const dropout = Number(flags.dropout)
  const attrs = { T, nHead: H, nKvHead: K, headDim: D, scale: 1 / Math.sqrt(D), dropout, site: 0 }
  const R = B * T
  const tensors = {
    qkv: stand("bf16", R, (H + 2 * K) * D),
    dy: stand("bf16", R, H * D),
    y: stand("bf16", R, H * D),
    lse: stand("f32", R, H),
    dqkv: stand("bf16", R, (H + 2 * K) * D),
  }
  const { qkv, dy, y, lse, dqkv } = tensors
  const none = { seed: undefined, step: undefined, row: undefined }
  const way = (name: string, of: GpuTarget, plain?: PlainWay): Named[] => {
    trial.way = plain
    const forward = attentionLaunches({ qkv, ...none }, { y, lse }, attrs, of)
    const backward = attentionBackwardLaunches({ qkv, y, lse, dy, ...none }, dqkv, attrs, of)
    trial.way = undefined
    return [{ name, launches: [...flat(forward), ...flat(backward)] }]
  }
  const isMatrix = target.matrix !== "none"
  const ways = [
    ...way("portable", { ...target, matrix: "none" }),
    ...(isMatrix ? (TRIALS[D] ?? []).flatMap((plain, i) => way(`khr ${i}`, { ...target, matrix: "khr" }, plain)) : []),
    ...(isMatrix && target.hasMatrixFunctions ? way("khr with functions", { ...target, matrix: "khr" }) : []),
    ...(facts.matrixTensors ? way("nv2", { ...target, matrix: "nv2" }) : []),
  ]
  return {
    title: `B ${B} H ${H} T ${T} D ${D}`,
    tensors,
    ways: ways.filter(({ name }) => name === "portable" || new RegExp(flags.way).test(name)),
  }
}

const buffers: DeviceBuffer[] = []
function bufferFor(memory: Memory, isFilled: boolean): DeviceBuffer {
  const bytes = Math.max(64, bytesOf(memory))
  const buffer = driver.buffer(bytes, LOCAL, 0, "a matrix")
  buffers.push(buffer)
  if (isFilled)
    driver.now("filling", (commands) => {
      for (let at = 0; at < bytes; at += PATTERN * 2)
        v.gpu_copy(driver.gpu, commands, pattern.handle, 0, buffer.handle, at, Math.min(PATTERN * 2, bytes - at))
    })
  if ("kind" in memory && memory.kind === "table") {
    new Uint32Array(staging.view(0, bytes)).set(memory.values as number[])
    driver.now("a table", (commands) => v.gpu_copy(driver.gpu, commands, staging.handle, 0, buffer.handle, 0, bytes))
    new Uint16Array(staging.view(0, PATTERN * 2)).set(bits)
  }
  return buffer
}

const productsOf = (name: string): number => {
  if (/delta|statistics|mask/.test(name)) return 0
  if (/backward_q/.test(name)) return 3
  if (/backward_kv/.test(name)) return 4
  if (/backward_k_/.test(name)) return 3
  return 2
}
const spread = (a: Float32Array, b: Float32Array): string => {
  let [far, norm] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    far += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(far / norm).toExponential(1)
}

function measure({ title, tensors, ways }: ReturnType<typeof bench>, { B, H, T, D }: Shape): void {
  const known = new Map<Memory, DeviceBuffer>()
  for (const t of Object.values(tensors)) known.set(t, bufferFor(t, t === tensors.qkv || t === tensors.dy))
  const addressOf = (memory: Memory | undefined): number => {
    if (memory === undefined) return 0
    if (!known.has(memory)) known.set(memory, bufferFor(memory, false))
    return known.get(memory)!.address
  }
  const most = Math.min(1 << 20, (tensors.y as Stand).elements)
  const read = (of: Tensor): Float32Array => {
    driver.now("a download", (commands) => v.gpu_copy(driver.gpu, commands, known.get(of)!.handle, 0, staging.handle, 0, most * 2))
    return new Float32Array(Uint32Array.from(new Uint16Array(staging.view(0, most * 2)), (b) => b << 16).buffer)
  }
  let reference: Float32Array[] | undefined
  const records: { name: string; kernel: string; record: (commands: Recording) => void }[] = []
  const errors = new Map<string, string>()
  for (const { name, launches } of ways) {
    const failed = launches.find((launch) => made.get(keyOf(launch))?.error !== "")
    if (failed !== undefined) {
      console.log(`${title}  ${name}: ${failed.variant}: ${made.get(keyOf(failed))?.error}`)
      continue
    }
    const own = launches.map((launch) => {
      const { push } = moduleOf(launch)
      const addresses = Object.fromEntries(Object.entries(launch.buffers).map(([of, memory]) => [of, addressOf(memory)]))
      const bytes = pushBytes(push, { ...launch.push, ...addresses, params: live.address })
      const { handle, layout } = made.get(keyOf(launch))!
      const record = (commands: Recording) => {
        v.gpu_dispatch(driver.gpu, commands, handle, layout, bytes, bytes.length, ...launch.groups)
        v.gpu_kernel_barrier(driver.gpu, commands)
      }
      return { name, kernel: launch.kernel.name, record }
    })
    driver.now("a check", (commands) => {
      for (const of of [tensors.y, tensors.dqkv, tensors.lse])
        v.gpu_fill(driver.gpu, commands, known.get(of)!.handle, 0, known.get(of)!.bytes, 0)
      v.gpu_barrier(driver.gpu, commands)
      for (const { record } of own) record(commands)
    })
    const seen = [tensors.y, tensors.dqkv].map(read)
    reference ??= seen
    errors.set(name, seen.map((values, i) => spread(values, reference![i]!)).join(" "))
    records.push(...own)
  }
  const product = B * T * (T + 1) * H * D
  const runs = 8
  const count = records.length * runs * 2
  const ticks = new BigUint64Array(count)
  const warm = driver.record((commands) => {
    for (const { record } of records) record(commands)
  })
  const timed = driver.record((commands) => {
    v.gpu_timestamp(driver.gpu, commands, -count)
    records.forEach(({ record }, which) => {
      record(commands)
      for (let i = 0; i < runs; i++) {
        v.gpu_timestamp(driver.gpu, commands, 2 * (which * runs + i))
        record(commands)
        v.gpu_timestamp(driver.gpu, commands, 2 * (which * runs + i) + 1)
      }
    })
  })
  const until = performance.now() + Number(flags.warm)
  let before = driver.submit(warm)
  while (performance.now() < until) {
    const next = driver.submit(warm) // the device never waits for the host
    driver.wait(before, title)
    before = next
  }
  driver.wait(driver.submit(timed), title)
  v.gpu_timestamps(driver.gpu, count, ticks)
  driver.freeRecording(warm)
  driver.freeRecording(timed)
  records.forEach(({ name, kernel }, which) => {
    const times = Array.from({ length: runs }, (_, i) => {
      const at = 2 * (which * runs + i)
      return (Number(ticks[at + 1]! - ticks[at]!) * facts.timestampFemtoseconds) / 1e12
    }).sort((a, b) => a - b)
    const ms = times[runs >> 1]!
    const products = productsOf(kernel)
    const rate = products === 0 ? "" : `${((products * product) / ms / 1e9).toFixed(1).padStart(6)} TFLOP/s`
    console.log(`${title}  ${name.padEnd(18)} ${kernel.padEnd(40)} ${ms.toFixed(3).padStart(8)} ms ${rate}`)
  })
  for (const [name, error] of errors) console.log(`${title}  ${name.padEnd(18)} from portable: y, dqkv ${error}`)
  for (const buffer of buffers.splice(0)) buffer.free()
}

const benches = SHAPES.map((shape) => ({ shape, made: bench(shape) })).filter(({ made: { title } }) => new RegExp(flags.only).test(title))
for (const {
  made: { ways },
} of benches)
  for (const { launches } of ways) for (const launch of launches) want(launch)
const start = performance.now()
const jobs = [...wanted]
const compiled = await compileAll(
  jobs.map(([, job]) => job),
  Number(flags.compile),
)
jobs.forEach(([key], i) => made.set(key, compiled[i]!))
console.log(`${jobs.length} pipelines in ${((performance.now() - start) / 1000).toFixed(1)} s`)
compiled.forEach(({ seconds }, i) => {
  if (seconds > 2) console.log(`  ${seconds.toFixed(1)} s: ${jobs[i]![0]}`)
})
for (const { shape, made: of } of benches) measure(of, shape)
console.log(`${((performance.now() - began) / 1000).toFixed(1)} s`)
process.exit(0)
