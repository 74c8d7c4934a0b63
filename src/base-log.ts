/** Log events, one per line: text on a terminal, JSON elsewhere. */
import { colours, type Screen } from "./base-term.ts"

const LEVELS = ["debug", "info", "warn", "error"] as const
export type LogLevel = (typeof LEVELS)[number]

/** What happened, and its facts by name; values must survive JSON. */
export type LogFields = Readonly<Record<string, unknown>>

/** `event` is a fixed word such as "checkpoint"; what varies goes into `fields`. */
export type Log = (level: LogLevel, event: string, fields?: LogFields) => void

/** One JSON object: {"time":"2026-01-02T03:04:05.006Z","level":"info","event":"checkpoint","step":500}. */
export function jsonLine(time: Date, level: LogLevel, event: string, fields: LogFields): string {
  return JSON.stringify({ time: time.toISOString(), level, event, ...fields })
}

/** For people: `03:04:05 warn checkpoint step=500 path="a b"`. */
export function textLine(time: Date, level: LogLevel, event: string, fields: LogFields): string {
  const clock = time.toTimeString().slice(0, 8)
  const facts = Object.entries(fields).map(([name, value]) => ` ${name}=${plain(value)}`)
  return `${clock} ${level === "info" ? "" : `${level} `}${event}${facts.join("")}`
}

function plain(value: unknown): string {
  return typeof value === "string" && /^[^\s"=]+$/.test(value) ? value : (JSON.stringify(value) ?? "undefined")
}

/** A log on a stream; events below `least` are dropped. */
export function createLog(options: { screen?: Screen; least?: LogLevel; now?: () => Date } = {}): Log {
  const { screen = process.stderr, least = "info", now = () => new Date() } = options
  const paint = colours(screen)
  const tint = { debug: paint.dim, info: (text: string) => text, warn: paint.yellow, error: paint.red }
  return (level, event, fields = {}) => {
    if (LEVELS.indexOf(level) < LEVELS.indexOf(least)) return
    const line = screen.isTTY === true ? tint[level](textLine(now(), level, event, fields)) : jsonLine(now(), level, event, fields)
    screen.write(`${line}\n`)
  }
}
