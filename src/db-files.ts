/** The journals of one run directory, read once and then on: what they say of the run, and its numbers in blocks. */
import { Blocks, PAGE } from "./db-blocks.ts"
import { RunFacts } from "./db-facts.ts"
import { MetricsIndex } from "./db-index.ts"
import { journalPath, readJournal, signatureOf } from "./db-journal.ts"
import { JournalReader } from "./db-journal-reader.ts"
import type { ReadRows } from "./db-series.ts"
import { JOURNALS } from "./db-types.ts"

/** Rows that are read before others have their turn. */
const PIECE_ROWS = 4000

export class RunFiles {
  facts = new RunFacts()
  blocks = new Blocks()
  #metrics: JournalReader
  #others: readonly { kind: "events" | "samples"; reader: JournalReader }[] = []
  readonly #index: MetricsIndex
  #reading: Promise<void> = Promise.resolve()
  #isOpen = false
  #signature = ""

  constructor(readonly directory: string) {
    this.#index = new MetricsIndex(directory)
    this.#metrics = new JournalReader(journalPath(directory, "metrics"))
  }

  /** Reads what is new; one at a time. */
  update(): Promise<void> {
    this.#reading = this.#reading.catch(() => {}).then(() => this.#readOn())
    return this.#reading
  }

  /** Reads what is new, and these columns of what was there. */
  async load(columns: readonly string[]): Promise<void> {
    await this.update()
    if (this.#index.fill(this.blocks, columns)) return
    this.#isOpen = false
    this.#signature = ""
    await this.load(columns)
  }

  /** Rows of the metrics, by their numbers. */
  readonly rows: ReadRows = async (from, to) =>
    readJournal(journalPath(this.directory, "metrics"), { after: from - 1, limit: Math.max(0, to - from) })

  #open(): void {
    const { blocks, place, facts } = this.#index.load()
    this.blocks = blocks
    this.facts = new RunFacts(facts)
    this.#metrics = new JournalReader(journalPath(this.directory, "metrics"), place)
    this.#others = (["events", "samples"] as const).map((kind) => ({ kind, reader: new JournalReader(journalPath(this.directory, kind)) }))
    this.#isOpen = true
  }

  async #readOn(): Promise<void> {
    const signature = signatureOf(JOURNALS.map((kind) => journalPath(this.directory, kind)))
    if (signature === this.#signature) return
    while (!this.#isOpen || !(await this.#readRest())) this.#open()
    this.#signature = signature
  }

  /** False where a journal was cut back: what it said is gathered anew. */
  async #readRest(): Promise<boolean> {
    for (const { kind, reader } of this.#others) {
      const { rows, rewound } = reader.read()
      if (rewound !== undefined) return false
      for (const row of rows) this.facts.add(kind, row)
    }
    for (;;) {
      const limit = Math.min(PIECE_ROWS, PAGE - (this.blocks.count % PAGE))
      const { rows, rewound } = this.#metrics.read(limit)
      if (rewound !== undefined) return false
      for (const row of rows) {
        this.facts.add("metrics", row)
        const page = this.blocks.append(row)
        if (page !== undefined) this.#index.save(page, this.blocks.page(page), this.#metrics.place!, this.facts.ofMetrics)
      }
      if (rows.length < limit) return true
      await new Promise((resolve) => void setImmediate(resolve))
    }
  }
}
