/** Line charts in braille: every character is 2 × 4 dots. */
import { cell, type Paint, type Style } from "./tui-style.ts"

/** Values along x; null and NaN are gaps. */
export interface Curve {
  readonly x: readonly number[]
  readonly y: readonly (number | null)[]
  /** Greatest values where `y` holds the least: the curve is then the band between both. */
  readonly top?: readonly (number | null)[]
  /** line: dots joined; band: upright strokes from y to top; mark: one character per value. */
  readonly form: "line" | "band" | "mark"
  readonly paint: Paint
}

export interface Chart {
  readonly title: string
  readonly curves: readonly Curve[]
  readonly logX: boolean
  readonly logY: boolean
  readonly formatX: (x: number) => string
  readonly formatY: (y: number) => string
}

/** Columns of the numbers left of the chart, without the axis. */
const LABELS = 7

/** Dot (column, row) of a braille character is bit DOTS[row][column]. */
const DOTS = [
  [0x01, 0x08],
  [0x02, 0x10],
  [0x04, 0x20],
  [0x40, 0x80],
] as const

/** Four significant digits at most, in at most 7 columns. */
export function shortNumber(value: number): string {
  if (!Number.isFinite(value)) return "?"
  const size = Math.abs(value)
  if (value === 0) return "0"
  if (size < 1e-3) return value.toExponential(1).replace("e-0", "e-")
  if (size < 1) return String(Number(value.toPrecision(3)))
  if (size < 1000) return value.toPrecision(4)
  const power = Math.min(4, Math.floor(Math.log10(size) / 3))
  return `${Number((value / 1000 ** power).toPrecision(3))}${["", "K", "M", "G", "T"][power]}`
}

/** The chart as `height` lines of exactly `width` columns. A logarithmic axis leaves out what is not above 0. */
export function drawChart(chart: Chart, width: number, height: number, style: Style): string[] {
  const blank = " ".repeat(Math.max(0, width))
  const lines = [cell(chart.title, width, style.bold)]
  const columns = width - LABELS - 1
  const rows = height - 2
  if (columns < 4 || rows < 1) return fill(lines, height, blank)
  const x = scaleOf(
    chart.curves.flatMap((curve) => curve.x),
    chart.logX,
    columns * 2,
  )
  const y = scaleOf(
    chart.curves.flatMap((curve) => [...curve.y, ...(curve.top ?? [])]),
    chart.logY,
    rows * 4,
  )
  if (x === undefined || y === undefined) {
    lines.push(...Array<string>(Math.floor((rows - 1) / 2)).fill(blank), cell("      no values yet", width, style.dim))
    return fill(lines, height, blank)
  }
  const canvas = new Canvas(columns, rows)
  for (const curve of chart.curves) plot(canvas, curve, x.at, (value) => rows * 4 - 1 - y.at(value))
  const marks = labelRows(rows)
  for (let row = 0; row < rows; row++) {
    const label = marks.includes(row)
      ? chart.formatY(y.value(rows * 4 - 1 - (row === 0 ? 0 : row === rows - 1 ? row * 4 + 3 : row * 4 + 1.5)))
      : ""
    lines.push(cell(label, LABELS, style.dim, true) + style.dim(label === "" ? "│" : "┤") + canvas.row(row))
  }
  const left = chart.formatX(x.value(0))
  const middle = chart.formatX(x.value(columns - 0.5))
  const right = chart.formatX(x.value(columns * 2 - 1))
  lines.push(" ".repeat(LABELS) + style.dim(`└${axis([left, middle, right], columns)}`))
  return fill(lines, height, blank)
}

const fill = (lines: string[], height: number, blank: string): string[] =>
  Array.from({ length: Math.max(0, height) }, (_, i) => lines[i] ?? blank)

/** Rows that carry a number: the first, the last, and one between where there is room. */
const labelRows = (rows: number): number[] => (rows >= 7 ? [0, Math.floor(rows / 2), rows - 1] : rows > 1 ? [0, rows - 1] : [0])

/** Texts at the left, in the middle and at the right of `width` columns of axis, as far as they fit. */
function axis([left, middle, right]: readonly [string, string, string], width: number): string {
  const line = Array<string>(width).fill("─")
  const put = (text: string, at: number) => {
    for (const [i, char] of [...text].entries()) line[at + i] = char
  }
  if (left.length + right.length + 1 > width) {
    if (right.length <= width) put(right, width - right.length)
    return line.join("")
  }
  put(left, 0)
  put(right, width - right.length)
  const at = Math.floor((width - middle.length) / 2)
  if (middle !== left && middle !== right && at > left.length + 1 && at + middle.length + 1 < width - right.length) put(middle, at)
  return line.join("")
}

interface Scale {
  /** Dot of a value, unrounded. */
  at(value: number): number
  value(dot: number): number
}

/** Maps the values' range on dots 0 … count − 1; undefined where no value can be shown. */
function scaleOf(values: readonly (number | null)[], log: boolean, count: number): Scale | undefined {
  let low = Number.POSITIVE_INFINITY
  let high = Number.NEGATIVE_INFINITY
  for (const value of values) {
    if (value === null || !Number.isFinite(value) || (log && value <= 0)) continue
    if (value < low) low = value
    if (value > high) high = value
  }
  if (low > high) return undefined
  const to = log ? Math.log10 : (value: number) => value
  const back = log ? (value: number) => 10 ** value : (value: number) => value
  let [from, span] = [to(low), to(high) - to(low)]
  if (span === 0) {
    span = log ? 1 : Math.abs(from) / 10 || 1
    from -= span / 2
  }
  const last = Math.max(1, count - 1)
  return { at: (value) => ((to(value) - from) / span) * last, value: (dot) => back(from + (dot / last) * span) }
}

function plot(canvas: Canvas, curve: Curve, atX: (x: number) => number, atY: (y: number) => number): void {
  let before: readonly [number, number] | undefined
  for (const [i, value] of curve.y.entries()) {
    const place = atX(curve.x[i] as number)
    const y = value === null ? Number.NaN : atY(value)
    if (!Number.isFinite(place) || !Number.isFinite(y)) {
      if (curve.form === "line") before = undefined
      continue
    }
    const here = [Math.round(place), Math.round(y)] as const
    const top = curve.top?.[i]
    if (curve.form === "mark") canvas.mark(here[0] >> 1, here[1] >> 2, curve.paint)
    else if (curve.form === "band") canvas.line(here, [here[0], typeof top === "number" ? Math.round(atY(top)) : here[1]], curve.paint)
    else canvas.line(before ?? here, here, curve.paint)
    before = here
  }
}

class Canvas {
  readonly #dots: Uint8Array
  readonly #paints: (Paint | undefined)[]
  readonly #marks: boolean[]

  constructor(
    readonly columns: number,
    readonly rows: number,
  ) {
    this.#dots = new Uint8Array(columns * rows)
    this.#paints = Array(columns * rows)
    this.#marks = Array(columns * rows).fill(false)
  }

  /** A character has one colour: that of the curve drawn last. */
  #dot(x: number, y: number, paint: Paint): void {
    if (x < 0 || y < 0 || x >= this.columns * 2 || y >= this.rows * 4) return
    const at = (y >> 2) * this.columns + (x >> 1)
    if (this.#marks[at]) return
    this.#dots[at]! |= DOTS[y & 3]![x & 1]!
    this.#paints[at] = paint
  }

  mark(column: number, row: number, paint: Paint): void {
    if (column < 0 || row < 0 || column >= this.columns || row >= this.rows) return
    this.#marks[row * this.columns + column] = true
    this.#paints[row * this.columns + column] = paint
  }

  line([x0, y0]: readonly [number, number], [x1, y1]: readonly [number, number], paint: Paint): void {
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1)
    for (let i = 0; i <= steps; i++) this.#dot(Math.round(x0 + ((x1 - x0) * i) / steps), Math.round(y0 + ((y1 - y0) * i) / steps), paint)
  }

  /** One row of characters; neighbours of one colour share its codes. */
  row(row: number): string {
    let line = ""
    let run = ""
    let paint: Paint | undefined
    const flush = () => {
      line += paint === undefined ? run : paint(run)
      run = ""
    }
    for (let at = row * this.columns; at < (row + 1) * this.columns; at++) {
      const next = this.#dots[at] === 0 && !this.#marks[at] ? undefined : this.#paints[at]
      if (next !== paint) flush()
      paint = next
      const dots = this.#dots[at] as number
      run += this.#marks[at] ? "◆" : dots === 0 ? " " : String.fromCharCode(0x2800 + dots)
    }
    flush()
    return line
  }
}

/** Exponential moving average that starts unbiased (Adam's correction); gaps stay gaps. */
export function smooth(values: readonly (number | null)[], weight: number): (number | null)[] {
  let sum = 0
  let norm = 0
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null
    sum = sum * weight + value * (1 - weight)
    norm = norm * weight + (1 - weight)
    return sum / norm
  })
}
