/** The rate against which MFU is told: the maker's, or the best matrix product that the device has shown. */
import * as op from "./op.ts"
import { type Device, plan, trace, writeTo } from "./program.ts"

/** Products (M, K, N): the first that takes at least QUICK_MS; launching a smaller one would be a part of what is measured. */
const PRODUCTS = [
  [512, 1024, 1024],
  [4096, 4096, 4096],
] as const
const QUICK_MS = 0.5
/** Length of the first measurement, of a later one, and the time between two. */
const FIRST_MS = 100
const LATER_MS = 30
const AGAIN_MS = 30_000

interface Peak {
  /** FLOP/s. */
  rate: number
  measuredAt: number
}
const peaks = new Map<string, Peak>()
const keyOf = (device: Device, precision: string) => `${device.name} ${precision}`

/** The maker's FLOP/s, or those of a product in the precision of training: the best seen so far, at first that of about 100 ms. */
export function measurePeak(device: Device, precision: "f32" | "bf16"): number {
  const known = device.peakFlops(precision) ?? peaks.get(keyOf(device, precision))?.rate
  if (known !== undefined) return known
  const rate = productRate(device, precision, FIRST_MS)
  peaks.set(keyOf(device, precision), { rate, measuredAt: performance.now() })
  return rate
}

/**
 * The peak after a step that ran at `achieved` FLOP/s. A busy machine or a cold processor makes the first burst too low, so it is measured
 * again for about 30 ms every half minute (a thousandth of the time) and only ever rises, at least to what training itself achieves.
 */
export function refreshPeak(device: Device, precision: "f32" | "bf16", achieved: number): number {
  const known = measurePeak(device, precision)
  if (device.peakFlops(precision) !== undefined) return known
  const peak = peaks.get(keyOf(device, precision)) as Peak
  const isDue = performance.now() - peak.measuredAt > AGAIN_MS
  const again = isDue ? productRate(device, precision, LATER_MS) : 0
  if (isDue) peak.measuredAt = performance.now()
  peak.rate = Math.max(known, again, achieved)
  return peak.rate
}

/** FLOP/s of the fastest product within `ms`, of at least three. */
export function productRate(device: Device, precision: "f32" | "bf16", ms: number): number {
  let rate = 0
  for (const shape of PRODUCTS) {
    const [M, K, N] = shape
    const best = productTime(device, precision, shape, ms)
    rate = (2 * M * K * N * 1000) / best
    if (best >= QUICK_MS) break
  }
  return rate
}

/** Milliseconds of the fastest of the products made within `ms`. */
function productTime(device: Device, precision: "f32" | "bf16", [M, K, N]: (typeof PRODUCTS)[number], ms: number): number {
  const state = device.state()
  const program = trace("peak", (t) => {
    const x = t.state("x", precision, [M, K])
    const w = t.state("w", precision, [N, K])
    writeTo(op.linear({ x, w }, { activation: "none", out: "f32" }).y, t.state("y", "f32", [M, N]))
    t.output("done", t.state("done", "f32", [])) // read to wait for the product without fetching it
  })
  const run = device.compile(plan(program), state)
  let best = Number.POSITIVE_INFINITY
  const end = performance.now() + ms
  for (let i = 0; i < 3 || performance.now() < end; i++) {
    const at = performance.now()
    run.submit({}).read("done")
    best = Math.min(best, performance.now() - at)
  }
  run.free()
  state.free()
  return best
}
