/** Launches over the heads of queries, keys and values: rotation and norm. */
import { qkNormBackwards, qkNorms } from "../shaders/qk-norm.ts"
import { COLUMNS, columnSum } from "../shaders/reduce.ts"
import { ropes } from "../shaders/rope.ts"
import { groupsFor, groupsForRows, launch, scratch, table } from "./op-gpu.ts"
import type { Beta, GpuTarget, Launch, Launches } from "./program.ts"
import { rows, ShapeError, type Tensor } from "./tensor.ts"

/** Numbers of heads and the length of one. */
interface Heads {
  readonly nHead: number
  readonly nKvHead: number
  readonly headDim: number
}

interface Rotation extends Heads {
  readonly x: Tensor
  readonly positions: Tensor | undefined
  readonly y: Tensor
  readonly T: number
  readonly frequencies: Float32Array
  readonly inverse: boolean
}

export function ropeLaunches(rotation: Rotation, target: GpuTarget): Launches {
  const { x, positions, y, T, frequencies, inverse, nHead, nKvHead, headDim } = rotation
  const pack = headDim % 16 === 0 ? 8 : 1
  const [heads, half] = [nHead + 2 * nKvHead, headDim / 2 / pack]
  const n = rows(x) * heads * half
  const values = { x, positions, frequencies: table("f32", [...frequencies]), y, n, T, direction: inverse ? -1 : 1 }
  const constants = { half, heads, rotated: nHead + nKvHead, given: positions === undefined ? 0 : 1 }
  return [launch(pack === 8 ? ropes.packed : ropes.uneven, values, groupsFor(n, 1, target), constants)]
}

/** Lanes of a workgroup over heads. */
const LANES = 256

/** Which kernel, its constants, all heads and how many a workgroup takes at once. */
function headsOf(x: Tensor, { nHead, nKvHead, headDim }: Heads) {
  const pack = headDim % 8 === 0 ? 8 : 1
  if (headDim > LANES * pack) throw new ShapeError(`qk_norm: heads of ${headDim} are too long for a GPU workgroup of ${LANES} lanes`)
  const heads = nHead + 2 * nKvHead
  const constants = { D: headDim, queries: nHead, normed: nHead + nKvHead, heads }
  return { kind: pack === 8 ? "packed" : "uneven", constants, n: rows(x) * heads, atOnce: Math.floor(LANES / (headDim / pack)) } as const
}

interface QkNorm extends Heads {
  readonly x: Tensor
  readonly qw: Tensor
  readonly kw: Tensor
  readonly y: Tensor
  readonly eps: number
}

export function qkNormLaunches({ x, qw, kw, y, eps, ...sizes }: QkNorm): Launches {
  const { kind, constants, n, atOnce } = headsOf(x, sizes)
  return [launch(qkNorms[kind], { x, qw, kw, y, n, eps }, groupsForRows(Math.ceil(n / atOnce)), constants)]
}

interface QkNormBackward extends Heads {
  readonly x: Tensor
  readonly dy: Tensor
  readonly qw: Tensor
  readonly kw: Tensor
  readonly dx: Tensor | undefined
  readonly dqw: Tensor | undefined
  readonly dkw: Tensor | undefined
  readonly eps: number
}

export function qkNormBackwardLaunches(operands: QkNormBackward, beta: Beta<Tensor>, target: GpuTarget): Launches {
  const { x, dy, qw, kw, dx, dqw, dkw, eps, ...sizes } = operands
  const { kind, constants, n, atOnce } = headsOf(x, sizes)
  const groups = Math.min(Math.ceil(n / atOnce), target.units * 4)
  const C = sizes.headDim
  const partials = { dqw: scratch("f32", groups * C), dkw: scratch("f32", groups * C) }
  const to = dx ?? scratch(x.dtype, n * C)
  const sum = (name: "dqw" | "dkw", y: Tensor | undefined): Launch[] =>
    y === undefined ? [] : [launch(columnSum, { x: partials[name], y, R: groups, C, beta: beta(name) ?? 0 }, Math.ceil(C / COLUMNS))]
  return [
    launch(qkNormBackwards[kind], { x, dy, qw, kw, dx: to, ...partials, n, eps }, groups, constants),
    [...sum("dqw", dqw), ...sum("dkw", dkw)],
  ]
}
