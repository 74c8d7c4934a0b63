/** /compare: any number of runs over one another, and the settings in which they differ. */
import type { RunSummary } from "./db.ts"
import type { Shown } from "./serve-dash-client-chart.ts"
import { Charts } from "./serve-dash-client-charts.ts"
import { call, count, duration, empty, figure, loading, make, span, status, swatch, table } from "./serve-dash-client-dom.ts"
import { insist, listen } from "./serve-dash-client-live.ts"
import { badge, fetchRuns, progress, runLink } from "./serve-dash-client-runs.ts"
import { settings } from "./serve-dash-client-settings.ts"
import { change, current, onView } from "./serve-dash-client-view.ts"

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
  main.append(make("div", { name: "head" }, make("h1", { text: "Compare" }), add), chosen, charts.root, below)
  let shown = ""
  let runs: readonly RunSummary[] = []
  let configs: { label: string; config: unknown }[] = []

  const draw = () => {
    chosen.replaceChildren(
      runs.length === 0
        ? empty("No runs chosen", "Add some above, or tick them in the list of runs and press Compare.")
        : chosenTable(runs, charts),
    )
    charts.root.hidden = runs.length === 0
    below.hidden = runs.length < 2
    if (configs.length === runs.length) differences.replaceChildren(settings(configs, current().same))
  }
  const load = () =>
    insist(async () => {
      const ids = current().runs
      shown = ids.join()
      const known = await fetchRuns()
      status("ready", `${known.length} runs`)
      runs = ids.flatMap((id) => known.find((run) => run.id === id || run.name === id) ?? [])
      add.replaceChildren(
        make("option", { value: "", text: "Add a run …" }),
        ...known
          .filter((run) => !runs.includes(run))
          .map(({ id, name, state }) => make("option", { value: id, text: `${name} (${state})` })),
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
    const now = JSON.stringify([current().hide, current().same])
    if (now !== before) draw()
    before = now
  })
  await load()
  listen(
    undefined,
    (live) => charts.add(live),
    () => void load(),
  )
}
