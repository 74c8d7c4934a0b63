/** Subnormal numbers: flushed to zero inside kernels, on every thread, and untouched in JavaScript afterwards. */
import { expect, test } from "bun:test"
import { openCpu } from "../src/cpu.ts"
import { add } from "../src/op.ts"
import { plan, trace } from "../src/program.ts"

test("kernels take subnormals as zero on all threads; JavaScript keeps its own", () => {
  const device = openCpu(4)
  const state = device.state()
  const size = 1 << 18
  const run = device.compile(
    plan(
      trace("tiny", (t) => {
        const [a, b] = [t.state("a", "f32", [size]), t.state("b", "f32", [size])]
        t.output("y", add({ a, b }).y)
      }),
    ),
    state,
  )
  state.write("a", new Float32Array(size).fill(1e-40))
  const y = run.submit({}).read("y")
  expect(y.every((x) => x === 0)).toBe(true)
  const half = Number.MIN_VALUE * 3
  expect(half).toBeGreaterThan(0)
  expect(Math.fround(1e-40) + Math.fround(1e-40)).toBeGreaterThan(0)
  run.free()
  state.free()
})
