/** The history as one HTML page: a chart for everything that was measured, ours and the peer's, by device. */
import type { CsvRow } from "./bench-csv.ts"
import { figure } from "./bench-measure.ts"

const escaped = (text: string): string => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`)

interface Point {
  readonly label: string
  readonly value: number
  readonly low: number
  readonly high: number
  readonly peer: number | undefined
}
interface Series {
  readonly title: string
  readonly unit: string
  readonly points: readonly Point[]
}

const [WIDTH, HEIGHT, LEFT, TOP] = [520, 140, 8, 14]

/** A chart: our line with its interval, the peer's dashed; from zero, so that heights are ratios. */
export function chart({ title, unit, points }: Series): string {
  const top = 1.08 * Math.max(...points.flatMap(({ high, peer }) => [high, peer ?? 0]), Number.MIN_VALUE)
  const x = (i: number) => LEFT + ((WIDTH - 2 * LEFT) * (i + 0.5)) / points.length
  const y = (value: number) => TOP + (HEIGHT - TOP - 4) * (1 - value / top)
  const at = (i: number, value: number) => `${x(i).toFixed(1)},${y(value).toFixed(1)}`
  const peers = points.flatMap(({ peer }, i) => (peer === undefined ? [] : [{ i, peer }]))
  const last = points.at(-1) as Point
  return [
    `<figure><figcaption>${escaped(title)}: <b>${figure(last.value)}</b> ${escaped(unit)}${last.peer === undefined ? "" : `, peer ${figure(last.peer)}`}</figcaption>`,
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img"><title>${escaped(title)}</title>`,
    `<line class="zero" x1="0" x2="${WIDTH}" y1="${y(0)}" y2="${y(0)}"/>`,
    `<polyline class="peer" points="${peers.map(({ i, peer }) => at(i, peer)).join(" ")}"/>`,
    ...peers.map(({ i, peer }) => `<rect class="peer" x="${(x(i) - 3).toFixed(1)}" y="${(y(peer) - 3).toFixed(1)}" width="6" height="6"/>`),
    `<polyline class="ours" points="${points.map(({ value }, i) => at(i, value)).join(" ")}"/>`,
    ...points.map(
      ({ label, value, low, high }, i) =>
        `<line class="ours" x1="${x(i).toFixed(1)}" x2="${x(i).toFixed(1)}" y1="${y(low).toFixed(1)}" y2="${y(high).toFixed(1)}"/>` +
        `<circle cx="${x(i).toFixed(1)}" cy="${y(value).toFixed(1)}" r="3.5"><title>${escaped(`${label}: ${figure(value)} ${unit}`)}</title></circle>`,
    ),
    "</svg></figure>",
  ].join("\n")
}

const numberOr = (text: string | undefined, otherwise: number): number => (text === undefined || text === "" ? otherwise : Number(text))

function point(row: CsvRow, value: number, low: string | undefined, high: string | undefined, label: string): Point {
  return {
    label,
    value,
    low: numberOr(low, value),
    high: numberOr(high, value),
    peer: row.beside_value ? Number(row.beside_value) : undefined,
  }
}

/** The page. `rows` are perf/history.csv's, `loops` those of the compiled loop that were ok. */
export function reportPage(rows: readonly CsvRow[], loops: readonly CsvRow[]): string {
  const sections = [...Map.groupBy(rows, ({ device }) => device as string)].map(([device, own]) => {
    const charts = [...Map.groupBy(own, ({ what }) => what as string)].map(([what, same]) =>
      chart({
        title: what,
        unit: same[0]?.unit ?? "",
        points: same.map((row) => point(row, Number(row.value), row.low, row.high, `${row.date} ${row.commit}`)),
      }),
    )
    return `<h2>${escaped(device)}</h2>\n${charts.join("\n")}`
  })
  const good = loops.filter(({ status }) => status === "ok")
  const loopCharts = [...Map.groupBy(good, ({ device, settings }) => `${device}: ${settings}`)].map(([title, own]) =>
    chart({
      ...{ title, unit: "tokens/s" },
      points: own.map((row) => {
        const [low, high] = (row.interval ?? "").split("..")
        return point({}, Number(row.avg_tok_s), low, high, `${row.timestamp} ${row.git_commit}`)
      }),
    }),
  )
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>alpha: measurements</title>
<style>
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; --ours: #2563eb; --peer: #d97706 }
body { max-width: 1120px; margin: 2em auto; padding: 0 1em }
section { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1em }
h2 { grid-column: 1 / -1; margin: 1em 0 0 }
figure { margin: 0; border: 1px solid #8884; border-radius: 6px; padding: 8px }
svg { width: 100% } polyline { fill: none; stroke-width: 2 } line.zero { stroke: #8886 }
.ours { stroke: var(--ours) } circle { fill: var(--ours) } polyline.peer { stroke: var(--peer); stroke-dasharray: 5 4 } rect.peer { fill: var(--peer) }
</style>
<h1>Measurements</h1>
<p>Blue: alpha, with 95 % intervals where they are known. Orange: the other program of the same run. Charts start at zero.</p>
${sections.map((section) => `<section>${section}</section>`).join("\n")}
${loopCharts.length === 0 ? "" : `<section><h2>Compiled loop</h2>\n${loopCharts.join("\n")}</section>`}
</html>
`
}
