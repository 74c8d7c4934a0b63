/** What perf/gemm.ts needs for kernels in PTX: the ways worth timing, their tensor maps in memory, and a check of every element. */

import type { GemmKernel } from "../shaders/ptx-gemm.ts"
import { ptxGemm } from "../shaders/ptx-gemm.ts"
import type { PtxGemm } from "../shaders/ptx-gemm-frame.ts"
import { DEEP_TILES, FLAT_TILE, NARROW_TILE, PTX_TILE } from "../shaders/ptx-gemm-list.ts"
import { type PtxTile, tileName } from "../shaders/ptx-gemm-tile.ts"
import { type DeviceBuffer, type Driver, HOST, LOCAL, type Recording } from "../src/gpu-driver.ts"
import { vulkan } from "../src/native-vulkan.ts"
import { hasTile, type PtxWay, ptxLaunchesOf, ptxWayOf, type RowSums } from "../src/op-matmul-ptx.ts"
import { besides, dealtWays } from "../src/op-matmul-ptx-way.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { GpuTarget, Launches, Memory, Table } from "../src/program.ts"
import { MOST_DYNAMIC } from "../src/ptx.ts"

/** What --sweep adds: the other tiles in use, and the widest without lines asked for ahead. */
const { ahead: _, ...NOT_AHEAD } = PTX_TILE
const SWEPT: readonly PtxTile[] = [NOT_AHEAD, FLAT_TILE, NARROW_TILE]

/** Other numbers of deep tiles that lie below each other. */
const GROUPS = [4, 8]

const nameOf = ({ tile, splits, group, rest, span, beside, deal }: PtxWay): string =>
  `ptx ${tileName(tile)} g${group} s${splits}${deal === undefined ? "" : ` n${deal.narrow}`}${rest === 0 ? "" : `+${rest}/${span}`}${beside === undefined ? "" : ` b${beside.from}/${tileName(beside.tile)}`}`

/** Whether results may wait. */
const waits = ({ layout, N, c, activation = "none", slope, beta }: Gemm): boolean =>
  layout !== "tn" &&
  N % 32 === 0 &&
  (activation === "none" || slope !== undefined) &&
  beta === undefined &&
  "dtype" in c &&
  c.dtype === "bf16"

/** Whether tiles may be dealt out: the kernels for that end a product with a bias at most. */
const isPlain = ({ layout, N, c, activation = "none", factor, beta }: Gemm): boolean =>
  layout !== "tn" &&
  N % 32 === 0 &&
  activation === "none" &&
  factor === undefined &&
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
export function ptxWays(request: Gemm, target: GpuTarget, sweep: boolean, rowSums?: RowSums): { name: string; launches: Launches }[] {
  const hasSums = rowSums !== undefined
  const best = ptxWayOf(request, target, { hasSums })?.way
  const small = ptxWayOf(request, { ...target, ptxRoom: MOST_DYNAMIC }, { hasSums })?.way
  if (best === undefined || small === undefined) return []
  const ways: PtxWay[] = [best]
  const { beside: __, deal: ___, ...alone } = small
  const plain: PtxWay = { ...alone, tile: small.deal === undefined ? small.tile : PTX_TILE }
  if (sweep) {
    const deep = DEEP_TILES.flatMap((tile) => ptxWayOf(request, target, { tile, hasSums })?.way ?? [])
    ways.push(...deep, ...deep.filter(({ tile }) => tile.units === 1).flatMap((way) => GROUPS.map((group) => ({ ...way, group }))))
  }
  if (sweep && hasSums) ways.push(plain)
  else if (sweep) {
    const whole = { splits: 1, rest: 0, span: 1 }
    const tiles = SWEPT.filter((tile) => !tile.later || waits(request))
    ways.push(...tiles.map((tile) => ({ ...plain, ...(tile.later ? whole : {}), tile })))
    ways.push({ ...plain, ...(request.layout === "tn" ? {} : whole), tile: PTX_TILE })
    if (isPlain(request)) {
      ways.push(...dealtWays(request, target, (tile) => hasTile(request, target, tile)).map(({ way }) => way))
      const two = [...besides(request, target)].toSorted((a, b) => a.seconds - b.seconds)[0]
      if (two !== undefined && waits(request)) ways.push(two.way)
    }
  }
  const byName = new Map(ways.map((way) => [nameOf(way), way]))
  return [...byName].map(([name, way]) => ({
    name,
    launches: ptxLaunchesOf(request, way, target, { kernelFor: kernelOf, rowSums }),
  }))
}

/** Tables in device memory, tensor maps among them, each made once the addresses are known. */
const [ROOM, STAGE] = [2 ** 24, 2 ** 20]
export class Maps {
  readonly #buffer: DeviceBuffer
  readonly #host: DeviceBuffer
  #next = 0

  constructor(readonly driver: Driver) {
    this.#buffer = driver.buffer(ROOM, LOCAL, 0, "tables")
    this.#host = driver.buffer(STAGE, HOST, 0, "staging of tables")
  }

  /** Address of a table of words of 32 or 64 bits. */
  place({ dtype, values }: Table, addressOf: (memory: Memory | undefined) => number): number {
    const bytes = (dtype === "u64" ? 8 : 4) * values.length
    const view = this.#host.view(0, bytes)
    if (dtype === "u64")
      new BigUint64Array(view).set(values.map((value) => BigInt(typeof value === "object" ? addressOf(value) : (value ?? 0))))
    else new Uint32Array(view).set(values as number[])
    const at = this.#next + bytes > ROOM ? 0 : this.#next
    this.#next = Math.ceil((at + bytes) / 256) * 256
    this.driver.now("a table", (commands) =>
      vulkan().gpu_copy(this.driver.gpu, commands, this.#host.handle, 0, this.#buffer.handle, at, bytes),
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
