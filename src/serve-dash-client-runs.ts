/** /training and /runs: what trains now, and all runs in a table that is searched, sorted and chosen from. */
import type { RunSummary } from "./db.ts"
import { Charts } from "./serve-dash-client-charts.ts"
import { ago, byId, call, count, duration, empty, make, NONE, status, swatch } from "./serve-dash-client-dom.ts"
import { insist, listen } from "./serve-dash-client-live.ts"
import { setOrigin } from "./serve-dash-client-series.ts"
import { change, current, onView } from "./serve-dash-client-view.ts"

export const badge = (state: string): HTMLElement => make("span", { name: `badge ${state}`, text: state })
export const runLink = ({ id, name }: RunSummary): HTMLElement => make("a", { href: `/runs/${encodeURIComponent(id)}`, text: name })

/** Lists in the API stand alone or under their name. */
export function listOf<T>(told: unknown, key: string): readonly T[] {
  const list = Array.isArray(told) ? told : (told as Readonly<Record<string, unknown>>)[key]
  return (list ?? []) as readonly T[]
}

export async function fetchRuns(): Promise<readonly RunSummary[]> {
  const runs = listOf<RunSummary>(await call("/api/runs"), "runs")
  for (const { id, startedAt } of runs) setOrigin(id, startedAt)
  return runs
}

const REFRESH_MS = 5000
const MOST_COMPARED = 8

const start = "alpha train --data=corpus.txt starts one; alpha runs sync takes up runs that are on disk."

/** Seconds to the end at the present speed. */
export const secondsLeft = ({ step, steps, msPerStep }: RunSummary): number | undefined =>
  steps === null || msPerStep === null ? undefined : ((steps - step) * msPerStep) / 1000

export function progress({ step, steps }: RunSummary): HTMLElement {
  const meter = make("progress", { max: Math.max(1, steps ?? step), value: step, "aria-label": "Progress" })
  return make("span", { name: "progress" }, meter, ` ${count(step)}${steps === null ? "" : ` / ${count(steps)}`}`)
}

export async function trainingPage(main: HTMLElement): Promise<void> {
  const cards = make("div", { name: "cards" })
  const charts = new Charts()
  main.append(make("h1", { text: "Training" }), cards, charts.root)
  let shown = "none"
  const look = () =>
    insist(async () => {
      const runs = (await fetchRuns()).filter(({ state }) => state === "running" || state === "stalled").slice(0, MOST_COMPARED)
      cards.replaceChildren(
        ...(runs.length === 0 ? [empty("Nothing trains now", start)] : []),
        ...runs.map((run, i) =>
          make(
            "article",
            { name: "card" },
            make("h2", {}, swatch(i), runLink(run), " ", badge(run.state)),
            progress(run),
            make(
              "p",
              { name: "figures" },
              "loss ",
              make("b", { text: count(run.loss) }),
              " · ",
              make("b", { text: count(run.tokensPerS) }),
              " tokens/s",
            ),
            make("p", { name: "meta", text: `${run.device ?? NONE} · ${run.host ?? NONE} · ${duration(secondsLeft(run))} left` }),
          ),
        ),
      )
      charts.root.hidden = runs.length === 0
      const ids = runs.map(({ id }) => id).join()
      if (ids === shown) return
      shown = ids
      await charts.show(runs.map(({ id, name }) => ({ id, label: name })))
    })
  await look()
  listen(
    undefined,
    (live) => (live.kind === "state" ? void look() : charts.add(live)),
    () => {
      shown = ""
      void look()
    },
  )
  setInterval(() => void look(), REFRESH_MS)
}

const COLUMNS: readonly {
  readonly key: keyof RunSummary
  readonly title: string
  readonly isNumber?: boolean
  readonly show: (run: RunSummary) => string | Node
}[] = [
  { key: "name", title: "Run", show: runLink },
  { key: "state", title: "State", show: ({ state }) => badge(state) },
  { key: "step", title: "Steps", show: progress },
  { key: "loss", title: "Loss", isNumber: true, show: ({ loss }) => count(loss) },
  { key: "bestValLoss", title: "Best val", isNumber: true, show: ({ bestValLoss }) => count(bestValLoss) },
  { key: "tokens", title: "Tokens", isNumber: true, show: ({ tokens }) => count(tokens) },
  { key: "tokensPerS", title: "Tokens/s", isNumber: true, show: ({ tokensPerS }) => count(tokensPerS) },
  { key: "parameters", title: "Parameters", isNumber: true, show: ({ parameters }) => count(parameters) },
  { key: "device", title: "Device", show: ({ device }) => device ?? NONE },
  { key: "preset", title: "Preset", show: ({ preset }) => preset ?? NONE },
  { key: "tags", title: "Tags", show: ({ tags }) => make("span", {}, ...tags.map((tag) => make("span", { name: "tag", text: tag }))) },
  { key: "startedAt", title: "Started", show: ({ startedAt }) => ago(startedAt) },
]

/** Order of two values; what is not known comes last either way. */
function order(a: unknown, b: unknown, falling: boolean): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1
  const sign = falling ? -1 : 1
  return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)))
}

export async function runsPage(main: HTMLElement): Promise<void> {
  const find = make("input", {
    type: "search",
    id: "find",
    placeholder: "Name, tag, note (press /)",
    "aria-label": "Search runs",
    value: current().find,
  })
  const only = make(
    "select",
    { "aria-label": "State" },
    ...["", "running", "stalled", "crashed", "finished", "stopped"].map((state) =>
      make("option", { value: state, text: state || "any state" }),
    ),
  )
  const compare = make("button", { type: "button", name: "primary", id: "compare" })
  const body = make("div", { id: "list" })
  main.append(make("h1", { text: "Runs" }), make("div", { name: "bar" }, find, only, compare), body)
  let runs: readonly RunSummary[] = []

  const draw = () => {
    const { sort, runs: chosen, only: state, find: words } = current()
    only.value = state
    const falling = sort.startsWith("-")
    const key = sort.replace(/^-/, "") as keyof RunSummary
    const wanted = words.toLowerCase().split(/\s+/)
    const shown = runs
      .filter((run) => state === "" || run.state === state)
      .filter(({ name, tags, notes, preset }) =>
        wanted.every((word) => [name, ...tags, notes, preset ?? ""].join(" ").toLowerCase().includes(word)),
      )
      .toSorted((a, b) => order(a[key], b[key], falling))
    compare.textContent = `Compare ${chosen.length || ""}`
    compare.disabled = chosen.length < 2
    const head = COLUMNS.map(({ key: column, title, isNumber }) => {
      const button = make("button", { type: "button", name: "sort", text: `${title}${key === column ? (falling ? " ↓" : " ↑") : ""}` })
      button.addEventListener("click", () => change({ sort: sort === `-${column}` ? column : `-${column}` }))
      return make(
        "th",
        { name: isNumber ? "number" : "", "aria-sort": key === column ? (falling ? "descending" : "ascending") : "none" },
        button,
      )
    })
    const rows = shown.map((run) => {
      const box = make("input", { type: "checkbox", checked: chosen.includes(run.id), "aria-label": `Compare ${run.name}` })
      box.disabled = !box.checked && chosen.length >= MOST_COMPARED
      box.addEventListener("change", () => change({ runs: box.checked ? [...chosen, run.id] : chosen.filter((id) => id !== run.id) }))
      return make(
        "tr",
        {},
        make("td", {}, box),
        ...COLUMNS.map(({ isNumber, show }) => make("td", { name: isNumber ? "number" : "" }, show(run))),
      )
    })
    const focus = document.activeElement?.getAttribute("aria-label")
    const table = make(
      "table",
      { "aria-label": "Runs" },
      make("thead", {}, make("tr", {}, make("th"), ...head)),
      make("tbody", {}, ...rows),
    )
    const missing = runs.length === 0 ? empty("No runs yet", start) : empty("No run matches", "Change the words or the state above.")
    body.replaceChildren(shown.length === 0 ? missing : make("div", { name: "wide" }, table))
    // A new table must not lose the place of somebody at the keyboard.
    if (focus?.startsWith("Compare ")) body.querySelector<HTMLElement>(`[aria-label="${CSS.escape(focus)}"]`)?.focus()
  }

  find.addEventListener("input", () => change({ find: find.value }))
  only.addEventListener("change", () => change({ only: only.value }))
  compare.addEventListener("click", () => location.assign(`/compare?runs=${current().runs.map(encodeURIComponent).join(",")}`))
  onView(draw)
  const look = () =>
    insist(async () => {
      runs = await fetchRuns()
      status("ready", `${runs.length} runs`)
      draw()
    })
  await look()
  setInterval(() => void look(), REFRESH_MS)
  byId("main").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    const links = [...body.querySelectorAll<HTMLElement>("tbody a")]
    if (step === undefined || links.length === 0 || event.target === only) return
    event.preventDefault()
    const at = links.indexOf(document.activeElement as HTMLElement)
    links[Math.min(links.length - 1, Math.max(0, at + step))]?.focus()
  })
}
