/** The gate itself is tested: simulated clocks with noise, drift and spikes; planted slow-downs must be found, equal builds left alone. */
import { describe, expect, test } from "bun:test"
import { compareCounters, GATE_EXIT, gate, judge, learnThreshold, type Side } from "../src/bench-gate.ts"
import { gates, learned, MACHINES, options } from "./gate-machines.ts"

describe.each(Object.entries(MACHINES))("on a %s machine", (name, machine) => {
  let threshold = 0
  test("the threshold is learned from runs of a build against itself", async () => {
    threshold = await learned(machine, 5)
    expect(threshold).toBeGreaterThanOrEqual(0.01)
    expect(threshold).toBeLessThan(0.03)
  })

  test("100 gates of equal builds: at most one alarm", async () => {
    const verdicts = await gates(machine, threshold, 0, 100, 50_000)
    console.log(`gate, ${name} machine, threshold ${(100 * threshold).toFixed(2)} %, equal builds: ${JSON.stringify(verdicts)}`)
    expect(verdicts.regression).toBeLessThanOrEqual(1)
    expect(verdicts.improved).toBeLessThanOrEqual(1)
    expect(verdicts.ok).toBeGreaterThanOrEqual(90)
  })

  test("planted slow-downs: power at 2, 5 and 10 %", async () => {
    const power: Record<string, number> = {}
    for (const percent of [2, 5, 10]) {
      const count = percent === 5 ? 100 : 10
      power[percent] = (100 * (await gates(machine, threshold, percent / 100, count, 90_000)).regression) / count
    }
    console.log(`gate, ${name} machine, alarms at 2, 5 and 10 %: ${Object.values(power).join(", ")} of 100`)
    expect(power[5]).toBeGreaterThanOrEqual(95)
    expect(power[10]).toBe(100)
  })

  test("twice the time is always an alarm, half of it never", async () => {
    expect((await gates(machine, threshold, 1, 20, 1)).regression).toBe(20)
    expect((await gates(machine, threshold, -0.5, 20, 1)).improved).toBe(20)
  })
})

test("exit codes: silence and joy 0, alarm 3, doubt 4", () => {
  expect(GATE_EXIT).toEqual({ ok: 0, improved: 0, regression: 3, inconclusive: 4 })
})

test("a build with another loss is refused, and one that is not deterministic", async () => {
  const sides: Side[] = []
  const other = gate(
    async (side) => {
      sides.push(side)
      return { metrics: { step: 1 }, loss: side === "A" ? "4.17" : "4.18" }
    },
    options(0.01, 1),
  )
  await expect(other).rejects.toThrow("different losses: A 4.17, B 4.18")
  expect(sides).toHaveLength(2) // at once, not after all blocks
  let n = 0
  await expect(gate(async () => ({ metrics: { step: 1 }, loss: String(n++ >> 2) }), options(0.01, 1))).rejects.toThrow(
    "is not deterministic",
  )
})

test("one run is no alarm: the second must confirm it", async () => {
  let runs = 0
  // The first 8 blocks are the first run.
  const flaky = await gate(async (side) => ({ metrics: { step: runs++ < 32 && side === "B" ? 120 : 100 }, loss: "1" }), options(0.01, 1))
  expect(flaky.verdict).toBe("inconclusive")
  expect(flaky.rows[0]!.first.says).toBe("slower")
  expect(flaky.rows[0]!.second!.says).toBe("same")
})

test("blocks cancel a machine that slows down at a constant pace", async () => {
  let i = 0
  const { verdict, rows } = await gate(async () => ({ metrics: { step: 100 * 1.01 ** i++ }, loss: undefined }), options(0.01, 1))
  expect(verdict).toBe("ok")
  expect(Math.abs(rows[0]!.first.ratio)).toBeLessThan(1e-9)
})

test("several metrics: each by its own threshold, the worst decides", async () => {
  const take = async (side: Side) => ({ metrics: { step: side === "A" ? 100 : 104, start: side === "A" ? 10 : 8 }, loss: undefined })
  const thresholds: Record<string, number> = { step: 0.05, start: 0.05 }
  const { verdict, rows } = await gate(take, { ...options(0, 1), threshold: (metric) => thresholds[metric]! })
  expect(rows.map((row) => row.verdict)).toEqual(["ok", "improved"])
  expect(verdict).toBe("improved")
})

test("doubt is said when the interval is wider than the threshold", () => {
  expect(judge([-0.1, 0.2, -0.3, 0.25, 0.1, -0.05, 0.3, -0.2], 0.01, 0.99, 1).says).toBe("unclear")
  expect(learnThreshold([{ low: 0, high: 0.1 }])).toBeUndefined()
})

test("exact counters: more is a regression unless allowed, code has a little room", () => {
  const before = { dispatches: 400, barriers: 100, spirv_words: 1_000_000, binary_bytes: 1_000_000, old: 1 }
  const after = { dispatches: 401, barriers: 99, spirv_words: 1_010_000, binary_bytes: 1_030_000, more: 1 }
  const verdicts = (allowed: string[]) =>
    Object.fromEntries(compareCounters(before, after, allowed).map(({ counter, verdict }) => [counter, verdict]))
  expect(verdicts([])).toEqual({ dispatches: "regression", barriers: "improved", spirv_words: "ok", binary_bytes: "regression" })
  expect(verdicts(["dispatches", "binary_bytes"])).toMatchObject({ dispatches: "ok", binary_bytes: "ok" })
})
