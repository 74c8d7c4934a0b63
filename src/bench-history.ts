/** The history of measurements: a CSV file whose rows name the device by its class, and the table of the README made from it. */
import { buildInfo } from "./base-build.ts"
import { appendCsv, type CsvRow, readCsv } from "./bench-csv.ts"
import { figure, type Measurement, withStatistics } from "./bench-measure.ts"
import { median } from "./bench-stats.ts"
import { machineFacts } from "./engine.ts"

/** Columns of perf/history.csv; samples are separated by spaces. */
export const HISTORY = [
  ...["date", "commit", "device", "driver", "what", "value", "unit", "beside", "beside_value", "ratio", "command"],
  ...["low", "high", "ratio_low", "ratio_high", "samples", "beside_samples", "clock_mhz"],
] as const

/** What a device's description says of its class and driver: "NVIDIA H200, 140 GiB, NVIDIA 580.159, …" is an H200; processors with their threads. */
export function deviceClass(description: string, hasAmx = machineFacts().amx): { device: string; driver: string } {
  const parts = description.split(", ")
  const threads = /^(\d+) threads$/.exec(parts[1] ?? "")?.[1]
  if (threads === undefined) return { device: (parts[0] ?? "").replace(/^NVIDIA /, ""), driver: (parts[2] ?? "").replace(/^NVIDIA /, "") }
  const name = (parts[0] ?? "")
    .replace(/\((R|TM)\)/gi, "")
    .replace(/\b(Intel|AMD|Processor|CPU|with .*|\d+-Core)\b|@.*/g, "")
    .replace(/\s+/g, " ")
    .trim()
  return { device: `${threads} x ${name}${hasAmx ? " AMX" : ""}`, driver: "" }
}

/** Commit of the build, or of the checkout that runs from source. */
export function commitOf(): string {
  const { commit } = buildInfo()
  if (commit !== "source") return commit
  if (Bun.which("git") === null) return "unknown"
  const git = Bun.spawnSync(["git", "rev-parse", "--short=12", "HEAD"], { cwd: import.meta.dir, stderr: "ignore" })
  return git.success ? git.stdout.toString().trim() : "unknown"
}

/** A measurement as a row of the history. */
export function historyRow(m: Measurement, date: string, commit: string): Record<(typeof HISTORY)[number], string | number> {
  const { median: value, interval, ratio } = withStatistics(m)
  const short = (x: number | undefined) => (x === undefined || !Number.isFinite(x) ? "" : Number(x.toPrecision(5)))
  const list = (samples: readonly number[]) => samples.map((sample) => Number(sample.toPrecision(6))).join(" ")
  const { device, driver } = m.device === "" ? { device: deviceClass(cpuDescription()).device, driver: "" } : deviceClass(m.device)
  return {
    ...{ date, commit, device, driver, what: `${m.bench} ${m.name}`, value: short(value), unit: m.unit },
    ...{
      beside: m.peer?.name ?? "",
      beside_value: short(m.peer && median(m.peer.samples)),
      ratio: short(ratio?.ratio),
      command: m.command,
    },
    ...{ low: short(interval.low), high: short(interval.high), ratio_low: short(ratio?.low), ratio_high: short(ratio?.high) },
    ...{ samples: list(m.samples), beside_samples: list(m.peer?.samples ?? []), clock_mhz: m.facts.MHz ?? "" },
  }
}

/** Measurements as entries of perf/LOG.md, by its template. */
export function logEntries(measurements: readonly Measurement[]): string {
  const [date, commit] = [new Date().toISOString().slice(0, 10), commitOf()]
  return measurements
    .map((m) => {
      const row = historyRow(m, date, commit)
      const peer = m.peer === undefined ? [] : [`peer       ${row.beside_samples} ${m.unit} (${m.peer.name})`]
      const ratio = row.ratio === "" ? [] : [`ratio      ${row.ratio} (${row.ratio_low} to ${row.ratio_high})`]
      return [
        `## ${row.what}`,
        ...[`date       ${date}`, `commit     ${commit}`, `device     ${[row.device, row.driver].filter(Boolean).join(", driver ")}`],
        ...[`command    ${m.command}`, `alpha      ${row.samples} ${m.unit}`, ...peer, ...ratio],
      ].join("\n")
    })
    .join("\n\n")
}

/** This machine's processor, as the CPU device describes itself. */
function cpuDescription(): string {
  const { processor, cores } = machineFacts()
  return `${processor}, ${cores} threads`
}

export function record(path: string, measurements: readonly Measurement[]): void {
  const [date, commit] = [new Date().toISOString().slice(0, 10), commitOf()]
  appendCsv(
    path,
    HISTORY,
    measurements.map((m) => historyRow(m, date, commit)),
  )
}

/** Benches whose rows are too many for the README: they are in the file and on the page. */
const DETAILS = /^(ops|counters) /

/** The newest row of everything that was measured but details, in the order in which it first appeared. */
function newest(rows: readonly CsvRow[]): CsvRow[] {
  const byName = new Map<string, CsvRow>()
  for (const row of rows) if (!DETAILS.test(row.what ?? "")) byName.set(`${row.device}\n${row.what}`, row)
  const all = [...byName.values()]
  return all.filter((row) => !all.some((other) => other.device === row.device && succeeds(other.what ?? "", row.what ?? "")))
}

/** Whether a row measures what an older one did by a script that is gone: decode is infer's tg, products have no layout in their names. */
function succeeds(what: string, older: string): boolean {
  const [, decoded] = /^decode (\S+)/.exec(older) ?? []
  if (decoded !== undefined) return what.startsWith(`infer ${decoded} `)
  return /^gemm (nt|nn|tn) /.test(older) && /^gemm \d/.test(what)
}

const BEGIN = "<!-- made by alpha bench report --readme from perf/history.csv -->"
const END = "<!-- end -->"

/** The README's table: the newest row of every measurement, by device. */
export function readmeTable(rows: readonly CsvRow[]): string {
  const cell = (text: string) => text.replaceAll("|", "\\|")
  const number = (text: string | undefined) => (text === undefined || text === "" ? "" : figure(Number(text)))
  const lines = newest(rows).map((row) => {
    const isSame = Number(row.ratio_low || Number.NaN) <= 1 && Number(row.ratio_high || Number.NaN) >= 1
    const ratio = row.ratio === "" || row.ratio === undefined ? "" : `${isSame ? "~ " : ""}${Number(row.ratio).toFixed(2)}`
    const beside = row.beside === "" ? "" : `${row.beside}: ${number(row.beside_value)}`
    return `| ${[row.device, row.what, `${number(row.value)} ${row.unit}`, beside, ratio, `${row.date}, \`${row.commit}\``].map((text) => cell(text ?? "")).join(" | ")} |`
  })
  return ["| device | what | alpha | beside it | ratio | measured |", "|---|---|---|---|---|---|", ...lines].join("\n")
}

/** `readme` with the table of `rows` between its marks; undefined where it has none. */
export function withTable(readme: string, rows: readonly CsvRow[]): string | undefined {
  const [from, to] = [readme.indexOf(BEGIN), readme.indexOf(END)]
  if (from < 0 || to < from) return undefined
  return `${readme.slice(0, from + BEGIN.length)}\n\n${readmeTable(rows)}\n\n${readme.slice(to)}`
}

export const readHistory = (path: string): CsvRow[] => readCsv(path)
