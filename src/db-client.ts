/** The one connection of a process to the database: writes in order, everything that may pass is tried again. */
import type { Client, InStatement, InValue, ResultSet } from "@libsql/client"
import { AlphaError, EXIT } from "./base-error.ts"

export type Statement = { readonly sql: string; readonly args: readonly InValue[] }

export interface DatabasePlace {
  /** file:PATH, libsql://…, https://… */
  readonly url: string
  readonly authToken?: string | undefined
  /** Longest time in ms for which one operation is tried again; default a minute. */
  readonly patience?: number
  /** Wait in ms before the first repetition, doubled for each further one; default 20. */
  readonly firstWait?: number
}

/** Longest that a statement waits for another process's write lock, in ms. */
const LOCK_WAIT_MS = 5000
const FIRST_WAIT_MS = 20
const LONGEST_WAIT_MS = 5000

/**
 * A database. Every statement given to `write` must be keyed so that doing it twice is as doing it once: a reply that is lost after the commit
 * looks like one that is lost before it, and the write is sent again.
 */
export class Connection {
  #client: Client | undefined
  #writing: Promise<unknown> = Promise.resolve()
  #closed = false
  readonly isRemote: boolean

  constructor(private readonly place: DatabasePlace) {
    this.isRemote = !/^file:/.test(place.url)
  }

  /** All statements or none, after the writes before it. */
  write(statements: readonly Statement[]): Promise<ResultSet[]> {
    const done = this.#writing.then(() =>
      this.#again((client) =>
        client.batch(
          statements.map(({ sql, args }) => ({ sql, args: [...args] })),
          "write",
        ),
      ),
    )
    this.#writing = done.catch(() => {})
    return done
  }

  async read(sql: string, args: readonly InValue[] = []): Promise<ResultSet["rows"]> {
    const statement: InStatement = { sql, args: [...args] }
    return (await this.#again((client) => client.execute(statement))).rows
  }

  close(): void {
    this.#closed = true
    this.#client?.close()
    this.#client = undefined
  }

  async #open(): Promise<Client> {
    if (this.#closed) throw new AlphaError("the database is closed")
    if (this.#client !== undefined) return this.#client
    const { createClient } = await import("@libsql/client")
    const { url, authToken } = this.place
    const client = createClient({ url, ...(authToken === undefined ? {} : { authToken }), intMode: "number", timeout: LOCK_WAIT_MS })
    this.#client = client
    if (!this.isRemote) {
      // Readers then never wait for the writer. A remote server has its own mode and refuses the question.
      await client.execute("PRAGMA journal_mode = WAL")
      await client.execute("PRAGMA synchronous = NORMAL")
    }
    return client
  }

  async #again<T>(work: (client: Client) => Promise<T>): Promise<T> {
    const until = performance.now() + (this.place.patience ?? 60_000)
    for (let wait = this.place.firstWait ?? FIRST_WAIT_MS; ; wait = Math.min(LONGEST_WAIT_MS, wait * 2)) {
      try {
        return await work(await this.#open())
      } catch (error) {
        // After one "busy" the client fails all later batches and may keep the lock (libsql-client-ts#352): it is given up.
        this.#client?.close()
        this.#client = undefined
        if (this.#closed || !mayPass(error) || performance.now() + wait > until) throw this.#named(error)
        await Bun.sleep(wait * (0.5 + Math.random()))
      }
    }
  }

  #named(error: unknown): unknown {
    if (error instanceof AlphaError) return error
    const { hostname, pathname, protocol } = new URL(this.place.url, "file:///")
    const where = protocol === "file:" ? this.place.url.slice("file:".length) : hostname || pathname
    const { code } = error as { code?: unknown }
    const hint =
      code === "SQLITE_FULL"
        ? "free some space or choose a path on another disk"
        : statusOf(error) === 401
          ? "check TURSO_AUTH_TOKEN"
          : "check TURSO_DATABASE_URL, or that the file's directory can be written"
    return new AlphaError(`database ${where}: ${(error as Error).message}`, { hint, code: EXIT.failure, cause: error })
  }
}

/** HTTP status somewhere in the chain of causes. */
function statusOf(error: unknown): number | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    const { status } = at as { status?: unknown }
    if (typeof status === "number") return status
  }
  return undefined
}

/** Whether the same operation may succeed later: a busy file, an expired stream, a lost or garbled reply, 408, 425, 429, 5xx. */
export function mayPass(error: unknown): boolean {
  if (error instanceof AlphaError) return false
  const { code, message } = error as { code?: unknown; message?: string }
  const name = String(code ?? "")
  if (/BUSY|LOCKED|STREAM|EXPIRED/.test(name)) return true
  if (/database is locked|stream.*(expired|not found)|baton/i.test(message ?? "")) return true
  if (/Unable to open connection to local/.test(message ?? "")) return false
  if (/^(SQLITE|SQL_|AUTH|URL_|CLIENT_CLOSED)/.test(name)) return false
  const status = statusOf(error)
  if (status !== undefined) return status >= 500 || [408, 425, 429].includes(status)
  return true
}
