/** RMS norm, forward and backward. */
import { act, f32, kernel, read, readWrite, u32, write } from "../src/spirv.ts"

/**
 * RMS norm, forward: y[r,c] = x[r,c] · rstd[r] · w[c],  rstd[r] = 1/√(mean(x[r,:]²) + eps).
 * x, y (R, C) · w (C) · rstd (R) f32, kept for backward. Grid: one workgroup per row. Moves (2·R·C + C)·s + 4·R bytes, s = element size.
 * Source: Zhang & Sennrich 2019, arXiv:1910.07467.
 */
export const rmsNormForward = kernel({
  name: "rms_norm_forward",
  workgroup: 256,
  buffers: { x: read(act), w: read(f32), y: write(act), rstd: write(f32) },
  push: { C: u32, eps: f32 },
  body(k, { x, w, y, rstd, C, eps }) {
    const row = k.group.mul(C)
    const sum = k.var(f32, 0)
    k.for(k.lane, C, k.workgroup, (c) => {
      const v = x.at(row.add(c))
      sum.add(v.mul(v))
    })
    const scale = k.workgroupSum(sum.get()).div(C.toF32()).add(eps).rsqrt()
    k.if(k.lane.eq(0), () => rstd.set(k.group, scale))
    k.for(k.lane, C, k.workgroup, (c) => y.set(row.add(c), x.at(row.add(c)).mul(scale).mul(w.at(c))))
  },
})

/**
 * RMS norm, backward: with h = x·rstd and g = dy·w, dx[r,c] = rstd[r]·(g − h·mean(g·h)), and partial[p,c] = Σ dy·h over the rows p, p + P, …
 * x, dy, dx (R, C) · w (C), rstd (R) f32 · partial (P, C) f32, whose column sums are dw. Grid: P ≤ R workgroups, each takes every P-th row.
 * Moves 3·R·C·s + 8·R·C bytes, the second term (partial) through the cache. Source: arXiv:1910.07467, differentiated.
 */
export const rmsNormBackward = kernel({
  name: "rms_norm_backward",
  workgroup: 256,
  buffers: { x: read(act), dy: read(act), w: read(f32), rstd: read(f32), dx: write(act), partial: readWrite(f32) },
  push: { R: u32, C: u32 },
  body(k, { x, dy, w, rstd, dx, partial, R, C }) {
    k.for(k.group, R, k.groups, (r) => {
      const row = r.mul(C)
      const scale = rstd.at(r)
      const sum = k.var(f32, 0)
      k.for(k.lane, C, k.workgroup, (c) =>
        sum.add(
          dy
            .at(row.add(c))
            .mul(w.at(c))
            .mul(x.at(row.add(c)).mul(scale)),
        ),
      )
      const mean = k.workgroupSum(sum.get()).div(C.toF32())
      k.for(k.lane, C, k.workgroup, (c) => {
        const [d, h] = [dy.at(row.add(c)), x.at(row.add(c)).mul(scale)]
        dx.set(row.add(c), d.mul(w.at(c)).sub(h.mul(mean)).mul(scale))
        const own = k.group.mul(C).add(c)
        const before = r.eq(k.group).select(k.f32(0), partial.at(own)) // a workgroup's first row finds nothing there
        partial.set(own, before.add(d.mul(h)))
      })
    })
  },
})
