/** The numbers of the database's runs in blocks: stored as pages beside the rows, made as rows arrive, or once from rows that have none. */
import { AXES, Blocks, PAGE, type StoredPage } from "./db-blocks.ts"
import type { Connection, Statement } from "./db-client.ts"
import type { JournalRow } from "./db-types.ts"

/** Rows, and stored pages of a column, that are read in one piece. */
const ROWS = 20_000
const PAGES = 1000
/** Bytes of runs' blocks in memory; what was asked for least recently goes first. */
const MOST_BYTES = 256 << 20

interface Curve {
  readonly blocks: Blocks
  /** The row that was taken last. */
  last: JournalRow | undefined
}

/** Rows of a run's metrics with seq > after, at most `limit`. */
type ReadMetrics = (id: string, after: number, limit: number) => Promise<JournalRow[]>

export class StoredCurves {
  readonly #curves = new Map<string, Curve>()
  readonly #turns = new Map<string, Promise<unknown>>()

  constructor(
    private readonly connection: Connection,
    private readonly read: ReadMetrics,
  ) {}

  /** The run's blocks with all rows there are, and these columns. */
  blocks(id: string, columns: readonly string[]): Promise<Blocks> {
    return this.#inTurn(id, async () => {
      const curve = await this.#current(id)
      await this.#load(id, curve.blocks, curve.blocks.missing(columns))
      return curve.blocks
    })
  }

  /**
   * Takes rows that are about to be written behind row `through`, and calls `write` with what has to be written with them. Rows that replace
   * others void the pages from there on; they are made again when somebody asks.
   */
  append<T>(id: string, through: number, rows: readonly JournalRow[], write: (pages: readonly Statement[]) => Promise<T>): Promise<T> {
    return this.#inTurn(id, async () => {
      const first = rows[0]!.seq
      try {
        if (first <= through) {
          this.#curves.delete(id)
          return await write([voidPages(id, first)])
        }
        const known = this.#curves.get(id)
        const curve = known?.blocks.count === first ? known : await this.#current(id)
        const pages: Statement[] = []
        for (const row of rows) {
          if (row.seq !== curve.blocks.count) continue
          const page = curve.blocks.append(row)
          curve.last = row
          if (page === undefined) continue
          pages.push(...pageRows(id, page, curve.blocks.page(page)))
        }
        return await write(pages)
      } catch (error) {
        this.#curves.delete(id)
        throw error
      }
    })
  }

  /** Rows were taken back. */
  forget(id: string): void {
    this.#curves.delete(id)
  }

  /** One at a time for each run. */
  #inTurn<T>(id: string, work: () => Promise<T>): Promise<T> {
    const done = (this.#turns.get(id) ?? Promise.resolve()).catch(() => {}).then(work)
    this.#turns.set(id, done)
    const end = () => {
      if (this.#turns.get(id) === done) this.#turns.delete(id)
    }
    done.then(end, end)
    return done
  }

  async #current(id: string): Promise<Curve> {
    let curve = this.#curves.get(id)
    if (curve?.last !== undefined) {
      // Another process may have taken rows back since.
      const [same] = await this.read(id, curve.last.seq - 1, 1)
      if (same?.seq !== curve.last.seq || same.time !== curve.last.time) curve = undefined
    }
    curve ??= await this.#open(id)
    this.#curves.delete(id)
    this.#curves.set(id, curve)
    this.#makeRoom()
    const { blocks } = curve
    for (;;) {
      const rows = await this.read(id, blocks.count - 1, ROWS)
      for (const row of rows) {
        if (row.seq !== blocks.count) return curve
        const page = blocks.append(row)
        curve.last = row
        // Where they cannot be written they are made again next time.
        if (page !== undefined) await this.connection.write(pageRows(id, page, blocks.page(page))).catch(() => {})
      }
      if (rows.length < ROWS) return curve
    }
  }

  #makeRoom(): void {
    let bytes = [...this.#curves.values()].reduce((sum, { blocks }) => sum + blocks.bytes, 0)
    for (const [id, { blocks }] of this.#curves) {
      if (bytes <= MOST_BYTES || this.#curves.size === 1) return
      this.#curves.delete(id)
      bytes -= blocks.bytes
    }
  }

  /** The stored pages without a gap, with their axes. */
  async #open(id: string): Promise<Curve> {
    const rows = await this.connection.read("SELECT page FROM metric_pages WHERE run_id = ? AND name = '@step' ORDER BY page", [id])
    const gap = rows.findIndex((row, at) => row.page !== at)
    const pages = gap < 0 ? rows.length : gap
    const blocks = new Blocks(pages)
    if (pages === 0) return { blocks, last: undefined }
    await this.#load(
      id,
      blocks,
      AXES.map((axis) => `@${axis}`),
    )
    const [last] = await this.read(id, pages * PAGE - 2, 1)
    return { blocks, last }
  }

  async #load(id: string, blocks: Blocks, names: readonly string[]): Promise<void> {
    for (const name of names) {
      for (let from = 0; from < blocks.stored; ) {
        const sql = "SELECT page, data FROM metric_pages WHERE run_id = ? AND name = ? AND page >= ? AND page < ? ORDER BY page LIMIT ?"
        const rows = await this.connection.read(sql, [id, name, from, blocks.stored, PAGES])
        for (const { page, data } of rows)
          blocks.load(Number(page), name, new Float64Array(new Uint8Array(data as ArrayBuffer).slice().buffer))
        if (rows.length < PAGES) break
        from = Number(rows.at(-1)!.page) + 1
      }
    }
    blocks.isWhole(names.filter((name) => !name.startsWith("@")))
  }
}

/** Statement that voids the pages that row `seq` and those behind it are in. */
export const voidPages = (id: string, seq: number): Statement => ({
  sql: "DELETE FROM metric_pages WHERE run_id = ? AND page >= ?",
  args: [id, Math.floor(seq / PAGE)],
})

const pageRows = (id: string, page: number, values: StoredPage): Statement[] =>
  [...values].map(([name, column]) => ({
    sql: "INSERT OR REPLACE INTO metric_pages (run_id, name, page, data) VALUES (?, ?, ?, ?)",
    args: [id, name, page, new Uint8Array(column.buffer, column.byteOffset, column.byteLength).slice()],
  }))
