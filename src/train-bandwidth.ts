/** How fast a device reads memory, measured briefly. */
import * as op from "./op.ts"
import { type Device, plan, trace, writeTo } from "./program.ts"

const [SMALLEST, LARGEST] = [2 ** 28, 2 ** 30] // bytes

/** Bytes per second of reading f32 values in order: the best of three passes over twice the last cache, 256 MiB to 1 GiB but at most an eighth of what is free. */
export function measureBandwidth(device: Device, cacheBytes: number, freeBytes: number): number {
  const wanted = Math.min(LARGEST, Math.max(SMALLEST, 2 * cacheBytes))
  const count = Math.floor(Math.min(wanted, freeBytes / 8) / 4)
  const state = device.state()
  const compile = (name: string, body: Parameters<typeof trace>[1]) => device.compile(plan(trace(name, body)), state)
  try {
    // Memory that was never written is one page of zeros, which stays in the cache.
    const write = compile("bandwidth.write", (t) => void writeTo(op.fill({}, { shape: [count], value: 1 }).y, t.state("x", "f32", [count])))
    write.submit({})
    write.free()
    const read = compile("bandwidth.read", (t) => t.output("norm", op.globalNorm({ grads: [t.state("x", "f32", [count])] }).norm))
    let best = Number.POSITIVE_INFINITY
    for (let i = 0; i < 3; i++) {
      const at = performance.now()
      read.submit({}).read("norm")
      best = Math.min(best, performance.now() - at)
    }
    read.free()
    return (count * 4 * 1000) / best
  } finally {
    state.free()
  }
}
