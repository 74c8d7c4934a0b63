/** Text for terminals: widths, number formats, tables, sparklines, colours, a live line, a progress bar. */
import picocolors from "picocolors"

/** The part of a stream that drawing needs; process.stderr is one. */
export interface Screen {
  readonly isTTY?: boolean | undefined
  readonly columns?: number | undefined
  write(text: string): unknown
}

/** Colour functions for a stream; they return plain text where it is not a terminal, or NO_COLOR is set. */
export function colours(screen: Screen = process.stderr) {
  return picocolors.createColors(screen.isTTY === true && picocolors.isColorSupported)
}

/** Columns the text takes on a terminal: wide characters count two, combining marks and colour codes none. */
export const displayWidth = (text: string): number => Bun.stringWidth(text)

/** Pads with spaces to `width` columns; text that is longer is cut and ends in "…". Plain text only. */
export function fit(text: string, width: number): string {
  const taken = displayWidth(text)
  if (taken <= width) return text + " ".repeat(width - taken)
  let cut = ""
  for (const { segment } of new Intl.Segmenter().segment(text)) {
    if (displayWidth(cut + segment) > width - 1) break
    cut += segment
  }
  return fit(`${cut}…`, width)
}

/** Breaks text at spaces into lines of at most `width` columns; a longer word keeps its own line. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  let line = ""
  for (const word of text.split(/\s+/).filter((part) => part !== "")) {
    if (line !== "" && displayWidth(line) + 1 + displayWidth(word) > width) {
      lines.push(line)
      line = word
    } else line = line === "" ? word : `${line} ${word}`
  }
  return line === "" && lines.length > 0 ? lines : [...lines, line]
}

/** Rows as aligned columns, two spaces between them; columns listed in `right` are flush right. */
export function columns(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = []
  for (const row of rows) for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, displayWidth(cell))
  const pad = (cell: string, i: number) => {
    const space = " ".repeat(widths[i]! - displayWidth(cell))
    return right.includes(i) ? space + cell : cell + space
  }
  return rows.map((row) => row.map(pad).join("  ").trimEnd()).join("\n")
}

/** Three significant digits with a decimal unit: 999 → "999", 1234567 → "1.23M". */
export function formatCount(value: number): string {
  return scaled(value, 1000, ["", "K", "M", "G", "T", "P"], "")
}

/** Three significant digits with a binary unit: 1536 → "1.50 KiB". */
export function formatBytes(bytes: number): string {
  return scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], " ")
}

function scaled(value: number, base: number, units: readonly string[], space: string): string {
  if (!Number.isFinite(value)) return String(value)
  let power = 0
  let rest = Math.abs(value)
  // 999.5 would print as "1000" with three digits, so it moves on to the next unit.
  while (rest >= (base === 1000 ? 999.5 : 1023.5) && power < units.length - 1) {
    rest /= base
    power++
  }
  const digits = power === 0 && Number.isInteger(value) ? String(rest) : rest >= 100 ? rest.toFixed(0) : rest.toPrecision(3)
  return `${value < 0 ? "-" : ""}${digits}${space}${units[power]}`
}

/** Milliseconds for people: "850 ms", "12.3 s", "4m 05s", "2h 03m", "3d 04h". */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return "?"
  if (ms < 1000) return `${ms < 10 ? Number(ms.toPrecision(2)) : Math.round(ms)} ms`
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`
  const two = (n: number) => String(n).padStart(2, "0")
  const seconds = Math.round(ms / 1000)
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`
  const minutes = Math.round(seconds / 60)
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)}h ${two(minutes % 60)}m`
  const hours = Math.round(minutes / 60)
  return `${Math.floor(hours / 24)}d ${two(hours % 24)}h`
}

const BARS = "▁▂▃▄▅▆▇█"

/** A line of bars, one per value, or per group of values when there are more than `width`; gaps where nothing is finite. */
export function sparkline(values: readonly number[], width = values.length): string {
  const count = Math.min(width, values.length)
  const groups = Array.from({ length: count }, (_, i) => {
    const group = values
      .slice(Math.floor((i * values.length) / count), Math.floor(((i + 1) * values.length) / count))
      .filter(Number.isFinite)
    return group.reduce((sum, value) => sum + value, 0) / group.length
  })
  const finite = groups.filter(Number.isFinite)
  const low = Math.min(...finite)
  const span = Math.max(...finite) - low
  return groups
    .map((value) => (Number.isFinite(value) ? BARS[span === 0 ? 0 : Math.min(7, Math.floor(((value - low) / span) * 8))] : " "))
    .join("")
}

/** One line that is redrawn in place on a terminal; elsewhere only the lines given to `print` appear. */
export class LiveLine {
  readonly isLive: boolean
  #shown = ""

  constructor(readonly screen: Screen = process.stderr) {
    this.isLive = screen.isTTY === true
  }

  /** Redraws the live line, cut to the terminal's width. */
  show(text: string): void {
    if (!this.isLive) return
    this.#shown = fit(text, Math.max(1, (this.screen.columns ?? 80) - 1)).trimEnd()
    this.screen.write(`\r${this.#shown}\x1b[K`)
  }

  /** A lasting line above the live one. */
  print(text: string): void {
    this.screen.write(this.isLive && this.#shown !== "" ? `\r\x1b[K${text}\n${this.#shown}` : `${text}\n`)
  }

  /** Removes the live line. */
  clear(): void {
    if (this.#shown !== "") this.screen.write("\r\x1b[K")
    this.#shown = ""
  }
}

export interface ProgressOptions {
  readonly label: string
  /** Amount of work; undefined when it is not known (stdin). */
  readonly total?: number | undefined
  /** How amounts read: formatBytes, formatCount (default). */
  readonly format?: (amount: number) => string
  readonly screen?: Screen
  /** Clock in milliseconds. */
  readonly now?: () => number
}

/** Milliseconds between redraws on a terminal, and between lines elsewhere. */
const REDRAW_MS = 100
const LINE_MS = 10_000

/** A bar with amount, rate and time left; on anything but a terminal a plain line every 10 seconds. */
export class Progress {
  readonly #line: LiveLine
  readonly #format: (amount: number) => string
  readonly #now: () => number
  readonly #start: number
  #last: number
  #done = 0
  /** When the amount last changed. */
  #changed: number | undefined

  constructor(readonly options: ProgressOptions) {
    this.#line = new LiveLine(options.screen)
    this.#format = options.format ?? formatCount
    this.#now = options.now ?? (() => performance.now())
    this.#start = this.#last = this.#now()
  }

  /** Amount done so far; draws when it is time to. */
  update(done: number): void {
    const now = this.#now()
    if (done !== this.#done) this.#changed = now
    this.#done = done
    if (now - this.#last < (this.#line.isLive ? REDRAW_MS : LINE_MS)) return
    this.#last = now
    if (this.#line.isLive) this.#line.show(this.text())
    else this.#line.print(this.text())
  }

  /** Removes the bar and leaves one line with the total and the rate: what came after all was done does not count. */
  finish(): void {
    const isWhole = this.options.total !== undefined && this.#done >= this.options.total
    const elapsed = ((isWhole ? this.#changed : undefined) ?? this.#now()) - this.#start
    this.#line.clear()
    // Told once, when all was done: nobody knows how long it took.
    const time = isWhole && elapsed < 1 ? "" : ` in ${formatDuration(elapsed)}${this.#rate(elapsed)}`
    this.#line.print(`${this.options.label}: ${this.#format(this.#done)}${time}`)
  }

  /** The line as it would be drawn now. */
  text(): string {
    const { label, total } = this.options
    const elapsed = this.#now() - this.#start
    if (total === undefined || total <= 0) return `${label}: ${this.#format(this.#done)}${this.#rate(elapsed)}`
    const share = Math.min(1, this.#done / total)
    const bar = this.#line.isLive ? `${"█".repeat(Math.round(share * 20))}${"░".repeat(20 - Math.round(share * 20))} ` : ""
    const left = share > 0 ? `, ${formatDuration((elapsed * (1 - share)) / share)} left` : ""
    const percent = `${Math.floor(share * 100)}%`.padStart(4)
    return `${label}: ${bar}${percent} ${this.#format(this.#done)} of ${this.#format(total)}${this.#rate(elapsed)}${left}`
  }

  #rate(elapsed: number): string {
    return elapsed > 0 && this.#done > 0 ? `, ${this.#format((this.#done * 1000) / elapsed)}/s` : ""
  }
}
