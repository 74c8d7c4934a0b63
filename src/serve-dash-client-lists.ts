/** /models, /checkpoints, /domains: what is served, what runs saved, kinds of data. */
import type { CheckpointRow } from "./db.ts"
import { call, count, empty, make, moment, NONE, status, table } from "./serve-dash-client-dom.ts"
import { insist } from "./serve-dash-client-live.ts"
import { CHECKPOINT_HEAD, checkpointRow } from "./serve-dash-client-run.ts"
import { fetchRuns, listOf, runLink } from "./serve-dash-client-runs.ts"

interface Model {
  readonly id: string
  readonly created?: number
  readonly max_model_len?: number
  readonly [field: string]: unknown
}

export async function modelsPage(main: HTMLElement): Promise<void> {
  const body = make("div")
  main.append(make("h1", { text: "Models" }), body)
  await insist(async () => {
    const models = listOf<Model>(await call("/v1/models"), "data")
    status("ready", `${models.length} models`)
    const rows = models.map(({ id, created, max_model_len: room }) => [
      make("code", { text: id }),
      count(room),
      created === undefined ? NONE : moment(created * 1000),
    ])
    body.replaceChildren(
      rows.length === 0
        ? empty("No models", "alpha serve --model=RUN serves one.")
        : table(["Model", ">Context", "Written"], rows, "Models"),
    )
  })
}

export async function checkpointsPage(main: HTMLElement): Promise<void> {
  const body = make("div")
  main.append(make("h1", { text: "Checkpoints" }), body)
  await insist(async () => {
    const runs = await fetchRuns()
    const all = await Promise.all(
      runs.map(async (run) =>
        listOf<CheckpointRow>(await call(`/api/runs/${encodeURIComponent(run.id)}/checkpoints`), "checkpoints").map((row) => ({
          run,
          row,
        })),
      ),
    )
    const rows = all.flat().toSorted((a, b) => b.row.time - a.row.time)
    status("ready", `${rows.length} checkpoints`)
    const cells = rows.map(({ run, row }) => [runLink(run), ...checkpointRow(run.name, row)])
    body.replaceChildren(
      rows.length === 0
        ? empty("No checkpoints yet", "Training writes them; alpha runs sync takes up those on disk.")
        : table(["Run", ...CHECKPOINT_HEAD], cells, "Checkpoints"),
    )
  })
}

/** Fields of a domain as columns: whatever the server tells of them. */
export async function domainsPage(main: HTMLElement): Promise<void> {
  const body = make("div")
  main.append(make("h1", { text: "Domains" }), body)
  await insist(async () => {
    const domains = listOf<Record<string, unknown>>(await call("/api/domains"), "domains")
    status("ready", `${domains.length} domains`)
    const keys = [...new Set(domains.flatMap((domain) => Object.keys(domain)))]
    const text = (value: unknown) =>
      value === undefined || value === null
        ? NONE
        : typeof value === "string"
          ? value
          : typeof value === "number"
            ? count(value)
            : JSON.stringify(value)
    body.replaceChildren(
      domains.length === 0
        ? empty("No domains", "A domain names a kind of data; runs that have one are listed by it.")
        : table(
            keys,
            domains.map((domain) => keys.map((key) => text(domain[key]))),
            "Domains",
          ),
    )
  })
}
