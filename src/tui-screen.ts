/** The terminal while the program has it: alternate screen, raw keys, and everything put back at the end, whatever the end is. */
import { writeSync } from "node:fs"
import { readKeys } from "./tui-keys.ts"

// Alternate screen, hidden cursor, no wrapping at the right edge: what every terminal since the VT220 and xterm knows.
const ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
const LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
/** After this an escape byte that nothing followed is the key; over a slow line the rest of an arrow key comes late. */
const ESCAPE_MS = 60

export interface Listeners {
  readonly onKey: (key: string) => void
  readonly onResize: () => void
}

export class FullScreen {
  #shown: readonly string[] = []
  #isOpen = false
  #rest = ""
  #timer: ReturnType<typeof setTimeout> | undefined
  readonly #input = process.stdin
  readonly #output = process.stdout

  constructor(private readonly listeners: Listeners) {}

  get width(): number {
    return Math.max(1, this.#output.columns || 80)
  }

  get height(): number {
    return Math.max(1, this.#output.rows || 24)
  }

  open(): void {
    process.on("exit", this.close) // reached by errors nobody caught and by process.exit too
    process.on("SIGCONT", this.#resume)
    this.#output.on("resize", this.#resize)
    this.#input.on("data", this.#data)
    this.#input.resume()
    this.#take()
  }

  /** Puts the terminal back; again and again does no harm. */
  readonly close = (): void => {
    process.off("exit", this.close)
    process.off("SIGCONT", this.#resume)
    this.#output.off("resize", this.#resize)
    this.#input.off("data", this.#data)
    this.#input.pause()
    clearTimeout(this.#timer)
    this.#release()
  }

  /** Hands the terminal back to the shell as Ctrl-Z does; SIGCONT takes it again. */
  suspend(): void {
    this.#release()
    process.kill(process.pid, "SIGSTOP")
  }

  /** Draws the lines that are not there yet. */
  draw(lines: readonly string[]): void {
    if (!this.#isOpen) return
    const changed = lines.flatMap((line, row) => (line === this.#shown[row] ? [] : [`\x1b[${row + 1};1H\x1b[2K${line}`]))
    this.#shown = lines
    if (changed.length > 0) this.#output.write(changed.join(""))
  }

  /** The next `draw` draws every line. */
  forget(): void {
    this.#shown = []
    if (this.#isOpen) this.#output.write("\x1b[2J")
  }

  #take(): void {
    if (this.#isOpen) return
    this.#isOpen = true
    this.#shown = []
    this.#input.setRawMode(true)
    this.#output.write(ENTER)
  }

  /** Synchronous: the process may be about to end. */
  #release(): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    try {
      writeSync(1, LEAVE)
      this.#input.setRawMode(false)
    } catch {
      // The terminal is gone (SIGHUP): nothing is left to put back.
    }
  }

  readonly #resume = () => {
    this.#take()
    this.listeners.onResize()
  }

  readonly #resize = () => {
    this.forget()
    this.listeners.onResize()
  }

  readonly #data = (bytes: Buffer | string) => {
    clearTimeout(this.#timer)
    const { keys, rest } = readKeys(this.#rest + bytes.toString())
    this.#rest = rest
    for (const key of keys) this.listeners.onKey(key)
    if (rest === "") return
    this.#timer = setTimeout(() => {
      this.#rest = ""
      this.listeners.onKey("escape")
    }, ESCAPE_MS)
  }
}
