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

/** Of the backward pass: columns for a lane up to which a subgroup takes a row; lanes of a workgroup that does; most lanes that share a row. */
const SHORT_COLUMNS = 24
const SHORT_LANES = 128
const MOST_LANES = 512

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

/**
 * How the backward pass lays rows over lanes, how many of them a workgroup has at once, and the most workgroups for a processor: enough to keep it busy,
 * few enough that all are there at once, beside the column sums of the launch before. Those of a second turn would have the device almost to themselves.
 */
function backwardLayout(C: number, target: GpuTarget) {
  const { subgroupSize } = target
  const columns = C / subgroupSize
  const layout = rowLayout(C, target) === "short" && columns > SHORT_COLUMNS ? "long" : rowLayout(C, target)
  if (layout === "short") {
    // the more columns a lane holds, the fewer lanes there are
    return { layout, lanes: SHORT_LANES, atOnce: SHORT_LANES / subgroupSize, most: Math.min(8, Math.floor((3 * SHORT_COLUMNS) / columns)) }
  }
  const lanes = layout === "long" ? Math.min(MOST_LANES, Math.ceil(columns / 8) * subgroupSize) : 256
  return { layout, lanes, atOnce: 1, most: 4 }
}

/** dx and partial sums in one pass over the rows, then the partial sums' columns. */
export function normBackwardLaunches(operands: NormBackward, beta: Beta<Tensor>, target: GpuTarget): Launches {
  const { x, w, mean, rstd, dy, dsum, dx, dr, dw, db } = operands
  const drops = dropsOf(operands.dropped)
  const [R, C] = [rows(x), lastDim(x)]
  const { layout, lanes, atOnce, most } = backwardLayout(C, target)
  const groups = Math.min(Math.ceil(R / (atOnce * ROWS_EACH)), target.units * most)
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
    { lanes, C, centred: flag(mean), adds: flag(dsum), branches: flag(dr), keepsW: flag(dw), keepsB: flag(db), ...drops.constants },
  )
  return sums.length === 0 ? [backward] : [backward, sums]
}
