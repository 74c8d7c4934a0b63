/** Launches of the norms and their gradients. */
import { addNorms, norms } from "../shaders/norm.ts"
import { normBackwards } from "../shaders/norm-backward.ts"
import { COLUMNS, columnSum } from "../shaders/reduce.ts"
import { groupsForRows, launch, scratch } from "./op-gpu.ts"
import type { Beta, GpuTarget, Launch, Launches } from "./program.ts"
import { lastDim, rows, type Tensor } from "./tensor.ts"

type Absent = Tensor | undefined
const flag = (value: unknown): number => (value === undefined ? 0 : 1)

/** Columns that a lane of a short row holds. */
const HELD_COLUMNS = 32

/** Rows that a workgroup of the backward pass takes at least, one after the other. */
const ROWS_EACH = 4

/** How the rows of a matrix are laid over lanes; a choice by the row alone, so that its bits do not depend on its neighbours. */
export function rowLayout(columns: number, { subgroupSize }: GpuTarget): "short" | "long" | "uneven" {
  if (columns % 8 !== 0) return "uneven"
  return columns <= HELD_COLUMNS * subgroupSize ? "short" : "long"
}

/** Dropout of the branch that is added; only nodes made of two have it (gpu-fuse.ts). */
export interface Dropped {
  readonly p: number
  readonly site: number
  readonly seed: Tensor
  readonly step: Tensor
  readonly row: Tensor
}
const dropsOf = (dropped: Dropped | undefined) => ({
  values: {
    site: dropped?.site ?? 0,
    threshold: Math.ceil((dropped?.p ?? 0) * 2 ** 24),
    scale: 1 / (1 - (dropped?.p ?? 0)),
    seed: dropped?.seed ?? 0,
    step: dropped?.step ?? 0,
    row: dropped?.row ?? 0,
  },
  constants: { drops: flag(dropped) },
})

interface Norm {
  readonly x: Tensor
  readonly r?: Tensor
  readonly w: Tensor
  readonly b?: Absent
  readonly y: Absent
  readonly sum?: Absent
  readonly mean?: Absent
  readonly rstd: Absent
  readonly eps: number
  readonly centred: boolean
  readonly dropped?: Dropped | undefined
}

/** y and what else is wanted, in one pass. */
export function normLaunches({ x, r, w, b, y, sum, mean, rstd, eps, centred, dropped }: Norm, target: GpuTarget): Launches {
  const [R, C] = [rows(x), lastDim(x)]
  const layout = rowLayout(C, target)
  const perGroup = 256 / target.subgroupSize
  const kind = layout === "short" && R <= perGroup * target.units ? "early" : layout
  const groups = kind === "early" ? Math.min(R, target.units) : groupsForRows(layout === "short" ? Math.ceil(R / perGroup) : R)
  const values = { x, w, b, y: y ?? scratch("f32", R * C), mean, rstd, R, eps, share: 1 / C }
  const constants = { C, centred: Number(centred), biased: flag(b), keepsMean: flag(mean), keepsRstd: flag(rstd) }
  if (r === undefined) return [launch(norms[kind], values, groups, constants)]
  const drops = dropsOf(dropped)
  return [launch(addNorms[kind], { ...values, r, sum, ...drops.values }, groups, { ...constants, keepsSum: flag(sum), ...drops.constants })]
}

interface NormBackward {
  readonly x: Tensor
  readonly w: Tensor
  readonly mean?: Tensor
  readonly rstd: Tensor
  readonly dy: Tensor
  readonly dsum: Absent
  readonly dx: Absent
  readonly dr: Absent
  readonly dw: Absent
  readonly db?: Absent
  readonly dropped?: Dropped | undefined
}

/** dx and partial sums in one pass over the rows, then the partial sums' columns. */
export function normBackwardLaunches(operands: NormBackward, beta: Beta<Tensor>, target: GpuTarget): Launches {
  const { x, w, mean, rstd, dy, dsum, dx, dr, dw, db } = operands
  const drops = dropsOf(operands.dropped)
  const [R, C] = [rows(x), lastDim(x)]
  const layout = rowLayout(C, target)
  const atOnce = layout === "short" ? 128 / target.subgroupSize : 1
  // enough workgroups to keep the device busy to the end, few enough that their partial sums stay small beside x
  const groups = Math.min(Math.ceil(R / (atOnce * ROWS_EACH)), target.units * (layout === "short" ? 8 : 4))
  const partial = (out: Absent) => out && scratch("f32", groups * C)
  const [partialW, partialB] = [partial(dw), partial(db)]
  const sums = (
    [
      ["dw", dw, partialW],
      ["db", db, partialB],
    ] as const
  ).flatMap(([name, y, part]): Launch[] =>
    y === undefined || part === undefined
      ? []
      : [launch(columnSum, { x: part, y, R: groups, C, beta: beta(name) ?? 0 }, Math.ceil(C / COLUMNS))],
  )
  const backward = launch(
    normBackwards[layout],
    { x, dy, w, mean, rstd, dsum, dx: dx ?? scratch(x.dtype, R * C), dr, dw: partialW, db: partialB, R, ...drops.values },
    groups,
    { C, centred: flag(mean), adds: flag(dsum), branches: flag(dr), keepsW: flag(dw), keepsB: flag(db), ...drops.constants },
  )
  return sums.length === 0 ? [backward] : [backward, sums]
}
