/** What the rows of a run say about the whole of it: where it stands, how it does, whether it lives. */

import { domainOf } from "./db-domain.ts"
import type { CheckpointRow, Journal, JournalRow, RunState, RunSummary } from "./db-types.ts"

/** A run that says nothing for so long, or for ten of its steps, has stalled. */
const QUIET_MS = 180_000
/** A run of which nobody can say whether its process lives is given up after so long. */
const LOST_MS = 3_600_000

/** What is known of a run besides its rows. */
export interface RunRecordFacts {
  readonly id: string
  readonly name: string
  /** Parsed config.json. */
  readonly config: unknown
  readonly host: string | null
  readonly domain: string | null
  readonly startedAt: number
  readonly updatedAt: number
  readonly notes: string
  readonly tags: readonly string[]
  /** Whether its process lives; undefined where that cannot be seen. */
  readonly alive?: boolean | undefined
  /** How it ended, from somebody who saw it. */
  readonly ended?: RunState | undefined
}

const numeric = (value: unknown): number | null => (typeof value === "number" && Number.isFinite(value) ? value : null)
const textual = (value: unknown): string | null => (typeof value === "string" ? value : null)

/** What the metrics alone say. */
export interface MetricFacts {
  readonly step: JournalRow | undefined
  readonly evaluation: JournalRow | undefined
  readonly best: number | null
  readonly firstTime: number
  readonly lastTime: number
}

/** Gathers from rows in their order; rows that change nothing may be left out. */
export class RunFacts implements MetricFacts {
  start: JournalRow | undefined
  end: JournalRow | undefined
  step: JournalRow | undefined
  evaluation: JournalRow | undefined
  best: number | null = null
  firstTime = 0
  lastTime = 0

  /** `known`: what the metrics said up to where they are read on from. */
  constructor(known?: MetricFacts) {
    if (known !== undefined) Object.assign(this, known)
  }

  get ofMetrics(): MetricFacts {
    const { step, evaluation, best, firstTime, lastTime } = this
    return { step, evaluation, best, firstTime, lastTime }
  }

  add(kind: Journal, row: JournalRow): void {
    if (row.time > 0 && (this.firstTime === 0 || row.time < this.firstTime)) this.firstTime = row.time
    this.lastTime = Math.max(this.lastTime, row.time)
    if (kind === "metrics" && row.type === "step") this.step = row
    if (kind === "metrics" && row.type === "eval") {
      this.evaluation = row
      const loss = numeric(row.val_loss)
      if (loss !== null && (this.best === null || loss < this.best)) this.best = loss
    }
    if (kind === "events" && row.type === "start") this.start = row
    if (kind === "events" && ENDS.includes(row.type)) this.end = row
  }

  summary(record: RunRecordFacts, now = Date.now()): RunSummary {
    const { start, end, step, evaluation } = this
    const config = (record.config ?? {}) as { config?: Record<string, { value?: unknown }>; device?: unknown }
    const setting = (name: string) => config.config?.[name]?.value
    const updatedAt = Math.max(record.updatedAt, this.lastTime)
    return {
      id: record.id,
      name: record.name,
      state: this.#state({ ...record, updatedAt }, now),
      step: Math.max(step?.step ?? 0, evaluation?.step ?? 0, numeric(end?.steps) ?? 0),
      steps: numeric(start?.steps) ?? numeric(setting("steps")),
      loss: numeric(step?.loss),
      valLoss: numeric(evaluation?.val_loss),
      bestValLoss: this.best,
      tokensPerS: numeric(step?.tokens_per_s),
      tokens: numeric(step?.tokens) ?? 0,
      msPerStep: numeric(step?.ms_per_step),
      device: textual(start?.device) ?? textual(config.device),
      precision: textual(start?.precision) ?? textual(setting("precision")),
      parameters: numeric(start?.parameters),
      preset: textual(setting("preset")),
      domain: record.domain ?? domainOf(record.config),
      startedAt: this.firstTime || record.startedAt,
      updatedAt,
      host: record.host,
      notes: record.notes,
      tags: record.tags,
    }
  }

  get flopsPerToken(): number {
    return numeric(this.start?.flopsPerToken) ?? 0
  }

  #state({ alive, ended, updatedAt }: RunRecordFacts, now: number): RunState {
    const { start, end } = this
    if (end !== undefined && (start === undefined || end.seq > start.seq)) {
      if (end.type === "crash") return "crashed"
      return end.status === "stopped" ? "stopped" : "finished"
    }
    if (ended !== undefined) return ended
    if (alive === false) return "crashed"
    const quiet = now - updatedAt
    if (quiet <= Math.max(QUIET_MS, 10 * (numeric(this.step?.ms_per_step) ?? 0))) return "running"
    return alive === true || quiet <= LOST_MS ? "stalled" : "crashed"
  }
}

/** Events that end a run: its summary, or the record of its failure. */
export const ENDS: readonly string[] = ["summary", "crash"]

/** Checkpoints by their events; the last that was best is the best. `valueAt`: a column's value at a step. */
export async function checkpointsOf(
  events: readonly JournalRow[],
  valueAt: (column: string, step: number) => Promise<number | null>,
): Promise<CheckpointRow[]> {
  const saved = events.filter(({ type }) => type === "checkpoint")
  const best = saved.findLast((row) => row.best === true)?.seq
  const bySteps = new Map(saved.map((row) => [row.step ?? 0, row]))
  const rows: CheckpointRow[] = []
  for (const [step, row] of bySteps) {
    rows.push({
      step,
      path: String(row.path ?? ""),
      bytes: numeric(row.bytes) ?? 0,
      sha256: textual(row.sha256),
      loss: await valueAt("loss", step),
      valLoss: await valueAt("valLoss", step),
      best: row.seq === best,
      time: row.time,
    })
  }
  return rows
}
