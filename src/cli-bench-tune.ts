/** `alpha bench tune` and `alpha bench report`. */
import { existsSync } from "node:fs"
import { AlphaError, EXIT } from "./base-error.ts"
import { readText, writeAtomic } from "./base-file.ts"
import { formatRows, readHistory, reportPage, settingsText, tune, withTable } from "./bench.ts"
import type { Base, Invocation } from "./cli-command.ts"
import { type BENCH_REPORT, type BENCH_TUNE, type BenchReportConfig, type BenchTuneConfig, heritageTune } from "./config.ts"

/** The heritage's variables. */
export async function base(): Promise<Base | undefined> {
  const values = heritageTune(process.env)
  return Object.keys(values).length === 0 ? undefined : { values, from: "the environment" }
}

export async function run({ config, json, print }: Invocation<BenchTuneConfig, typeof BENCH_TUNE>): Promise<number> {
  const report = await tune(config, (note) => void (json || process.stderr.write(`${note}\n`)))
  print(report, () => {
    const rows = report.last.map(({ settings, rate, loss }) => ({
      settings: settingsText(settings),
      "tokens/s": String(Math.round(rate)),
      loss: String(loss),
    }))
    const end = report.best === undefined ? "no settings were ok" : `the first: set -a; . ${report.best}`
    return [...(rows.length > 0 ? [formatRows(rows, config.format)] : []), `all trials: ${report.results}`, end, ...kept(report)].join("\n")
  })
  return report.best === undefined && config.requireOk ? EXIT.failure : EXIT.ok
}

function kept({ tuned }: Awaited<ReturnType<typeof tune>>): string[] {
  if (tuned === undefined) return []
  const words = Object.entries(tuned.settings).map(([name, value]) => `${name}=${value}`)
  const what = words.length === 0 ? "the usual settings, the fastest" : words.join(" ")
  return [`${tuned.file}: alpha train --preset=${tuned.preset} takes ${what} by itself (--no-tuned: not)`]
}

/** Draws the history as a page, or renews the README's table. */
export async function report({ config, print }: Invocation<BenchReportConfig, typeof BENCH_REPORT>): Promise<undefined> {
  const rows = readHistory(config.history)
  if (rows.length === 0) {
    throw new AlphaError(`bench report: ${config.history} has no rows`, { hint: "alpha bench all --record", code: EXIT.data })
  }
  if (config.readme !== undefined) {
    const text = withTable(readText(config.readme), rows)
    if (text === undefined) {
      throw new AlphaError(`bench report: ${config.readme} has no marks for the table`, {
        hint: "put <!-- made by alpha bench report --readme from perf/history.csv --> and <!-- end --> around its place",
        code: EXIT.data,
      })
    }
    writeAtomic(config.readme, text)
    print({ readme: config.readme, rows: rows.length }, () => `${config.readme}: its table is that of ${config.history}`)
    return undefined
  }
  const loops = existsSync(config.loop) ? readHistory(config.loop) : []
  writeAtomic(config.out, reportPage(rows, loops))
  print(
    { out: config.out, rows: rows.length, loops: loops.length },
    () => `${config.out}: ${rows.length} measurements, ${loops.length} loops`,
  )
  return undefined
}
