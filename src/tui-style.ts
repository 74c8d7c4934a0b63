/** How the screen is painted: colours, characters, and texts made safe for a terminal. */
import { displayWidth, fit } from "./base-term.ts"
import type { RunState } from "./db.ts"

export type Paint = (text: string) => string

export interface Style {
  /** Characters beyond ASCII may be used. */
  readonly unicode: boolean
  readonly colour: boolean
  readonly plain: Paint
  readonly dim: Paint
  readonly bold: Paint
  readonly inverse: Paint
  readonly red: Paint
  readonly green: Paint
  readonly yellow: Paint
  readonly cyan: Paint
  /** One colour per compared run. */
  readonly curves: readonly Paint[]
}

/** The 8 colours that every terminal has, or none of them. */
export function createStyle({ colour, unicode }: { readonly colour: boolean; readonly unicode: boolean }): Style {
  const code = (open: number): Paint => (colour ? (text) => (text === "" ? "" : `\x1b[${open}m${text}\x1b[0m`) : (text) => text)
  const [red, green, yellow, blue, magenta, cyan] = [31, 32, 33, 34, 35, 36].map(code) as [Paint, Paint, Paint, Paint, Paint, Paint]
  // A list whose chosen row could not be told from the others would be of no use: inverse stays without colours.
  const inverse: Paint = colour ? (text) => `\x1b[7m${text}\x1b[0m` : (text) => text
  const plain: Paint = (text) => text
  return {
    unicode,
    colour,
    plain,
    dim: code(2),
    bold: code(1),
    inverse,
    red,
    green,
    yellow,
    cyan,
    curves: [cyan, yellow, magenta, green, red, blue],
  }
}

export const statePaint = (state: RunState, style: Style): Paint =>
  ({ running: style.green, stalled: style.yellow, crashed: style.red, finished: style.cyan, stopped: style.dim })[state] ?? style.plain

/** Text of others on one line: no control characters, which would be commands to the terminal, and no marks that turn writing round. */
export function clean(text: string): string {
  return text.replace(/\r?\n|\r/g, "↵").replace(/[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, " ")
}

/** A cell of exactly `width` columns, its text flush left or right. */
export function cell(text: string, width: number, paint: Paint = (same) => same, right = false): string {
  if (width <= 0) return ""
  const cut = fit(clean(text), width)
  const bare = cut.trimEnd()
  return paint(right ? " ".repeat(width - displayWidth(bare)) + bare : cut)
}

/** ASCII for the characters that the screen is drawn with; a braille cell becomes one of . ' : by where its dots are. */
export function toAscii(line: string): string {
  return line
    .replace(/[\u2800-\u28ff]/g, (braille) => {
      const dots = braille.charCodeAt(0) - 0x2800
      const [upper, lower] = [(dots & 0b00011011) !== 0, (dots & 0b11100100) !== 0]
      return upper && lower ? ":" : upper ? "'" : lower ? "." : " "
    })
    .replace(/[▁▂▃▄▅▆▇█]/g, (bar) => "_.-=+*#@"["▁▂▃▄▅▆▇█".indexOf(bar)] as string)
    .replace(/[─│┤└◆●…↵·→✓]/g, (mark) => "-||+o*~/.>v"["─│┤└◆●…↵·→✓".indexOf(mark)] as string)
    .replace(/[^\x1b\x20-\x7e]/gu, (other) => "?".repeat(displayWidth(other)))
}
