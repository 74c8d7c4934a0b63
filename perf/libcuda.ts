/**
 * What 48 KiB of shared memory per block cost: the products of perf/gemm.ts in PTX through libcuda, on memory that Vulkan has exported, where a block may have
 * 227 KiB and blocks form clusters. A measurement; alpha itself launches by Vulkan only.
 *   bun perf/libcuda.ts [--only=REGEX] [--ways=REGEX] [--rounds=3] [--runs=8] [--warm=200] [--peer=PYTHON] [--turns=200] [--library=libcuda.so.1]
 * y = x·wᵀ in bf16, per shape: the text in use by Vulkan (48 KiB, timestamps) and by CUDA (48 KiB, events); then, by CUDA, the same generator with longer rings,
 * and products of 64 of K a stage with both factors by descriptor (128x256_s4: its tile and stages; pairs: clusters of two that bring b for each other; late: a
 * tile stored under the next one). TFLOP/s by the median of all launches of `rounds` that go from way to way, and the range. Every c is poisoned first, and its
 * first and last 32 MiB must have the bits of Vulkan's, three times. --peer: cuBLAS by src/bench-peer.py on the same numbers. --turns: what it takes to hand over
 * between both APIs by a shared timeline semaphore.
 */
import { parseArgs } from "node:util"
import { ptxGemm } from "../shaders/ptx-gemm.ts"
import { PTX_TILE } from "../shaders/ptx-gemm-list.ts"
import { tileName } from "../shaders/ptx-gemm-tile.ts"
import { AlphaError, EXIT } from "../src/base-error.ts"
import { type DeviceBuffer, Driver, HOST, LOCAL, type Recording } from "../src/gpu-driver.ts"
import { findGpus, targetOf } from "../src/gpu-info.ts"
import { vulkan } from "../src/native-vulkan.ts"
import type { Table } from "../src/program.ts"
import type { PtxKernel } from "../src/ptx.ts"
import { compileAll } from "./gemm-compile.ts"
import { Maps } from "./gemm-ptx.ts"
import { Cuda, openCuda } from "./libcuda-driver.ts"
import { deepName } from "./libcuda-gemm.ts"
import { handOver } from "./libcuda-turn.ts"
import { type CudaWay, DEEP, deepWay, type Places, RINGS, ringWay, SIZES, type Size } from "./libcuda-ways.ts"

const [PATTERN, COMPARED, REPEATS] = [4_000_037, 2 ** 25, 3]

/** CUDA has the first KiB of shared memory to itself, Vulkan has not: the text is told where its own begins. */
const relocated = (text: string): string => text.replace("mov.b32 %r0, 0;", "mov.u32 %r0, memory;")

/** A product that is ready: starts it so many times between marks. */
interface Way {
  readonly name: string
  readonly told: string
  /** Milliseconds of each of so many launches. */
  readonly time: (runs: number) => readonly number[]
  readonly once: () => void
}

const text = (value: string) => ({ type: "string", default: value }) as const
const OPTIONS = {
  only: text(""),
  ways: text(""),
  rounds: text("3"),
  runs: text("8"),
  warm: text("200"),
  peer: text(""),
  turns: text("200"),
  library: text("libcuda.so.1"),
}
function readFlags() {
  try {
    return parseArgs({ options: OPTIONS }).values
  } catch (error) {
    return fail(new AlphaError((error as Error).message, { hint: `options: ${Object.keys(OPTIONS).join(", ")}`, code: EXIT.usage }))
  }
}
function fail(error: AlphaError): never {
  console.error(`error: ${error.message}${error.hint === undefined ? "" : `\n  hint: ${error.hint}`}`)
  process.exit(error.code)
}
const flags = readFlags()
const [rounds, runs, warm, turns] = [flags.rounds, flags.runs, flags.warm, flags.turns].map(Number) as [number, number, number, number]
for (const [name, value] of Object.entries({ rounds, runs, warm, turns }))
  if (!Number.isInteger(value) || value < (name === "rounds" || name === "runs" ? 1 : 0))
    fail(new AlphaError(`--${name}=${flags[name as keyof typeof OPTIONS]}: expected a number`, { code: EXIT.usage }))
const v = vulkan()

async function main(): Promise<void> {
  const calls = openCuda(flags.library)
  const gpu = findGpus().usable.find(({ facts }) => targetOf(facts).ptx)
  if (gpu === undefined)
    throw new AlphaError("no device takes PTX by Vulkan", { hint: "it must be a Hopper; see alpha doctor", code: EXIT.device })
  await measureAll(new Cuda(calls, gpu.facts.uuid), new Driver(gpu, undefined), targetOf(gpu.facts))
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!
const titleOf = (size: Size): string => size.join("×")

async function measureAll(cuda: Cuda, driver: Driver, target: ReturnType<typeof targetOf>): Promise<void> {
  const sizes = SIZES.filter((size) => new RegExp(flags.only).test(titleOf(size)))
  const isWanted = (name: string) => new RegExp(flags.ways).test(name)
  const maps = new Maps(driver)
  /** Memory of both APIs; a multiple of 2 MiB, as the driver rounds allocations. */
  const shared = (elements: number, what: string) => {
    const buffer = driver.buffer(Math.ceil((2 * elements) / 2 ** 21) * 2 ** 21, LOCAL, 0, what, true)
    return { buffer, cuda: cuda.memory(driver.memoryFd(buffer), buffer.bytes) }
  }
  const largest = (of: (size: Size) => number) => Math.max(...sizes.map(of))
  const a = shared(
    largest(([M, , K]) => M * K),
    "x",
  )
  const b = shared(
    largest(([, N, K]) => N * K),
    "w",
  )
  const c = shared(
    largest(([M, N]) => M * N),
    "y",
  )
  const host = driver.buffer(2 * COMPARED, HOST, HOST | 8, "a copy of y")
  fill(driver, [a.buffer, b.buffer])

  const kernel = ptxGemm({ layout: "ntp", out: "bf16", finish: "none", tile: PTX_TILE })
  const code = new TextEncoder().encode(`${kernel.text}\0`)
  const job = { gpu: driver.gpu as unknown as number, code, entry: kernel.name, push: 0, constants: new Uint32Array(1), subgroup: -1 }
  const [compiled] = await compileAll([job], 30)
  if (compiled?.error !== "") throw new AlphaError(`the text in use: ${compiled?.error}`, { code: EXIT.device })
  const loaded = new Map<string, ReturnType<Cuda["load"]>>()
  const load = ({ name, text, sharedBytes }: PtxKernel) => {
    const known = loaded.get(name) ?? cuda.load(relocated(text), name, sharedBytes)
    loaded.set(name, known)
    return known
  }

  /** A way through CUDA. */
  const byCuda = (name: string, { kernel, blocks, cluster, cells: cellsOf }: CudaWay): Way => {
    const made = load(kernel)
    const cells = cellsOf([a.cuda, b.cuda, c.cuda], (words) => cuda.words(words))
    const { threads, sharedBytes } = kernel
    const { count: all, launch } = cuda.prepare(made, { blocks, threads, sharedBytes, cluster, cells })
    const events = Array.from({ length: 2 * runs }, () => cuda.event())
    return {
      name,
      told: `${sharedBytes} bytes, ${made.spilledBytes} spilled, ${all} blocks`,
      time(count) {
        for (let i = 0; i < count; i++) {
          cuda.record(events[2 * i]!)
          launch()
          cuda.record(events[2 * i + 1]!)
        }
        cuda.wait()
        return Array.from({ length: count }, (_, i) => cuda.elapsed(events[2 * i]!, events[2 * i + 1]!))
      },
      once() {
        launch()
        cuda.wait()
      },
    }
  }

  const byVulkan = (size: Size): Way => {
    const { kernel, blocks, cells: cellsOf } = ringWay(size, PTX_TILE, target)
    const place = (words: readonly bigint[]) => BigInt(maps.place({ values: words } as unknown as Table, () => 0))
    const cells = cellsOf([a, b, c].map(({ buffer }) => BigInt(buffer.address)) as unknown as Places, place)
    const groups = BigInt64Array.of(BigInt(blocks), 1n, 1n)
    const record = (commands: Recording) => {
      v.gpu_launch(driver.gpu, commands, compiled.handle, groups, kernel.threads, kernel.sharedBytes, cells, kernel.cells.length)
      v.gpu_kernel_barrier(driver.gpu, commands)
    }
    const ticks = new BigUint64Array(2 * runs)
    return {
      name: "vulkan",
      told: `${kernel.sharedBytes} bytes`,
      time(count) {
        driver.now("products", (commands) => {
          v.gpu_timestamp(driver.gpu, commands, -2 * count)
          for (let i = 0; i < count; i++) {
            v.gpu_timestamp(driver.gpu, commands, 2 * i)
            record(commands)
            v.gpu_timestamp(driver.gpu, commands, 2 * i + 1)
          }
        })
        v.gpu_timestamps(driver.gpu, 2 * count, ticks)
        const unit = driver.info.facts.timestampFemtoseconds / 1e12
        return Array.from({ length: count }, (_, i) => Number(ticks[2 * i + 1]! - ticks[2 * i]!) * unit)
      },
      once: () => driver.now("a product", record),
    }
  }
  const waysOf = (size: Size): Way[] => {
    const made = [
      ...[PTX_TILE, ...RINGS].map((tile) => ({ name: tileName(tile), way: ringWay(size, tile, target) })),
      ...DEEP.map((tile) => ({ name: deepName(tile), way: deepWay(size, tile, target.units) })),
    ]
    const known = made.flatMap(({ name, way }) => (way === undefined ? [] : [{ name: `cuda ${name}`, way }]))
    return [byVulkan(size), ...known.filter(({ name }) => isWanted(name)).map(({ name, way }) => byCuda(name, way))]
  }

  /** The ends of c after a way has written it, all NaN before. */
  const result = (way: Way, [M, N]: Size): Uint8Array<ArrayBuffer> => {
    const bytes = 2 * M * N
    const part = Math.min(COMPARED, bytes)
    driver.now("poison", (commands) => v.gpu_fill(driver.gpu, commands, c.buffer.handle, 0, Math.ceil(bytes / 4) * 4, 0xffffffff))
    way.once()
    driver.now("a copy", (commands) => {
      v.gpu_copy(driver.gpu, commands, c.buffer.handle, 0, host.handle, 0, part)
      v.gpu_copy(driver.gpu, commands, c.buffer.handle, bytes - part, host.handle, COMPARED, part)
    })
    return new Uint8Array(Buffer.concat([new Uint8Array(host.view(0, part)), new Uint8Array(host.view(COMPARED, part))]))
  }

  const best = new Map<string, number>()
  for (const size of sizes) {
    const ways = waysOf(size)
    const wanted = result(ways[0]!, size)
    const right = ways.map((way) => Array.from({ length: REPEATS }, () => apart(result(way, size), wanted)))
    const until = performance.now() + warm
    while (performance.now() < until) for (const way of ways) way.time(1)
    const times = ways.map((): number[] => [])
    for (let round = 0; round < rounds; round++) ways.forEach((way, i) => times[i]!.push(...way.time(runs)))
    const flops = 2 * size[0] * size[1] * size[2]
    ways.forEach(({ name, told }, i) => {
      const rate = (ms: number) => (flops / ms / 1e9).toFixed(0)
      const wrong = right[i]!.filter((one) => one !== "")
      const verdict = wrong.length === 0 ? "bits equal" : `WRONG: ${wrong.join("; ")}`
      const range = `${rate(Math.max(...times[i]!))}…${rate(Math.min(...times[i]!))}`
      console.log(
        `${titleOf(size).padEnd(17)} ${name.padEnd(26)} ${rate(median(times[i]!)).padStart(4)} TFLOP/s ${range.padEnd(9)} ${verdict}  ${told}`,
      )
    })
    const fastest = Math.min(...times.slice(1).map(median))
    best.set(titleOf(size), flops / fastest / 1e9)
  }
  if (flags.peer !== "") beside(sizes, best)
  if (turns > 0) console.log(handOver(cuda, driver, turns))
  process.exit(0)
}

/** Fills buffers with what the bench of products has: multiples of 1/128 from −1 on. */
function fill(driver: Driver, buffers: readonly DeviceBuffer[]): void {
  const staging = driver.buffer(2 * PATTERN, HOST, 0, "a pattern")
  const halves = new Uint16Array(staging.view(0, 2 * PATTERN))
  const levels = Uint16Array.from(
    new Uint32Array(Float32Array.from({ length: 256 }, (_, i) => (i - 128) / 128).buffer),
    (word) => word >>> 16,
  )
  for (let i = 0; i < PATTERN; i++) halves[i] = levels[(Math.imul(i + 1, 2654435761) >>> 20) % 256]!
  driver.now("filling", (commands) => {
    for (const { handle, bytes } of buffers)
      for (let at = 0; at < bytes; at += 2 * PATTERN)
        v.gpu_copy(driver.gpu, commands, staging.handle, 0, handle, at, Math.min(2 * PATTERN, bytes - at))
  })
  staging.free()
}

/** How many bf16 differ, and where first; "" for none. */
function apart(seen: Uint8Array<ArrayBuffer>, wanted: Uint8Array<ArrayBuffer>): string {
  if (Buffer.compare(seen, wanted) === 0) return ""
  const [x, y] = [new Uint16Array(seen.buffer), new Uint16Array(wanted.buffer)]
  let [count, first] = [0, -1]
  for (let i = 0; i < x.length; i++)
    if (x[i] !== y[i]) {
      count++
      if (first < 0) first = i
    }
  return `${count} of ${x.length} differ, the first at ${first}: ${x[first]!.toString(16)} for ${y[first]!.toString(16)}`
}

/** cuBLAS on the same sizes, and what the fastest way through CUDA is of it. */
function beside(sizes: readonly Size[], best: ReadonlyMap<string, number>): void {
  const { BUN_BE_BUN: _, ...env } = process.env
  const shapes = sizes.map((size) => size.join("x")).join(",")
  const script = `${import.meta.dir}/../src/bench-peer.py`
  const args = ["gemm", "--shapes", shapes, "--dtype", "bf16", "--device", "cuda", "--iters", String(rounds * runs), "--warmup", "5"]
  const peer = Bun.spawnSync([flags.peer, script, ...args], { stdout: "pipe", stderr: "pipe", env })
  if (peer.exitCode !== 0) throw new AlphaError(`${flags.peer}: ${peer.stderr.toString().trim().split("\n").at(-1)}`)
  const { results } = JSON.parse(peer.stdout.toString()) as { results: readonly { readonly ms: readonly number[] }[] }
  sizes.forEach((size, i) => {
    const rate = (2 * size[0] * size[1] * size[2]) / median(results[i]!.ms) / 1e9
    const own = best.get(titleOf(size))!
    console.log(
      `${titleOf(size).padEnd(17)} cuBLAS ${rate.toFixed(0)}, the fastest by libcuda ${own.toFixed(0)}: ${(own / rate).toFixed(2)}`,
    )
  })
}

try {
  await main()
} catch (error) {
  if (!(error instanceof AlphaError)) throw error
  fail(error)
}
