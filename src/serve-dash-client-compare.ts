/** /compare: any number of runs over one another, and the settings in which they differ. */
import type { JournalRow, RunSummary } from "./db.ts"
import type { Shown } from "./serve-dash-client-chart.ts"
import { Charts } from "./serve-dash-client-charts.ts"
import { call, count, duration, empty, figure, keepFocus, loading, make, span, status, swatch, table } from "./serve-dash-client-dom.ts"
import { insist, keep, listen } from "./serve-dash-client-live.ts"
import { badge, fetchRuns, listOf, progress, runLink } from "./serve-dash-client-runs.ts"
import { newestSamples } from "./serve-dash-client-samples.ts"
import { settings } from "./serve-dash-client-settings.ts"
import { change, current, onView } from "./serve-dash-client-view.ts"

const REFRESH_MS = 5000

/** The compared runs in a table: its colours are the charts' legend, its boxes hide lines. */
function chosenTable(runs: readonly RunSummary[], charts: Charts): HTMLElement {
  const { hide } = current()
  const least = (of: (run: RunSummary) => number | null) => Math.min(...runs.map((run) => of(run) ?? Number.POSITIVE_INFINITY))
  const [bestLoss, bestVal] = [least(({ loss }) => loss), least(({ bestValLoss }) => bestValLoss)]
  const marked = (value: number | null, best: number) =>
    value !== null && value === best ? make("b", { name: "best", text: figure(value) }) : figure(value)
  const cells = runs.map((run, i) => {
    const box = make("input", { type: "checkbox", checked: !hide.includes(run.id), "aria-label": `Draw ${run.name}` })
    box.addEventListener("change", () => change({ hide: box.checked ? hide.filter((id) => id !== run.id) : [...hide, run.id] }))
    const remove = make("button", { type: "button", name: "plain", text: "×", "aria-label": `Remove ${run.name}`, title: "Remove" })
    remove.addEventListener("click", () => change({ runs: current().runs.filter((id) => id !== run.id && id !== run.name) }))
    return [
      make("label", { name: "pick" }, box, swatch(i)),
      runLink(run),
      badge(run.state),
      progress(run),
      marked(run.loss, bestLoss),
      marked(run.bestValLoss, bestVal),
      figure(run.tokensPerS),
      span(run.msPerStep),
      duration((run.updatedAt - run.startedAt) / 1000),
      count(run.parameters),
      remove,
    ]
  })
  const head = ["", "Run", "State", "Steps", ">Loss", ">Best val", ">Tokens/s", ">Per step", ">Duration", ">Parameters", ""]
  const element = table(head, cells, "Compared runs")
  for (const [i, row] of element.querySelectorAll("tbody tr").entries()) {
    row.addEventListener("mouseenter", () => charts.highlight(runs[i]?.id))
    row.addEventListener("mouseleave", () => charts.highlight(undefined))
  }
  return element
}

export async function comparePage(main: HTMLElement): Promise<void> {
  const chosen = make("div", { name: "compared" }, loading())
  const add = make("select", { "aria-label": "Add a run" })
  const charts = new Charts()
  const same = make("input", { type: "checkbox", checked: current().same })
  const differences = make("div")
  const below = make(
    "section",
    { name: "group" },
    make("div", { name: "head" }, make("h2", { text: "Settings" }), make("label", { name: "check" }, same, "also those that are the same")),
    differences,
  )
  const texts = make("div")
  const show = make("button", { type: "button", text: "Show the newest of each run" })
  show.addEventListener("click", () => change({ tab: current().tab === "samples" ? "charts" : "samples" }))
  const samples = make("section", { name: "group" }, make("div", { name: "head" }, make("h2", { text: "Samples" }), show), texts)
  main.append(make("div", { name: "head" }, make("h1", { text: "Compare" }), add), chosen, charts.root, below, samples)
  let shown = ""
  let runs: readonly RunSummary[] = []
  let configs: { label: string; config: unknown }[] = []

  /** Samples are long: fetched when they are asked for, once for the runs that are compared. */
  let known: { ids: string; rows: readonly { label: string; index: number; rows: readonly JournalRow[] }[] } | undefined
  const drawSamples = () =>
    insist(async () => {
      const isOpen = current().tab === "samples"
      show.setAttribute("aria-pressed", String(isOpen))
      samples.hidden = runs.length === 0
      const ids = runs.map(({ id }) => id).join()
      if (!isOpen) texts.replaceChildren()
      if (!isOpen || runs.length === 0) return
      if (known?.ids !== ids) {
        texts.replaceChildren(loading())
        const rows = await Promise.all(
          runs.map(async ({ id, name }, index) => {
            const told = await call(`/api/runs/${encodeURIComponent(id)}/samples?limit=100000`)
            return { label: name, index, rows: listOf<JournalRow>(told, "samples") }
          }),
        )
        known = { ids, rows }
      }
      texts.replaceChildren(newestSamples(known.rows))
    })
  const drawTable = () =>
    keepFocus(chosen, () =>
      chosen.replaceChildren(
        runs.length === 0
          ? empty("No runs chosen", "Add some above, or tick them in the list of runs and press Compare.")
          : chosenTable(runs, charts),
      ),
    )
  const draw = () => {
    void drawSamples()
    drawTable()
    charts.root.hidden = runs.length === 0
    below.hidden = runs.length < 2
    if (configs.length === runs.length) differences.replaceChildren(settings(configs, current().same))
  }
  const find = (all: readonly RunSummary[]) => current().runs.flatMap((id) => all.find((run) => run.id === id || run.name === id) ?? [])
  const load = () =>
    insist(async () => {
      shown = current().runs.join()
      const all = await fetchRuns()
      status("ready", "connected")
      runs = find(all)
      add.replaceChildren(
        make("option", { value: "", text: "Add a run …" }),
        ...all.filter((run) => !runs.includes(run)).map(({ id, name, state }) => make("option", { value: id, text: `${name} (${state})` })),
      )
      draw()
      const labels = runs.map(({ id, name }, index): Shown => ({ id, label: name, index }))
      await charts.show(labels)
      configs = await Promise.all(
        runs.map(async ({ id, name }) => ({ label: name, config: await call<unknown>(`/api/runs/${encodeURIComponent(id)}/config`) })),
      )
      draw()
    })

  add.addEventListener("change", () => change({ runs: [...current().runs, add.value] }, true))
  same.addEventListener("change", () => change({ same: same.checked }))
  let before = ""
  onView(() => {
    if (current().runs.join() !== shown) return void load()
    const now = JSON.stringify([current().hide, current().same, current().tab, current().prompt])
    if (now !== before) draw()
    before = now
  })
  listen(
    undefined,
    (live) => charts.add(live),
    () => void load(),
  )
  await load()
  const look = () =>
    insist(async () => {
      runs = find(await fetchRuns())
      drawTable()
    })
  void keep(look, REFRESH_MS)
}
