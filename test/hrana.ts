/**
 * A server of the Hrana 2 protocol (JSON over HTTP) over a database in memory, with faults. It is one reading of
 * https://github.com/tursodatabase/libsql/blob/main/docs/HRANA_2_SPEC.md, not sqld itself.
 */
import { Database, type SQLQueryBindings } from "bun:sqlite"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

/** What happens to a request: its connection cut before or after it is done, refused, its stream expired, its answer cut within. */
export const FAULTS = ["before", "after", "unavailable", "quota", "expired", "truncated"] as const
export type Fault = (typeof FAULTS)[number]

type Value = { type: string; value?: unknown; base64?: string }
type Condition = { type: string; step?: number; cond?: Condition; conds?: Condition[] }
interface Statement {
  sql?: string
  /** Instead of the text: the number under which the stream stored it. */
  sql_id?: number
  args?: Value[]
}
interface Step {
  condition?: Condition
  stmt: Statement
}
interface Request_ {
  type: string
  stmt?: Statement
  batch?: { steps: Step[] }
  sql?: string
  sql_id?: number
}

const decode = ({ type, value }: Value): SQLQueryBindings =>
  type === "null" ? null : type === "integer" ? BigInt(String(value)) : (value as SQLQueryBindings)

function encode(value: unknown): Value {
  if (value === null) return { type: "null" }
  if (typeof value === "bigint") return { type: "integer", value: String(value) }
  return typeof value === "number" ? { type: "float", value } : { type: "text", value }
}

/** Starts the server; `fault` is asked before every request. */
export async function startHrana(fault: () => Fault | undefined) {
  const database = new Database(":memory:", { safeIntegers: true })
  let requests = 0

  const stored = new Map<number, string>()

  function execute({ sql_id, sql = stored.get(sql_id!)!, args = [] }: Statement) {
    if (/^\s*PRAGMA\s+(journal_mode|synchronous)/i.test(sql)) throw new Error("this PRAGMA is not allowed on a server")
    const statement = database.query(sql)
    const rows = statement.values(...args.map(decode)) as unknown[][]
    return {
      cols: statement.columnNames.map((name) => ({ name, decltype: null })),
      rows: rows.map((row) => row.map(encode)),
      affected_row_count: 0,
      last_insert_rowid: null,
    }
  }

  function batch(steps: readonly Step[]) {
    const results: unknown[] = []
    const errors: unknown[] = []
    const holds = (condition: Condition | undefined): boolean => {
      if (condition === undefined) return true
      const { type, step, cond, conds } = condition
      if (type === "ok") return results[step!] !== null
      if (type === "error") return errors[step!] !== null
      if (type === "not") return !holds(cond)
      if (type === "is_autocommit") return !database.inTransaction
      return type === "and" ? conds!.every(holds) : conds!.some(holds)
    }
    for (const { condition, stmt } of steps) {
      const runs = holds(condition)
      try {
        results.push(runs ? execute(stmt) : null)
        errors.push(null)
      } catch (error) {
        results.push(null)
        errors.push(errorOf(error))
      }
    }
    return { step_results: results, step_errors: errors }
  }

  const errorOf = (error: unknown) => ({ message: (error as Error).message, code: (error as { code?: string }).code ?? "SQLITE_ERROR" })

  function answer(request: Request_) {
    try {
      if (request.type === "close") return { type: "ok", response: { type: "close" } }
      if (request.type === "store_sql") {
        stored.set(request.sql_id!, request.sql!)
        return { type: "ok", response: { type: "store_sql" } }
      }
      if (request.type === "close_sql") return { type: "ok", response: { type: "close_sql" } }
      if (request.type === "execute") return { type: "ok", response: { type: "execute", result: execute(request.stmt!) } }
      if (request.type === "batch") return { type: "ok", response: { type: "batch", result: batch(request.batch!.steps) } }
      if (request.type === "get_autocommit")
        return { type: "ok", response: { type: "get_autocommit", is_autocommit: !database.inTransaction } }
      return { type: "error", error: { message: `${request.type} is not spoken here`, code: "UNKNOWN" } }
    } catch (error) {
      return { type: "error", error: errorOf(error) }
    }
  }

  const send = (response: ServerResponse, status: number, text: string): void =>
    void response.writeHead(status, { "content-type": "application/json" }).end(text)
  const drop = (response: ServerResponse): void => void response.socket?.destroy()

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const pieces: Buffer[] = []
    for await (const piece of request) pieces.push(piece as Buffer)
    if (request.url !== "/v2/pipeline") return send(response, request.url === "/v2" ? 200 : 404, "")
    requests++
    const { requests: all } = JSON.parse(Buffer.concat(pieces).toString()) as { requests: Request_[] }
    const kind = fault()
    if (kind === "before") return drop(response)
    if (kind === "unavailable") return send(response, 503, "try later")
    if (kind === "quota") return send(response, 429, "too many")
    // The client reads the code under exactly this type.
    if (kind === "expired")
      return send(response, 400, JSON.stringify({ message: "The stream has expired due to inactivity", code: "STREAM_EXPIRED" }))
    stored.clear()
    const results = all.map(answer)
    // A stream that is left open is rolled back, as when it expires.
    if (database.inTransaction) database.run("ROLLBACK")
    const text = JSON.stringify({ baton: null, base_url: null, results })
    if (kind === "after") return drop(response)
    if (kind !== "truncated") return send(response, 200, text)
    response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(text) })
    response.write(text.slice(0, text.length >> 1), () => drop(response))
  }

  const server = createServer((request, response) => void handle(request, response))
  await new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    database,
    requests: () => requests,
    stop: () => {
      server.closeAllConnections()
      server.close()
      database.close()
    },
  }
}
