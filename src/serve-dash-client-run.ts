/** /runs/:id: one run's figures, charts, samples, checkpoints, events, settings, notes and tags. */
import type { CheckpointRow, JournalRow, RunSummary } from "./db.ts"
import { Charts } from "./serve-dash-client-charts.ts"
import { settings } from "./serve-dash-client-compare.ts"
import { ago, bytes, call, complain, count, duration, empty, make, moment, NONE, send, table } from "./serve-dash-client-dom.ts"
import { insist, listen } from "./serve-dash-client-live.ts"
import { badge, listOf, progress, secondsLeft } from "./serve-dash-client-runs.ts"
import { setOrigin } from "./serve-dash-client-series.ts"
import { change, current, onView } from "./serve-dash-client-view.ts"

export const TABS = ["charts", "samples", "checkpoints", "events", "config"] as const
const TITLES: Readonly<Record<string, string>> = {
  charts: "Charts",
  samples: "Samples",
  checkpoints: "Checkpoints",
  events: "Events",
  config: "Settings",
}
const REFRESH_MS = 5000

function figures(run: RunSummary): HTMLElement {
  const facts: readonly (readonly [string, string | Node])[] = [
    ["Steps", progress(run)],
    ["Loss", count(run.loss)],
    ["Validation loss", count(run.valLoss)],
    ["Best", count(run.bestValLoss)],
    ["Tokens/s", count(run.tokensPerS)],
    ["Time per step", run.msPerStep === null ? NONE : `${count(run.msPerStep)} ms`],
    ["Tokens", count(run.tokens)],
    ["Left", run.state === "running" ? duration(secondsLeft(run)) : NONE],
    ["Parameters", count(run.parameters)],
    ["Device", `${run.device ?? NONE} ${run.precision ?? ""}`],
    ["Host", run.host ?? NONE],
    ["Started", moment(run.startedAt)],
    ["Last row", ago(run.updatedAt)],
  ]
  return make("dl", { name: "facts" }, ...facts.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", {}, value))))
}

/** Notes and tags; saved when the field is left. */
function notes(run: RunSummary, path: string): HTMLElement {
  const text = make("textarea", { value: run.notes, rows: 2, placeholder: "Notes", "aria-label": "Notes" })
  const tags = make("input", { value: run.tags.join(", "), placeholder: "tag, tag", "aria-label": "Tags, separated by commas" })
  const told = make("span", { name: "meta", role: "status" })
  const save = (part: { notes?: string; tags?: string[] }) => async () => {
    told.textContent = "saving"
    try {
      await send("PATCH", path, part)
      told.textContent = "saved"
      complain(undefined)
    } catch (error) {
      told.textContent = "not saved"
      complain(error)
    }
  }
  text.addEventListener("change", () => void save({ notes: text.value })())
  tags.addEventListener(
    "change",
    () =>
      void save({
        tags: tags.value
          .split(",")
          .map((tag) => tag.trim())
          .filter((tag) => tag !== ""),
      })(),
  )
  return make(
    "details",
    { name: "notes", open: run.notes !== "" || run.tags.length > 0 },
    make("summary", { text: "Notes and tags" }),
    text,
    tags,
    told,
  )
}

/** Samples of one prompt, the newest step first. */
function samples(rows: readonly JournalRow[]): HTMLElement {
  const prompts = [...new Set(rows.map(({ prompt }) => String(prompt)))]
  if (prompts.length === 0) return empty("No samples", "alpha train --sampleInterval=N writes them every N steps.")
  const index = Math.min(prompts.length - 1, current().prompt)
  const choice = make(
    "select",
    { "aria-label": "Prompt" },
    ...prompts.map((prompt, i) => make("option", { value: String(i), text: prompt === "" ? "(no prompt)" : prompt.slice(0, 120) })),
  )
  choice.value = String(index)
  choice.addEventListener("change", () => change({ prompt: Number(choice.value) }))
  const told = rows.filter(({ prompt }) => String(prompt) === prompts[index]).toReversed()
  return make(
    "div",
    {},
    make(
      "div",
      { name: "bar" },
      make("label", {}, "Prompt ", choice),
      make("span", { name: "meta", text: `${told.length} steps, the newest first` }),
    ),
    ...told.map(({ step, text }) =>
      make(
        "article",
        { name: "sample" },
        make("h3", { text: `Step ${step ?? NONE}` }),
        make("p", {}, make("span", { name: "prompt", text: prompts[index] ?? "" }), String(text)),
      ),
    ),
  )
}

/** The server loads it and answers with it under this name. */
function serveIt(model: string): HTMLElement {
  const button = make("button", { type: "button", text: "Serve it" })
  button.addEventListener("click", async () => {
    button.disabled = true
    button.textContent = "loading"
    try {
      await send("POST", "/v1/load", { model })
      button.replaceWith(make("a", { href: "/", text: `served as ${model}` }))
      complain(undefined)
    } catch (error) {
      button.disabled = false
      button.textContent = "Serve it"
      complain(error)
    }
  })
  return button
}

export function checkpointRow(run: string, { step, bytes: size, loss, valLoss, sha256, best, time }: CheckpointRow): (Node | string)[] {
  const hash = sha256 === null ? NONE : make("code", { text: sha256.slice(0, 12), title: sha256 })
  return [
    best ? make("b", { text: `${step} best` }) : String(step),
    bytes(size),
    count(loss),
    count(valLoss),
    hash,
    ago(time),
    serveIt(`${run}@${step}`),
  ]
}
export const CHECKPOINT_HEAD = ["Step", ">Size", ">Loss", ">Validation", "SHA-256", "Written", ""]

const eventText = (row: JournalRow): string =>
  Object.entries(row)
    .filter(([key]) => !["seq", "time", "type", "step"].includes(key))
    .map(([key, value]) => `${key} ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(" · ")

export async function runPage(main: HTMLElement, id: string): Promise<void> {
  const path = `/api/runs/${encodeURIComponent(id)}`
  const head = make("div")
  const charts = new Charts()
  const other = make("div")
  const tabs = TABS.map((name) => {
    const tab = make("button", { type: "button", role: "tab", text: TITLES[name] ?? name })
    tab.addEventListener("click", () => change({ tab: name }))
    return tab
  })
  const downloads = make(
    "span",
    { name: "meta" },
    "download ",
    make("a", { href: `${path}/metrics?format=csv`, text: "CSV" }),
    " ",
    make("a", { href: `${path}/metrics?format=jsonl`, text: "JSONL" }),
  )
  main.append(head, make("div", { name: "bar" }, make("div", { name: "tabs", role: "tablist" }, ...tabs), downloads), charts.root, other)
  let run: RunSummary | undefined

  const lookTab = async () => {
    const { tab } = current()
    for (const [i, button] of tabs.entries()) button.setAttribute("aria-selected", String(TABS[i] === tab))
    charts.root.hidden = tab !== "charts"
    other.hidden = tab === "charts"
    if (tab === "charts" || run === undefined) return
    const name = run.name
    await insist(async () => {
      const told = await call<readonly unknown[] | Record<string, unknown>>(
        `${path}/${tab}${tab === "samples" || tab === "events" ? "?limit=100000" : ""}`,
      )
      if (current().tab !== tab) return
      if (tab === "samples") other.replaceChildren(samples(listOf<JournalRow>(told, "samples")))
      if (tab === "config") other.replaceChildren(settings([{ label: name, config: told }], true))
      if (tab === "checkpoints") {
        const rows = listOf<CheckpointRow>(told, "checkpoints").toReversed()
        const none = empty("No checkpoints yet", "They are written every checkpointInterval steps and at the end.")
        other.replaceChildren(
          rows.length === 0
            ? none
            : table(
                CHECKPOINT_HEAD,
                rows.map((row) => checkpointRow(name, row)),
                "Checkpoints",
              ),
        )
      }
      if (tab === "events") {
        const rows = listOf<JournalRow>(told, "events").toReversed()
        const cells = rows.map((row) => [moment(row.time), row.step === undefined ? NONE : String(row.step), row.type, eventText(row)])
        other.replaceChildren(
          rows.length === 0
            ? empty("No events", "Starts, warnings and ends are listed here.")
            : table(["Time", ">Step", "Event", ""], cells, "Events"),
        )
      }
    })
  }

  const look = () =>
    insist(async () => {
      run = await call<RunSummary>(path)
      setOrigin(run.id, run.startedAt)
      document.title = `${run.name} · alpha`
      const title = make("h1", {}, run.name, " ", badge(run.state))
      const kept = head.querySelector(".notes") ?? notes(run, path)
      // Notes that are being written stay.
      if (head.childElementCount === 0) head.append(title, figures(run), kept)
      else {
        head.querySelector("h1")?.replaceWith(title)
        head.querySelector(".facts")?.replaceWith(figures(run))
      }
    })
  await look()
  if (run === undefined) return
  const { id: own, name } = run
  await Promise.all([charts.show([{ id: own, label: name }]), lookTab()])
  let before = `${current().tab} ${current().prompt}`
  onView(() => {
    const now = `${current().tab} ${current().prompt}`
    if (now !== before) void lookTab()
    before = now
  })
  listen(
    own,
    (live) => {
      if (live.kind === "step" || live.kind === "eval") charts.add(live)
      else if (live.kind === "state") void look()
      else void lookTab()
    },
    () => void charts.show([{ id: own, label: name }]),
  )
  setInterval(() => void look(), REFRESH_MS)
}
