/** What perf/gemm.ts needs for kernels in PTX: the ways worth timing, their tensor maps in memory, and a check of every element. */

import type { GemmKernel } from "../shaders/ptx-gemm.ts"
import { ptxGemm } from "../shaders/ptx-gemm.ts"
import type { PtxGemm } from "../shaders/ptx-gemm-frame.ts"
import { FLAT_TILE, LATER_TILE, NARROW_TILE, PTX_TILE } from "../shaders/ptx-gemm-list.ts"
import { type PtxTile, tileName } from "../shaders/ptx-gemm-tile.ts"
import { type DeviceBuffer, type Driver, HOST, LOCAL, type Recording } from "../src/gpu-driver.ts"
import { vulkan } from "../src/native-vulkan.ts"
import { type PtxWay, ptxLaunchesOf, ptxWayOf } from "../src/op-matmul-ptx.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { GpuTarget, Launches, Memory, Table } from "../src/program.ts"

/** What --sweep adds: the other tiles in use, and the widest without lines asked for ahead. */
const { ahead: _, ...NOT_AHEAD } = PTX_TILE
const SWEPT: readonly PtxTile[] = [NOT_AHEAD, FLAT_TILE, LATER_TILE, NARROW_TILE]

const nameOf = ({ tile, splits, group, rest, span, beside }: PtxWay): string =>
  `ptx ${tileName(tile)} g${group} s${splits}${rest === 0 ? "" : `+${rest}/${span}`}${beside === undefined ? "" : ` b${beside.from}/${tileName(beside.tile)}`}`

/** Whether results may wait. */
const waits = ({ layout, N, c, activation = "none", slope, beta }: Gemm): boolean =>
  layout !== "tn" &&
  N % 32 === 0 &&
  (activation === "none" || slope !== undefined) &&
  beta === undefined &&
  "dtype" in c &&
  c.dtype === "bf16"

const kernels = new Map<string, GemmKernel>()
function kernelOf(gemm: PtxGemm): GemmKernel {
  const made = ptxGemm(gemm)
  const known = kernels.get(made.name) ?? made
  kernels.set(known.name, known)
  return known
}

/** The way the product would take by PTX first; with `sweep` the same by other tiles, and by the widest alone. */
export function ptxWays(request: Gemm, target: GpuTarget, sweep: boolean): { name: string; launches: Launches }[] {
  const best = ptxWayOf(request, target)?.way
  if (best === undefined) return []
  const ways: PtxWay[] = [best]
  const { beside: __, ...plain } = best
  if (sweep) {
    const whole = { splits: 1, rest: 0, span: 1 }
    const tiles = SWEPT.filter((tile) => !tile.later || waits(request))
    ways.push(...tiles.map((tile) => ({ ...plain, ...(tile.later ? whole : {}), tile })))
    ways.push({ ...plain, ...(request.layout === "tn" ? {} : whole), tile: PTX_TILE })
  }
  const byName = new Map(ways.map((way) => [nameOf(way), way]))
  return [...byName].map(([name, way]) => ({
    name,
    launches: ptxLaunchesOf(request, way, target, { kernelFor: kernelOf }),
  }))
}

/** Tensor maps in device memory, each made once the addresses are known. */
export class Maps {
  readonly #buffer: DeviceBuffer
  readonly #host: DeviceBuffer
  #next = 0

  constructor(readonly driver: Driver) {
    this.#buffer = driver.buffer(2 ** 20, LOCAL, 0, "tensor maps")
    this.#host = driver.buffer(2 ** 12, HOST, 0, "staging of tensor maps")
  }

  /** Address of a table of 64-bit words. */
  place({ values }: Table, addressOf: (memory: Memory | undefined) => number): number {
    const words = new BigUint64Array(this.#host.view(0, 8 * values.length))
    values.forEach((value, i) => {
      words[i] = BigInt(typeof value === "object" ? addressOf(value) : (value ?? 0))
    })
    const at = this.#next
    this.#next = (at + 256) % 2 ** 20
    this.driver.now("tensor maps", (commands) =>
      vulkan().gpu_copy(this.driver.gpu, commands, this.#host.handle, 0, this.#buffer.handle, at, 8 * values.length),
    )
    return this.#buffer.address + at
  }
}

/** Most bytes of c that are compared. */
const COMPARED = 2 ** 27

/**
 * Runs `record` on a c full of NaN and compares every element with what `reference` makes; then runs it `repeats` times more and compares the bits.
 * Returns the worst error relative to the largest element, how many elements stayed NaN, and how many runs had other bits.
 */
export function checkWhole(
  driver: Driver,
  c: DeviceBuffer,
  elements: number,
  type: "f32" | "bf16",
  record: (commands: Recording) => void,
  reference: (commands: Recording) => void,
  repeats: number,
): string {
  const v = vulkan()
  const bytes = Math.min(COMPARED, elements * (type === "bf16" ? 2 : 4))
  const host = driver.buffer(bytes, HOST, HOST | 8, "a copy of c")
  const result = (work: (commands: Recording) => void): Uint8Array<ArrayBuffer> => {
    driver.now("a check", (commands) => {
      v.gpu_fill(driver.gpu, commands, c.handle, 0, c.bytes, 0xffffffff)
      v.gpu_barrier(driver.gpu, commands)
      work(commands)
      v.gpu_barrier(driver.gpu, commands)
      v.gpu_copy(driver.gpu, commands, c.handle, 0, host.handle, 0, bytes)
    })
    return new Uint8Array(host.view(0, bytes)).slice()
  }
  const numbers = (raw: Uint8Array<ArrayBuffer>): Float32Array => {
    if (type === "f32") return new Float32Array(raw.buffer)
    const halves = new Uint16Array(raw.buffer)
    const words = new Uint32Array(halves.length)
    for (let i = 0; i < halves.length; i++) words[i] = halves[i]! << 16
    return new Float32Array(words.buffer)
  }
  const [wanted, first] = [numbers(result(reference)), result(record)]
  const seen = numbers(first)
  let [worst, where, largest, unwritten] = [0, -1, 0, 0]
  for (let i = 0; i < wanted.length; i++) {
    if (Number.isNaN(wanted[i]!)) continue // between the rows
    largest = Math.max(largest, Math.abs(wanted[i]!))
    const error = Math.abs(seen[i]! - wanted[i]!)
    if (Number.isNaN(error)) unwritten++
    else if (error > worst) [worst, where] = [error, i]
  }
  let odd = 0
  for (let i = 0; i < repeats; i++) if (Buffer.compare(first, result(record)) !== 0) odd++
  host.free()
  const verdict = unwritten === 0 && odd === 0 && worst <= largest / 128 ? "whole ok" : "WHOLE WRONG"
  return `${verdict}: ${(worst / largest).toExponential(1)} of the largest at ${where}, ${unwritten} unwritten, odd ${odd}`
}
