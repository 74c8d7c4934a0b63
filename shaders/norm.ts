/** Layer norm and RMS norm, forward, alone or behind the residual sum. */
import { type Body, type Bool, choice, constant, type F32, f32, kernel, read, readWrite, type U32, u32, write } from "../src/spirv.ts"
import { DROPS, type Drops, dropped } from "./dropout.ts"
import { ROW_LAYOUTS, type RowLayoutName, Rows, type Source, type Target } from "./row.ts"

interface Operands {
  readonly R: U32
  readonly C: U32
  readonly eps: F32
  /** 1/C. */
  readonly share: F32
  readonly centred: U32
  readonly biased: U32
  readonly keepsMean: U32
  readonly keepsRstd: U32
  readonly x: Source
  readonly w: Source
  readonly b: Source
  readonly y: Target
  readonly mean: { set(r: U32, value: F32): void }
  readonly rstd: { set(r: U32, value: F32): void }
}
/** What is added to x after its dropout, and where the sum goes when it is kept. */
interface Residual {
  readonly drops: Drops
  readonly r: Source
  readonly sum: Source & Target
  readonly keepsSum: Bool
}

/** "early": as short, for few rows, spread over the workgroups: what does not depend on the row is on its way before the row is. The bits are those of short. */
type Kind = RowLayoutName | "early"
const layoutOf = (kind: Kind): RowLayoutName => (kind === "early" ? "short" : kind)

/** What a lane keeps in place i, if it keeps anything. */
const keptAt = (all: ReturnType<Rows["hold"]> | undefined, i: number | undefined) =>
  i === undefined ? undefined : all?.[i]?.map((one) => one.get())

function norm(k: Body, kind: Kind, operands: Operands, residual?: Residual): void {
  const { R, C, eps, share, centred, biased, keepsMean, keepsRstd, x, w, b, y, mean, rstd } = operands
  const isEarly = kind === "early"
  const rows = new Rows(k, ROW_LAYOUTS[layoutOf(kind)], C, isEarly)
  const [factors, added] = isEarly ? [rows.zeros(), rows.zeros()] : []
  if (factors !== undefined && added !== undefined) {
    const keep = (from: Source, to: ReturnType<Rows["zeros"]>) =>
      rows.held((p, i) => rows.load(from, 0, p).forEach((value, j) => to[i]![j]!.set(value)))
    const hasRow = rows.firstRow().lt(R)
    k.if(hasRow, () => keep(w, factors))
    k.if(hasRow.and(biased.ne(0)), () => keep(b, added))
  }
  rows.each(R, (r) => {
    const values = rows.hold((p) => rows.load(x, r, p))
    const total = k.var(f32, 0)
    const again = residual === undefined ? (p: U32) => rows.load(x, r, p) : addResidual(k, rows, x, residual, r, values)
    rows.all(values, again, (_, v) => {
      for (const value of v) total.add(value)
    })
    const m = k.var(f32, 0)
    k.if(centred.ne(0), () => m.set(rows.inOrder(total.get()).mul(share)))
    const squares = k.var(f32, 0)
    rows.all(values, again, (_, v) => {
      for (const value of v) squares.update((sum) => value.sub(m.get()).fma(value.sub(m.get()), sum)) // not left to the compiler: kinds agree
    })
    const scale = rows.inOrder(squares.get()).fma(share, eps).rsqrt()
    k.if(rows.isFirst(), () => {
      k.if(keepsMean.ne(0), () => mean.set(r, m.get()))
      k.if(keepsRstd.ne(0), () => rstd.set(r, scale))
    })
    rows.all(values, again, (p, v, i) => {
      const weights = keptAt(factors, i) ?? rows.load(w, 0, p)
      const scaled = v.map((value) => value.sub(m.get()).mul(scale))
      const out = scaled.map((value, j) => k.var(f32, value.mul(weights[j]!)))
      k.if(biased.ne(0), () => {
        const biases = keptAt(added, i) ?? rows.load(b, 0, p)
        biases.forEach((value, j) => out[j]!.set(scaled[j]!.fma(weights[j]!, value)))
      })
      rows.store(
        y,
        r,
        p,
        out.map((value) => value.get()),
      )
    })
  })
}

/** Adds r to the values held and writes the sum where it is kept; returns how the columns that are not held are read from then on. */
function addResidual(k: Body, rows: Rows, x: Source, residual: Residual, r: U32, values: ReturnType<Rows["hold"]>) {
  const { r: added, sum, keepsSum, drops } = residual
  const parts = rows.hold((p) => rows.load(added, r, p))
  const left = (p: U32, given: readonly F32[]) => dropped(k, drops, rows.C, rows.place(r, p), given)
  const both = (p: U32) => {
    const own = rows.load(x, r, p)
    return left(p, rows.load(added, r, p)).map((value, j) => own[j]!.add(value))
  }
  rows.held((p, i) => {
    const given = left(
      p,
      parts[i]!.map((value) => value.get()),
    )
    values[i]!.forEach((value, j) => value.add(given[j]!))
    const sums = values[i]!.map((value) => value.get())
    k.if(keepsSum, () => rows.store(sum, r, p, sums))
  })
  rows.rest((p) => {
    const sums = both(p)
    k.if(keepsSum, () => rows.store(sum, r, p, sums))
  })
  // the sum may lie where x was, so x is gone once the sum is written
  return (p: U32) => {
    const out = rows.zeros()[0]!
    k.if(
      keepsSum,
      () => rows.load(sum, r, p).forEach((value, j) => out[j]!.set(value)),
      () => both(p).forEach((value, j) => out[j]!.set(value)),
    )
    return out.map((value) => value.get())
  }
}

const constants = {
  C: constant(u32, 768),
  centred: constant(u32, 1),
  biased: constant(u32, 1),
  keepsMean: constant(u32, 1),
  keepsRstd: constant(u32, 1),
}
const statistics = { w: read(f32), b: read(f32), mean: write(f32), rstd: write(f32) }

function plainNorm(layout: Kind) {
  return kernel({
    name: `norm_${layout}`,
    workgroup: 256,
    buffers: { x: read(choice("x")), y: write(choice("y")), ...statistics },
    push: { R: u32, eps: f32, share: f32 },
    constants,
    body: (k, operands) => norm(k, layout, operands),
  })
}

/**
 * y[r,c] = (x[r,c] − mean[r])·rstd[r]·w[c] + b[c], rstd[r] = 1/√(mean((x[r,:] − mean[r])²) + eps); centred 0: mean is 0 (RMS norm); biased 0: no b.
 * x, y (R, C), w, b (C), mean, rstd (R) f32, written when kept. Short: a row per subgroup, C a multiple of 8, at most 32·subgroupSize;
 * early: the same for few rows; long: a row per workgroup, C a multiple of 8; uneven: any C, R·C < 2^31. Grid: any. Moves R·C·(x + y) bytes.
 * Source: arXiv:1607.06450, arXiv:1910.07467.
 */
export const norms = { short: plainNorm("short"), early: plainNorm("early"), long: plainNorm("long"), uneven: plainNorm("uneven") }

function addNorm(layout: Kind) {
  return kernel({
    name: `add_norm_${layout}`,
    workgroup: 256,
    buffers: { x: read(f32), r: read(choice("r")), y: write(choice("y")), sum: readWrite(f32), ...statistics },
    push: { R: u32, eps: f32, share: f32, ...DROPS.push },
    params: DROPS.params,
    constants: { ...constants, keepsSum: constant(u32, 1), ...DROPS.constants },
    body: (k, { r, sum, keepsSum, site, threshold, scale, seed, step, row, drops, ...operands }) =>
      norm(k, layout, operands, { r, sum, keepsSum: keepsSum.ne(0), drops: { site, threshold, scale, seed, step, row, drops } }),
  })
}

/**
 * sum[r,c] = x[r,c] + r[r,c] (f32, written when kept; it may lie where x does), y = norm of the sum, as in `norms`; y may lie where r does.
 * drops: r goes through dropout first; not in uneven rows.
 * Moves R·C·(8 + r + y) bytes.
 */
export const addNorms = { short: addNorm("short"), early: addNorm("early"), long: addNorm("long"), uneven: addNorm("uneven") }
