/** The charts of one or several runs with the bar that sets axes, smoothing and zoom. */
import { Chart, type ChartTraits } from "./serve-dash-client-chart.ts"
import { bytes, count, empty, make } from "./serve-dash-client-dom.ts"
import { insist, type LiveRow } from "./serve-dash-client-live.ts"
import { fetchSeries, grow, type RunSeries } from "./serve-dash-client-series.ts"
import { AXES, type Axis, change, current, onView, SMOOTHEST, type View } from "./serve-dash-client-view.ts"

const percent = (value: number): string => `${Number((value * 100).toPrecision(3))} %`
const ms = (value: number): string => `${count(value)} ms`

export const GROUPS: readonly { readonly title: string; readonly charts: readonly ChartTraits[] }[] = [
  {
    title: "Learning",
    charts: [
      { column: "loss", title: "Loss", also: { column: "valLoss", title: "validation" } },
      { column: "tokensPerS", title: "Tokens per second" },
      { column: "gradNorm", title: "Gradient norm" },
      { column: "lr", title: "Learning rate" },
      { column: "bitsPerByte", title: "Bits per byte" },
      { column: "skipped", title: "Skipped steps" },
    ],
  },
  {
    title: "Time",
    charts: [
      { column: "msPerStep", title: "Time per step", format: ms },
      { column: "mfu", title: "Use of the device's matrix rate", format: percent },
    ],
  },
  {
    title: "GPU",
    charts: [
      { column: "gpu_utilisation", title: "GPU busy", format: percent },
      { column: "gpu_memory_bytes", title: "GPU memory", format: bytes },
      { column: "gpu_power_w", title: "GPU power", format: (value) => `${count(value)} W` },
      { column: "gpu_temperature_c", title: "GPU temperature", format: (value) => `${count(value)} °C` },
      { column: "gpu_sm_mhz", title: "GPU clock", format: (value) => `${count(value)} MHz` },
    ],
  },
]

/** Redraws of live rows are at least this far apart. */
const DRAW_MS = 200
/** Live rows until the server's buckets take their place; and the time between two fetches. */
const MOST_GROWN = 2000
const FETCH_MS = 3000

const AXIS_NAMES: Readonly<Record<Axis, string>> = { step: "Step", tokens: "Tokens", time: "Time", flops: "FLOPs" }

/** Axes, smoothing, zoom. */
function bar(): HTMLElement {
  const x = make("select", { "aria-label": "x axis" }, ...AXES.map((axis) => make("option", { value: axis, text: AXIS_NAMES[axis] })))
  x.addEventListener("change", () => change({ x: x.value as Axis, from: undefined, to: undefined }))
  const box = (key: "logx" | "logy") => {
    const input = make("input", { type: "checkbox" })
    input.addEventListener("change", () => change({ [key]: input.checked }))
    return input
  }
  const [logx, logy] = [box("logx"), box("logy")]
  const smooth = make("input", { type: "range", min: "0", max: "100", step: "1" })
  const told = make("span", { name: "mono" })
  // Near 1 small differences matter: the slider moves the logarithm of what is left of the present.
  smooth.addEventListener("input", () =>
    change({ smooth: Number(Math.min(SMOOTHEST, 1 - 10 ** (-3 * (Number(smooth.value) / 100))).toFixed(4)) }),
  )
  const reset = make("button", { type: "button", text: "Reset zoom" })
  reset.addEventListener("click", () => change({ from: undefined, to: undefined }))
  const show = () => {
    const view = current()
    x.value = view.x
    logx.checked = view.logx
    logy.checked = view.logy
    smooth.value = String(Math.round((Math.log10(1 - view.smooth) / -3) * 100))
    told.textContent = view.smooth.toFixed(view.smooth > 0.99 ? 3 : 2)
    reset.disabled = view.from === undefined && view.to === undefined
  }
  onView(show)
  show()
  return make(
    "div",
    { name: "bar", role: "group", "aria-label": "Axes" },
    make("label", {}, "x ", x),
    make("label", { name: "check" }, logx, "log x"),
    make("label", { name: "check" }, logy, "log y"),
    make("label", { name: "check" }, "smoothing", smooth, told),
    reset,
    make("span", { name: "meta", text: "drag zooms, double click resets, ? lists keys" }),
  )
}

export interface Shown {
  readonly id: string
  readonly label: string
}

export class Charts {
  readonly root = make("div", { name: "charts" })
  private readonly groups = GROUPS.map(({ title, charts }) => ({
    title,
    section: make("section", { name: "group", hidden: true }),
    charts: charts.map((traits) => new Chart(traits)),
  }))
  private readonly none = empty("No metrics yet", "The first logged step draws the charts.")
  private series: RunSeries[] = []
  private runs: readonly Shown[] = []
  private asked = new AbortController()
  private view: View = current()
  private grown = 0
  private drawAt = 0
  private fetchTimer: ReturnType<typeof setTimeout> | undefined

  constructor() {
    this.none.hidden = true
    this.root.append(bar(), this.none)
    for (const { title, section, charts } of this.groups) {
      section.append(make("h2", { text: title }), make("div", { name: "grid" }, ...charts.map(({ root }) => root)))
      this.root.append(section)
    }
    onView(() => {
      const [before, now] = [this.view, current()]
      this.view = now
      if (before.x !== now.x || before.from !== now.from || before.to !== now.to) void this.load()
      else this.draw()
    })
  }

  show(runs: readonly Shown[]): Promise<void> {
    this.runs = runs
    return this.load()
  }

  private async load(): Promise<void> {
    this.asked.abort()
    const asked = new AbortController()
    this.asked = asked
    clearTimeout(this.fetchTimer)
    this.fetchTimer = undefined
    this.root.setAttribute("aria-busy", "true")
    const columns = GROUPS.flatMap(({ charts }) =>
      charts.flatMap(({ column, also }) => (also === undefined ? [column] : [column, also.column])),
    )
    // A bucket per two pixels of a chart; more could not be seen.
    const points = Math.min(1000, Math.max(200, Math.round(this.root.clientWidth / 2)))
    await insist(async () => {
      const series = await Promise.all(this.runs.map(({ id }) => fetchSeries(id, columns, current(), points, asked.signal)))
      if (asked.signal.aborted) return
      this.series = series
      this.grown = 0
      this.draw()
      this.root.removeAttribute("aria-busy")
    })
  }

  /** Adds a live row; the right end of a zoomed view stays as it is. */
  add({ run, row }: LiveRow): void {
    const series = this.series.find((one) => one.run === run)
    if (series === undefined || current().to !== undefined) return
    if (!grow(series, current().x, row) || ++this.grown > MOST_GROWN) {
      this.fetchTimer ??= setTimeout(() => void this.load(), FETCH_MS)
      return
    }
    if (this.drawAt !== 0) return
    this.drawAt = window.setTimeout(() => {
      this.drawAt = 0
      this.draw()
    }, DRAW_MS)
  }

  private draw(): void {
    const labels = this.runs.map(({ label }) => label)
    let isEmpty = true
    for (const { section, charts } of this.groups) {
      // A hidden chart has no width to draw into.
      section.hidden = false
      for (const chart of charts) chart.draw(this.series, labels)
      section.hidden = charts.every(({ root }) => root.hidden)
      if (!section.hidden) isEmpty = false
    }
    this.none.hidden = !isEmpty
  }
}
