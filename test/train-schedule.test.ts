/** The learning rate is what `alpha help schedules` says, formula by formula. */
import { describe, expect, test } from "bun:test"
import { TOPICS } from "../src/cli-help.ts"
import { learningRate, type ScheduleConfig } from "../src/train-schedule.ts"

const page = (TOPICS.schedules as { page: () => string }).page()

/** The text after `start` up to `end`. */
function between(start: string, end: string): string {
  const from = page.indexOf(start)
  expect(from).toBeGreaterThanOrEqual(0)
  const to = page.indexOf(end, from + start.length)
  return page.slice(from + start.length, to < 0 ? undefined : to).trim()
}

/** A formula of the page as a function of the names it uses. */
function formula(text: string): (names: object) => number {
  const code = text.replaceAll("·", "*").replaceAll("√q", "sqrt(q)").replaceAll("π", "PI").replaceAll("−", "-")
  return new Function("names", `with (Math) with (names) return ${code}`) as (names: object) => number
}

const said = {
  warmUp: formula(between("s < warmupSteps:", "\n")),
  p: formula(between("with p = ", ":\n")),
  cosine: formula(between("cosine ", "\n")),
  linear: formula(between("linear ", "\n")),
  constant: formula(between("constant ", "\n")),
  d: formula(between("while s < d, d = ", ";")),
  q: formula(between("with q = ", ":\n")),
  wsd: formula(between("decaySteps - d)):\n", "\n")),
}

/** The rate at step s as the page says. */
function rate(s: number, c: ScheduleConfig): number {
  const names = { ...c, s }
  if (s < c.warmupSteps) return said.warmUp(names)
  if (c.schedule !== "wsd") return said[c.schedule]({ ...names, p: said.p(names) })
  const d = said.d(names)
  return s < d ? c.lr : said.wsd({ ...names, q: said.q({ ...names, d }) })
}

describe("alpha help schedules", () => {
  const shapes = [
    { warmupSteps: 7, decaySteps: 21, wsdDecayFraction: 0.2 },
    { warmupSteps: 0, decaySteps: 33, wsdDecayFraction: 0.15 }, // 33 · 0.85 = 28.05
    { warmupSteps: 20, decaySteps: 25, wsdDecayFraction: 0.9 }, // warm-up ends after the decay would begin
    { warmupSteps: 10, decaySteps: 10, wsdDecayFraction: 1 }, // nothing between
  ]
  for (const schedule of ["cosine", "linear", "constant", "wsd"] as const) {
    test(schedule, () => {
      for (const shape of shapes) {
        const c = { lr: 3e-4, minLr: 2e-5, schedule, ...shape }
        for (let s = 0; s < 40; s++) expect(learningRate(s, c)).toBeCloseTo(rate(s, c), 14)
      }
    })
  }

  test("the table of CS336's assignment: warm-up 7, cosine to step 21 (get_lr_cosine_schedule)", () => {
    const c = { lr: 1, minLr: 0.1, schedule: "cosine", warmupSteps: 7, decaySteps: 21, wsdDecayFraction: 0.2 } as const
    // theirs warms up from 0 at step 0, ours from lr/warmupSteps: shifted by one until the peak, equal from there on
    const theirs = [
      0, 0.14285714285714285, 0.2857142857142857, 0.42857142857142855, 0.5714285714285714, 0.7142857142857143, 0.8571428571428571,
    ]
    theirs.slice(1).forEach((value, s) => {
      expect(learningRate(s, c)).toBeCloseTo(value, 12)
    })
    expect([7, 8, 14, 21, 30].map((s) => learningRate(s, c).toFixed(8))).toEqual([
      "1.00000000",
      "0.98871756",
      "0.55000000",
      "0.10000000",
      "0.10000000",
    ])
  })
})
