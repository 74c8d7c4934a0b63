/** The decision whether a step is applied, and how its gradient is scaled. */
import { f32, kernel, read, readWrite } from "../src/spirv.ts"

/** Cells of the control state (f32): what the device remembers between steps and decides for this one. */
export const CONTROL = { applied: 0, skipped: 1, meanNorm: 2, scale: 3, norm: 4, skip: 5, variance: 6 } as const

/** Exponent bits of infinities and NaNs. */
const NOT_FINITE = 0x7f800000

/**
 * n = norm/targets; skipped when n is not finite, or above mean + spike·√variance once `warmup` steps were applied; scale = min(1, clip/(n + 1e-6))/targets,
 * 0 when skipped; the statistics as the op says, `decay` being the weight of the newest norm. clip, spike: 0 = off. control (8) f32. Grid: 1 workgroup.
 */
export const stepControl = kernel({
  name: "step_control",
  workgroup: 64,
  buffers: { norm: read(f32), targets: read(f32), control: readWrite(f32) },
  push: { clip: f32, spike: f32, warmup: f32, decay: f32 },
  body(k, { norm, targets, control, clip, spike, warmup, decay }) {
    k.if(k.lane.eq(0), () => {
      const [one, zero] = [k.f32(1), k.f32(0)]
      const n = norm.at(0).div(targets.at(0))
      const [applied, skipped] = [control.at(CONTROL.applied), control.at(CONTROL.skipped)]
      const [mean, variance] = [control.at(CONTROL.meanNorm), control.at(CONTROL.variance)]
      const isSound = n.bits().and(NOT_FINITE).ne(NOT_FINITE)
      const isJudged = spike.gt(0).and(applied.ge(warmup))
      const limit = isJudged.select(mean.add(spike.mul(variance.sqrt())), n)
      const isSkipped = isSound.not().or(n.gt(limit))
      const clipped = clip.gt(0).select(clip.div(n.add(1e-6)).min(1), one)
      control.set(CONTROL.norm, n)
      control.set(CONTROL.skip, isSkipped.select(one, 0))
      control.set(CONTROL.skipped, skipped.add(isSkipped.select(one, 0)))
      control.set(CONTROL.scale, isSkipped.select(zero, clipped.div(targets.at(0))))
      k.if(isSound, () => {
        const delta = n.min(limit).sub(mean)
        const isStart = applied.eq(0)
        control.set(CONTROL.applied, applied.add(isSkipped.select(zero, 1)))
        control.set(CONTROL.meanNorm, isStart.select(n, mean.add(decay.mul(delta))))
        control.set(CONTROL.variance, isStart.select(zero, variance.add(decay.mul(delta).mul(delta)).mul(one.sub(decay))))
      })
    })
  },
})
