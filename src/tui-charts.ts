/** The panel of charts: loss above, throughput, learning rate and gradient norm below. */
import { formatCount, formatDuration } from "./base-term.ts"
import type { RunSummary, Series } from "./db.ts"
import { type Chart, type Curve, drawChart, shortNumber, smooth } from "./tui-chart.ts"
import { type State, shown } from "./tui-state.ts"
import type { Paint, Style } from "./tui-style.ts"

/** Columns of MetricRow that the charts and the GPU panel need. */
export const CHART_COLUMNS = ["loss", "valLoss", "tokensPerS", "lr", "gradNorm", "mfu"] as const
export const GPU_COLUMNS = [
  "gpu_utilisation",
  "gpu_memory_bytes",
  "gpu_power_w",
  "gpu_temperature_c",
  "gpu_sm_mhz",
  "gpu_memory_mhz",
] as const

/** Columns below which a small chart shows nothing. */
const LEAST_WIDTH = 24
/** Lines from which on the small charts have room. */
const LEAST_HEIGHT = 13

const SMALL = [
  ["tokensPerS", "tokens/s"],
  ["lr", "learning rate"],
  ["gradNorm", "gradient norm"],
] as const

export function chartsPanel(state: State, width: number, height: number, style: Style): string[] {
  const runs = shown(state).map((run, i) => {
    const detail = state.details.get(run.id)
    return { run, series: detail?.axis === state.axis ? detail.series : undefined, paint: style.curves[i] as Paint }
  })
  const common = { logX: state.scale === "log x, y", logY: state.scale !== "linear", formatX: formatX(state), formatY: shortNumber }
  const chart = (title: string, curves: readonly Curve[]): Chart => ({ ...common, title, curves })
  const known = runs.flatMap(({ run, series, paint }) => (series === undefined ? [] : [{ x: xOf(series, run, state), series, paint }]))
  const count = height < LEAST_HEIGHT ? 0 : Math.min(SMALL.length, Math.floor(width / LEAST_WIDTH))
  const below = count === 0 ? 0 : Math.max(6, Math.floor(height * 0.4))
  const loss = known.flatMap(({ x, series, paint }) => lossCurves(x, series, paint, state.smoothing, runs.length > 1, style))
  const lines = drawChart(chart(lossTitle(runs, state), loss), width, height - below, style)
  if (runs.length > 1) lines[0] = legend(runs, width, style) ?? (lines[0] as string)
  if (count === 0) return lines
  const part = Math.floor((width - (count - 1)) / count)
  const small = SMALL.slice(0, count).map(([column, title], i) =>
    drawChart(
      chart(
        title,
        known.flatMap(({ x, series, paint }) => plainCurves(x, series, column, paint)),
      ),
      i === count - 1 ? width - (part + 1) * (count - 1) : part,
      below,
      style,
    ),
  )
  for (let row = 0; row < below; row++) lines.push(small.map((rows) => rows[row]).join(" "))
  return lines
}

function lossTitle(runs: readonly { readonly run: RunSummary }[], state: State): string {
  if (runs.length > 1) return "loss"
  const weight = state.smoothing === 0 ? "" : ", smoothed over its raw band"
  return `loss${weight}; ◆ validation`
}

/** The compared runs' names in their colours; undefined where they do not fit. */
function legend(runs: readonly { readonly run: RunSummary; readonly paint: Paint }[], width: number, style: Style): string | undefined {
  const room = Math.floor((width - 6) / runs.length) - 4
  if (room < 4) return undefined
  const cut = (name: string) => ([...name].length > room ? `${[...name].slice(0, room - 1).join("")}…` : name)
  const names = runs.map(({ run }) => cut(run.name.replace(/[^\x20-\x7e]/g, "?")))
  const taken = 6 + names.reduce((sum, name) => sum + [...name].length + 4, 0)
  return `${style.bold("loss")}  ${names.map((name, i) => (runs[i] as { paint: Paint }).paint(`● ${name}  `)).join("")}${" ".repeat(width - taken)}`
}

function lossCurves(x: readonly number[], series: Series, paint: Paint, weight: number, isCompared: boolean, style: Style): Curve[] {
  const loss = series.columns.loss
  const val = series.columns.valLoss
  const curves: Curve[] = []
  if (loss !== undefined) {
    if (!isCompared || weight === 0) curves.push({ x, y: loss.min, top: loss.max, form: "band", paint: isCompared ? paint : style.dim })
    if (weight === 0) curves.push({ ...joined(x, loss.last), form: "line", paint })
    else curves.push({ ...joined(x, smooth(loss.last, weight)), form: "line", paint })
  }
  if (val !== undefined) curves.push({ x, y: val.last, form: "mark", paint: isCompared ? paint : style.yellow })
  return curves
}

function plainCurves(x: readonly number[], series: Series, column: string, paint: Paint): Curve[] {
  const values = series.columns[column]
  if (values === undefined) return []
  return [
    { x, y: values.min, top: values.max, form: "band", paint },
    { ...joined(x, values.last), form: "line", paint },
  ]
}

/** Without the rows that have no such value: evaluations stand between steps, and are no gaps in the loss. A NaN stays a gap. */
function joined(x: readonly number[], y: readonly (number | null)[]): { x: number[]; y: (number | null)[] } {
  const kept = x.map((_, i) => i).filter((i) => y[i] !== null)
  return { x: kept.map((i) => x[i] as number), y: kept.map((i) => y[i] as number) }
}

/** Times count from the run's start, so that runs of different days lie over each other. */
function xOf(series: Series, run: RunSummary, state: State): readonly number[] {
  return state.axis === "time" ? series.x.map((time) => time - run.startedAt) : series.x
}

function formatX(state: State): (x: number) => string {
  if (state.axis === "time") return (ms) => formatDuration(Math.max(0, ms)).replaceAll(" ", "")
  return (value) => formatCount(Math.round(value))
}
