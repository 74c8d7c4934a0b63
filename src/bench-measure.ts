/** A measurement with all its raw samples, and the forms in which measurements are printed. */
import { columns } from "./base-term.ts"
import { csvText } from "./bench-csv.ts"
import { type Interval, median, medianInterval, type Ratio, ratioOf } from "./bench-stats.ts"

/** One figure of a bench. */
export interface Measurement {
  /** "train", "ops". */
  readonly bench: string
  /** What was measured: "gpt2-124m batch 64 bf16". */
  readonly name: string
  /** Device as it describes itself; "" where none is used. */
  readonly device: string
  readonly unit: string
  readonly better: "more" | "less"
  /** Every sample, in the order in which it was taken. */
  readonly samples: readonly number[]
  /** What belongs to it: loss, share of the roofline, clocks. */
  readonly facts: Readonly<Record<string, string | number>>
  /** Another program that ran alternately with us. */
  readonly peer?: { readonly name: string; readonly samples: readonly number[] } | undefined
  /** The command line that measures this again. */
  readonly command: string
}

export interface Told extends Measurement {
  readonly median: number
  readonly interval: Interval
  /** Ours against the peer's, above 1 where we are better. */
  readonly ratio: Ratio | undefined
}

/** A measurement with what follows from its samples. */
export function withStatistics(m: Measurement): Told {
  const [ours, theirs] = [m.samples, m.peer?.samples ?? []]
  const ratio = theirs.length === 0 ? undefined : m.better === "more" ? ratioOf(ours, theirs) : ratioOf(theirs, ours)
  return { ...m, median: median(ours), interval: medianInterval(ours), ratio }
}

export type Format = "table" | "markdown" | "csv"

/** 1234567.8 → "1,234,568"; 12.3456 → "12.35". */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return String(value)
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en-US")
  return String(Number(value.toPrecision(4)))
}

/** Median of samples for people. */
export const medianOf = (samples: readonly number[]): string => figure(median(samples))

/** "1.79", or "~ 1.01" where the interval holds 1: no difference is shown. */
export const ratioText = ({ ratio, low, high }: Ratio): string => `${low <= 1 && high >= 1 ? "~ " : ""}${ratio.toFixed(2)}`

type Cells = Readonly<Record<string, string>>

/** A measurement as cells for people. */
function cellsOf(m: Measurement): Cells {
  const { median: middle, interval, ratio } = withStatistics(m)
  const spread = m.samples.length < 2 ? "" : `${figure(interval.low)} … ${figure(interval.high)}`
  return {
    bench: m.bench,
    what: m.name,
    median: figure(middle),
    unit: m.unit,
    "95 %": spread,
    n: String(m.samples.length),
    ...(m.peer === undefined ? {} : { beside: m.peer.name, "its median": figure(median(m.peer.samples)) }),
    ...(ratio === undefined ? {} : { ratio: ratioText(ratio), "ratio's 95 %": `${ratio.low.toFixed(2)} … ${ratio.high.toFixed(2)}` }),
    ...Object.fromEntries(Object.entries(m.facts).map(([name, value]) => [name, typeof value === "number" ? figure(value) : value])),
  }
}

/** Columns in the order in which they first appear. */
const headOf = (rows: readonly Cells[]): string[] => [...new Set(rows.flatMap((row) => Object.keys(row)))]
const isNumber = (text: string) => /^(~ )?-?[\d,.]+( %)?$/.test(text)

/** Rows of cells as an aligned table, as Markdown or as CSV. */
export function formatRows(rows: readonly Cells[], format: Format): string {
  const head = headOf(rows)
  const body = rows.map((row) => head.map((name) => row[name] ?? ""))
  if (format === "csv") return csvText([head, ...body]).trimEnd()
  if (format === "markdown")
    return [head, head.map(() => "---"), ...body]
      .map((row) => `| ${row.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`)
      .join("\n")
  const right = head.flatMap((_, i) => (body.every((row) => row[i] === "" || isNumber(row[i]!)) ? [i] : []))
  return columns([head, ...body], right)
}

/** Measurements as text: a table for each bench with the devices above it, or one CSV table. */
export function formatMeasurements(all: readonly Measurement[], format: Format): string {
  if (format === "csv")
    return formatRows(
      all.map((m) => ({ ...cellsOf(m), device: m.device })),
      format,
    )
  const parts = [...Map.groupBy(all, ({ bench, device }) => `${bench}\n${device}`).values()].map((some) => {
    const device = some[0]?.device ?? ""
    return `${device === "" ? "" : `${device}\n${format === "markdown" ? "\n" : ""}`}${formatRows(some.map(cellsOf), format)}`
  })
  return parts.join("\n\n")
}
