/** /runs/:id: one run's figures, charts, samples, checkpoints, times, events, settings, notes and tags. */
import type { CheckpointRow, JournalRow, RunSummary } from "./db.ts"
import { Charts } from "./serve-dash-client-charts.ts"
import { CHECKPOINT_HEAD, checkpointCells } from "./serve-dash-client-checkpoints.ts"
import { ago, call, count, duration, empty, figure, loading, make, moment, NONE, percent, span, table } from "./serve-dash-client-dom.ts"
import { insist, keep, listen } from "./serve-dash-client-live.ts"
import { notesOf, tagsOf } from "./serve-dash-client-notes.ts"
import { phases } from "./serve-dash-client-phases.ts"
import { badge, listOf, progress, secondsLeft } from "./serve-dash-client-runs.ts"
import { samples } from "./serve-dash-client-samples.ts"
import { setOrigin } from "./serve-dash-client-series.ts"
import { settings } from "./serve-dash-client-settings.ts"
import { change, current, onView } from "./serve-dash-client-view.ts"

export const TABS = ["charts", "samples", "checkpoints", "time", "events", "config"] as const
const TITLES: Readonly<Record<(typeof TABS)[number], string>> = {
  charts: "Charts",
  samples: "Samples",
  checkpoints: "Checkpoints",
  time: "Time",
  events: "Events",
  config: "Settings",
}
const REFRESH_MS = 5000

/** What one looks for first, large; the rest in a line. */
function figures(run: RunSummary): HTMLElement {
  const left = run.state === "running" ? secondsLeft(run) : undefined
  const tile = (title: string, value: string | Node, about = "") =>
    make("div", { name: "tile" }, make("dt", { text: title }), make("dd", {}, value), make("dd", { name: "meta", text: about }))
  const share = run.steps === null || run.steps === 0 ? "" : percent(run.step / run.steps)
  const best = run.bestValLoss === null ? "" : `best ${figure(run.bestValLoss)}`
  const facts = [
    [run.device, run.precision].filter(Boolean).join(" · "),
    run.parameters === null ? "" : `${count(run.parameters)} parameters`,
    run.preset ?? "",
    run.host === null ? "" : `on ${run.host}`,
    `started ${moment(run.startedAt)}`,
    `last row ${ago(run.updatedAt)}`,
  ]
  return make(
    "div",
    { name: "figures" },
    make(
      "dl",
      { name: "tiles" },
      tile("Step", progress(run), [share, left === undefined ? "" : `${duration(left)} left`].filter(Boolean).join(" · ")),
      tile("Loss", figure(run.loss)),
      tile("Validation loss", figure(run.valLoss), best),
      tile("Tokens/s", figure(run.tokensPerS)),
      tile("Time per step", span(run.msPerStep)),
      tile("Tokens", count(run.tokens)),
      tile("Duration", duration((run.updatedAt - run.startedAt) / 1000)),
    ),
    make("p", { name: "meta", text: facts.filter(Boolean).join("  ·  ") }),
  )
}

/** A value beside its name: "best", "bytes 496M", "sha256 5a5a5a5a5a5a". */
function fact([key, value]: readonly [string, unknown]): string {
  if (value === true) return key
  return `${key} ${typeof value === "number" ? count(value) : String(value).replace(/^([0-9a-f]{12})[0-9a-f]{52}$/, "$1")}`
}

const eventText = (row: JournalRow): string =>
  typeof row.message === "string"
    ? row.message
    : Object.entries(row)
        .filter(([key, value]) => !["seq", "time", "type", "step"].includes(key) && typeof value !== "object" && value !== false)
        .map(fact)
        .join(" · ")

/** The newest alert, or why the run ended, with the way to all events. */
function incidents(rows: readonly JournalRow[]): HTMLElement {
  const place = make("div", { name: "incidents" })
  const alerts = rows.filter(({ type }) => type === "alert")
  const last = rows.findLast(({ type }) => type === "crash" || type === "summary" || type === "start")
  const strip = (kind: string, text: string) => {
    const more = make("button", { type: "button", text: "All events" })
    more.addEventListener("click", () => change({ tab: "events" }, true))
    return make("p", { name: `incident ${kind}` }, make("span", { text }), more)
  }
  const alert = alerts.at(-1)
  if (last?.type === "crash") place.append(strip("bad", `Crashed: ${eventText(last)}`))
  if (alert !== undefined)
    place.append(strip("warn", `${alerts.length === 1 ? "Alert" : `${alerts.length} alerts, the last`}: ${eventText(alert)}`))
  return place
}

function events(rows: readonly JournalRow[]): HTMLElement {
  if (rows.length === 0) return empty("No events", "Starts, checkpoints, alerts and ends are listed here.")
  const kind = (type: string) => make("span", { name: `badge ${{ alert: "stalled", crash: "crashed" }[type] ?? ""}`, text: type })
  const cells = rows
    .toReversed()
    .map((row) => [
      make("span", { text: moment(row.time) }),
      row.step === undefined ? NONE : String(row.step),
      kind(row.type),
      make("span", { name: "text", text: eventText(row) }),
    ])
  return table(["Time", ">Step", "Event", ""], cells, "Events")
}

function checkpoints(run: RunSummary, rows: readonly CheckpointRow[]): HTMLElement {
  if (rows.length === 0) return empty("No checkpoints yet", "They are written every checkpointInterval steps and at the end.")
  const cells = rows.toReversed().map((row) => checkpointCells(run.name, row))
  return table(CHECKPOINT_HEAD, cells, "Checkpoints")
}

/** What the trainer told, and between it the alerts of the server, in the order of their times. */
async function eventsOf(path: string): Promise<readonly JournalRow[]> {
  const [told, { alerts }] = await Promise.all([call(`${path}/events?limit=100000`), call<{ alerts: readonly JournalRow[] }>(path)])
  const own = listOf<JournalRow>(told, "events")
  return [...own, ...alerts.filter(({ by }) => by === "server")].toSorted((a, b) => a.time - b.time)
}

/** The part of the page that a tab names. */
async function part(run: RunSummary, tab: (typeof TABS)[number]): Promise<HTMLElement> {
  const path = `/api/runs/${encodeURIComponent(run.id)}`
  const get = <T>(what: string) => call<T>(`${path}/${what}`)
  if (tab === "samples") return samples(listOf<JournalRow>(await get("samples?limit=100000"), "samples"))
  if (tab === "checkpoints") return checkpoints(run, listOf<CheckpointRow>(await get("checkpoints"), "checkpoints"))
  if (tab === "time") return phases(run)
  if (tab === "events") return events(await eventsOf(path))
  return settings([{ label: run.name, config: await get("config") }], true)
}

export async function runPage(main: HTMLElement, id: string): Promise<void> {
  const path = `/api/runs/${encodeURIComponent(id)}`
  main.append(loading())
  let run: RunSummary | undefined
  const look = () =>
    insist(async () => {
      run = await call<RunSummary>(path)
      setOrigin(run.id, run.startedAt)
      document.title = `${run.name} · alpha`
      main.querySelector("h1 .badge")?.replaceWith(badge(run.state))
      main.querySelector(".figures")?.replaceWith(figures(run))
    })
  await look()
  main.replaceChildren()
  if (run === undefined) return
  const first: RunSummary = run
  const charts = new Charts()
  const other = make("div")
  const tabs = TABS.map((name) => {
    const tab = make("button", { type: "button", role: "tab", text: TITLES[name] })
    tab.addEventListener("click", () => change({ tab: name }, true))
    return tab
  })
  const to = (href: string, text: string) => make("a", { href, text, name: "button" })
  main.append(
    make(
      "div",
      { name: "head" },
      make("h1", {}, first.name, " ", badge(first.state)),
      tagsOf(first),
      make(
        "span",
        { name: "actions" },
        to(`/compare?runs=${encodeURIComponent(first.id)}`, "Compare"),
        to(`${path}/metrics?format=csv`, "CSV"),
        to(`${path}/metrics?format=jsonl`, "JSONL"),
      ),
    ),
    notesOf(first),
    make("div", { name: "incidents" }),
    figures(first),
    make("div", { name: "tabs", role: "tablist" }, ...tabs),
    charts.root,
    other,
  )
  const show = () => charts.show([{ id: first.id, label: first.name, index: 0 }])
  let shown = ""
  let isDrawn = false
  const lookTab = async () => {
    const tab = TABS.find((name) => name === current().tab) ?? "charts"
    for (const [i, button] of tabs.entries()) button.setAttribute("aria-selected", String(TABS[i] === tab))
    charts.root.hidden = tab !== "charts"
    other.hidden = tab === "charts"
    if (tab === "charts") {
      // Hidden charts have no width to draw into.
      if (!isDrawn) await show()
      isDrawn = true
      return
    }
    if (shown !== tab) other.replaceChildren(loading())
    shown = tab
    await insist(async () => {
      const content = await part(run ?? first, tab)
      if (current().tab === tab) other.replaceChildren(content)
    })
  }
  const state = () => JSON.stringify([current().tab, current().prompt, current().diff])
  let before = state()
  onView(() => {
    if (state() !== before) void lookTab()
    before = state()
  })
  const lookIncidents = () =>
    insist(async () => {
      const rows = await eventsOf(path)
      main.querySelector(".incidents")?.replaceWith(incidents(rows))
    })
  listen(
    first.id,
    (live) => {
      if (live.kind === "step" || live.kind === "eval") charts.add(live)
      else if (live.kind === "state") void look()
      else if (current().tab !== "config" && current().tab !== "charts") void lookTab()
      if (live.kind === "state" || live.row.type === "alert" || live.row.type === "crash") void lookIncidents()
    },
    () => {
      if (isDrawn) void show()
    },
  )
  await Promise.all([lookIncidents(), lookTab()])
  void keep(look, REFRESH_MS)
}
