/** /training and /runs: what trains now, and all runs in a table that is searched, sorted and chosen from. */
import type { RunSummary } from "./db.ts"
import { Charts } from "./serve-dash-client-charts.ts"
import {
  ago,
  byId,
  call,
  count,
  duration,
  empty,
  figure,
  keepFocus,
  loading,
  make,
  moment,
  NONE,
  span,
  status,
  swatch,
} from "./serve-dash-client-dom.ts"
import { insist, keep, listen } from "./serve-dash-client-live.ts"
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
  const told = await call<{ readonly database?: string | null }>("/api/runs")
  // Runs on this server's disk are still shown; those of the database alone are not.
  document.body.classList.toggle("database-away", told.database === "away")
  const runs = listOf<RunSummary>(told, "runs")
  for (const { id, startedAt } of runs) setOrigin(id, startedAt)
  return runs
}

const REFRESH_MS = 5000
/** Runs that train at once and are drawn together; the others are in the list of runs. */
const MOST_DRAWN = 20

const start =
  "alpha train --data=corpus.txt starts one. A trainer elsewhere sends its run here with ALPHA_REMOTE_URL and ALPHA_REMOTE_SECRET."

/** Seconds to the end at the present speed. */
export const secondsLeft = ({ step, steps, msPerStep }: RunSummary): number | undefined =>
  steps === null || msPerStep === null ? undefined : (Math.max(0, steps - step) * msPerStep) / 1000

export function progress({ step, steps, state }: RunSummary): HTMLElement {
  const bar = make("span")
  bar.style.width = `${Math.min(100, (100 * step) / Math.max(1, steps ?? step))}%`
  const text = `${count(step)}${steps === null ? "" : ` / ${count(steps)}`}`
  return make("span", { name: `progress ${state}` }, make("span", { name: "track", role: "img", "aria-label": `step ${text}` }, bar), text)
}

function trainingCard(run: RunSummary, index: number, charts: Charts): HTMLElement {
  const part = (text: string, value: string) => make("span", {}, make("b", { text: value }), ` ${text}`)
  const left = run.state === "running" ? secondsLeft(run) : undefined
  const card = make(
    "article",
    { name: "card" },
    make("h2", {}, swatch(index), runLink(run), badge(run.state)),
    progress(run),
    make(
      "p",
      { name: "row" },
      part("loss", figure(run.loss)),
      part("val", figure(run.valLoss)),
      part("tokens/s", figure(run.tokensPerS)),
      part("a step", span(run.msPerStep)),
    ),
    make("p", {
      name: "meta",
      text: [run.device, run.host, left === undefined ? `last row ${ago(run.updatedAt)}` : `${duration(left)} left`]
        .filter(Boolean)
        .join("  ·  "),
    }),
  )
  card.addEventListener("mouseenter", () => charts.highlight(run.id))
  card.addEventListener("mouseleave", () => charts.highlight(undefined))
  return card
}

export async function trainingPage(main: HTMLElement): Promise<void> {
  const cards = make("div", { name: "cards" }, loading())
  const charts = new Charts()
  charts.root.hidden = true
  const more = make("p", { name: "tip", hidden: true })
  main.append(make("h1", { text: "Training" }), cards, more, charts.root)
  let shown = "none"
  const look = () =>
    insist(async () => {
      const all = await fetchRuns()
      // The newest first, in an order that stays: colours go by it.
      const training = all.filter(({ state }) => state === "running" || state === "stalled")
      const runs = training.toSorted((a, b) => b.startedAt - a.startedAt || a.id.localeCompare(b.id)).slice(0, MOST_DRAWN)
      cards.classList.toggle("many", runs.length > 4)
      more.hidden = training.length === runs.length
      more.replaceChildren(
        `The newest ${runs.length} of ${training.length}; `,
        make("a", { href: "/runs?only=running", text: "all of them" }),
      )
      const last = all.toSorted((a, b) => b.updatedAt - a.updatedAt)[0]
      const none = empty("Nothing trains now", start)
      if (last !== undefined)
        none.append(make("p", {}, "The last one was ", runLink(last), " ", badge(last.state), ` ${ago(last.updatedAt)}.`))
      cards.replaceChildren(...(runs.length === 0 ? [none] : runs.map((run, i) => trainingCard(run, i, charts))))
      charts.root.hidden = runs.length === 0
      const ids = runs.map(({ id }) => id).join()
      if (ids === shown) return
      shown = ids
      await charts.show(runs.map(({ id, name }, index) => ({ id, label: name, index })))
    })
  listen(
    undefined,
    (live) => (live.kind === "state" ? void look() : charts.add(live)),
    () => {
      shown = ""
      void look()
    },
  )
  await look()
  void keep(look, REFRESH_MS)
}

const COLUMNS: readonly {
  readonly key: keyof RunSummary
  readonly title: string
  readonly isNumber?: boolean
  readonly show: (run: RunSummary) => string | Node
}[] = [
  { key: "name", title: "Run", show: (run) => make("span", { title: run.notes }, runLink(run)) },
  { key: "state", title: "State", show: ({ state }) => badge(state) },
  { key: "step", title: "Steps", show: progress },
  { key: "loss", title: "Loss", isNumber: true, show: ({ loss }) => figure(loss) },
  { key: "bestValLoss", title: "Best val", isNumber: true, show: ({ bestValLoss }) => figure(bestValLoss) },
  { key: "tokens", title: "Tokens", isNumber: true, show: ({ tokens }) => count(tokens) },
  { key: "tokensPerS", title: "Tokens/s", isNumber: true, show: ({ tokensPerS }) => figure(tokensPerS) },
  { key: "parameters", title: "Parameters", isNumber: true, show: ({ parameters }) => count(parameters) },
  { key: "device", title: "Device", show: ({ device }) => device ?? NONE },
  { key: "preset", title: "Preset", show: ({ preset }) => preset ?? NONE },
  { key: "tags", title: "Tags", show: ({ tags }) => make("span", { name: "tags" }, ...tags.map((tag) => tagButton(tag))) },
  { key: "startedAt", title: "Started", show: ({ startedAt }) => make("span", { text: ago(startedAt), title: moment(startedAt) }) },
]

/** A click lists the runs that have the tag. */
function tagButton(tag: string): HTMLElement {
  const button = make("button", { type: "button", name: "chip", text: tag })
  button.addEventListener("click", () => change({ find: tag }))
  return button
}

/** Order of two values; what is not known comes last either way. */
function order(a: unknown, b: unknown, falling: boolean): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1
  const sign = falling ? -1 : 1
  return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)))
}

/** Those that hold every word, in the order of the view. */
function listed(runs: readonly RunSummary[]): RunSummary[] {
  const { sort, only, find } = current()
  const falling = sort.startsWith("-")
  const key = sort.replace(/^-/, "") as keyof RunSummary
  const words = find.toLowerCase().split(/\s+/)
  const text = ({ name, tags, notes, preset, domain, device, host }: RunSummary) =>
    [name, ...tags, notes, preset, domain, device, host].join(" ").toLowerCase()
  return runs
    .filter((run) => only === "" || run.state === only)
    .filter((run) => words.every((word) => text(run).includes(word)))
    .toSorted((a, b) => order(a[key], b[key], falling))
}

function runsTable(shown: readonly RunSummary[]): HTMLElement {
  const { sort, runs: chosen } = current()
  const key = sort.replace(/^-/, "")
  const head = COLUMNS.map(({ key: column, title, isNumber }) => {
    const isKey = key === column
    const arrow = isKey ? (sort.startsWith("-") ? " ↓" : " ↑") : ""
    const button = make("button", { type: "button", name: isKey ? "sort on" : "sort", text: `${title}${arrow}` })
    button.addEventListener("click", () => change({ sort: sort === `-${column}` ? column : `-${column}` }))
    return make(
      "th",
      { name: isNumber ? "number" : "", "aria-sort": isKey ? (sort.startsWith("-") ? "descending" : "ascending") : "none" },
      button,
    )
  })
  const all = make("input", { type: "checkbox", "aria-label": "Choose all that are listed" })
  all.checked = shown.length > 0 && shown.every(({ id }) => chosen.includes(id))
  all.addEventListener("change", () => {
    const ids = shown.map(({ id }) => id)
    change({ runs: all.checked ? [...new Set([...chosen, ...ids])] : chosen.filter((id) => !ids.includes(id)) })
  })
  const rows = shown.map((run) => {
    const box = make("input", { type: "checkbox", checked: chosen.includes(run.id), "aria-label": `Compare ${run.name}` })
    box.addEventListener("change", () => change({ runs: box.checked ? [...chosen, run.id] : chosen.filter((id) => id !== run.id) }))
    const cells = COLUMNS.map(({ isNumber, show }) => make("td", { name: isNumber ? "number" : "" }, show(run)))
    return make("tr", { name: box.checked ? "chosen" : "" }, make("td", {}, box), ...cells)
  })
  const table = make(
    "table",
    { "aria-label": "Runs" },
    make("thead", {}, make("tr", {}, make("th", {}, all), ...head)),
    make("tbody", {}, ...rows),
  )
  return make("div", { name: "wide" }, table)
}

export async function runsPage(main: HTMLElement): Promise<void> {
  const find = make("input", { type: "search", id: "find", placeholder: "Search names, tags, notes  ( / )", "aria-label": "Search runs" })
  const states = ["", "running", "stalled", "crashed", "finished", "stopped"]
  const only = make(
    "select",
    { "aria-label": "State" },
    ...states.map((state) => make("option", { value: state, text: state || "any state" })),
  )
  const compare = make("button", { type: "button", name: "primary", id: "compare" })
  const told = make("span", { name: "tip" })
  const body = make("div", { id: "list" }, loading())
  main.append(make("h1", { text: "Runs" }), make("div", { name: "axes" }, find, only, compare, told), body)
  let runs: readonly RunSummary[] | undefined

  const draw = () => {
    if (runs === undefined) return
    const { runs: chosen, only: state, find: words } = current()
    only.value = state
    if (find.value !== words) find.value = words
    const shown = listed(runs)
    compare.textContent = chosen.length < 2 ? "Tick two to compare" : `Compare ${chosen.length}`
    compare.disabled = chosen.length < 2
    told.textContent = shown.length === runs.length ? `${runs.length} runs` : `${shown.length} of ${runs.length} runs`
    const missing = runs.length === 0 ? empty("No runs yet", start) : empty("No run matches", "Change the words or the state above.")
    keepFocus(body, () => body.replaceChildren(shown.length === 0 ? missing : runsTable(shown)))
  }

  find.addEventListener("input", () => change({ find: find.value }))
  only.addEventListener("change", () => change({ only: only.value }))
  compare.addEventListener("click", () => location.assign(`/compare?runs=${current().runs.map(encodeURIComponent).join(",")}`))
  onView(draw)
  const look = () =>
    insist(async () => {
      runs = await fetchRuns()
      status("ready", "connected")
      draw()
    })
  await look()
  void keep(look, REFRESH_MS)
  byId("main").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    const links = [...body.querySelectorAll<HTMLElement>("tbody a")]
    if (step === undefined || links.length === 0 || event.target === only) return
    event.preventDefault()
    const at = links.indexOf(document.activeElement as HTMLElement)
    links[Math.min(links.length - 1, Math.max(0, at + step))]?.focus()
  })
}
