/** `alpha runs`: runs listed, shown, compared, exported, deleted, and read into the database. */
import { AlphaError, EXIT } from "./base-error.ts"
import { columns, formatBytes, formatCount, formatDuration, sparkline } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import type { Environment, RunsCompareConfig, RunsLsConfig, RunsRmConfig, RunsShowConfig, RunsSyncConfig } from "./config.ts"
import { DirectoryStore, databasePlace, RunDatabase, type RunStore, type RunSummary, syncRuns } from "./db.ts"

export type Place = { readonly from: "directories" | "database"; readonly database: string | undefined; readonly runsDir: string }

/** How long a command that shows something tries a database that does not answer, in ms. */
const PATIENCE_MS = 10_000

/** Does `work` with the runs in the directories or in the database. */
export async function withStore<T>(
  config: Place,
  environment: Environment,
  work: (store: DirectoryStore | RunDatabase) => Promise<T>,
): Promise<T> {
  const store =
    config.from === "database"
      ? await RunDatabase.open({ ...databasePlace(config.database, environment), patience: PATIENCE_MS })
      : new DirectoryStore(config.runsDir)
  try {
    return await work(store)
  } finally {
    store.close()
  }
}

export async function found(store: RunStore, id: string | undefined, command: string): Promise<RunSummary> {
  if (id === undefined) throw new AlphaError(`runs ${command}: no run is given`, { hint: `alpha runs ${command} NAME`, code: EXIT.usage })
  const run = await store.run(id)
  if (run === undefined) throw new AlphaError(`no run ${id}`, { hint: "alpha runs ls shows those there are", code: EXIT.data })
  return run
}

const number = (value: number | null, digits = 4): string => (value === null ? "–" : value.toFixed(digits))

export async function ls({ config, environment, print }: Invocation<RunsLsConfig>): Promise<undefined> {
  const { filter, state, tag, limit } = config
  const runs = await withStore(config, environment, (store) =>
    store.runs({ name: filter, states: state === undefined ? undefined : [state], tag, limit }),
  )
  print(runs, () => {
    if (runs.length === 0) return "no runs"
    const head = ["run", "state", "step", "loss", "val loss", "best", "tokens/s", "tokens", "started", "tags"]
    const rows = runs.map((run) => [
      run.name,
      run.state,
      run.steps === null ? String(run.step) : `${run.step}/${run.steps}`,
      number(run.loss),
      number(run.valLoss),
      number(run.bestValLoss),
      run.tokensPerS === null ? "–" : formatCount(run.tokensPerS),
      formatCount(run.tokens),
      new Date(run.startedAt).toISOString().slice(0, 16).replace("T", " "),
      run.tags.join(" "),
    ])
    return columns([head, ...rows], [2, 3, 4, 5, 6, 7])
  })
}

export async function show({ config, environment, print }: Invocation<RunsShowConfig>): Promise<undefined> {
  const { run, checkpoints, series, samples } = await withStore(config, environment, async (store) => {
    const run = await found(store, config.run, "show")
    const series = await store.metrics(run.id, { columns: ["loss"], x: "step", points: 60 })
    return { run, checkpoints: await store.checkpoints(run.id), series, samples: (await store.samples(run.id)).slice(-3) }
  })
  print({ ...run, checkpoints }, () => {
    const losses = series.columns.loss!.last.filter((value) => value !== null)
    const rows = [
      ["state", run.state],
      ["step", run.steps === null ? String(run.step) : `${run.step} of ${run.steps}`],
      ["loss", `${number(run.loss)}  ${sparkline(losses)}`],
      ["validation loss", `${number(run.valLoss)}, best ${number(run.bestValLoss)}`],
      ["tokens", `${formatCount(run.tokens)}, ${run.tokensPerS === null ? "–" : formatCount(run.tokensPerS)} a second`],
      ["step time", run.msPerStep === null ? "–" : `${run.msPerStep.toFixed(1)} ms`],
      ["model", `${run.parameters === null ? "–" : formatCount(run.parameters)} parameters, preset ${run.preset ?? "–"}`],
      ["device", `${run.device ?? "–"} in ${run.precision ?? "–"}${run.host === null ? "" : ` on ${run.host}`}`],
      ["time", `${new Date(run.startedAt).toISOString()}, ${formatDuration(run.updatedAt - run.startedAt)}`],
      ["id", run.id],
      ...(run.notes === "" ? [] : [["notes", run.notes]]),
      ...checkpoints.map((row) => [
        "checkpoint",
        `step ${row.step}, ${formatBytes(row.bytes)}, loss ${number(row.loss)}, validation ${number(row.valLoss)}${row.best ? ", best" : ""}`,
      ]),
      ...samples.map((row) => [`sample at ${row.step}`, JSON.stringify(`${row.prompt ?? ""}${row.text ?? ""}`)]),
    ]
    return [run.name, columns(rows.map(([name, value]) => [`  ${name}`, value!]))].join("\n")
  })
}

/** Settings by name, of a record that has each with its origin. */
function settings(record: unknown): Map<string, unknown> {
  const { config = {} } = (record ?? {}) as { config?: Record<string, { value?: unknown }> }
  return new Map(Object.entries(config).map(([name, entry]) => [name, entry?.value ?? null]))
}

export async function compare({ config, environment, print }: Invocation<RunsCompareConfig>): Promise<undefined> {
  if (config.runs.length < 2)
    throw new AlphaError("runs compare: two runs are needed, or more", { hint: "alpha runs compare NAME OTHER", code: EXIT.usage })
  const { runs, records } = await withStore(config, environment, async (store) => {
    const runs: RunSummary[] = []
    for (const name of config.runs) runs.push(await found(store, name, "compare"))
    const records: Map<string, unknown>[] = []
    for (const { id } of runs) records.push(settings(await store.config(id)))
    return { runs, records }
  })
  const names = [...new Set(records.flatMap((record) => [...record.keys()]))].filter((name) => !["run", "resume"].includes(name))
  const all = (name: string) => records.map((record) => record.get(name) ?? null)
  const different = names.filter((name) => new Set(all(name).map((value) => JSON.stringify(value))).size > 1)
  const results = ["state", "step", "loss", "valLoss", "bestValLoss", "tokens", "tokensPerS", "msPerStep", "parameters", "device"] as const
  const config_ = Object.fromEntries(different.map((name) => [name, all(name)]))
  print({ runs, config: config_ }, () => {
    const shown = (value: unknown) =>
      value === null || value === undefined ? "–" : typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value)
    return columns([
      ["", ...runs.map(({ name }) => name)],
      ...results.map((name) => [name, ...runs.map((run) => shown(run[name]))]),
      ...different.map((name) => [`--${name}`, ...all(name).map(shown)]),
    ])
  })
}

export async function rm({ config, environment, print }: Invocation<RunsRmConfig>): Promise<undefined> {
  const removed = await withStore(config, environment, async (store) => {
    const run = await found(store, config.run, "rm")
    const what = config.from === "database" ? "its rows in the database" : `${config.runsDir}/${run.name} with its checkpoints`
    if (!config.yes) throw new AlphaError(`runs rm: this deletes ${what}`, { hint: "say so with --yes", code: EXIT.usage })
    await store.remove(run.id)
    return run
  })
  print({ removed: removed.id, name: removed.name }, () => `${removed.name} is deleted`)
}

export async function sync({ config, environment, print }: Invocation<RunsSyncConfig>): Promise<undefined> {
  const directories = new DirectoryStore(config.runsDir)
  const database = await RunDatabase.open(databasePlace(config.database, environment))
  try {
    const runs = await syncRuns(database, config.runsDir, (id) => directories.run(id))
    print(runs, () => {
      if (runs.length === 0) return `${config.runsDir}: no runs`
      return columns(
        [["run", "metrics", "events", "samples"], ...runs.map(({ name, rows }) => [name, ...Object.values(rows).map(String)])],
        [1, 2, 3],
      )
    })
  } finally {
    database.close()
  }
}
