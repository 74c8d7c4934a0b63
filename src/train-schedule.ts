/** Learning rate at a step. */
import type { TrainConfig } from "./config.ts"

export type ScheduleConfig = Pick<TrainConfig, "schedule" | "lr" | "minLr" | "warmupSteps" | "decaySteps" | "wsdDecayFraction">

/**
 * Learning rate of step 0, 1, 2 …: lr·(step + 1)/warmupSteps while step < warmupSteps; then with
 * f = (step − warmupSteps)/(decaySteps − warmupSteps), at most 1:
 * cosine minLr + (lr − minLr)·(1 + cos πf)/2 · linear lr + (minLr − lr)·f · constant lr ·
 * wsd lr until the last wsdDecayFraction of decaySteps, then minLr + (lr − minLr)·(1 − √g), g its share (arXiv:2405.18392).
 */
export function learningRate(step: number, c: ScheduleConfig): number {
  if (step < c.warmupSteps) return (c.lr * (step + 1)) / c.warmupSteps
  if (c.schedule === "constant") return c.lr
  const share = (from: number) => Math.min(1, (step - from) / Math.max(1, c.decaySteps - from))
  if (c.schedule === "wsd") {
    const from = Math.max(c.warmupSteps, Math.round(c.decaySteps * (1 - c.wsdDecayFraction)))
    return step < from ? c.lr : c.minLr + (c.lr - c.minLr) * (1 - Math.sqrt(share(from)))
  }
  const f = share(c.warmupSteps)
  if (c.schedule === "linear") return c.lr + (c.minLr - c.lr) * f
  return c.minLr + ((c.lr - c.minLr) * (1 + Math.cos(Math.PI * f))) / 2
}
