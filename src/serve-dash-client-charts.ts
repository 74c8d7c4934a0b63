/** The charts of one or several runs: which there are, fetched as they come into sight, grown by live rows. */
import { axesBar } from "./serve-dash-client-bar.ts"
import { Chart, type ChartTraits, type Shown } from "./serve-dash-client-chart.ts"
import { grow, type RunSeries } from "./serve-dash-client-curve.ts"
import { bytes, count, empty, make, percent, span } from "./serve-dash-client-dom.ts"
import { insist, type LiveRow } from "./serve-dash-client-live.ts"
import { fetchSeries } from "./serve-dash-client-series.ts"
import { current, onView, type View } from "./serve-dash-client-view.ts"

const unit = (name: string) => (value: number) => `${count(value)} ${name}`

/** The first group is fetched and drawn first. */
const GROUPS: readonly { readonly title: string; readonly charts: readonly ChartTraits[] }[] = [
  {
    title: "",
    charts: [
      { column: "loss", title: "Loss", also: [{ column: "valLoss", title: "validation" }], isMain: true },
      { column: "tokensPerS", title: "Tokens per second", isMain: true },
    ],
  },
  {
    title: "Learning",
    charts: [
      { column: "gradNorm", title: "Gradient norm" },
      { column: "lr", title: "Learning rate", isExact: true },
      { column: "bitsPerByte", title: "Bits per byte, validation", isExact: true },
      { column: "skipped", title: "Skipped steps", isExact: true, isRare: true },
    ],
  },
  {
    title: "Time",
    charts: [
      { column: "msPerStep", title: "Time per step", format: span },
      {
        column: "wait_ms",
        title: "Phases of a step",
        name: "wait",
        also: [
          { column: "submit_ms", title: "submit" },
          { column: "data_ms", title: "batches" },
        ],
        format: span,
      },
      { column: "mfu", title: "Use of the device's matrix rate", format: percent },
      { column: "eval_ms", title: "Time per evaluation", format: span, isExact: true },
    ],
  },
  {
    title: "GPU",
    charts: [
      { column: "gpu_utilisation", title: "Busy", format: percent },
      { column: "gpu_memory_bytes", title: "Memory", format: bytes, isExact: true },
      { column: "gpu_power_w", title: "Power", format: unit("W") },
      { column: "gpu_temperature_c", title: "Temperature", format: unit("°C") },
      { column: "gpu_sm_mhz", title: "Clock", format: unit("MHz") },
    ],
  },
]

/** Redraws of live rows are at least this far apart, and take no more than a fifth of the time. */
const DRAW_MS = 200
const REST = 4
/** Live rows that are remembered for an answer that was made before them. */
const KEPT = 1000
/** Live rows until the server's buckets take their place; and the time between two fetches. */
const MOST_GROWN = 2000
const FETCH_MS = 3000
/** Buckets of a run: two pixels each; of many runs fewer, together this many. */
const [FEWEST, MOST, TOGETHER] = [120, 600, 8000]

interface Group {
  readonly title: string
  readonly section: HTMLElement
  readonly charts: readonly Chart[]
  series: RunSeries[]
  state: "stale" | "asked" | "ready"
  /** Was in the window at some time, and is now; `isStale`: what it shows is not the newest. */
  isNear: boolean
  isSeen: boolean
  isStale: boolean
}

export class Charts {
  readonly root = make("div", { name: "charts" })
  private readonly none = empty("No metrics yet", "The first logged step draws the charts; this page need not be loaded again.")
  private readonly noFlops = empty("FLOPs are not known", "No run here says how many a token takes: choose another x axis.")
  private readonly groups: readonly Group[]
  private runs: readonly Shown[] = []
  private asked = new AbortController()
  private view: View = current()
  private grown = 0
  private readonly recent: LiveRow[] = []
  private drawTimer = 0
  private drawMs = 0
  private fetchTimer = 0

  constructor() {
    this.groups = GROUPS.map(({ title, charts }, i) => ({
      title,
      section: make("section", { name: "group" }),
      charts: charts.map((traits) => new Chart(traits, (run) => this.highlight(run))),
      series: [],
      state: "stale",
      isNear: i === 0,
      isSeen: i === 0,
      isStale: false,
    }))
    this.none.hidden = true
    this.noFlops.hidden = true
    const slow = make("p", {
      name: "slow",
      role: "status",
      text: "Still reading: the first look at a long run goes through its whole journal.",
    })
    this.root.append(axesBar(), slow, this.none, this.noFlops)
    const watcher = new IntersectionObserver((seen) => this.see(seen), { rootMargin: "300px" })
    for (const { title, section, charts } of this.groups) {
      const grid = make("div", { name: title === "" ? "grid first" : "grid" }, ...charts.map(({ root }) => root))
      section.append(...(title === "" ? [] : [make("h2", { text: title })]), grid)
      this.root.append(section)
      watcher.observe(section)
    }
    onView(() => this.changed())
    document.addEventListener("visibilitychange", () => {
      for (const group of this.groups) if (group.isStale && group.isSeen && !document.hidden) this.draw(group)
    })
  }

  /** Shows these runs in place of those before. */
  show(runs: readonly Shown[]): Promise<void> {
    this.runs = runs
    // A run that was cut back has rows here that are no more.
    this.recent.length = 0
    return this.load()
  }

  private changed(): void {
    const [before, now] = [this.view, current()]
    this.view = now
    if (before.x !== now.x || before.from !== now.from || before.to !== now.to) void this.load()
    else this.drawSeen()
  }

  /** Draws what is in the window; the rest when it comes there. */
  private drawSeen(): void {
    for (const group of this.groups) {
      if (group.isSeen && !document.hidden) this.draw(group)
      else group.isStale = true
    }
  }

  private see(seen: readonly IntersectionObserverEntry[]): void {
    for (const { target, isIntersecting } of seen) {
      const group = this.groups.find(({ section }) => section === target)
      if (group === undefined) continue
      if (isIntersecting) group.isNear = true
      group.isSeen = isIntersecting
      for (const chart of group.charts) chart.isSeen = isIntersecting
      if (isIntersecting && group.isStale) this.draw(group)
    }
    if (this.runs.length > 0) void this.fetch()
  }

  private load(): Promise<void> {
    this.asked.abort()
    this.asked = new AbortController()
    clearTimeout(this.fetchTimer)
    this.fetchTimer = 0
    this.grown = 0
    for (const group of this.groups) group.state = "stale"
    return this.fetch()
  }

  /** Fetches what is in sight and not known, from the top down. */
  private async fetch(): Promise<void> {
    const { signal } = this.asked
    const { runs } = this
    const width = Math.round(this.root.clientWidth / 2)
    const points = Math.min(MOST, Math.max(FEWEST, Math.min(width, Math.floor(TOGETHER / Math.max(1, runs.length)))))
    for (const group of this.groups) {
      if (group.state !== "stale" || !group.isNear) continue
      group.state = "asked"
      this.root.setAttribute("aria-busy", "true")
      const columns = group.charts.flatMap((chart) => chart.columns)
      await insist(async () => {
        const series = await Promise.all(runs.map(({ id }) => fetchSeries(id, columns, current(), points, signal)))
        if (signal.aborted) return
        group.series = series
        group.state = "ready"
        // Rows that came while the answer was on its way.
        for (const { run, row } of this.recent) {
          const own = series.find((one) => one.run === run)
          if (own !== undefined && current().to === undefined) grow(own, current().x, row)
        }
        this.draw(group)
      })
      if (signal.aborted) return
    }
    if (this.groups.every(({ state }) => state !== "asked")) this.root.removeAttribute("aria-busy")
  }

  /** Adds a live row; the right end of a zoomed view stays as it is. */
  add(live: LiveRow): void {
    const { run, row } = live
    this.recent.push(live)
    if (this.recent.length > KEPT) this.recent.splice(0, KEPT / 2)
    if (current().to !== undefined) return
    let isKnown = true
    for (const { series, state } of this.groups) {
      const own = state === "ready" ? series.find((one) => one.run === run) : undefined
      if (own !== undefined && !grow(own, current().x, row)) isKnown = false
    }
    if (!this.runs.some(({ id }) => id === run)) return
    if (!isKnown || ++this.grown > MOST_GROWN) {
      if (this.fetchTimer === 0) this.fetchTimer = window.setTimeout(() => void this.load(), FETCH_MS)
      return
    }
    if (this.drawTimer !== 0) return
    this.drawTimer = window.setTimeout(
      () => {
        const from = performance.now()
        this.drawTimer = 0
        this.drawSeen()
        this.drawMs = performance.now() - from
      },
      Math.max(DRAW_MS, this.drawMs * REST),
    )
  }

  private draw(group: Group): void {
    if (group.state !== "ready") return
    group.isStale = false
    const { hide } = current()
    const seen = this.runs.map((run, i) => ({ run, series: group.series[i] })).filter(({ run }) => !hide.includes(run.id))
    const series = seen.flatMap(({ series: one }) => (one === undefined ? [] : [one]))
    // A hidden chart has no width to draw into.
    group.section.hidden = false
    const drawn = group.charts.map((chart) =>
      chart.draw(
        seen.map(({ run }) => run),
        series,
      ),
    )
    group.section.hidden = !drawn.includes(true)
    if (group !== this.groups[0]) return
    this.none.hidden = drawn.includes(true) || seen.length === 0
    this.noFlops.hidden = current().x !== "flops" || !drawn.includes(true) || series.some(({ x }) => (x.at(-1) ?? 0) > 0)
  }

  /** Pales all runs but this one. */
  highlight(run: string | undefined): void {
    for (const { charts, isSeen } of this.groups) if (isSeen) for (const chart of charts) chart.highlight(run)
  }
}
