/** One chart: a smoothed line and the raw least-to-greatest band of each run, with a crosshair that all charts share. */
import uPlot from "uplot"
import { COLOURS, colour, count, duration, make, NONE, swatch } from "./serve-dash-client-dom.ts"
import { nearest, type RunSeries, smoothed } from "./serve-dash-client-series.ts"
import { change, current } from "./serve-dash-client-view.ts"

export interface ChartTraits {
  readonly column: string
  readonly title: string
  /** Further columns in the same chart, dashed: validation loss beside the loss. */
  readonly also?: { readonly column: string; readonly title: string }
  readonly format?: (value: number) => string
}

/** Lines of one run in one chart. */
interface Line {
  readonly run: number
  readonly column: string
  readonly isMain: boolean
}

const FILL = "30"
const EDGE = "85"
const HEIGHT = 230

const axisText = (value: number): string => (current().x === "time" ? duration(value) : count(value))
const sync = uPlot.sync("runs")

export class Chart {
  readonly root = make("section", { name: "chart", tabIndex: -1 })
  private readonly legend = make("div", { name: "legend" })
  private readonly holder = make("div", { name: "plot" })
  private plot: uPlot | undefined
  private shape = ""
  private lines: Line[] = []
  private series: readonly RunSeries[] = []
  private labels: readonly string[] = []

  constructor(readonly traits: ChartTraits) {
    this.root.setAttribute("aria-label", traits.title)
    this.root.append(make("h3", { text: traits.title }), this.legend, this.holder)
    new ResizeObserver(() => this.fit()).observe(this.holder)
  }

  get columns(): string[] {
    return [this.traits.column, ...(this.traits.also === undefined ? [] : [this.traits.also.column])]
  }

  /** Draws the series of runs; hidden where none has a value. */
  draw(series: readonly RunSeries[], labels: readonly string[]): void {
    this.series = series
    this.labels = labels
    this.lines = series.flatMap(({ columns }, run) =>
      this.columns
        .filter((column) => columns.get(column)?.last.some((value) => value !== null) === true)
        .map((column): Line => ({ run, column, isMain: column === this.traits.column })),
    )
    this.root.hidden = this.lines.length === 0
    if (this.root.hidden) return
    const { logx, logy, x } = current()
    const shape = JSON.stringify([this.lines, logx, logy, x])
    const data = this.data(logx, logy)
    if (this.plot !== undefined && shape === this.shape) this.plot.setData(data)
    else {
      this.plot?.destroy()
      this.shape = shape
      this.plot = new uPlot(this.options(logx, logy), data, this.holder)
      this.watch(this.plot)
    }
    this.tell(undefined)
  }

  private data(logx: boolean, logy: boolean): uPlot.AlignedData {
    const tables = this.lines.map(({ run, column, isMain }): uPlot.AlignedData => {
      const { x, columns } = this.series[run] as RunSeries
      const told = columns.get(column) as { min: (number | null)[]; max: (number | null)[]; last: (number | null)[] }
      // A logarithm has no place for 0 and less.
      const shown = (values: readonly (number | null)[]) =>
        values.map((value) => (value === null || !Number.isFinite(value) || (logy && value <= 0) ? null : value))
      const skip = logx
        ? Math.max(
            0,
            x.findIndex((value) => value > 0),
          )
        : 0
      const line = smoothed(told.last, isMain ? current().smooth : 0)
      const parts = isMain ? [told.max, told.min, line] : [line]
      return [x.slice(skip), ...parts.map((values) => shown(values).slice(skip))]
    })
    // Validation has values at a few steps: null there is "not measured", which a line passes.
    return tables.length === 1 ? (tables[0] as uPlot.AlignedData) : uPlot.join(tables)
  }

  private options(logx: boolean, logy: boolean): uPlot.Options {
    const series: uPlot.Series[] = [{}]
    const bands: uPlot.Band[] = []
    const several = new Set(this.lines.map(({ run }) => run)).size > 1
    for (const { run, isMain } of this.lines) {
      const stroke = isMain || several ? colour(run) : (COLOURS[1] as string)
      const points = { show: false }
      if (isMain) {
        const edge = { stroke: stroke + EDGE, width: 1, points, spanGaps: true }
        series.push({ ...edge }, { ...edge })
        bands.push({ series: [series.length - 2, series.length - 1], fill: stroke + FILL })
        series.push({ stroke, width: 1.75, points, spanGaps: true })
      } else series.push({ stroke, width: 1.75, dash: [6, 4], points: { show: true, size: 4, fill: stroke }, spanGaps: true })
    }
    const line = { stroke: "#97a1b0", grid: { stroke: "#2a313c", width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" }
    const format = this.traits.format ?? count
    return {
      width: Math.max(120, this.holder.clientWidth),
      height: HEIGHT,
      pxAlign: 0,
      legend: { show: false },
      scales: { x: { time: false, distr: logx ? 3 : 1 }, y: { distr: logy ? 3 : 1 } },
      axes: [
        { ...line, values: (_, splits) => splits.map((value) => (value === null ? "" : axisText(value))), space: 70 },
        { ...line, size: 62, values: (_, splits) => splits.map((value) => (value === null ? "" : format(value))) },
      ],
      series,
      bands,
      cursor: {
        sync: { key: sync.key, setSeries: false, scales: ["x", null] },
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
        setCursor: [
          (plot) => this.tell(plot.cursor.left === undefined || plot.cursor.left < 0 ? undefined : plot.posToVal(plot.cursor.left, "x")),
        ],
        setSelect: [
          (plot) => {
            const { left, width } = plot.select
            if (width < 4) return
            const [from, to] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]
            plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false)
            change({ from: Number(from.toPrecision(6)), to: Number(to.toPrecision(6)) })
          },
        ],
      },
    }
  }

  /** Arrow keys move the crosshair of all charts. */
  private watch(plot: uPlot): void {
    plot.over.tabIndex = 0
    plot.over.setAttribute("role", "img")
    plot.over.setAttribute("aria-label", `${this.traits.title}; arrow keys move the crosshair`)
    plot.over.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 8, ArrowLeft: -8 }[event.key]
      if (step === undefined) return
      event.preventDefault()
      const left = Math.min(plot.over.clientWidth - 1, Math.max(0, Math.max(0, plot.cursor.left ?? 0) + (event.shiftKey ? step * 6 : step)))
      plot.setCursor({ left, top: 10 })
      sync.pub("mousemove", plot, left, 10, plot.over.clientWidth, plot.over.clientHeight, -1)
    })
  }

  /** Values under the crosshair at `x`, or the last ones. */
  private tell(x: number | undefined): void {
    const format = this.traits.format ?? count
    const parts = this.lines.map(({ run, column, isMain }) => {
      const series = this.series[run] as RunSeries
      const told = series.columns.get(column)
      let index = x === undefined ? series.x.length - 1 : nearest(series.x, x)
      while (index > 0 && (told?.last[index] ?? null) === null) index--
      const value = told?.last[index]
      const [low, high] = [told?.min[index], told?.max[index]]
      const range = isMain && typeof low === "number" && typeof high === "number" && high > low ? ` (${format(low)} … ${format(high)})` : ""
      const name = isMain ? (this.labels.length > 1 ? (this.labels[run] ?? "") : "") : (this.traits.also?.title ?? "")
      return make(
        "span",
        {},
        swatch(isMain || this.labels.length > 1 ? run : 1),
        `${name} `,
        make("b", { text: typeof value === "number" ? format(value) : NONE }),
        range,
      )
    })
    const where = x === undefined ? "last" : `${current().x} ${axisText(x)}`
    this.legend.replaceChildren(make("span", { name: "where", text: where }), ...parts)
  }

  private fit(): void {
    const width = this.holder.clientWidth
    if (this.plot !== undefined && width > 0 && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: HEIGHT })
  }
}
