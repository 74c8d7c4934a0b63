/** Launches of the update: norms and parameters of all tensors in one dispatch each. */
import { adamw, lion, ROW, sgd } from "../shaders/optimizer.ts"
import { CHUNK, normOfSums, squareSums } from "../shaders/tensor-list.ts"
import { groupsForRows, launch, scratch, table } from "./op-gpu.ts"
import type { Launches } from "./program.ts"
import { elements, type Tensor } from "./tensor.ts"

/** The tables of a list: elements per tensor, and which tensor and element each chunk starts at. */
function listTables(tensors: readonly Tensor[]) {
  const sizes = tensors.map(elements)
  const chunks = sizes.flatMap((size, i) => Array.from({ length: Math.ceil(size / CHUNK) }, (_, j) => [i, j * CHUNK]))
  return { sizes: table("u32", sizes), chunks: table("u32", chunks.flat()), n: chunks.length }
}

export function globalNormLaunches(grads: readonly Tensor[], norm: Tensor): Launches {
  const list = listTables(grads)
  const sums = scratch("f32", list.n)
  return [
    launch(squareSums, { addresses: table("u64", grads), ...list, sums }, groupsForRows(list.n)),
    launch(normOfSums, { sums, norm, n: list.n }, 1),
  ]
}

interface Update {
  readonly params: readonly Tensor[]
  readonly grads: readonly Tensor[]
  readonly m: readonly Tensor[]
  readonly v?: readonly Tensor[]
  readonly copies: readonly Tensor[]
  readonly lr: Tensor
  readonly control: Tensor
}
interface UpdateNumbers {
  readonly decay: readonly number[]
  /** Which of `copies` belongs to a parameter. */
  readonly copyOf: readonly (number | undefined)[]
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
}

export function updateLaunches(
  rule: "adamw" | "lion" | "sgd",
  { params, grads, m, v, copies, lr, control }: Update,
  { decay, copyOf, beta1, beta2, eps }: UpdateNumbers,
): Launches {
  const list = listTables(params)
  const rows = params.flatMap((p, i) => {
    const copy = copyOf[i]
    return [p, grads[i], m[i], v?.[i], copy === undefined ? undefined : copies[copy]]
  })
  if (rows.length !== ROW * params.length) throw new TypeError(`${rule}: ${rows.length} addresses for ${params.length} parameters`)
  const values = {
    addresses: table("u64", rows),
    ...list,
    decays: table(
      "f32",
      params.map((_, i) => decay[i] ?? 0),
    ),
    control,
    lr,
    beta1,
    rest1: 1 - beta1,
    log1: Math.log(beta1),
    beta2,
    rest2: 1 - beta2,
    log2: Math.log(beta2),
    eps,
  }
  const count = (tensors: readonly Tensor[]) => tensors.reduce((sum, t) => sum + elements(t), 0)
  const bytes = (rule === "adamw" ? 28 : 20) * count(params) + 2 * count(copies)
  return [{ ...launch({ adamw, lion, sgd }[rule], values, groupsForRows(list.n)), bytes }]
}
