/** Simulated machines for the gate: clocks with noise, drift and disturbances, and two builds of which one may be slower. */
import { normal, uniform } from "../src/base-random.ts"
import { type GateOptions, gate, learnThreshold, type Side, type Verdict } from "../src/bench-gate.ts"

/** A machine: standard deviation of a process's time, of the walk of its clock from process to process, share and size of disturbances. */
export interface Machine {
  readonly noise: number
  readonly walk: number
  readonly spikes: number
  readonly spike: number
}
export const MACHINES: Readonly<Record<string, Machine>> = {
  quiet: { noise: 0.004, walk: 0.001, spikes: 0, spike: 0 },
  usual: { noise: 0.012, walk: 0.004, spikes: 0.02, spike: 0.3 },
  busy: { noise: 0.02, walk: 0.006, spikes: 0.05, spike: 0.5 },
}

/** Processes of two builds on a simulated machine, B slower by `slowdown`. */
function simulated({ noise, walk, spikes, spike }: Machine, slowdown: number, seed: number) {
  let [i, drift] = [0, 0]
  return async (side: Side) => {
    const n = i++
    drift += walk * normal(seed, 11, 0, n)
    const disturbed = uniform(seed, 12, 0, n) < spikes ? 1 + spike * uniform(seed, 13, 0, n) : 1
    const ms = 100 * Math.exp(drift + noise * normal(seed, 14, 0, n)) * disturbed * (side === "B" ? 1 + slowdown : 1)
    return { metrics: { step: ms }, loss: "4.17" }
  }
}

export const options = (threshold: number, seed: number): GateOptions => ({ blocks: 8, maxBlocks: 64, threshold: () => threshold, seed })

/** The threshold that this machine's own runs of a build against itself teach. */
export async function learned(machine: Machine, seed: number): Promise<number> {
  const stored = []
  for (let run = 0; run < 10; run++) {
    const { rows } = await gate(simulated(machine, 0, seed + run), options(0, seed + run))
    stored.push(rows[0]!.first)
  }
  return learnThreshold(stored)!
}

/** Verdicts of `count` gates of a build that is slower by `slowdown`. */
export async function gates(machine: Machine, threshold: number, slowdown: number, count: number, seed: number) {
  const verdicts: Record<Verdict, number> = { ok: 0, improved: 0, regression: 0, inconclusive: 0 }
  for (let i = 0; i < count; i++) {
    const one = seed + 1000 + 7 * i
    verdicts[(await gate(simulated(machine, slowdown, one), options(threshold, one))).verdict]++
  }
  return verdicts
}
