/** Runs of an alpha server elsewhere, over its HTTP routes. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { JournalRow, RunStore, RunSummary, Series, SeriesQuery } from "./db.ts"

/** What the screen reads of a store. */
export type RunSource = Pick<RunStore, "runs" | "metrics" | "events" | "samples" | "config" | "close">

/** A server that does not answer by then is away; the screen says so and asks again. */
const TIMEOUT_MS = 10_000
const MOST_ROWS = 100_000

/** Runs at `url`, such as http://host:8080; `key`: one of the server's ALPHA_READ_KEYS. */
export function createRemoteStore(url: string, key: string | undefined): RunSource {
  const base = `${url.replace(/\/+$/, "")}/api/runs`
  const ended = new AbortController()

  async function get(path: string): Promise<unknown> {
    const answer = await fetch(base + path, {
      headers: key === undefined ? {} : { authorization: `Bearer ${key}` },
      signal: AbortSignal.any([ended.signal, AbortSignal.timeout(TIMEOUT_MS)]),
    }).catch((error: Error) => {
      const reason = error.name === "TimeoutError" ? `no answer in ${TIMEOUT_MS / 1000} s` : error.message
      throw new AlphaError(`${url} cannot be reached: ${reason}`, { hint: "start it with alpha serve", code: EXIT.failure })
    })
    if (answer.ok) {
      return await answer.json().catch(() => {
        throw new AlphaError(`${base}${path}: the answer is no JSON`, { hint: "is this an alpha server?", code: EXIT.failure })
      })
    }
    const hint =
      answer.status === 401 || answer.status === 403 ? "ALPHA_READ_KEYS holds the key that the server asks for" : "is this an alpha server?"
    throw new AlphaError(`${base}${path} answers ${answer.status}`, { hint, code: EXIT.failure })
  }

  const rows = async (id: string, kind: "events" | "samples"): Promise<readonly JournalRow[]> =>
    ((await get(`/${encodeURIComponent(id)}/${kind}?limit=${MOST_ROWS}`)) as Record<string, JournalRow[]>)[kind] ?? []

  return {
    runs: async () => ((await get("")) as { runs: readonly RunSummary[] }).runs,
    config: (id) => get(`/${encodeURIComponent(id)}/config`),
    events: (id) => rows(id, "events"),
    samples: (id) => rows(id, "samples"),
    async metrics(id: string, { columns, x, from, to, points }: SeriesQuery): Promise<Series> {
      const query = new URLSearchParams({ columns: columns.join(","), x, points: String(points) })
      if (from !== undefined) query.set("from", String(from))
      if (to !== undefined) query.set("to", String(to))
      return (await get(`/${encodeURIComponent(id)}/metrics?${query}`)) as Series
    },
    close: () => ended.abort(),
  }
}
