/** Alerts: what begins an incident, and that it is told once. */
import { expect, test } from "bun:test"
import { Alerts } from "../src/train-alert.ts"
import type { StepRow } from "../src/train-metrics.ts"

const row = (step: number, loss: number, speed = 1000): StepRow => ({
  type: "step",
  step,
  loss,
  lr: 1,
  gradNorm: 1,
  tokens: step,
  tokens_per_s: speed,
  ms_per_step: 1,
  data_ms: 0,
  submit_ms: 0,
  wait_ms: 0,
  mfu: 0,
  skipped: 0,
  elapsed_s: 0,
  eta_s: 0,
})

/** Rules told at each step. */
function told(rows: readonly StepRow[], free: () => number | undefined = () => 1e12, ms = 10_000): [number, string][] {
  let now = 0
  const alerts = new Alerts(free, () => (now += ms))
  return rows.flatMap((one) => alerts.of(one).map(({ step, rule }): [number, string] => [step, rule]))
}
const calm = (from: number, count: number, loss = 2) => Array.from({ length: count }, (_, i) => row(from + i, loss + 0.02 * ((i * 7) % 5)))

test("a falling loss with noise alerts nobody", () => {
  expect(told(Array.from({ length: 500 }, (_, i) => row(i, 8 * Math.exp(-i / 100) + 0.1 * Math.sin(i * 1.7), 900 + (i % 7) * 30)))).toEqual(
    [],
  )
})

test("NaN is one incident however long it lasts, and another when it comes back", () => {
  const nan = (step: number) => row(step, Number.NaN)
  expect(told([...calm(0, 20), nan(20), nan(21), nan(22), ...calm(23, 3), nan(26)])).toEqual([
    [20, "nan"],
    [26, "nan"],
  ])
})

test("a spike of the loss, and tokens/s that stay low", () => {
  expect(told([...calm(0, 20), row(20, 4), row(21, 4), ...calm(22, 10)])).toEqual([[20, "spike"]])
  const slow = (from: number, count: number) => Array.from({ length: count }, (_, i) => row(from + i, 2, 300))
  expect(told([...calm(0, 20), ...slow(20, 3), ...calm(23, 5), ...slow(28, 30)])).toEqual([[32, "slow"]])
  // Steps of 10 ms: what lasts half a second is no incident, what lasts 10 s is one.
  expect(told([...calm(0, 20), ...slow(20, 50), ...calm(70, 5)], undefined, 10)).toEqual([])
  expect(told([...calm(0, 20), ...slow(20, 1200)], undefined, 10)).toEqual([[1020, "slow"]])
})

test("a full disk is told once until there is room again", () => {
  let looks = 0
  const free = () => [1e12, 1e6, 1e6, 1e12, 1e6][looks++] ?? 1e12
  expect(told(calm(0, 15), free).map(([, rule]) => rule)).toEqual(["disk", "disk"])
})
