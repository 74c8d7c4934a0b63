/** Ships a run's journals to a server from the files on disk: in the background, at least once, for as long as it takes. */
import { hostname } from "node:os"
import { basename, join } from "node:path"
import { readJson } from "./base-file.ts"
import { JOURNALS, type Journal, type RunState } from "./db.ts"
import { type CheckpointToShip, type Post, shipCheckpoint } from "./train-ship-checkpoint.ts"
import { countRows, offsetOf, prefixMarks, readBlock } from "./train-ship-journal.ts"

export interface ShipOptions {
  /** Where `alpha serve` answers: https://host:port. */
  readonly url: string
  readonly secret: string
  /** Directory of the run. */
  readonly directory: string
  /** Checkpoints take the optimizer's state along, so that the run can go on elsewhere. */
  readonly withOptimizer?: boolean
  readonly onNote?: (note: string) => void
  /** Time between looks at the files. */
  readonly pollMs?: number
  /** Longest wait after failures; the first is a hundredth of it. */
  readonly backoffMs?: number
  /** An answer that takes longer counts as lost. */
  readonly timeoutMs?: number
}

export interface Patience {
  /** Longest wait in all. */
  readonly ms: number
  /** Longest wait while nothing but failures comes back. */
  readonly failingMs: number
}

export interface Left {
  /** Everything arrived, or nothing of it is wanted there. */
  readonly done: boolean
  /** Rows that the server is not known to have. */
  readonly rows: number
}

export interface Shipper {
  /** Ships a checkpoint when the rows leave time; of those that wait only the newest and the newest best. */
  checkpoint(checkpoint: CheckpointToShip): void
  /** Ships what is left and how the run ended; returns what did not arrive. */
  end(state: Exclude<RunState, "stalled" | "running">, patience: Patience, message?: string): Promise<Left>
  /** Stops at once. */
  close(): void
}

const BLOCK_ROWS = 1000
const BLOCK_BYTES = 256 << 10
const HEARTBEAT_MS = 15_000
/** No server may ask for more patience. */
const LONGEST_WAIT_MS = 300_000

/** What the server refused, or that it did not answer. */
class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string | undefined,
    message: string,
    readonly waitMs: number | undefined,
  ) {
    super(message)
  }
}

/** What failed connections mean to a person. */
const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nobody listens there",
  ECONNRESET: "the connection was cut",
  ENOTFOUND: "no such host",
}

/** Rows of one journal that the server has, and the byte after them in the file. */
interface Position {
  rows: number
  offset: number
}

export function startShipper(options: ShipOptions): Shipper {
  const {
    url,
    secret,
    directory,
    withOptimizer = false,
    onNote = () => {},
    pollMs = 1000,
    backoffMs = 30_000,
    timeoutMs = 60_000,
  } = options
  const session = crypto.randomUUID()
  const closed = new AbortController()
  const drained = Promise.withResolvers<boolean>()
  let heardAt = performance.now()
  let ending: { state: RunState; message: string | undefined } | undefined
  let positions: Record<Journal, Position> | undefined
  let run = ""
  let beatAt = 0
  let failures = 0
  let blockRows = BLOCK_ROWS
  let checkpoints: CheckpointToShip[] = []
  let wake = () => {}

  const pause = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  const path = (journal: Journal) => join(directory, `${journal}.jsonl`)

  const request: Post = async (path, body, headers = {}) => {
    const isRaw = body instanceof Uint8Array
    const answer = await fetch(url.replace(/\/+$/, "") + path, {
      method: "POST",
      headers: { authorization: `Bearer ${secret}`, "content-type": isRaw ? "application/octet-stream" : "application/json", ...headers },
      body: isRaw ? body : JSON.stringify(body),
      redirect: "error", // the secret goes to this server alone
      signal: AbortSignal.any([closed.signal, AbortSignal.timeout(timeoutMs)]),
    })
    if (answer.ok) {
      const told = await answer.json()
      heardAt = performance.now()
      return told
    }
    const told = (await answer.json().catch(() => ({}))) as { error?: { code?: string; message?: string } }
    const seconds = Number(answer.headers.get("retry-after") ?? Number.NaN)
    const waitMs = seconds >= 0 ? Math.min(seconds * 1000, LONGEST_WAIT_MS) : undefined
    throw new Refusal(answer.status, told.error?.code, told.error?.message ?? answer.statusText, waitMs)
  }
  const post = (body: object) =>
    request("/api/ingest", { run, session, ...body }) as Promise<{
      through: unknown
      turn?: number
      marks?: Record<Journal, [number, string][]>
    }>

  /** Tells the run, and finds by marks how much of what the server has is still in the files. */
  const open = async (): Promise<Record<Journal, Position>> => {
    const config = readJson(join(directory, "config.json")) as { id?: string }
    if (config.id === undefined) throw new Refusal(400, "no_id", `${directory}/config.json has no id`, undefined)
    run = config.id
    const name =
      basename(directory)
        .replace(/[^\w.-]/g, "_")
        .replace(/^[^A-Za-z0-9]+/, "")
        .slice(0, 100) || "run"
    const { marks, turn } = await post({ kind: "start", name, config })
    const keep = { metrics: 0, events: 0, samples: 0 }
    for (const journal of JOURNALS) {
      const theirs = marks?.[journal] ?? []
      const counts = theirs.map(([rows]) => rows)
      const own = await prefixMarks(path(journal), counts)
      keep[journal] = Math.max(0, ...theirs.filter(([rows, hash]) => own.get(rows) === hash).map(([rows]) => rows))
    }
    await post({ kind: "start", keep, turn, config, host: hostname(), pid: process.pid })
    beatAt = Date.now()
    const at = async (journal: Journal): Promise<Position> => ({
      rows: keep[journal],
      offset: await offsetOf(path(journal), keep[journal]),
    })
    return { metrics: await at("metrics"), events: await at("events"), samples: await at("samples") }
  }

  /** However much there is to send, the server hears in time that the run lives. */
  const beat = async (): Promise<void> => {
    if (Date.now() - beatAt < HEARTBEAT_MS) return
    await post({ kind: "heartbeat", host: hostname(), pid: process.pid })
    beatAt = Date.now()
  }

  /** Sends one block of a journal; whether there was one. */
  const send = async (journal: Journal, position: Position): Promise<boolean> => {
    const block = await readBlock(path(journal), position.offset, blockRows, BLOCK_BYTES)
    if (block === undefined) return false
    const { through } = await post({ kind: journal, from: position.rows, rows: block.rows })
    if (typeof through !== "number") throw new Refusal(502, "no_answer", "the answer is none of alpha serve", undefined)
    if (through >= position.rows + block.rows.length - 1) {
      position.rows += block.rows.length
      position.offset += block.bytes
    } else {
      // The server has less than it said: it lost its disk's last words. Its word counts.
      position.rows = through + 1
      position.offset = await offsetOf(path(journal), position.rows)
    }
    return true
  }

  const shipNext = async (): Promise<void> => {
    const next = checkpoints[0] as CheckpointToShip
    try {
      await shipCheckpoint(run, next, withOptimizer, async (...message) => {
        const answer = await request(...message)
        await beat()
        if (positions !== undefined) for (const journal of JOURNALS) await send(journal, positions[journal])
        return answer
      })
    } catch (error) {
      const isGone = (error as NodeJS.ErrnoException).code === "ENOENT" // retention was faster
      const isRefused = error instanceof Refusal && [400, 413, 507].includes(error.status)
      if (!isGone && !isRefused) throw error
      if (isRefused) onNote(`remote ${url}: the checkpoint of step ${next.step} was refused: ${error.message}`)
    }
    checkpoints = checkpoints.filter((one) => one !== next)
  }

  const round = async (): Promise<boolean> => {
    positions ??= await open()
    await beat()
    let sent = false
    for (const journal of JOURNALS) if (await send(journal, positions[journal])) sent = true
    if (!sent && checkpoints.length > 0) {
      await shipNext()
      sent = true
    } else if (!sent && ending !== undefined) {
      await post({ kind: "end", ...ending, host: hostname(), pid: process.pid })
      drained.resolve(true)
      closed.abort()
    }
    return sent
  }

  const loop = async (): Promise<void> => {
    while (!closed.signal.aborted) {
      try {
        const sent = await round()
        if (failures > 0) onNote(`remote ${url}: reached again`)
        failures = 0
        if (!sent && !closed.signal.aborted) await pause(pollMs)
      } catch (error) {
        if (closed.signal.aborted) break
        const { status, code, waitMs, message } =
          error instanceof Refusal
            ? error
            : new Refusal(0, undefined, REASONS[(error as { code?: string }).code ?? ""] ?? (error as Error).message, undefined)
        if (code === "local_run") {
          onNote(`remote ${url}: it reads this run's directory itself; nothing is shipped`)
          drained.resolve(true)
          return
        }
        if (status === 413 && blockRows > 1) {
          blockRows = Math.ceil(blockRows / 2)
          continue
        }
        if (code === "run_not_found" || code === "stale_session") positions = undefined
        failures++
        if (failures === 1) onNote(`remote ${url}: ${message}; the journal keeps everything, and is sent when it answers`)
        const most = Math.min(backoffMs, (backoffMs / 100) * 2 ** Math.min(failures, 20))
        await pause(Math.max(waitMs ?? 0, most * (0.5 + Math.random() / 2)))
      }
    }
    drained.resolve(false)
  }
  void loop()

  return {
    checkpoint(checkpoint) {
      const best = [...checkpoints, checkpoint].findLast((one) => one.best)
      checkpoints = [...(best === undefined || best === checkpoint ? [] : [best]), checkpoint]
    },
    async end(state, { ms, failingMs }, message) {
      ending = { state, message }
      const asked = performance.now()
      wake()
      const timer = setInterval(() => {
        const now = performance.now()
        if (now - asked >= ms || (failures > 0 && now - Math.max(asked, heardAt) >= failingMs)) closed.abort()
        if (closed.signal.aborted) wake()
      }, 50)
      const done = await drained.promise
      clearInterval(timer)
      let rows = 0
      if (!done) for (const journal of JOURNALS) rows += Math.max(0, (await countRows(path(journal))) - (positions?.[journal].rows ?? 0))
      return { done, rows }
    },
    close() {
      closed.abort()
      wake()
    },
  }
}
