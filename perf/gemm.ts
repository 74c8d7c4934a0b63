/**
 * Speed of matrix products on the first Vulkan device, by all ways of doing them:
 *   bun perf/gemm.ts --train [--only=REGEX] [--path=ptx|nv2|khr|none …] [--chosen] [--check] [--whole=RUNS] [--sweep] [--compile=SECONDS] [--warm=MS]
 * Sets of shapes: --train (a training step of gpt2-124m, one of shakespeare-char, and 4096³), --large, --bar (what a peer is compared by), --wide,
 * --sums, --decode, --edges, --tiny (to try this program). All pipelines are compiled first, on threads. Then, shape by shape, 300 ms of back-to-back submits
 * (--warm) bring the clocks up and every way is timed in the same recording, without the host. Lines, best first: path tile/lanes gGROUP sSPLITS (t1:
 * one step of K in straight code; +REST/SPAN: k steps dealt out; bFROM/TILE: columns from there on by another tile; nCOLUMNS: a list with so many narrow
 * columns), TFLOP/s by the median time between the device's timestamps, and their range; * marks the way that the product takes. The table at the end has
 * for each shape the best way and the chosen one. --check then compares 24 elements of each way with f64, in units of what rounding allows (must be ≤ 1), and
 * prints a hash of 4,096 elements of c: ways with equal hashes add in the same order. Products of few rows have another b in each run, so that it
 * comes from memory as in generation, and their lines tell bytes per second. --only matches the line's beginning, --chosen leaves out all other ways.
 * --sweep adds the other tiles in PTX, and the widest without lines asked for ahead. --whole compares all of c and slope by PTX with the best other
 * way's, and its bits with those of so many more runs.
 */
import { parseArgs } from "node:util"
import { fewTileName } from "../shaders/ptx-few-tile.ts"
import { type DeviceBuffer, Driver, HOST, LOCAL, type Recording } from "../src/gpu-driver.ts"
import { findGpus } from "../src/gpu-info.ts"
import { ptxOf } from "../src/gpu-module.ts"
import { triedTarget } from "../src/gpu-room.ts"
import { vulkan } from "../src/native-vulkan.ts"
import { activate } from "../src/op-activation.ts"
import { gemm } from "../src/op-matmul-gpu.ts"
import { launchesOf, TILES, tensorTile, type Way, wayOf } from "../src/op-matmul-matrix.ts"
import { ptxGemmLaunches, type RowSums } from "../src/op-matmul-ptx.ts"
import { fewLaunches, fewTiles } from "../src/op-matmul-ptx-few.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import { isSkinny, skinnyGemm } from "../src/op-matmul-skinny.ts"
import type { GpuTarget, Launch, Launches, Memory, Scratch, Table } from "../src/program.ts"
import { cellBytes, dynamicBytes, MOST_DYNAMIC } from "../src/ptx.ts"
import { type Kernel, type PackEntry, pack, pushBytes, readPack } from "../src/spirv.ts"
import type { Tensor } from "../src/tensor.ts"
import { compileAll, type Job } from "./gemm-compile.ts"
import { checkWhole, Maps, ptxWays } from "./gemm-ptx.ts"
import { SHAPES, type Shape } from "./gemm-shapes.ts"

const began = performance.now()
const { values: flags } = parseArgs({
  options: {
    ...(Object.fromEntries(Object.keys(SHAPES).map((name) => [name, { type: "boolean", default: false }])) as Record<
      keyof typeof SHAPES,
      { type: "boolean"; default: boolean }
    >),
    only: { type: "string", default: "" },
    path: { type: "string", multiple: true, default: ["ptx", "nv2", "khr"] },
    sweep: { type: "boolean", default: false },
    whole: { type: "string", default: "" },
    chosen: { type: "boolean", default: false },
    check: { type: "boolean", default: false },
    compile: { type: "string", default: "40" },
    warm: { type: "string", default: "300" },
  },
})

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
const target = triedTarget(info)
const driver = new Driver(info, undefined)
const v = vulkan()
console.log(
  `${facts.name}, ${facts.driver} ${facts.driverInfo}, subgroups of ${facts.subgroupSize}, ${target.units} units, matrix ${target.matrix}${target.ptx ? ` and ptx in ${target.ptxRoom ?? MOST_DYNAMIC} bytes` : ""}`,
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
const sizeOf = { f32: 4, bf16: 2 } as const
const bytesOf = ({ dtype, elements }: Scratch) => elements * (dtype === "bf16" ? 2 : 4)

type Module = PackEntry & { readonly module: Uint32Array<ArrayBuffer> }
const modules = new Map<string, Module>()
function moduleOf({ kernel, variant }: Launch): Module {
  if (!modules.has(variant)) for (const [name, entry] of readPack(pack([kernel as Kernel]))) modules.set(name, entry)
  return modules.get(variant)!
}

/** Pipelines by variant and constants: those wanted, then those made. */
const wanted = new Map<string, Job>()
const made = new Map<string, Awaited<ReturnType<typeof compileAll>>[number]>()
const keyOf = ({ variant, constants }: Launch): string => `${variant} ${JSON.stringify(constants)}`
function want(launch: Launch): void {
  const key = keyOf(launch)
  if (wanted.has(key)) return
  if ("text" in launch.kernel) {
    const { name } = launch.kernel
    const entry = ptxOf(launch.kernel)
    const code = entry.code ?? new TextEncoder().encode(`${entry.text}\0`)
    wanted.set(key, { gpu: driver.gpu as unknown as number, code, entry: name, push: 0, constants: new Uint32Array(1), subgroup: -1 })
    return
  }
  const module = moduleOf(launch)
  const constants = new Uint32Array(Math.max(1, ...module.constants.map(({ id }) => id + 1)))
  const floats = new Float32Array(constants.buffer)
  for (const { name, id, type, value } of module.constants) {
    const given = id === 0 ? target.subgroupSize : (launch.constants[name] ?? value)
    if (type === "f32") floats[id] = given
    else constants[id] = given
  }
  const subgroup = module.constants.some(({ id }) => id === 0) ? target.subgroupSize : 0
  const push = module.push.reduce((sum, { type }) => sum + (type === "address" ? 8 : 4), 0)
  wanted.set(key, { gpu: driver.gpu as unknown as number, code: module.module, push, constants, subgroup })
}

interface Named {
  readonly name: string
  readonly launches: Launches
  readonly isChosen: boolean
}
const flat = (launches: Launches): readonly (readonly Launch[])[] =>
  launches.map((step) => (Array.isArray(step) ? (step as Launch[]) : [step as Launch]))

/** A shape, and stand-ins for its matrices. */
class Bench {
  readonly title: string
  readonly request: Gemm
  readonly ways: readonly Named[]
  readonly rowSums: RowSums | undefined

  constructor(readonly shape: Shape) {
    const { layout, M, N, K, out, what } = shape
    this.title = `${layout} ${M}×${N}×${K} ${out}${what === undefined ? "" : ` ${what}`}`
    const ldc = Math.ceil(N / 8) * 8
    const bias = stand("f32", N)
    const [kept, c] = [stand(out, M * ldc), stand(out, M * ldc)]
    // Rows of logits are padded; so are the gradients of them.
    const lda = layout === "nt" ? K : Math.ceil((layout === "tn" ? M : K) / 8) * 8
    this.request = {
      layout,
      M,
      N,
      K,
      lda,
      ldc,
      isPadded: true,
      a: stand("bf16", lda * (layout === "tn" ? K : M)),
      b: stand("bf16", N * K),
      c,
      order: layout === "nt" ? "forward" : "any",
      ...(what?.startsWith("bias") && { bias }),
      ...(what === "bias gelu" && { activation: "gelu_tanh" as const, slope: kept }),
      ...(what === "factor" && { factor: kept }),
      ...(what === "beta" && { beta: 1, addend: kept }),
    }
    this.rowSums = what === "sums" ? { into: stand("f32", M) as never as Tensor, beta: 0 } : undefined
    this.ways = [...waysOf(this.request, this.rowSums)]
  }
}

/** Tiles of cooperative matrix 2 that are tried beside those in use. */
const MORE = [
  tensorTile(128, 192, 64, 256, 1),
  tensorTile(32, 64, 128, 128, 1),
  tensorTile(16, 64, 128, 64, 1),
  tensorTile(16, 32, 128, 64, 1),
]

/** The ways to do a product that are worth timing. */
function* waysOf(request: Gemm, rowSums: RowSums | undefined): Generator<Named> {
  const shortOf = (launches: Launches) =>
    JSON.stringify(
      flat(launches).flatMap((step) =>
        step.map(({ variant, groups, push, buffers }) => [variant, groups, push, buffers.parts !== undefined]),
      ),
    )
  const taken = shortOf((rowSums === undefined ? gemm(request, target) : ptxGemmLaunches(request, target, rowSums)) ?? [])
  for (const way of rowSums === undefined ? allWays(request) : summing(request, rowSums)) {
    const isChosen = shortOf(way.launches) === taken
    if (isChosen || !flags.chosen) yield { ...way, isChosen }
  }
}

/** With sums of a's rows there are only those of PTX. */
function* summing(request: Gemm, rowSums: RowSums): Generator<Named> {
  for (const way of ptxWays(request, target, flags.sweep, rowSums)) yield { ...way, isChosen: false }
}

function* allWays(request: Gemm): Generator<Named> {
  if (flags.path.includes("ptx"))
    for (const tile of fewTiles(request, target))
      yield { name: `ptx few ${fewTileName(tile)}`, launches: fewLaunches(request, tile, target), isChosen: false }
  const skinny = isSkinny(request) ? skinnyGemm(request, target) : undefined
  if (skinny !== undefined) yield { name: "skinny", launches: skinny, isChosen: false }
  const { M, N, K } = request
  const nameOf = ({ path, tile, splits, group }: Way) => `${path} ${tile.name} g${group} s${splits}`
  if (flags.path.includes("ptx")) for (const way of ptxWays(request, target, flags.sweep)) yield { ...way, isChosen: false }
  const chosen = wayOf(request, target)
  const portable = () => gemm(request, { ...target, matrix: "none" })
  const isOdd = [M, N, K].some((size) => size % 8 !== 0)
  if (chosen === undefined || isOdd || flags.path.includes("none")) yield { name: "portable", launches: portable(), isChosen: false }
  const seen = new Set<string>()
  if (chosen !== undefined) {
    seen.add(nameOf(chosen))
    yield { name: nameOf(chosen), launches: launchesOf(request, chosen, target), isChosen: false }
  }
  if (flags.chosen) return
  for (const path of flags.path as (GpuTarget["matrix"] | "ptx")[]) {
    if (path === "none" || path === "ptx" || target.matrix === "none" || (path === "nv2" && target.matrix !== "nv2")) continue
    for (const tile of [...TILES[path], ...(path === "nv2" ? MORE : [])]) {
      const best = wayOf(request, { ...target, matrix: path }, [tile])
      // Tiles far too large or small for the shape say nothing.
      if (best === undefined || tile.rows > 2 * M || tile.columns > 2 * N || (tile.rows < 64 && M > 256)) continue
      const isWhole = (splits: number) => K % (splits * tile.depth) === 0 && K / splits / tile.depth >= 4
      const others =
        request.order === "any" ? [best.splits, ...(best.splits > 1 ? [2 * best.splits, best.splits / 2].filter(isWhole) : [])] : [1]
      for (const splits of others) {
        const way = { ...best, splits }
        if (seen.has(nameOf(way))) continue
        seen.add(nameOf(way))
        yield { name: nameOf(way), launches: launchesOf(request, way, target), isChosen: false }
      }
      if (path === "nv2" && isOdd) {
        const launches = launchesOf(request, best, target)
        const once = flat(launches).map((step) =>
          step.map((launch) => ("TURNS" in launch.constants ? { ...launch, constants: { ...launch.constants, TURNS: 1 } } : launch)),
        )
        yield { name: `${nameOf(best)} t1`, launches: once, isChosen: false }
      }
    }
  }
}

/** Memory that all shapes share: a, b and what is read by the epilogue filled with the pattern, c, and sums of splits. */
class Arena {
  readonly #places: { bytes: number; buffer: DeviceBuffer }[] = []

  /** Buffer number `index`, at least so large. */
  at(index: number, bytes: number): DeviceBuffer {
    const known = this.#places[index]
    if (known !== undefined && known.bytes >= bytes) return known.buffer
    if (known !== undefined) known.buffer.free()
    const buffer = driver.buffer(bytes, LOCAL, 0, "a matrix")
    this.#places[index] = { bytes, buffer }
    driver.now("filling", (commands) => {
      for (let at = 0; at < bytes; at += PATTERN * 2)
        v.gpu_copy(driver.gpu, commands, pattern.handle, 0, buffer.handle, at, Math.min(PATTERN * 2, bytes - at))
    })
    return buffer
  }
}
const arena = new Arena()
const maps = new Maps(driver)

/** A way's dispatches, ready to be recorded; undefined where a pipeline is missing. */
function prepare({ launches }: Named, addressOf: (memory: Memory | undefined) => number): ((commands: Recording) => void) | string {
  const steps = flat(launches).map((step) =>
    step.map((launch) => {
      const isTable = (memory: Memory | undefined): memory is Table => memory !== undefined && "kind" in memory && memory.kind === "table"
      const placed = (memory: Memory | undefined) => (isTable(memory) ? maps.place(memory, addressOf) : addressOf(memory))
      const buffers = Object.fromEntries(Object.entries(launch.buffers).map(([name, memory]) => [name, placed(memory)]))
      const beta = Object.values(launch.params)[0] as keyof typeof LIVE | undefined
      const values = { ...launch.push, ...buffers, params: live.address + (beta === undefined ? 0 : LIVE[beta]) }
      const ptx = "text" in launch.kernel ? launch.kernel : undefined
      const bytes = ptx === undefined ? pushBytes(moduleOf(launch).push, values) : cellBytes(ptx.cells, values)
      return { pipeline: made.get(keyOf(launch))!, bytes, groups: launch.groups, ptx }
    }),
  )
  const error = steps.flat().find(({ pipeline }) => pipeline.error !== "")?.pipeline.error
  if (error !== undefined) return error
  return (commands) => {
    for (const step of steps) {
      for (const { pipeline, bytes, groups, ptx } of step) {
        if (ptx === undefined) v.gpu_dispatch(driver.gpu, commands, pipeline.handle, pipeline.layout, bytes, bytes.length, ...groups)
        else
          v.gpu_launch(
            driver.gpu,
            commands,
            pipeline.handle,
            BigInt64Array.from(groups, BigInt),
            ptx.threads,
            dynamicBytes(ptx),
            bytes,
            ptx.cells.length,
          )
      }
      v.gpu_kernel_barrier(driver.gpu, commands)
    }
  }
}

interface Row {
  readonly title: string
  readonly best: string
  readonly bestRate: number
  readonly chosen: string
  readonly chosenRate: number
}

/** Rows of a step of generation at most; the bytes that weights must have to come from memory instead of the L2 cache. */
const [FEW, COLD, MOST_COPIES] = [64, 2e8, 24]

/** Times all ways of a shape, then checks them if asked. */
function measure({ title, shape, request, ways, rowSums }: Bench): Row {
  const { M, N, K } = shape
  const known = new Map<Memory, DeviceBuffer>()
  const place = (memory: Memory, index: number) => known.set(memory, arena.at(index, bytesOf(memory as Scratch)))
  place(request.a, 0)
  // Weights of few rows come from memory, as layer follows layer: each run has a b of its own.
  const bytesB = bytesOf(request.b as Scratch)
  const copies = M <= FEW ? Math.max(1, Math.min(MOST_COPIES, Math.ceil(COLD / bytesB))) : 1
  known.set(request.b, arena.at(1, bytesB * copies))
  place(request.c, 2)
  if (request.bias !== undefined) place(request.bias, 3)
  const read = request.factor ?? request.addend
  if (read !== undefined) place(read, 4)
  if (request.slope !== undefined) place(request.slope, 5)
  if (rowSums !== undefined) place(rowSums.into as never as Scratch, 7)
  // Sums of splits: those of one way at a time.
  const others = ways.flatMap(({ launches }) => flat(launches).flatMap((step) => step.flatMap(({ buffers }) => Object.values(buffers))))
  const sums = others.filter(
    (memory): memory is Scratch => memory !== undefined && "kind" in memory && memory.kind === "scratch" && !known.has(memory),
  )
  const room = arena.at(6, Math.max(4, ...sums.map(bytesOf)))
  for (const memory of sums) known.set(memory, room)
  const addressIn = (copy: number) => (memory: Memory | undefined) =>
    memory === undefined ? 0 : known.get(memory)!.address + (memory === request.b ? copy * bytesB : 0)
  const flops = 2 * M * N * K
  const runs = Math.max(6, Math.min(30, Math.round(0.004 / (flops / 2e14))))
  const ready: { way: Named; record: (commands: Recording, run?: number) => void }[] = []
  const failed: string[] = []
  for (const way of ways) {
    const records = Array.from({ length: copies }, (_, copy) => prepare(way, addressIn(copy)))
    const [first] = records
    if (typeof first === "string") failed.push(`${title.padEnd(38)} ${way.name.padEnd(34)} ${first}`)
    else ready.push({ way, record: (commands, run = 0) => (records[run % copies] as typeof first)!(commands) })
  }
  const count = ready.length * runs * 2
  const ticks = new BigUint64Array(count)
  const warm = driver.record((commands) => {
    for (const { record } of ready) record(commands)
  })
  const timed = driver.record((commands) => {
    v.gpu_timestamp(driver.gpu, commands, -count)
    // In turns: what changes with time, as clocks do, changes alike for all.
    for (let i = 0; i < runs; i++)
      ready.forEach(({ record }, which) => {
        v.gpu_timestamp(driver.gpu, commands, 2 * (which * runs + i))
        record(commands, i + 1)
        v.gpu_timestamp(driver.gpu, commands, 2 * (which * runs + i) + 1)
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
  const results = ready.map(({ way, record }, which) => {
    const seconds = Array.from({ length: runs }, (_, i) => {
      const at = 2 * (which * runs + i)
      return (Number(ticks[at + 1]! - ticks[at]!) * facts.timestampFemtoseconds) / 1e15
    }).sort((a, b) => a - b)
    const median = seconds[runs >> 1]!
    return { way, record, rate: flops / median / 1e12, median, least: seconds[0]!, most: seconds.at(-1)! }
  })
  results.sort((a, b) => b.rate - a.rate)
  const bytes = M <= FEW ? 2 * K * (M + N) + sizeOf[shape.out] * M * N : 0
  for (const { way, record, rate, median, least, most } of results) {
    const range = `${(1e6 * least).toFixed(1)}…${(1e6 * most).toFixed(1)} µs`
    let verdict = ""
    if (flags.check) {
      const c = known.get(request.c)!
      driver.now("a check", (commands) => {
        v.gpu_fill(driver.gpu, commands, c.handle, 0, c.bytes, 0)
        v.gpu_barrier(driver.gpu, commands)
        record(commands)
      })
      const { worst, hash } = check(shape, request, c)
      verdict = ` ${worst <= 1 ? `error ${worst.toFixed(3)}` : `WRONG by ${worst.toFixed(1)}`} ${hash}`
    }
    const other = results.find((result) => !result.way.name.startsWith("ptx")) ?? results.find((result) => result.way !== way)
    if (flags.whole !== "" && way.name.startsWith("ptx") && other !== undefined) {
      const elements = shape.M * request.ldc!
      for (const [name, memory] of Object.entries({ c: request.c, slope: request.slope }))
        if (memory !== undefined)
          verdict += ` ${name} ${checkWhole(driver, known.get(memory)!, elements, shape.out, record, other.record, Number(flags.whole))}`
    }
    const moved = bytes === 0 ? "" : ` ${(1e6 * median).toFixed(2)} µs ${(bytes / median / 1e9).toFixed(0).padStart(5)} GB/s`
    const line = `${title.padEnd(38)} ${way.name.padEnd(34)} ${rate.toFixed(1).padStart(6)} TFLOP/s ${range.padStart(22)}${moved}`
    console.log(`${line}${verdict}${way.isChosen ? " *" : ""}`)
  }
  for (const line of failed) console.log(line)
  const [best, chosen] = [results[0], results.find(({ way }) => way.isChosen)]
  return {
    title,
    best: best?.way.name ?? "none",
    bestRate: best?.rate ?? 0,
    chosen: chosen?.way.name ?? "failed",
    chosenRate: chosen?.rate ?? 0,
  }
}

/** A few elements of c against f64 in units of the error allowed, and a hash of its first. */
function check({ layout, M, N, K, out, what }: Shape, { lda = 0, ldc = 0 }: Gemm, c: DeviceBuffer): { worst: number; hash: string } {
  const size = sizeOf[out]
  const floatAt = (i: number): number => {
    word[0] = bits[(2 * i) % PATTERN]! | (bits[(2 * i + 1) % PATTERN]! << 16)
    return float[0]!
  }
  const download = (element: number, count: number): Float64Array => {
    const from = Math.floor((element * size) / 4) * 4
    const bytes = Math.ceil(((element + count) * size) / 4) * 4 - from // no byte beyond c, where nothing may be
    driver.now("a download", (commands) => v.gpu_copy(driver.gpu, commands, c.handle, from, staging.handle, 0, bytes))
    const view = new DataView(staging.view(0, bytes))
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
    for (let k = 0; k < K; k++) sum += at(layout === "tn" ? k * lda + m : m * lda + k) * at(layout === "nt" ? n * K + k : k * N + n)
    if (what?.startsWith("bias")) sum += floatAt(n)
    // Rounded before the activation, maybe to the other neighbour: its value is off by as much, as no slope is much larger than 1.
    const around = what === "bias gelu" ? 2 ** -8 * Math.abs(sum) : 0
    if (what === "bias gelu") sum = activate("gelu_tanh", fromBf16(toBf16(sum)))
    if (what === "factor") sum *= at(m * ldc + n)
    if (what === "beta") sum += floatAt(m * ldc + n)
    // Matrix instructions cut bits off the sum, always downwards: where all products have one sign, that adds up.
    const allowed = (out === "bf16" ? 2 ** -8 : 2e-9 * K) * Math.abs(sum) + around + 2e-5 * Math.sqrt(K)
    const [seen] = download(m * ldc + n, 1)
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

const shapes = (Object.keys(SHAPES) as (keyof typeof SHAPES)[]).flatMap((name): readonly Shape[] => (flags[name] ? SHAPES[name] : []))
const benches = shapes.map((shape) => new Bench(shape)).filter(({ title }) => new RegExp(flags.only).test(title))
for (const { ways } of benches) for (const { launches } of ways) for (const launch of flat(launches).flat()) want(launch)
const start = performance.now()
const jobs = [...wanted]
const compiled = await compileAll(
  jobs.map(([, job]) => job),
  Number(flags.compile),
)
jobs.forEach(([key], i) => made.set(key, compiled[i]!))
const slowest = compiled.reduce((most, { seconds }, i) => (seconds > compiled[most]!.seconds ? i : most), 0)
const whole = ((performance.now() - start) / 1000).toFixed(1)
console.log(`${jobs.length} pipelines in ${whole} s, slowest ${compiled[slowest]?.seconds.toFixed(1)} s: ${jobs[slowest]?.[0]}`)
const rows = benches.map(measure)
console.log("")
for (const { title, best, bestRate, chosen, chosenRate } of rows)
  console.log(
    `${title.padEnd(38)} ${best.padEnd(34)} ${bestRate.toFixed(0).padStart(4)}   chosen ${chosen.padEnd(34)} ${chosenRate.toFixed(0).padStart(4)}`,
  )
console.log(`${((performance.now() - began) / 1000).toFixed(1)} s`)
process.exit(0)
