/**
 * Speed of matrix products on the first Vulkan device, tile by tile: bun perf/gemm.ts [--only=REGEX] [--path=nv2|khr|none …] [--chosen] [--ms=100].
 * For a machine without Bun: bun perf/gemm.ts --build=FILE writes one executable that takes the same flags.
 * A line per way of doing a product: layout M×N×K type what, path tile/lanes gGROUP sSPLITS, TFLOP/s by the median time between the device's
 * timestamps after 100 ms of running, its range, the worst of 24 elements against f64 in units of what rounding allows (must be ≤ 1), and a hash of
 * 4,096 elements of c: ways with equal hashes add in the same order. * marks the way that the product takes. --only matches the line's beginning,
 * --chosen leaves out all other ways. At 4096³ modules with unroll hints and another way to store bf16 are tried too.
 */
import { parseArgs } from "node:util"
import type { BuildInfo } from "../src/base-build.ts"
import { type DeviceBuffer, Driver, HOST, LOCAL, type Recording } from "../src/gpu-driver.ts"
import { findGpus, targetOf } from "../src/gpu-info.ts"
import { nativeLibraryPath } from "../src/native-load.ts"
import { vulkan, vulkanError } from "../src/native-vulkan.ts"
import { activate, activateDerivative } from "../src/op-activation.ts"
import { dtypeOf } from "../src/op-gpu.ts"
import { gemm } from "../src/op-matmul-gpu.ts"
import { launchesOf, TILES, type Tile, type Way, wayOf } from "../src/op-matmul-matrix.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { GpuTarget, Launch, Launches, Memory, Scratch } from "../src/program.ts"
import { type PackEntry, pack, pushBytes, readPack } from "../src/spirv.ts"

const { values: flags } = parseArgs({
  options: {
    build: { type: "string" },
    only: { type: "string", default: "" },
    path: { type: "string", multiple: true, default: ["nv2", "khr"] },
    chosen: { type: "boolean", default: false },
    ms: { type: "string", default: "100" },
  },
})
if (flags.build !== undefined) {
  const info: BuildInfo = { version: "perf", commit: "perf", target: "linux-x64", compiler: "", bun: Bun.version }
  const [library, outfile] = [nativeLibraryPath(), flags.build]
  await Bun.build({
    entrypoints: [import.meta.path],
    target: "bun",
    define: { ALPHA_BUILD: JSON.stringify(info) },
    loader: { ".so": "file" },
    external: ["alpha:kernel-pack"],
    plugins: [{ name: "native", setup: (build) => void build.onResolve({ filter: /^alpha:native-library$/ }, () => ({ path: library })) }],
    compile: { outfile },
  })
  process.exit(0)
}

/** Elements of the pattern that fills a and b; odd, so that rows differ. */
const PATTERN = 4_000_037
const word = new Uint32Array(1)
const float = new Float32Array(word.buffer)
const toBf16 = (x: number): number => {
  float[0] = x
  return (word[0]! + 0x7fff + ((word[0]! >>> 16) & 1)) >>> 16
}
const fromBf16 = (bits: number): number => {
  word[0] = bits << 16
  return float[0]!
}
let seed = 1
const random = () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
  return seed / 2 ** 32
}
const bits = Uint16Array.from({ length: PATTERN }, () => toBf16(2 * random() - 1))
const values = Float32Array.from(bits, fromBf16)

const info = findGpus().usable[0]
if (info === undefined) throw new Error(`no Vulkan device: ${findGpus().problems.join("; ")}`)
const { facts } = info
const target = targetOf(facts)
const driver = new Driver(info, undefined)
const v = vulkan()
console.log(
  `${facts.name}, ${facts.driver} ${facts.driverInfo}, subgroups of ${facts.subgroupSize}, ${target.units} units, matrix ${target.matrix}`,
)
for (const s of facts.matrixShapes.filter(({ a, result }) => a === 1000141000 && result === 1))
  console.log(`bf16 ${s.m}×${s.n}×${s.k}, scope ${s.scope}${s.invocations > 0 ? `, granularity at ${s.invocations} lanes` : ""}`)

const staging = driver.buffer(PATTERN * 2, HOST, 0, "staging")
new Uint16Array(staging.view(0, PATTERN * 2)).set(bits)
const pattern = driver.buffer(PATTERN * 2, LOCAL, 0, "pattern")
driver.now("upload", (commands) => v.gpu_copy(driver.gpu, commands, staging.handle, 0, pattern.handle, 0, PATTERN * 2))
const LIVE = { 0: 0, 1: 16, 0.5: 32 } as const
const live = driver.buffer(64, HOST, 0, "live scalars")
for (const [value, at] of Object.entries(LIVE)) new Float32Array(live.view(at, 4))[0] = Number(value)

/** Stands for a tensor in launches. */
const stand = (dtype: "f32" | "bf16", elements: number): Scratch => ({ kind: "scratch", dtype, elements })
const bytesOf = ({ dtype, elements }: Scratch) => elements * (dtype === "bf16" ? 2 : 4)

type Module = PackEntry & { readonly module: Uint32Array<ArrayBuffer> }
interface Pipeline {
  readonly handle: bigint
  readonly layout: bigint
  readonly module: Module
}
const modules = new Map<string, Module>()
function moduleOf({ kernel, variant }: Launch): Module {
  if (!modules.has(variant)) for (const [name, entry] of readPack(pack([kernel]))) modules.set(name, entry)
  return modules.get(variant)!
}
type Words = Uint32Array<ArrayBuffer>

/** The instructions of a module, each with its first word. */
function* instructions(words: Words): Generator<readonly number[]> {
  for (let at = 5; at < words.length; at += words[at]! >>> 16) yield [...words.subarray(at, at + (words[at]! >>> 16))]
}
const moduleFrom = (words: Words, body: readonly (readonly number[])[]): Words =>
  Uint32Array.from([...words.subarray(0, 5), ...body.flat()])
const [CAPABILITY, FLOAT_TYPE, CONSTANT, MATRIX_TYPE, LOOP_MERGE] = [17, 22, 43, 4456, 246]

/** Gives all loops another loop control: the operands of OpLoopMerge from its third on. */
const loops =
  (...control: number[]) =>
  (words: Words) =>
    moduleFrom(
      words,
      [...instructions(words)].map((instruction) =>
        (instruction[0]! & 0xffff) === LOOP_MERGE
          ? [((3 + control.length) << 16) | LOOP_MERGE, instruction[1]!, instruction[2]!, ...control]
          : instruction,
      ),
    )

/**
 * Stores bf16 from a matrix of use A: some drivers list f32 only as the type of accumulators, so that a bf16 accumulator is outside the rules
 * (VUID-RuntimeSpirv-cooperativeMatrixFlexibleDimensions-10165).
 */
function storeAsA(words: Words): Words {
  const body = [...instructions(words)]
  const bf16 = body.find(([head, , bits]) => (head! & 0xffff) === FLOAT_TYPE && bits === 16)![1]
  const use = (number: number) => body.find(([head, , , value]) => (head! & 0xffff) === CONSTANT && value === number)![2]
  const isNarrow = ([head, , element, , , , of]: readonly number[]) => (head! & 0xffff) === MATRIX_TYPE && element === bf16 && of === use(2)
  return moduleFrom(words, [
    [(2 << 16) | CAPABILITY, 5431], // CooperativeMatrixConversionsNV
    ...body.map((given) => (isNarrow(given) ? [...given.slice(0, 6), use(0)!] : given)),
  ])
}

/** Changes to modules that are tried. */
const PATCHES = {
  "": (words: Words) => words,
  unroll: loops(1),
  "no-unroll": loops(2),
  "unroll-2": loops(0x100, 2),
  "unroll-4": loops(0x100, 4),
  "store-as-a": storeAsA,
} as const
type Patch = keyof typeof PATCHES

function pipelineOf(launch: Launch, patch: Patch): Pipeline {
  const module = moduleOf(launch)
  const code = PATCHES[patch](module.module)
  const words = new Uint32Array(Math.max(1, ...module.constants.map(({ id }) => id + 1)))
  const floats = new Float32Array(words.buffer)
  for (const { name, id, type, value } of module.constants) {
    const given = id === 0 ? target.subgroupSize : (launch.constants[name] ?? value)
    if (type === "f32") floats[id] = given
    else words[id] = given
  }
  const subgroup = module.constants.some(({ id }) => id === 0) ? target.subgroupSize : 0
  const push = module.push.reduce((sum, { type }) => sum + (type === "address" ? 8 : 4), 0)
  const out = new BigInt64Array(2)
  const entry = new TextEncoder().encode("main\0")
  if (Number(v.gpu_pipeline(driver.gpu, code, code.byteLength, entry, push, words, words.length, subgroup, out)) === 0)
    throw vulkanError("")
  return { handle: out[0]!, layout: out[1]!, module }
}

/** Launches as commands; memory by what stands for it. */
function prepare({ launches, patch }: Named, known: Map<unknown, number>, owned: DeviceBuffer[]) {
  const addressOf = (memory: Memory | undefined): number => {
    if (memory === undefined) return 0
    if (!known.has(memory)) {
      const buffer = driver.buffer(bytesOf(memory as Scratch), LOCAL, 0, "scratch")
      owned.push(buffer)
      known.set(memory, buffer.address)
    }
    return known.get(memory)!
  }
  const steps = launches.map((step) =>
    (Array.isArray(step) ? (step as Launch[]) : [step as Launch]).map((launch) => {
      const pipeline = pipelineOf(launch, patch)
      const { push } = pipeline.module
      const buffers = Object.fromEntries(Object.entries(launch.buffers).map(([name, memory]) => [name, addressOf(memory)]))
      const beta = Object.values(launch.params)[0] as keyof typeof LIVE | undefined
      const bytes = pushBytes(push, { ...launch.push, ...buffers, params: live.address + (beta === undefined ? 0 : LIVE[beta]) })
      return { pipeline, bytes, groups: launch.groups }
    }),
  )
  return {
    record(commands: Recording) {
      for (const step of steps) {
        for (const { pipeline, bytes, groups } of step)
          v.gpu_dispatch(driver.gpu, commands, pipeline.handle, pipeline.layout, bytes, bytes.length, ...groups)
        v.gpu_kernel_barrier(driver.gpu, commands)
      }
    },
    free() {
      for (const { pipeline } of steps.flat()) v.gpu_pipeline_free(driver.gpu, pipeline.handle, pipeline.layout)
    },
  }
}

interface Times {
  readonly median: number
  readonly least: number
  readonly most: number
}
/** Seconds of one run. */
function time(record: (commands: Recording) => void): Times {
  const measure = (runs: number): number[] => {
    const recording = driver.record((commands) => {
      v.gpu_timestamp(driver.gpu, commands, -2 * runs)
      for (let i = 0; i < runs; i++) {
        v.gpu_timestamp(driver.gpu, commands, 2 * i)
        record(commands)
        v.gpu_timestamp(driver.gpu, commands, 2 * i + 1)
      }
    })
    const ticks = new BigUint64Array(2 * runs)
    try {
      const until = performance.now() + (runs === 1 ? 0 : Number(flags.ms))
      do driver.wait(driver.submit(recording), "a product")
      while (performance.now() < until)
      v.gpu_timestamps(driver.gpu, 2 * runs, ticks)
    } finally {
      driver.freeRecording(recording)
    }
    return Array.from({ length: runs }, (_, i) => (Number(ticks[2 * i + 1]! - ticks[2 * i]!) * facts.timestampFemtoseconds) / 1e15)
  }
  const [first] = measure(1)
  const sorted = measure(Math.max(5, Math.min(50, Math.round(0.03 / Math.max(1e-6, first!))))).sort((a, b) => a - b)
  return { median: sorted[sorted.length >> 1]!, least: sorted[0]!, most: sorted.at(-1)! }
}

interface Shape {
  readonly layout: Gemm["layout"]
  readonly M: number
  readonly N: number
  readonly K: number
  readonly out: "f32" | "bf16"
  readonly what?: "bias gelu pre" | "derivative" | "beta" | "any"
}

/** One shape: its memory, filled; each way of doing it timed and checked. */
function bench(shape: Shape): void {
  const { layout, M, N, K, out, what } = shape
  const title = `${layout} ${M}×${N}×${K} ${out}${what === undefined ? "" : ` ${what}`}`
  if (!new RegExp(flags.only).test(title)) return
  const owned: DeviceBuffer[] = []
  const known = new Map<unknown, number>()
  const place = (dtype: "f32" | "bf16", elements: number, isFilled: boolean): { memory: Scratch; buffer: DeviceBuffer } => {
    const memory = stand(dtype, elements)
    const buffer = driver.buffer(bytesOf(memory), LOCAL, 0, "a matrix")
    owned.push(buffer)
    known.set(memory, buffer.address)
    driver.now("filling", (commands) => {
      if (!isFilled) v.gpu_fill(driver.gpu, commands, buffer.handle, 0, buffer.bytes, 0)
      else
        for (let at = 0; at < bytesOf(memory); at += PATTERN * 2)
          v.gpu_copy(driver.gpu, commands, pattern.handle, 0, buffer.handle, at, Math.min(PATTERN * 2, bytesOf(memory) - at))
    })
    return { memory, buffer }
  }
  try {
    const [a, b, c] = [place("bf16", M * K, true), place("bf16", N * K, true), place(out, M * N, false)]
    const request: Gemm = {
      layout,
      M,
      N,
      K,
      a: a.memory,
      b: b.memory,
      c: c.memory,
      order: layout === "nt" ? "forward" : "any",
      ...(what === "bias gelu pre" && {
        bias: place("f32", N, false).memory,
        activation: "gelu_tanh" as const,
        pre: place(out, M * N, false).memory,
      }),
      ...(what === "derivative" && { derivative: { activation: "gelu_tanh" as const, pre: place("bf16", M * N, true).memory } }),
      ...(what === "beta" && { beta: 0.5, addend: place("f32", M * N, false).memory }),
    }
    let best = { rate: 0, name: "" }
    for (const way of ways(request)) {
      const { name, isChosen } = way
      const prefix = `${title.padEnd(30)} ${name.padEnd(30)}`
      try {
        const prepared = prepare(way, known, owned)
        const { median, least, most } = time(prepared.record)
        const rate = (2 * M * N * K) / median / 1e12
        const { worst, hash } = check(shape, c.buffer)
        if (rate > best.rate && worst <= 1) best = { rate, name }
        const range = `${(1e3 * least).toFixed(3)}…${(1e3 * most).toFixed(3)} ms`
        const verdict = worst <= 1 ? `error ${worst.toFixed(3)}` : `WRONG by ${worst.toFixed(1)}`
        console.log(`${prefix} ${rate.toFixed(1).padStart(6)} TFLOP/s ${range.padStart(20)} ${verdict} ${hash}${isChosen ? " *" : ""}`)
        prepared.free()
        driver.now("clearing", (commands) => v.gpu_fill(driver.gpu, commands, c.buffer.handle, 0, c.buffer.bytes, 0))
      } catch (error) {
        console.log(`${prefix} ${(error as Error).message}`)
        if (/LOST|failed during/.test((error as Error).message)) process.exit(1)
      }
    }
    console.log(`${title.padEnd(30)} best: ${best.name} ${best.rate.toFixed(1)} TFLOP/s`)
  } finally {
    for (const buffer of owned) buffer.free()
  }
}

/** Tiles of cooperative matrix 2 that are tried beside those in use. */
const MORE: readonly (readonly [rows: number, columns: number, depth: number, lanes: number])[] = [
  [128, 256, 32, 256],
  [128, 256, 128, 256],
  [256, 128, 64, 256],
  [128, 192, 64, 256],
  [192, 128, 64, 256],
  [128, 128, 32, 256],
  [128, 128, 128, 256],
  [128, 128, 64, 128],
  [64, 256, 64, 256],
  [64, 256, 64, 128],
  [64, 128, 64, 256],
  [64, 128, 32, 128],
  [128, 64, 64, 128],
  [32, 128, 64, 128],
  [32, 64, 64, 128],
  [32, 64, 128, 64],
  [16, 128, 64, 64],
  [16, 64, 128, 64],
  [16, 32, 128, 64],
  [16, 32, 64, 32],
]

interface Named {
  readonly name: string
  readonly launches: Launches
  readonly patch: Patch
  readonly isChosen: boolean
}

/** The ways to do a product that are worth timing. */
function* ways(request: Gemm): Generator<Named> {
  const { M, N, K } = request
  const nameOf = ({ path, tile, splits, group }: Way) =>
    `${path} ${tile.rows}×${tile.columns}×${tile.depth}/${tile.lanes} g${group} s${splits}`
  for (const path of flags.path as GpuTarget["matrix"][]) {
    if (path === "none") {
      yield { name: "portable", launches: gemm(request, { ...target, matrix: "none" }), patch: "", isChosen: false }
      continue
    }
    if (target.matrix === "none" || (path === "nv2" && target.matrix !== "nv2")) continue
    const chosen = wayOf(request, { ...target, matrix: path })
    if (chosen === undefined) {
      console.log(`${request.layout} ${M}×${N}×${K}: not by ${path}`)
      continue
    }
    yield { name: nameOf(chosen), launches: launchesOf(request, chosen, target), patch: "", isChosen: true }
    if (flags.chosen) continue
    const seen = new Set([nameOf(chosen)])
    const extra: Tile[] = path === "nv2" ? MORE.map(([rows, columns, depth, lanes]) => ({ rows, columns, depth, lanes, rate: 0 })) : []
    for (const tile of [...TILES[path], ...extra]) {
      // Tiles far too large or small for the shape say nothing.
      const up = Math.ceil(M / tile.rows)
      if (tile.rows > 2 * M || (tile.rows < 64 && M > 256) || up * Math.ceil(N / tile.columns) > 200_000) continue
      const isSquare = M === N && N === K && TILES[path].includes(tile)
      const groups = [1, 8, 16, 32].filter((group) => up % group === 0 && (group === chosen.group || isSquare))
      const tiles = up * Math.ceil(N / tile.columns)
      const isFew = tiles < 2 * target.units && request.order === "any" && tile.rows * tile.columns >= 8192
      const filling = [1, 2, 3].map((turns) => Math.floor((turns * target.units) / tiles)).filter((splits) => splits > 0 && splits <= 32)
      for (const splits of isFew ? new Set([1, 2, 4, 8, 16, ...filling]) : [1]) {
        for (const group of groups.length === 0 ? [1] : groups) {
          const way: Way = { path, tile, splits, group }
          if (K / splits < 4 * tile.depth || seen.has(nameOf(way))) continue
          seen.add(nameOf(way))
          const launches = launchesOf(request, way, target)
          const isSample = group === 8 && M === 4096 && N === 4096 && TILES[path].includes(tile)
          for (const patch of (isSample ? Object.keys(PATCHES) : [""]) as Patch[]) {
            if (patch === "store-as-a" && (path !== "nv2" || dtypeOf(request.c) !== "bf16")) continue
            yield { name: [nameOf(way), patch].join(" ").trim(), launches, patch, isChosen: false }
          }
        }
      }
    }
  }
}

/** A few elements of c against f64 in units of the error allowed, and a hash of its first. */
function check({ layout, M, N, K, out, what }: Shape, c: DeviceBuffer): { worst: number; hash: string } {
  const size = out === "f32" ? 4 : 2
  const download = (element: number, count: number): Float64Array => {
    const from = Math.floor((element * size) / 4) * 4
    driver.now("a download", (commands) => v.gpu_copy(driver.gpu, commands, c.handle, from, staging.handle, 0, count * size + 4))
    const view = new DataView(staging.view(0, count * size + 4))
    const skip = element * size - from
    return Float64Array.from({ length: count }, (_, i) =>
      size === 4 ? view.getFloat32(skip + 4 * i, true) : fromBf16(view.getUint16(skip + 2 * i, true)),
    )
  }
  const at = (i: number): number => values[i % PATTERN]!
  let worst = 0
  for (let i = 0; i < 24; i++) {
    const [m, n] = i < 4 ? [i & 1 ? M - 1 : 0, i & 2 ? N - 1 : 0] : [Math.floor(random() * M), Math.floor(random() * N)]
    let sum = 0
    for (let k = 0; k < K; k++) sum += at(layout === "tn" ? k * M + m : m * K + k) * at(layout === "nt" ? n * K + k : k * N + n)
    if (what === "bias gelu pre") sum = activate("gelu_tanh", sum)
    if (what === "derivative") sum *= activateDerivative("gelu_tanh", at(m * N + n))
    const allowed = (out === "bf16" ? 2 ** -8 * Math.abs(sum) : 0) + 2e-5 * Math.sqrt(K)
    const [seen] = download(m * N + n, 1)
    const error = Math.abs(seen! - sum) / allowed
    worst = error <= worst ? worst : error // NaN is the worst
    if (Number.isNaN(error)) return { worst: Number.POSITIVE_INFINITY, hash: "NaN" }
  }
  let hash = 0x811c9dc5
  for (const value of download(0, Math.min(4096, M * N))) {
    float[0] = value
    hash = Math.imul(hash ^ word[0]!, 0x01000193) >>> 0
  }
  return { worst, hash: hash.toString(16).padStart(8, "0") }
}

for (const size of [4096, 8192]) for (const layout of ["nt", "nn", "tn"] as const) bench({ layout, M: size, N: size, K: size, out: "bf16" })
bench({ layout: "nt", M: 4096, N: 4096, K: 4096, out: "f32" })
/** Linear layers of gpt2-124m, in → out. */
const LAYERS = [
  [768, 2304],
  [768, 768],
  [768, 3072],
  [3072, 768],
  [768, 50304],
] as const
for (const rows of [65536, 16384]) {
  for (const [input, output] of LAYERS) {
    const isHead = output === 50304
    if (isHead && rows > 16384) continue // its logits are made in chunks of rows
    bench({ layout: "nt", M: rows, N: output, K: input, out: "bf16" })
    bench({ layout: "nn", M: rows, N: input, K: output, out: "bf16" })
    bench({ layout: "tn", M: output, N: input, K: rows, out: "f32" })
  }
}
for (const rows of [65536, 16384]) {
  bench({ layout: "nt", M: rows, N: 3072, K: 768, out: "bf16", what: "bias gelu pre" })
  bench({ layout: "nn", M: rows, N: 3072, K: 768, out: "bf16", what: "derivative" })
  bench({ layout: "tn", M: 3072, N: 768, K: rows, out: "f32", what: "beta" })
}
for (const rows of [1, 16, 64, 256, 1024]) {
  for (const [input, output] of LAYERS) bench({ layout: "nt", M: rows, N: output, K: input, out: "bf16" })
}
// Edges, and rows that are not aligned to 16 bytes.
bench({ layout: "nt", M: 1000, N: 50257, K: 768, out: "bf16" })
bench({ layout: "nn", M: 1000, N: 768, K: 50257, out: "bf16" })
bench({ layout: "tn", M: 50257, N: 768, K: 1000, out: "f32" })
bench({ layout: "nn", M: 333, N: 129, K: 77, out: "f32" })
