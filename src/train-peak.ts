/** The device's measured matrix-product rate, against which MFU is told. */
import * as op from "./op.ts"
import { type Device, plan, trace } from "./program.ts"

const [M, K, N] = [512, 1024, 1024]
const measured = new Map<string, number>()

/** FLOP/s of a 512 × 1024 × 1024 product in the precision of training: the best of about 100 ms, once per process. */
export function measurePeak(device: Device, precision: "f32" | "bf16"): number {
  const key = `${device.name} ${precision}`
  const known = measured.get(key)
  if (known !== undefined) return known
  const state = device.state()
  const program = trace("peak", (t) => {
    const x = t.state("x", precision, [M, K])
    const w = t.state("w", precision, [N, K])
    t.output("y", op.linear({ x, w }, { activation: "none", out: "f32" }).y)
  })
  const run = device.compile(plan(program), state)
  let best = Number.POSITIVE_INFINITY
  const end = performance.now() + 100
  for (let i = 0; i < 3 || performance.now() < end; i++) {
    const at = performance.now()
    run.submit({}).read("y")
    best = Math.min(best, performance.now() - at)
  }
  run.free()
  state.free()
  const rate = (2 * M * K * N * 1000) / best
  measured.set(key, rate)
  return rate
}
