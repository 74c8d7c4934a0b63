/** How a chart's lines, bands and axes are drawn: uPlot's options for the view's axes. */
import type uPlot from "uplot"
import { clock, colour, count, dashOf } from "./serve-dash-client-dom.ts"
import { logTicks } from "./serve-dash-client-ticks.ts"
import { change, current } from "./serve-dash-client-view.ts"

/** A column of a run as one line, the first (part 0) with its band. */
export interface Drawn {
  /** Place among the series. */
  readonly run: number
  /** Gives the colour. */
  readonly index: number
  readonly column: string
  readonly part: number
}

/** Opacity of a band and of its edges: of one run, of a few, of more; of many the edges alone, which show a spike as well. */
const bandOf = (runs: number): readonly [string | undefined, string] =>
  runs === 1 ? ["2e", "80"] : runs < 4 ? ["1c", "4a"] : runs < 12 ? ["0c", "3c"] : [undefined, "3c"]
const PARTS = [[], [6, 4], [2, 3], [9, 3, 2, 3]]
/** Steps of an axis of seconds that people count in. */
const SECONDS = [0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200].concat(
  [1, 2, 5, 10, 20, 50, 100].map((days) => days * 86_400),
)
const axis = { stroke: "#8b95a5", grid: { stroke: "#222a35", width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" }

/** Share of the points that may lie beyond the y axis at either end when it spans the lines. */
const BEYOND = 0.02

type Edges = readonly [number, number]

/** y from the least to the greatest of nearly all points. */
function spanOfLines(plot: uPlot, lines: readonly Drawn[], isLog: boolean): Edges | undefined {
  const sorted = (which: readonly number[]) =>
    which.flatMap((at) => [...(plot.data[at] ?? [])].filter((value) => typeof value === "number")).sort((a, b) => a - b)
  const all = places(lines)
  const lows = sorted(all.map(({ line, max }) => (max === undefined ? line : max + 1)))
  const highs = sorted(all.map(({ line, max }) => max ?? line))
  const low = lows[Math.floor(lows.length * BEYOND)]
  const high = highs[Math.ceil(highs.length * (1 - BEYOND)) - 1]
  return low === undefined || high === undefined ? undefined : padded(low, high, isLog)
}

function padded(low: number, high: number, isLog: boolean): Edges {
  if (isLog) {
    const factor = Math.max(1.005, (high / low) ** 0.06)
    return [low / factor, high * factor]
  }
  const pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1
  return [low - pad, high + pad]
}

const logAxis: Pick<uPlot.Axis, "splits" | "filter"> = {
  splits: (_, __, low, high) => logTicks(low, high),
  filter: (_, splits) => splits,
}

/** Where the series of each line stand in uPlot's data: the edges of all bands come first, so that no band covers a line. */
export function places(lines: readonly Drawn[]): { readonly line: number; readonly max: number | undefined }[] {
  const bands = lines.filter(({ part }) => part === 0).length
  let band = 0
  return lines.map(({ part }, i) => ({ line: 1 + 2 * bands + i, max: part === 0 ? 1 + 2 * band++ : undefined }))
}

/** Small triangles at the edge where a band reaches beyond the axis: a spike is never out of sight. */
function markBeyond(plot: uPlot, lines: readonly Drawn[]): void {
  const { ctx, bbox } = plot
  const [low, high] = [plot.scales.y?.min, plot.scales.y?.max]
  if (typeof low !== "number" || typeof high !== "number") return
  const size = 4 * devicePixelRatio
  for (const [i, { max }] of places(lines).entries()) {
    if (max === undefined) continue
    const { index } = lines[i] as Drawn
    for (const [edge, isBeyond, y, tip] of [
      [max, (value: number) => value > high, bbox.top, 1],
      [max + 1, (value: number) => value < low, bbox.top + bbox.height, -1],
    ] as const) {
      let last = Number.NEGATIVE_INFINITY
      ctx.fillStyle = colour(index)
      for (const [k, value] of (plot.data[edge] ?? []).entries()) {
        if (typeof value !== "number" || !isBeyond(value)) continue
        const x = plot.valToPos(plot.data[0][k] as number, "x", true)
        if (x - last < size * 2 || x < bbox.left || x > bbox.left + bbox.width) continue
        last = x
        ctx.beginPath()
        ctx.moveTo(x, y)
        ctx.lineTo(x - size, y + tip * size * 1.6)
        ctx.lineTo(x + size, y + tip * size * 1.6)
        ctx.fill()
      }
    }
  }
}

function seriesOf(lines: readonly Drawn[], several: boolean): { series: uPlot.Series[]; bands: uPlot.Band[] } {
  const series: uPlot.Series[] = [{}]
  const bands: uPlot.Band[] = []
  // Of a single run the columns have colours of their own.
  const strokeOf = ({ index, part }: Drawn) => (several ? colour(index) : colour(index + part))
  const [fill, opacity] = bandOf(new Set(lines.map(({ run }) => run)).size)
  const usual = { points: { show: false }, spanGaps: true }
  for (const line of lines) {
    if (line.part !== 0) continue
    const edge = { ...usual, stroke: strokeOf(line) + opacity, width: 1 }
    series.push({ ...edge }, { ...edge })
    if (fill !== undefined) bands.push({ series: [series.length - 2, series.length - 1], fill: strokeOf(line) + fill })
  }
  for (const line of lines) {
    const dash = line.part === 0 ? dashOf(line.index) : (PARTS[line.part % PARTS.length] as number[])
    series.push({ ...usual, stroke: strokeOf(line), width: line.part === 0 ? 1.75 : 1.5, dash })
  }
  return { series, bands }
}

interface Wishes {
  readonly several: boolean
  readonly format: (value: number) => string
  readonly onMove: (plot: uPlot) => void
}

/** All options but the size. */
export function chartOptions(lines: readonly Drawn[], { several, format, onMove }: Wishes): Omit<uPlot.Options, "width" | "height"> {
  const { logx, logy, x, fit } = current()
  const xText = x === "time" ? clock : count
  const labels = (of: (value: number) => string) => (_: uPlot, splits: (number | null)[]) =>
    splits.map((value) => (value === null ? "" : of(value)))
  return {
    pxAlign: 0,
    padding: [8, 20, 0, 0],
    legend: { show: false },
    scales: {
      x: { time: false, distr: logx ? 3 : 1, ...(logx ? { range: (_, low, high) => [low, high] } : {}) },
      y: {
        distr: logy ? 3 : 1,
        ...(logy || fit
          ? { range: (plot, low, high) => [...((fit ? spanOfLines(plot, lines, logy) : undefined) ?? padded(low, high, logy))] }
          : {}),
      },
    },
    axes: [
      { ...axis, size: 26, gap: 4, space: 64, values: labels(xText), ...(logx ? logAxis : x === "time" ? { incrs: SECONDS } : {}) },
      {
        ...axis,
        gap: 6,
        space: 34,
        size: (_, values) => 16 + 6.4 * Math.max(3, ...(values ?? []).map((text) => text.length)),
        values: labels(format),
        ...(logy ? logAxis : {}),
      },
    ],
    ...seriesOf(lines, several),
    cursor: {
      sync: { key: "runs", setSeries: false, scales: ["x", null] },
      drag: { x: true, y: false, setScale: false },
      points: { show: false },
      y: false,
      bind: {
        dblclick: () => () => {
          change({ from: undefined, to: undefined })
          return null
        },
      },
    },
    hooks: {
      draw: fit ? [(plot) => markBeyond(plot, lines)] : [],
      setCursor: [onMove],
      setSelect: [
        (plot) => {
          const { left, width } = plot.select
          if (width < 4) return
          const [from, to] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false)
          change({ from: Number(from.toPrecision(6)), to: Number(to.toPrecision(6)) }, true)
        },
      ],
    },
  }
}
