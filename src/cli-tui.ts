/** `alpha tui`: runs on a full screen. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Invocation } from "./cli-command.ts"
import { onStop } from "./cli-signal.ts"
import type { Environment, TuiConfig } from "./config.ts"
import { DirectoryStore, databasePlace, RunDatabase } from "./db.ts"
import { createRemoteStore, createStyle, drawOnce, type RunSource, type View, watchRuns } from "./tui.ts"

export async function run({ config, environment, json, print }: Invocation<TuiConfig>): Promise<undefined> {
  const { stdin, stdout } = process
  const once = config.once || json
  const isTerminal = stdin.isTTY === true && stdout.isTTY === true && process.env.TERM !== "dumb"
  if (!once && !isTerminal) {
    const reason = process.env.TERM === "dumb" ? "TERM=dumb" : `standard ${stdout.isTTY === true ? "input" : "output"} is none`
    throw new AlphaError(`tui needs a terminal: ${reason}`, {
      hint: "alpha tui --once prints one frame; alpha runs ls lists the runs",
      code: EXIT.usage,
    })
  }
  const colour = stdout.isTTY === true && (process.env.NO_COLOR ?? "") === ""
  const { store, source } = await openStore(config, environment)
  const style = createStyle({ colour, unicode: !(config.ascii ?? !isUtf8()) })
  const view: View = { store, source, style, keys: config.press }
  try {
    if (once) {
      const lines = await drawOnce(view, config.width ?? stdout.columns ?? 80, config.height ?? stdout.rows ?? 24)
      print({ lines }, () => lines.join("\n"))
      return undefined
    }
    const stopped = Promise.withResolvers<void>()
    const release = onStop(() => stopped.resolve())
    try {
      await watchRuns(view, config.refresh * 1000, stopped.promise)
    } finally {
      release()
    }
  } finally {
    store.close()
  }
  return undefined
}

/** A server, the database or the directories, as the flags have it. */
async function openStore(config: TuiConfig, environment: Environment): Promise<{ store: RunSource; source: string }> {
  const { server, from, runsDir } = config
  if (server !== undefined) return { store: createRemoteStore(server, keyOf(environment)), source: server }
  if (from === "directories") return { store: new DirectoryStore(runsDir), source: runsDir }
  const place = databasePlace(config.database, environment)
  // A URL may carry a token.
  return { store: await RunDatabase.open(place), source: place.url.replace(/[?#].*$/, "").replace(/\/\/[^/@]*@/, "//") }
}

/** Reading takes a read key; no other grants it. */
const keyOf = (environment: Environment): string | undefined => environment.get("ALPHA_READ_KEYS")?.value.split(",")[0]?.trim()

/** Containers and minimal systems name no locale, on terminals that know UTF-8 all the same: only another one that is named counts. */
export function isUtf8(): boolean {
  const locale = [process.env.LC_ALL, process.env.LC_CTYPE, process.env.LANG].find((value) => value !== undefined && value !== "")
  return locale === undefined || /utf-?8/i.test(locale)
}
