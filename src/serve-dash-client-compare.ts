/** /compare: several runs over one another, and the settings in which they differ. */
import type { RunSummary } from "./db.ts"
import { Charts } from "./serve-dash-client-charts.ts"
import { call, count, empty, make, NONE, swatch } from "./serve-dash-client-dom.ts"
import { insist, listen } from "./serve-dash-client-live.ts"
import { badge, fetchRuns, runLink } from "./serve-dash-client-runs.ts"
import { change, current, onView } from "./serve-dash-client-view.ts"

interface Configured {
  readonly label: string
  readonly config: unknown
}

/** Settings of a run's config.json by name; of each the value, not where it came from. Id and name of the run are none. */
function settingsOf(config: unknown): Map<string, string> {
  const { config: rows, id: _, ...rest } = (config ?? {}) as { config?: Record<string, { value?: unknown }>; id?: unknown }
  const values = Object.entries(rows ?? {}).map(([name, row]) => [name, row?.value ?? null])
  return flat({ ...rest, ...Object.fromEntries(values) })
}

/** { model: { nLayer: 2 } } → "model.nLayer" → "2". */
function flat(value: unknown, at = "", into = new Map<string, string>()): Map<string, string> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    for (const [key, part] of Object.entries(value)) flat(part, at === "" ? key : `${at}.${key}`, into)
  } else into.set(at, typeof value === "string" ? value : JSON.stringify(value))
  return into
}

/** Settings of runs side by side; all of them, or those that differ. */
export function settings(runs: readonly Configured[], all: boolean): HTMLElement {
  const maps = runs.map(({ config }) => settingsOf(config))
  const keys = [...new Set(maps.flatMap((map) => [...map.keys()]))].sort()
  const rows = keys
    .map((key) => ({ key, values: maps.map((map) => map.get(key)) }))
    .map((row) => ({ ...row, differs: row.values.some((value) => value !== row.values[0]) }))
    .filter(({ differs }) => all || differs)
  if (rows.length === 0) return empty("No setting differs", "The runs were started alike.")
  return make(
    "div",
    { name: "wide" },
    make(
      "table",
      { name: "settings", "aria-label": "Settings" },
      make("thead", {}, make("tr", {}, make("th", { text: "Setting" }), ...runs.map(({ label }) => make("th", { text: label })))),
      make(
        "tbody",
        {},
        ...rows.map(({ key, values, differs }) =>
          make(
            "tr",
            { name: differs ? "differs" : "" },
            make("th", { scope: "row" }, make("code", { text: key })),
            ...values.map((value) => make("td", {}, make("code", { text: value ?? NONE }))),
          ),
        ),
      ),
    ),
  )
}

export async function comparePage(main: HTMLElement): Promise<void> {
  const chosen = make("div", { name: "cards" })
  const add = make("select", { "aria-label": "Add a run" })
  const charts = new Charts()
  const same = make("input", { type: "checkbox" })
  const table = make("div")
  main.append(
    make("h1", { text: "Compare" }),
    chosen,
    make("div", { name: "bar" }, add),
    charts.root,
    make("div", { name: "bar" }, make("h2", { text: "Settings" }), make("label", { name: "check" }, same, "also those that are the same")),
    table,
  )
  let known: readonly RunSummary[] = []
  let shown: readonly string[] = []
  let configs: Configured[] = []

  const load = () =>
    insist(async () => {
      const ids = current().runs
      shown = ids
      known = await fetchRuns()
      const runs = ids.map((id) => known.find((run) => run.id === id || run.name === id)).filter((run) => run !== undefined)
      add.replaceChildren(
        make("option", { value: "", text: "Add a run …" }),
        ...known.filter((run) => !runs.includes(run)).map(({ id, name }) => make("option", { value: id, text: name })),
      )
      chosen.replaceChildren(
        ...(runs.length === 0 ? [empty("No runs chosen", "Choose some below, or tick them in the list of runs.")] : []),
        ...runs.map((run, i) => {
          const remove = make("button", { type: "button", text: "×", "aria-label": `Remove ${run.name}` })
          remove.addEventListener("click", () => change({ runs: current().runs.filter((id) => id !== run.id && id !== run.name) }))
          return make(
            "article",
            { name: "card" },
            make("h2", {}, swatch(i), runLink(run), " ", badge(run.state), remove),
            make(
              "p",
              { name: "figures" },
              "loss ",
              make("b", { text: count(run.loss) }),
              " · best ",
              make("b", { text: count(run.bestValLoss) }),
            ),
          )
        }),
      )
      charts.root.hidden = runs.length === 0
      configs = await Promise.all(
        runs.map(async ({ id, name }) => ({ label: name, config: await call<unknown>(`/api/runs/${encodeURIComponent(id)}/config`) })),
      )
      table.replaceChildren(...(runs.length === 0 ? [] : [settings(configs, current().same)]))
      await charts.show(runs.map(({ id, name }) => ({ id, label: name })))
    })

  add.addEventListener("change", () => change({ runs: [...current().runs, add.value] }))
  same.checked = current().same
  same.addEventListener("change", () => change({ same: same.checked }))
  onView(() => {
    if (current().runs.join() !== shown.join()) void load()
    else if (configs.length > 0) table.replaceChildren(settings(configs, current().same))
  })
  await load()
  listen(
    undefined,
    (live) => charts.add(live),
    () => void load(),
  )
}
