/** /models, /checkpoints, /domains: what is served, what runs saved, kinds of data. */
import type { CheckpointRow, DomainSummary } from "./db.ts"
import { CHECKPOINT_HEAD, checkpointCells } from "./serve-dash-client-checkpoints.ts"
import {
  ago,
  bytes,
  call,
  complain,
  count,
  empty,
  figure,
  loading,
  make,
  moment,
  NONE,
  send,
  status,
  table,
} from "./serve-dash-client-dom.ts"
import { insist } from "./serve-dash-client-live.ts"
import { badge, fetchRuns, listOf, runLink } from "./serve-dash-client-runs.ts"

/** A title, then what `work` brings; it is done again when it asks for that. */
async function page(main: HTMLElement, title: string, work: (again: () => void) => Promise<HTMLElement>): Promise<void> {
  const body = make("div", {}, loading())
  main.append(make("h1", { text: title }), body)
  const look = (): Promise<void> =>
    insist(async () => {
      body.replaceChildren(await work(() => void look()))
      status("ready", "connected")
    })
  await look()
}

interface Model {
  readonly id: string
  readonly created: number
  readonly loaded: boolean
  readonly current: boolean
  readonly max_model_len?: number
  readonly vocab_size?: number
  readonly parameters?: number
  readonly precision?: string
  readonly device?: string
  readonly fingerprint?: string
}

function modelCells(model: Model, again: () => void): (Node | string)[] {
  const { id, created, loaded } = model
  const button = make("button", { type: "button", text: loaded ? "Unload" : "Load", "aria-label": `${loaded ? "Unload" : "Load"} ${id}` })
  button.addEventListener("click", async () => {
    button.disabled = true
    try {
      await send("POST", loaded ? "/v1/unload" : "/v1/load", { model: id })
      complain(undefined)
      again()
    } catch (error) {
      button.disabled = false
      complain(error)
    }
  })
  const state = loaded ? badge("loaded") : model.current ? badge("current") : ""
  return [
    make("a", { href: `/?model=${encodeURIComponent(id)}`, text: id, title: "Try it" }),
    state,
    count(model.parameters),
    count(model.max_model_len),
    count(model.vocab_size),
    [model.device, model.precision].filter(Boolean).join(" · ") || NONE,
    model.fingerprint === undefined ? NONE : make("code", { text: model.fingerprint.slice(0, 12), title: model.fingerprint }),
    make("span", { text: ago(created * 1000), title: moment(created * 1000) }),
    button,
  ]
}

export const modelsPage = (main: HTMLElement): Promise<void> =>
  page(main, "Models", async (again) => {
    const models = listOf<Model>(await call("/v1/models"), "data")
    if (models.length === 0)
      return empty("No model is served", 'alpha serve --model=RUN serves one; so does "Serve it" beside a checkpoint.')
    const head = ["Model", "", ">Parameters", ">Context", ">Vocabulary", "Device", "Fingerprint", "Written", ""]
    return table(
      head,
      models.map((model) => modelCells(model, again)),
      "Models",
    )
  })

/** Runs whose checkpoints are asked for at first; the newest. */
const MOST_RUNS = 50

export const checkpointsPage = (main: HTMLElement): Promise<void> => {
  let most = MOST_RUNS
  return page(main, "Checkpoints", async (again) => {
    const known = (await fetchRuns()).toSorted((a, b) => b.updatedAt - a.updatedAt)
    const all = await Promise.all(
      known.slice(0, most).map(async (run) => {
        const told = await call(`/api/runs/${encodeURIComponent(run.id)}/checkpoints`)
        return listOf<CheckpointRow>(told, "checkpoints").map((row) => ({ run, row }))
      }),
    )
    const rows = all.flat().toSorted((a, b) => b.row.time - a.row.time)
    if (rows.length === 0) return empty("No checkpoints yet", "alpha train writes them every checkpointInterval steps and at the end.")
    const total = rows.reduce((sum, { row }) => sum + row.bytes, 0)
    const more = make("button", { type: "button", text: `Those of ${known.length - most} older runs` })
    more.addEventListener("click", () => {
      most = known.length
      again()
    })
    const cells = rows.map(({ run, row }) => [runLink(run), ...checkpointCells(run.name, row)])
    return make(
      "div",
      {},
      make("p", { name: "meta", text: `${rows.length} checkpoints, ${bytes(total)}` }),
      table(["Run", ...CHECKPOINT_HEAD], cells, "Checkpoints"),
      known.length > most && more,
    )
  })
}

export const domainsPage = (main: HTMLElement): Promise<void> =>
  page(main, "Domains", async () => {
    const domains = listOf<DomainSummary>(await call("/api/domains"), "domains")
    if (domains.length === 0)
      return empty("No domains yet", "alpha train --preset=novels (or chords, abc …) names the kind of data of a run.")
    const cells = domains.map(({ id, runs, running, tokens, loss, bestValLoss, bestRun, updatedAt }) => [
      make("a", { href: `/runs?find=${encodeURIComponent(id)}`, text: id }),
      String(runs),
      String(running),
      count(tokens),
      figure(loss),
      figure(bestValLoss),
      bestRun === null ? NONE : make("a", { href: `/runs/${encodeURIComponent(bestRun)}`, text: bestRun }),
      ago(updatedAt),
    ])
    return table(
      ["Domain", ">Runs", ">Running", ">Tokens trained", ">Newest loss", ">Best validation", "Best run", "Last row"],
      cells,
      "Domains",
    )
  })
