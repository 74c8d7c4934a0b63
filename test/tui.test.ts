import { expect, test } from "bun:test"
import { displayWidth } from "../src/base-term.ts"
import type { RunSummary } from "../src/db.ts"
import { drawChart, shortNumber, smooth } from "../src/tui-chart.ts"
import { readKeys } from "../src/tui-keys.ts"
import { initialState, press, type State, TABS } from "../src/tui-state.ts"
import { clean, createStyle } from "../src/tui-style.ts"
import { frame } from "../src/tui-view.ts"

const PLAIN = createStyle({ colour: false, unicode: true })
const COLOUR = createStyle({ colour: true, unicode: true })
const ASCII = createStyle({ colour: false, unicode: false })
const NOW = 1_700_000_000_000

const summary = (id: string, more: Partial<RunSummary> = {}): RunSummary => ({
  id,
  name: id,
  state: "running",
  step: 50,
  steps: 200,
  loss: 2.5,
  valLoss: 2.75,
  bestValLoss: 2.625,
  tokensPerS: 1000,
  tokens: 51_200,
  msPerStep: 100,
  device: "cpu",
  precision: "f32",
  parameters: 1e6,
  preset: null,
  domain: null,
  startedAt: NOW - 60_000,
  updatedAt: NOW - 5000,
  host: null,
  notes: "",
  tags: [],
  ...more,
})

const column = (values: readonly (number | null)[]) => ({ min: values, max: values, last: values })
const SERIES = {
  rows: 3,
  x: [10, 20, 50],
  columns: { loss: column([4, 3, 2.5]), valLoss: column([null, null, 2.75]), lr: column([0.1, 0.2, 0.1]) },
}

function stateWith(runs: readonly RunSummary[], more: Partial<State> = {}): State {
  const details = new Map(
    runs.map(({ id }) => [
      id,
      {
        series: SERIES,
        axis: "step" as const,
        events: [{ seq: 0, time: NOW, type: "note", step: 7, level: "warn", message: "a \x1b[2J spike" }],
        samples: [{ seq: 0, time: NOW, type: "sample", step: 7, prompt: "Once", text: "one\ntwo" }],
        config: { config: { lr: { value: 0.001, origin: { layer: "flag", from: "--lr" } } }, commit: "abc" },
      },
    ]),
  )
  return { ...initialState("runs", NOW), runs, details, ...more }
}

test("a frame of 80 × 20 as it is drawn", () => {
  const old = summary("older", { state: "crashed", startedAt: NOW - 9e6, updatedAt: NOW - 3.6e6 })
  expect(frame(stateWith([summary("first"), old], { smoothing: 0 }), 80, 20, PLAIN).map((line) => line.trimEnd())).toEqual(FRAME)
})

const FRAME = [
  " alpha  runs                                       2 runs, 1 running, 1 crashed",
  "  run                         state      loss  done    val  tok/s    seen   size",
  "> first                       running   2.500   25%  2.750  1.00K      5s  1.00M",
  "  older                       crashed   2.500   25%  2.750  1.00K      1h  1.00M",
  "first  running  step 50/200 (25%)  15.0 s left",
  "loss 2.500  val 2.750 (best 2.625)  1.00K tok/s  100 ms a step  51.2K tokens  1…",
  "[charts] events  samples  gpu  config             by step  linear  smoothing off",
  "loss; ◆ validation",
  "  4.000┤⠑⠢⡀",
  "       │  ⠈⠑⢄⡀",
  "       │     ⠈⠒⢄",
  "       │        ⠉⠢⢄",
  "       │           ⠑⠢⡀",
  "  3.173┤             ⠈⠑⠤⡀",
  "       │                ⠈⠒⠤⠤⢄⣀⣀⣀⡀",
  "       │                        ⠈⠉⠉⠉⠑⠒⠒⠒⠢⠤⠤⠤⠤⣀⣀⣀⣀",
  "       │                                         ⠉⠉⠉⠉⠒⠒⠒⠒⠤⠤⠤⠤⣀⣀⣀⣀⡀             ◆",
  "  2.500┤                                                         ⠈⠉⠉⠉⠑⠒⠒⠒⠢⠤⠤⠤⢄⣀⣀",
  "       └10─────────────────────────────────30─────────────────────────────────50",
  " q:quit j/k:move enter:open tab:panel /:find c:compare x:axis l:log s:smooth",
]

test("every size, panel and state gives exactly so many lines of exactly such a width", () => {
  const wide = summary("a run with 海 and \x1b[31m in its name that is far too long for any list of runs on a terminal", { steps: null })
  for (const base of [initialState("runs", NOW), stateWith([]), stateWith([summary("a"), wide]), stateWith([wide], { error: "away" })])
    for (const tab of TABS)
      for (const focus of ["list", "detail"] as const)
        for (const [width, height] of [
          [80, 24],
          [130, 40],
          [200, 60],
          [60, 12],
          [30, 8],
          [20, 5],
          [9, 3],
          [1, 1],
          [3, 30],
        ] as const)
          for (const style of [PLAIN, COLOUR, ASCII]) {
            const lines = frame({ ...base, tab, focus, marked: base.runs?.map(({ id }) => id) ?? [] }, width, height, style)
            expect(lines.length).toBe(height)
            expect(lines.map(displayWidth)).toEqual(Array(height).fill(width))
          }
})

test("texts of others bring no command to the terminal", () => {
  expect(clean("a\x1b[2Jb\x9bc\u202ed\r\ne")).toBe("a [2Jb c d↵e")
  const state = stateWith([summary("x\x1b]0;title\x07")], { tab: "events" })
  expect(frame(state, 80, 24, PLAIN).join("")).not.toMatch(/[\x00-\x1f\x7f-\x9f]/)
})

test("ASCII alone where that is asked for", () => {
  expect(frame(stateWith([summary("first")]), 80, 24, ASCII).join("")).toMatch(/^[\x20-\x7e]*$/)
})

test("a chart: a straight line, its marks and axes", () => {
  const chart = {
    title: "line",
    curves: [
      { x: [0, 10], y: [0, 1], form: "line", paint: PLAIN.plain },
      { x: [5], y: [1], form: "mark", paint: PLAIN.plain },
    ],
    logX: false,
    logY: false,
    formatX: String,
    formatY: shortNumber,
  } as const
  expect(drawChart(chart, 18, 5, PLAIN)).toEqual([
    "line              ",
    "  1.000┤     ◆⢀⡠⠔⠊",
    "       │   ⢀⠤⠒⠁   ",
    "      0┤⡠⠔⠊⠁      ",
    "       └0───5───10",
  ])
})

test("a logarithmic axis is one: powers of ten are equally far apart, and 0 is left out", () => {
  const curve = { x: [1, 2, 3, 4], y: [0, 1, 10, 100], form: "mark", paint: PLAIN.plain } as const
  const lines = drawChart({ title: "", curves: [curve], logX: false, logY: true, formatX: String, formatY: shortNumber }, 18, 5, PLAIN)
  const rows = lines.slice(1, 4).map((line) => line.indexOf("◆"))
  expect(rows).toEqual([17, 14, 11])
})

test("a moving average starts unbiased and passes over gaps", () => {
  expect(smooth([4, null, 2], 0.5)).toEqual([4, null, (4 * 0.25 + 2 * 0.5) / 0.75])
})

test("numbers in seven columns", () => {
  const values = [0, 1.23456, 123.456, 0.00012345, 6e-4, 1234567, 1e15, 0.5, Number.NaN]
  expect(values.map(shortNumber)).toEqual(["0", "1.235", "123.5", "1.2e-4", "6.0e-4", "1.23M", "1000T", "0.5", "?"])
})

test("bytes of a terminal are keys, in one piece or in several", () => {
  expect(readKeys("j\x1b[A\x1bOB\t\x1b[Z\r\x03\x1b[5~é").keys).toEqual([
    "j",
    "up",
    "down",
    "tab",
    "shift-tab",
    "enter",
    "ctrl-c",
    "pageup",
    "é",
  ])
  expect(readKeys("k\x1b")).toEqual({ keys: ["k"], rest: "\x1b" })
  expect(readKeys("\x1b[1;")).toEqual({ keys: [], rest: "\x1b[1;" })
  expect(readKeys("\x1b[1;5A\x1b[200~").keys).toEqual([])
})

test("keys move, open, mark, filter and leave", () => {
  const start = stateWith([summary("a"), summary("b", { startedAt: NOW - 70_000 }), summary("cat", { startedAt: NOW - 80_000 })])
  const after = (...keys: string[]) => keys.reduce<State | undefined>((state, key) => state && press(state, key), start)
  expect(after("j")?.selected).toBe("b")
  expect(after("j", "j", "j", "k")?.selected).toBe("b")
  expect(after("G")?.selected).toBe("cat")
  expect(after("enter")?.focus).toBe("detail")
  expect(after("enter", "escape")?.focus).toBe("list")
  expect(after("c", "j", "c")?.marked).toEqual(["a", "b"])
  expect(after("c", "c")?.marked).toEqual([])
  expect(after("/", "q", "c", "backspace", "enter")).toMatchObject({ filter: "q", isTyping: false })
  expect(after("x", "l", "s", "tab")).toMatchObject({ axis: "tokens", scale: "log y", smoothing: 0.97, tab: "events" })
  expect(after("q")).toBeUndefined()
  expect(after("/", "ctrl-c")).toBeUndefined()
})
