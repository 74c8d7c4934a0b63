/** A product in PTX, its instructions run on the CPU over random numbers, compared with f64. */
import { ptxGemm } from "../shaders/ptx-gemm.ts"
import { DEALT_TILE, PTX_TILE, ptxGemmOf } from "../shaders/ptx-gemm-list.ts"
import type { PtxTile } from "../shaders/ptx-gemm-tile.ts"
import { type Activation, activate, activateDerivative } from "../src/op-activation.ts"
import { cutOf, type PtxWay, ptxLaunchesOf } from "../src/op-matmul-ptx.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { Launch, Memory, Scratch } from "../src/program.ts"
import { type Kernel, simulate } from "../src/spirv.ts"
import type { Tensor } from "../src/tensor.ts"
import { fromBf16, HOPPER, seedFrom, toBf16, uniforms } from "./bf16.ts"
import { runPtxLaunch } from "./ptx-launch.ts"
import type { Timing } from "./ptx-run.ts"

const numbersOfAll = uniforms(7)

export interface Asked {
  readonly layout: Gemm["layout"]
  readonly size: readonly [M: number, N: number, K: number]
  readonly out: "f32" | "bf16"
  readonly activation?: Activation
  readonly keepsSlope?: boolean
  /** Another matrix, or c itself. */
  readonly factor?: "apart" | "in place"
  readonly bias?: boolean
  readonly scale?: number
  readonly beta?: number
  readonly splits?: number
  /** The last so many k steps of all tiles are shared by others in spans of so many. */
  readonly rest?: readonly [rest: number, span: number]
  /** In two, for so many processors. */
  readonly cut?: number
  /** The sums of a's rows are added to so many times what is there. */
  readonly sumsBeta?: number
  readonly tile?: PtxTile
  readonly beside?: PtxWay["beside"]
  readonly early?: PtxWay["early"]
  /** Tiles by these lists. */
  readonly deal?: PtxWay["deal"]
  /** Launched so often: the bits must be the same. */
  readonly times?: number
  readonly timing?: Timing
  /** Of random numbers of its own. */
  readonly seed?: number
}

/** sums += x · the numbers from `from` on. */
function addRow(sums: Float64Array, x: number, numbers: Float64Array, from: number): void {
  for (let n = 0; n < sums.length; n++) sums[n]! += x * numbers[from + n]!
}

/** Runs a product; its worst error in units of the allowed one, and the bits of c. */
export function run(asked: Asked): { error: number; c: Uint16Array | Float32Array } {
  const {
    layout,
    size,
    out,
    activation = "none",
    keepsSlope = false,
    factor,
    bias,
    scale,
    beta,
    splits = 1,
    rest: [rest, span] = [0, 1],
    cut,
    sumsBeta,
    deal,
    tile = deal === undefined ? PTX_TILE : DEALT_TILE,
    beside,
    early,
    times = 1,
    timing = "random",
    seed,
  } = asked
  const random = seed === undefined ? numbersOfAll : uniforms(seed)
  const [M, N, K] = size
  const up = (x: number) => Math.ceil(x / 8) * 8
  const [lda, ldb, ldc] = [up(layout === "tn" ? M : K), up(layout === "nt" ? K : N), up(N)]
  const bytes = new Map<Memory, Uint16Array | Float32Array>()
  const place = (dtype: "f32" | "bf16", elements: number, isFilled: boolean): Scratch => {
    const memory: Scratch = { kind: "scratch", dtype, elements }
    const value = () => (isFilled ? random() : Number.NaN)
    const values =
      dtype === "f32" ? Float32Array.from({ length: elements }, value) : Uint16Array.from({ length: elements }, () => toBf16(value()))
    bytes.set(memory, values)
    return memory
  }
  const numbers = (memory: Memory): Float64Array => {
    const given = bytes.get(memory)!
    return given instanceof Uint16Array ? Float64Array.from(given, fromBf16) : Float64Array.from(given)
  }
  const [a, b] = [place("bf16", (layout === "tn" ? K : M) * lda, true), place("bf16", (layout === "nt" ? N : K) * ldb, true)]
  const rowSums = place("f32", M, true)
  const c = place(out, M * ldc, beta !== undefined || factor === "in place")
  const [kept, biases] = [factor === "in place" ? c : place(out, M * ldc, factor !== undefined), place("f32", N, true)]
  // What lies beyond a row's end may be anything: it must not reach the sums.
  for (const [memory, ld, used] of [
    [a, lda, layout === "tn" ? M : K],
    [b, ldb, layout === "nt" ? K : N],
  ] as const)
    bytes.get(memory)!.forEach((_, i, all) => {
      if (i % ld >= used) all[i] = 0x7fc0
    })
  const request: Gemm = {
    ...{ layout, a, b, c, M, N, K, lda, ldb, ldc, order: "any" },
    ...(bias && { bias: biases }),
    ...(activation !== "none" && { activation, ...(keepsSlope && { slope: kept }) }),
    ...(factor && { factor: kept }),
    ...(scale !== undefined && { scale }),
    ...(beta !== undefined && { beta }),
  }
  const [cBefore, keptBefore, sumsBefore] = [numbers(c), numbers(kept), numbers(rowSums)]
  const way: PtxWay = { tile, splits, group: 2, rest, span, ...(beside && { beside }), ...(early && { early }), ...(deal && { deal }) }
  const kernelFor: typeof ptxGemmOf = (wanted) => ptxGemmOf(wanted) ?? ptxGemm(wanted)
  const more = { kernelFor, ...(sumsBeta !== undefined && { rowSums: { into: rowSums as never as Tensor, beta: sumsBeta } }) }
  const launches =
    cut === undefined ? ptxLaunchesOf(request, way, HOPPER, more) : cutOf(request, { ...HOPPER, units: cut }, more.rowSums)!.launches()
  const made: (Uint16Array | Float32Array)[] = []
  const steps = Array.from({ length: times }, () => launches.flat() as Launch[])
  for (const launch of steps.flat()) {
    const viewOf = (memory: Memory): Uint8Array => {
      if ("kind" in memory && memory.kind === "part") return viewOf(memory.of).subarray(memory.from * (memory.of.dtype === "bf16" ? 2 : 4))
      if (!bytes.has(memory)) bytes.set(memory, new Float32Array((memory as Scratch).elements).fill(Number.NaN))
      const { buffer, byteLength } = bytes.get(memory)!
      return new Uint8Array(buffer as ArrayBuffer, 0, byteLength)
    }
    if ("text" in launch.kernel) {
      runPtxLaunch(launch, viewOf, (value) => value as number, timing, seedFrom(random))
      if (times > 1) {
        made.push(bytes.get(c)!.slice())
        if (made.length < times) bytes.get(c)!.fill(out === "bf16" ? 0x7fc0 : Number.NaN)
      }
    } else {
      const buffers = Object.entries(launch.buffers).map(([name, memory]) => [
        name,
        memory === undefined ? new Uint8Array(0) : viewOf(memory),
      ])
      const { variant, groups, push, params, constants } = launch
      const kernel = launch.kernel as unknown as Kernel<Record<never, never>>
      simulate(kernel, { variant, grid: groups, buffers: Object.fromEntries(buffers), push, params, constants, subgroupSize: 32 } as never)
    }
  }
  const [as, bs, cs, slopes, bias_, sums_] = [a, b, c, kept, biases, rowSums].map(numbers) as Float64Array[]
  const allowed = (x: number) => (out === "bf16" ? 2 ** -8 * Math.abs(x) : 0) + 2e-5 * Math.sqrt(K)
  let error = 0
  const compare = (seen: number, x: number, slack = 0) => {
    const e = Math.abs(seen - x) / (allowed(x) + slack)
    error = e <= error ? error : Number.isNaN(e) ? Number.POSITIVE_INFINITY : e
  }
  // b by rows of k: all sums of a row of c grow together, each in the order of k.
  const byK = layout === "nt" ? Float64Array.from({ length: K * N }, (_, i) => bs![(i % N) * ldb + Math.floor(i / N)]!) : bs!
  const stride = layout === "nt" ? N : ldb
  const sums = new Float64Array(N)
  for (let m = 0; m < M; m++) {
    sums.fill(0)
    for (let k = 0; k < K; k++) addRow(sums, as![layout === "tn" ? k * lda + m : m * lda + k]!, byK, k * stride)
    if (sumsBeta !== undefined) {
      let rowSum = sumsBeta * sumsBefore[m]!
      for (let k = 0; k < K; k++) rowSum += as![layout === "tn" ? k * lda + m : m * lda + k]!
      compare(sums_![m]!, rowSum)
    }
    for (let n = 0; n < N; n++) {
      let z = sums[n]! * (scale ?? 1) + (bias ? bias_![n]! : 0)
      // Rounded before the activation where it has waited in bf16.
      const [x, around] = keepsSlope && tile.later ? [fromBf16(toBf16(z)), 2 ** -7 * Math.abs(z)] : [z, 0]
      const slope = keepsSlope ? activateDerivative(activation, x) : 1
      if (keepsSlope) compare(slopes![m * ldc + n]!, slope, around)
      z = activate(activation, x)
      if (factor) z *= keptBefore[m * ldc + n]!
      // Rounded before it is multiplied, too, where it does not wait.
      const twice = factor && out === "bf16" && !tile.later ? 2 ** -8 * Math.abs(z) : 0
      compare(cs![m * ldc + n]!, z + (beta ? beta * cBefore[m * ldc + n]! : 0), around * Math.max(1, Math.abs(slope)) + twice)
    }
    for (let n = N; n < ldc; n++) if (!Object.is(cs![m * ldc + n], cBefore[m * ldc + n])) error = Number.POSITIVE_INFINITY
  }
  if (made.some((one) => Buffer.compare(new Uint8Array(one.buffer), new Uint8Array(made[0]!.buffer)) !== 0))
    error = Number.POSITIVE_INFINITY
  return { error, c: bytes.get(c)! }
}
