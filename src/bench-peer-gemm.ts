/** Matrix products beside PyTorch's (cuBLAS on an NVIDIA GPU): shape by shape, by the device's own timestamps, elements compared on request. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Measurement } from "./bench-measure.ts"
import type { Torch, TorchAnswer } from "./bench-peer.ts"
import { warmUp } from "./bench-sample.ts"
import { median } from "./bench-stats.ts"
import type { BenchPeerConfig } from "./config.ts"
import * as op from "./op.ts"
import { type Device, plan, trace, writeTo } from "./program.ts"

/** y (M, N) = x (M, K) · wᵀ, w (N, K): what a linear layer computes. */
export type Shape = readonly [M: number, N: number, K: number]

/** "1024^3;64,128,256" → [[1024, 1024, 1024], [64, 128, 256]]; commas between cubes are understood too. */
export function parseShapes(text: string): Shape[] {
  return text
    .replace(/\^3,/g, "^3;")
    .split(";")
    .filter((part) => part !== "")
    .map((part) => {
      const cube = /^(\d+)\^3$/.exec(part.trim())?.[1]
      const sizes = (cube === undefined ? part.split(/[,x]/) : [cube, cube, cube]).map(Number)
      if (sizes.length === 3 && sizes.every((size) => Number.isInteger(size) && size > 0)) return sizes as unknown as Shape
      throw new AlphaError(`--shapes ${part}: expected 1024^3 or M,N,K`, { code: EXIT.usage })
    })
}

/** Multiples of 1/128 from −1 on, which bf16 holds exactly; the peer's script makes the same. */
const LEVELS = 256
const element = (i: number): number => (((Math.imul(i, 2654435761) >>> 20) % LEVELS) - LEVELS / 2) / (LEVELS / 2)

/** Elements of a factor, bf16 as the upper halves of floats. */
function pattern(precision: "f32" | "bf16", length: number, seed: number): Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> {
  if (precision === "f32") {
    const values = new Float32Array(length)
    for (let i = 0; i < length; i++) values[i] = element(i + seed)
    return values
  }
  const halves = Uint16Array.from(
    new Uint32Array(Float32Array.from({ length: LEVELS }, (_, i) => (i - LEVELS / 2) / (LEVELS / 2)).buffer),
    (word) => word >>> 16,
  )
  const values = new Uint16Array(length)
  for (let i = 0; i < length; i++) values[i] = halves[(Math.imul(i + seed, 2654435761) >>> 20) % LEVELS] as number
  return values
}

interface Product {
  /** Milliseconds of every product. */
  readonly ms: readonly number[]
  readonly checked: readonly number[]
}

/** `iters` products one after another in one recording, each between the device's timestamps; clocks are up, the host is not in between. */
export function ourProduct(
  device: Device,
  [M, N, K]: Shape,
  precision: "f32" | "bf16",
  { iters, warmMs, check }: { iters: number; warmMs: number; check: number },
): Product {
  const state = device.state()
  const traced = plan(
    trace("products", (t) => {
      const [x, w, y] = [t.state("x", precision, [M, K]), t.state("w", precision, [N, K]), t.state("y", precision, [M, N])]
      for (let i = 0; i < iters; i++) writeTo(op.linear({ x, w }, { activation: "none", out: precision }).y, y)
    }),
  )
  for (const [name, seed, length] of [
    ["x", 1, M * K],
    ["w", 2, N * K],
  ] as const) {
    state.ensure(name, precision, name === "x" ? [M, K] : [N, K])
    state.write(name, pattern(precision, length, seed))
  }
  const run = device.compile(traced, state)
  warmUp(() => void run.profile({}), { warmMs, clock: () => device.telemetry()?.smClockMhz, now: () => performance.now() })
  // A product may take several launches: its share of all.
  const { rows } = run.profile({})
  const each = rows.length / iters
  const ms = Array.from({ length: iters }, (_, i) => rows.slice(i * each, (i + 1) * each).reduce((sum, row) => sum + row.ms, 0))
  const y = check > 0 ? state.read("y") : []
  const valueAt = (i: number) =>
    precision === "bf16" ? new Float32Array(Uint32Array.of((y[i] as number) << 16).buffer)[0]! : (y[i] as number)
  const checked = Array.from({ length: check }, (_, i) => valueAt(((i * 7919) % M) * N + ((i * 104729) % N)))
  run.free()
  state.free()
  return { ms, checked }
}

const CHECKED = 256

/** Elements of one product against the peer's. Throws AlphaError naming the worst where it is farther off than both tolerances allow. */
export async function checkProduct(torch: Torch, device: Device, config: BenchPeerConfig): Promise<number> {
  const { checkAtol, checkRtol, precision } = config
  const dtype = (precision[0] ?? "f32") as "f32" | "bf16"
  let worst = 0
  for (const shape of parseShapes(config.checkShape)) {
    const { checked } = ourProduct(device, shape, dtype, { iters: 1, warmMs: 0, check: CHECKED })
    const flags = { ...torchFlags(device, config), dtype, shapes: shape.join("x"), iters: 1, warmup: 0, check: CHECKED }
    const theirs = (await torch.ask("gemm", flags)).results?.[0]?.checked ?? []
    theirs.forEach((their, i) => {
      const far = Math.abs((checked[i] as number) - their) / (checkAtol + checkRtol * Math.abs(their))
      if (!(far <= 1)) {
        throw new AlphaError(`bench peer: product ${shape.join("×")}: element ${i} is ${checked[i]}, the peer's is ${their}`, {
          hint: `allowed: ${checkAtol} + ${checkRtol} of the peer's`,
        })
      }
      worst = Math.max(worst, far)
    })
  }
  return worst
}

const torchFlags = (device: Device, { threads, seconds }: Pick<BenchPeerConfig, "threads" | "seconds">) => ({
  device: device.name === "cpu" ? "cpu" : "cuda",
  threads: device.name === "cpu" ? threads : undefined,
  seconds,
})

/** Every shape, ours and theirs in turns. */
export async function besideCublas(
  torch: Torch,
  device: Device,
  config: BenchPeerConfig,
  tell: (note: string) => void,
): Promise<Measurement[]> {
  const dtype = (config.precision[0] ?? "f32") as "f32" | "bf16"
  const shapes = parseShapes(config.shapes)
  if (config.check) {
    const worst = await checkProduct(torch, device, config)
    tell(`${CHECKED} elements of ${config.checkShape} agree: at most ${(100 * worst).toPrecision(2)} % of what is allowed`)
  }
  const rates = shapes.map(() => ({ ours: [] as number[], theirs: [] as number[] }))
  let answer: TorchAnswer | undefined
  for (let round = 0; round < config.rounds; round++) {
    shapes.forEach((shape, i) => {
      const { ms } = ourProduct(device, shape, dtype, { iters: config.iters, warmMs: 300, check: 0 })
      rates[i]!.ours.push(...ms.map((one) => rate(shape, one)))
    })
    const list = shapes.map((shape) => shape.join("x")).join(",")
    answer = await torch.ask("gemm", { ...torchFlags(device, config), dtype, shapes: list, iters: config.iters, warmup: config.warmup })
    answer.results?.forEach(({ ms }, i) => {
      rates[i]!.theirs.push(...ms.map((one) => rate(shapes[i]!, one)))
    })
  }
  const library = device.name === "cpu" ? `PyTorch ${answer?.torch}` : `cuBLAS, PyTorch ${answer?.torch}`
  return shapes.map((shape, i): Measurement => {
    const { ours, theirs } = rates[i]!
    return {
      bench: "gemm",
      name: `${shape.join("×")} ${dtype}`,
      device: device.description,
      unit: "TFLOP/s",
      better: "more",
      samples: ours,
      facts: { µs: flopsOf(shape) / median(ours) / 1e6 },
      peer: { name: library, samples: theirs },
      command: `alpha bench peer cuda --shapes=${shape.join(",")} --precision=${dtype} --device=${device.name}`,
    }
  })
}

const flopsOf = ([M, N, K]: Shape): number => 2 * M * N * K
/** TFLOP/s. */
const rate = (shape: Shape, ms: number): number => flopsOf(shape) / ms / 1e9
