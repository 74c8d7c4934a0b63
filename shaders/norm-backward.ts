/** Gradients of layer norm and RMS norm: dx, and per workgroup the sums that make up dw and db. */
import {
  type Body,
  bf16,
  choice,
  constant,
  type F32,
  f32,
  kernel,
  type ReadWriteBuffer,
  read,
  readWrite,
  type U32,
  u32,
  type Var,
  write,
} from "../src/spirv.ts"
import { DROPS, dropped } from "./dropout.ts"
import { ROW_LAYOUTS, type RowLayoutName, Rows, type Source } from "./row.ts"

/** A lane of a long row works on one row and has the next on its way, so it keeps little of each. */
const LAYOUTS = { ...ROW_LAYOUTS, long: { ...ROW_LAYOUTS.long, held: 2 } } as const

/** Most columns of a short row: what a subgroup of 64 lanes holds. */
const MOST_SHORT = 64 * 32

type Held = readonly (readonly Var<typeof f32>[])[]
const valuesAt = (held: Held, i: number): F32[] => held[i]!.map((value) => value.get())

/** Columns that a lane works on: their pack, where it is held (undefined: it is not), h = (x − mean)·rstd, dy, g = dy·w, dsum (0 without). */
interface Columns {
  readonly p: U32
  readonly i: number | undefined
  readonly h: readonly F32[]
  readonly d: readonly F32[]
  readonly g: readonly F32[]
  readonly added: () => readonly F32[]
}

/** What a lane holds of a row. */
const holding = (k: Body, rows: Rows) => ({
  scale: k.var(f32, 0),
  centre: k.var(f32, 0),
  x: rows.zeros(),
  dy: rows.zeros(),
  dsum: rows.zeros(),
})
type Row = ReturnType<typeof holding>

function copy(from: Row, to: Row): void {
  for (const name of ["scale", "centre"] as const) to[name].set(from[name].get())
  for (const name of ["x", "dy", "dsum"] as const)
    to[name].forEach((pack, i) => pack.forEach((one, j) => one.set(from[name][i]![j]!.get())))
}

function normBackward(layout: RowLayoutName) {
  return kernel({
    name: `norm_backward_${layout}`,
    workgroup: "lanes",
    buffers: {
      x: read(choice("x")),
      dy: read(choice("dy")),
      w: read(f32),
      mean: read(f32),
      rstd: read(f32),
      dsum: read(f32),
      dx: write(choice("x")),
      dr: write(bf16),
      dw: readWrite(f32),
      db: readWrite(f32),
    },
    push: { R: u32, ...DROPS.push },
    params: DROPS.params,
    constants: {
      lanes: constant(u32, 128),
      C: constant(u32, 768),
      centred: constant(u32, 1),
      adds: constant(u32, 1),
      branches: constant(u32, 1),
      keepsW: constant(u32, 1),
      keepsB: constant(u32, 1),
      ...DROPS.constants,
    },
    variants: [
      { x: "f32", dy: "f32" },
      { x: "f32", dy: "bf16" },
      { x: "bf16", dy: "bf16" },
    ],
    body(k, { x, dy, w, mean, rstd, dsum, dx, dr, dw, db, R, C, centred, adds, branches, keepsW, keepsB, lanes: _, ...given }) {
      const rows = new Rows(k, LAYOUTS[layout], C)
      const partials = [
        { to: dw, keeps: keepsW, sums: rows.zeros(), term: ({ h, d }: Columns) => d.map((value, j) => value.mul(h[j]!)) },
        { to: db, keeps: keepsB, sums: rows.zeros(), term: ({ d }: Columns) => d },
      ]
      for (const { to, keeps } of partials) {
        k.if(keeps.ne(0), () => rows.rest((p) => rows.store(to, k.group, p, Array(rows.layout.pack).fill(k.f32(0)))))
      }
      /** All that is read of row r is on its way before any of it is needed. */
      const bring = (to: Row, r: U32) => {
        to.scale.set(rstd.at(r))
        k.if(centred.ne(0), () => to.centre.set(mean.at(r)))
        const keep = (from: Source, into: Held) => rows.held((p, i) => rows.load(from, r, p).forEach((value, j) => into[i]![j]!.set(value)))
        keep(x, to.x)
        keep(dy, to.dy)
        k.if(adds.ne(0), () => keep(dsum, to.dsum))
      }
      const isAhead = layout === "long"
      const factors = isAhead ? rows.hold((p) => rows.load(w, 0, p)) : undefined
      const next = holding(k, rows)
      if (isAhead) k.if(rows.firstRow().lt(R), () => bring(next, rows.firstRow()))
      rows.each(R, (r) => {
        const own = holding(k, rows)
        if (isAhead) {
          copy(next, own)
          const after = r.add(rows.stride())
          k.if(after.lt(R), () => bring(next, after))
        } else bring(own, r)
        const [scale, centre] = [own.scale.get(), own.centre]
        const each = (body: (columns: Columns) => void) => {
          const use = (p: U32, i: number | undefined, values: readonly F32[], d: readonly F32[], added: () => readonly F32[]) => {
            const weights = i === undefined || factors === undefined ? rows.load(w, 0, p) : valuesAt(factors, i)
            const h = values.map((value) => value.sub(centre.get()).mul(scale))
            body({ p, i, h, d, g: d.map((value, j) => value.mul(weights[j]!)), added })
          }
          rows.held((p, i) => use(p, i, valuesAt(own.x, i), valuesAt(own.dy, i), () => valuesAt(own.dsum, i)))
          rows.rest((p) => use(p, undefined, rows.load(x, r, p), rows.load(dy, r, p), () => rows.load(dsum, r, p)))
        }
        const [sumG, sumGh] = [k.var(f32, 0), k.var(f32, 0)]
        each(({ h, g }) => {
          g.forEach((value, j) => {
            sumG.add(value)
            sumGh.add(value.mul(h[j]!))
          })
        })
        const means = rows.sum(k.vector(sumG.get(), sumGh.get())).div(C.toF32())
        const meanG = k.var(f32, 0)
        k.if(centred.ne(0), () => meanG.set(means.x))
        each((columns) => {
          const { p, i, h, g, added } = columns
          const out = g.map((value, j) => k.var(f32, value.sub(meanG.get()).sub(h[j]!.mul(means.y)).mul(scale)))
          k.if(adds.ne(0), () => added().forEach((value, j) => out[j]!.add(value)))
          const result = out.map((value) => value.get())
          rows.store(dx, r, p, result)
          k.if(branches.ne(0), () => rows.store(dr, r, p, dropped(k, given, C, rows.place(r, p), result)))
          for (const { to, keeps, sums, term } of partials) {
            k.if(keeps.ne(0), () => {
              const terms = term(columns)
              if (i !== undefined) terms.forEach((value, j) => sums[i]![j]!.add(value))
              else
                rows.store(
                  to,
                  k.group,
                  p,
                  rows.load(to, k.group, p).map((before, j) => before.add(terms[j]!)),
                )
            })
          }
        })
      })
      const shared = layout === "short" ? k.shared("columns", f32, MOST_SHORT) : undefined
      for (const { to, keeps, sums } of partials) {
        k.if(keeps.ne(0), () => {
          if (shared === undefined) rows.held((p, i) => rows.store(to, k.group, p, valuesAt(sums, i)))
          else combine(k, rows, sums, shared, to)
        })
      }
    },
  })
}

/** Adds the sums of the workgroup's subgroups in their order; the last one writes them as row `group` of `to`. */
function combine(
  k: Body,
  rows: Rows,
  sums: Held,
  shared: { at(i: U32): F32; set(i: U32, value: F32): void },
  to: ReadWriteBuffer<typeof f32>,
): void {
  const { pack } = rows.layout
  const place = (i: number, j: number) => k.subgroupSize.mul(i * pack + j).add(k.subgroupLane)
  const upTo = (i: number) => valuesAt(sums, i).map((value, j) => shared.at(place(i, j)).add(value))
  const keep = (values: (i: number) => readonly F32[]) =>
    rows.held((_, i) => values(i).forEach((value, j) => shared.set(place(i, j), value)))
  const last = k.workgroup.div(k.subgroupSize).sub(1)
  k.if(k.subgroup.eq(0), () => keep((i) => valuesAt(sums, i)))
  k.barrier()
  k.for(1, last, 1, (subgroup) => {
    k.if(k.subgroup.eq(subgroup), () => keep(upTo))
    k.barrier()
  })
  k.if(k.subgroup.eq(last), () => rows.held((p, i) => rows.store(to, k.group, p, upTo(i))))
  k.barrier()
}

/**
 * With h = (x − mean)·rstd and g = dy·w: dx[r,c] = rstd[r]·(g − mean(g) − h·mean(g·h)) + dsum[r,c], without mean(g) where not centred; dr is dx as bf16,
 * after the dropout of the branch where it drops (not in uneven rows);
 * dw[p,c] = Σ dy·h and db[p,c] = Σ dy over the rows that workgroup p took, whose column sums are the gradients.
 * x, dy, dsum, dx, dr (R, C), w (C), mean, rstd (R), dw, db (groups, C). Grid: any. Layouts as in `norms`; of a long row a lane keeps 8 columns.
 * Moves R·C·(2·x + dy + dsum + dr) bytes. Source: arXiv:1607.06450, arXiv:1910.07467, differentiated.
 */
export const normBackwards = { short: normBackward("short"), long: normBackward("long"), uneven: normBackward("uneven") }
