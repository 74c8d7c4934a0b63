/** One chart: a smoothed line and the raw least-to-greatest band of each run, with a crosshair that all charts share. */
import uPlot from "uplot"
import { chartOptions, type Drawn, places } from "./serve-dash-client-axes.ts"
import { type Column, nearest, type RunSeries, smoothed } from "./serve-dash-client-curve.ts"
import { clock, count, figure, make, NONE, swatch } from "./serve-dash-client-dom.ts"
import { change, current } from "./serve-dash-client-view.ts"

export interface ChartTraits {
  readonly column: string
  readonly title: string
  /** Further columns in the same chart: validation loss beside the loss. */
  readonly also?: readonly { readonly column: string; readonly title: string }[]
  /** Name of the first column where there are further ones. */
  readonly name?: string
  readonly format?: (value: number) => string
  /** Twice as wide and higher. */
  readonly isMain?: boolean
  /** A schedule, a count: nothing to be smoothed. */
  readonly isExact?: boolean
  /** Worth a chart only where it is more than 0. */
  readonly isRare?: boolean
}

/** A run in the charts; its index gives the colour. */
export interface Shown {
  readonly id: string
  readonly label: string
  readonly index: number
}

const at = (x: number): string => (current().x === "time" ? clock(x) : `${current().x} ${count(x)}`)

export class Chart {
  readonly root = make("section", { name: "chart" })
  private readonly legend = make("div", { name: "legend" })
  private readonly where = make("span", { name: "where" })
  private readonly holder = make("div", { name: "plot" })
  private readonly expand = make("button", { type: "button", name: "expand", text: "⤢", title: "Whole width" })
  private plot: uPlot | undefined
  private shape = ""
  private names = ""
  private frame = 0
  /** What writes the legend's values at x. */
  private values: ((x: number | undefined) => void)[] = []
  /** Whether it stands in the window. */
  isSeen = true
  private lines: Drawn[] = []
  private series: readonly RunSeries[] = []
  private runs: readonly Shown[] = []

  constructor(
    readonly traits: ChartTraits,
    private readonly onHover: (run: string | undefined) => void,
  ) {
    this.root.setAttribute("aria-label", traits.title)
    this.expand.setAttribute("aria-label", `${traits.title}: whole width`)
    this.expand.addEventListener("click", () => change({ wide: this.isWide ? "" : traits.column }, true))
    this.root.append(make("header", {}, make("h3", { text: traits.title }), this.where, this.expand), this.legend, this.holder)
    new ResizeObserver(() => this.fit()).observe(this.holder)
    this.size()
  }

  get columns(): string[] {
    return [this.traits.column, ...(this.traits.also ?? []).map(({ column }) => column)]
  }

  private get isWide(): boolean {
    return current().wide === this.traits.column
  }

  private get height(): number {
    return this.isWide ? 440 : this.traits.isMain ? 290 : 180
  }

  private size(): void {
    this.root.classList.toggle("main", this.traits.isMain === true)
    this.root.classList.toggle("wide-chart", this.isWide)
    this.expand.setAttribute("aria-pressed", String(this.isWide))
    this.holder.style.minHeight = `${this.height}px`
  }

  /** Draws the series of runs; false (and hidden) where none has a value. */
  draw(runs: readonly Shown[], series: readonly RunSeries[]): boolean {
    this.runs = runs
    this.series = series
    this.size()
    this.lines = series.flatMap(({ columns }, run) =>
      this.columns
        .map((column, part): Drawn => ({ run, column, part, index: this.runs[run]?.index ?? run }))
        .filter(
          ({ column }) => columns.get(column)?.last.some((value) => value !== null && (this.traits.isRare !== true || value > 0)) === true,
        ),
    )
    this.root.hidden = this.lines.length === 0
    if (this.root.hidden) return false
    const { logx, logy, x, fit } = current()
    const shape = JSON.stringify([this.lines, logx, logy, x, fit, this.isWide])
    const data = this.data(logx, logy)
    const names = JSON.stringify(runs)
    if (shape !== this.shape || names !== this.names) this.list()
    this.names = names
    if (this.plot !== undefined && shape === this.shape) this.plot.setData(data)
    else {
      this.plot?.destroy()
      this.shape = shape
      const several = runs.length > 1
      this.plot = new uPlot(
        {
          ...chartOptions(this.lines, { several, format: this.traits.format ?? count, onMove: (plot) => this.moved(plot) }),
          width: Math.max(120, this.holder.clientWidth),
          height: this.height,
        },
        data,
        this.holder,
      )
      this.watch(this.plot)
    }
    this.tell(undefined)
    return true
  }

  private data(logx: boolean, logy: boolean): uPlot.AlignedData {
    const weight = this.traits.isExact === true ? 0 : current().smooth
    const edges: uPlot.AlignedData[] = []
    const lines: uPlot.AlignedData[] = []
    for (const { run, column, part } of this.lines) {
      const { x, columns } = this.series[run] as RunSeries
      const told = columns.get(column) as Column
      const first = logx ? x.findIndex((value) => value > 0) : 0
      const skip = first < 0 ? x.length : first
      // A logarithm has no place for 0 and less.
      const shown = (values: readonly (number | null)[]) =>
        values.slice(skip).map((value) => (value === null || !Number.isFinite(value) || (logy && value <= 0) ? null : value))
      const axis = x.slice(skip)
      if (part === 0) edges.push([axis, shown(told.max), shown(told.min)])
      const along = logx ? axis.map(Math.log) : axis
      lines.push([axis, smoothed(along, shown(told.last), part === 0 ? weight : 0)])
    }
    // Validation has values at a few steps: null there is "not measured", which a line passes.
    return uPlot.join([...edges, ...lines])
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
      // Its types leave out that the other charts may follow.
      ;(plot.setCursor as (at: { left: number; top: number }, fire: boolean, publish: boolean) => void)({ left, top: 10 }, true, true)
    })
  }

  /** Once a frame, and only where somebody sees it. */
  private moved(plot: uPlot): void {
    if (this.frame !== 0 || !this.isSeen) return
    this.frame = requestAnimationFrame(() => {
      this.frame = 0
      const { left } = plot.cursor
      this.tell(left === undefined || left < 0 ? undefined : plot.posToVal(left, "x"))
    })
  }

  /** Values under the crosshair at `x`, or the last ones. */
  private tell(x: number | undefined): void {
    this.where.textContent = x === undefined ? "" : at(x)
    for (const value of this.values) value(x)
  }

  /** The legend: of several runs an entry each, of one run an entry for each column. */
  private list(): void {
    this.values = []
    const several = this.runs.length > 1
    const entries = [...Map.groupBy(this.lines, ({ run }) => run).values()]
    this.legend.replaceChildren(...entries.flatMap((lines) => (several ? [this.entry(lines)] : lines.map((line) => this.entry([line])))))
  }

  /** "■ baseline 2.65 · 2.86", of a single run with the range of the band. */
  private entry(lines: readonly Drawn[]): HTMLElement {
    const several = this.runs.length > 1
    const first = lines[0] as Drawn
    const { index, label, id } = this.runs[first.run] as Shown
    const entry = make(
      "span",
      { name: "entry" },
      swatch(several ? index : index + first.part),
      several && make("span", { name: "label", text: label }),
    )
    for (const line of lines) entry.append(...this.value(line))
    if (several) {
      entry.addEventListener("mouseenter", () => this.onHover(id))
      entry.addEventListener("mouseleave", () => this.onHover(undefined))
    }
    return entry
  }

  /** A line's name, value and range, which follow the crosshair. */
  private value({ run, column, part }: Drawn): HTMLElement[] {
    const several = this.runs.length > 1
    const format = this.traits.format ?? figure
    const title = part === 0 ? (several ? undefined : this.traits.name) : this.traits.also?.[part - 1]?.title
    const value = make("b")
    const range = make("span", { name: "range" })
    this.values.push((x) => {
      const series = this.series[run]
      const told = series?.columns.get(column)
      if (series === undefined || told === undefined) return
      let index = x === undefined ? series.x.length - 1 : nearest(series.x, x)
      while (index > 0 && (told.last[index] ?? null) === null) index--
      const [last, low, high] = [told.last[index], told.min[index], told.max[index]]
      value.textContent = typeof last === "number" ? format(last) : NONE
      const isRange = !several && part === 0 && typeof low === "number" && typeof high === "number" && format(high) !== format(low)
      range.textContent = isRange ? `${format(low)} … ${format(high)}` : ""
    })
    return [...(title === undefined ? [] : [make("span", { text: several ? "·" : title, title })]), value, ...(several ? [] : [range])]
  }

  /** Pales the lines of all runs but this one. */
  highlight(run: string | undefined): void {
    const { plot } = this
    if (plot === undefined || this.root.hidden) return
    for (const [i, { line, max }] of places(this.lines).entries()) {
      const alpha = run === undefined || this.runs[this.lines[i]?.run ?? -1]?.id === run ? 1 : 0.12
      for (const at of max === undefined ? [line] : [line, max, max + 1]) (plot.series[at] as uPlot.Series).alpha = alpha
    }
    plot.redraw(false, false)
  }

  private fit(): void {
    const width = this.holder.clientWidth
    if (this.plot !== undefined && width > 0 && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: this.height })
  }
}
