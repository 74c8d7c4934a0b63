/** `alpha bench gate`: whether a build is as fast as another, as an exit code: 0, 3 regression, 4 inconclusive. */
import { LiveLine } from "./base-term.ts"
import { formatRows, GATE_EXIT, type GateReport, learnNoise, medianOf, runGate } from "./bench.ts"
import type { Invocation } from "./cli-command.ts"
import type { BENCH_GATE, BenchGateConfig } from "./config.ts"

export async function run({ config, print }: Invocation<BenchGateConfig, typeof BENCH_GATE>): Promise<number> {
  const line = new LiveLine()
  const tell = (note: string) => line.print(note)
  const onBlock = (done: number, of: number) => line.show(`block ${done} of at most ${of}`)
  try {
    if (config.b === undefined) {
      const learned = await learnNoise(config, tell, onBlock)
      line.clear()
      print(learned, () =>
        learned
          .map(({ metric, runs, threshold }) =>
            threshold === null ? `${metric}: ${runs} runs, too few` : `${metric}: threshold ${percent(threshold)} from ${runs} runs`,
          )
          .join("\n"),
      )
      return GATE_EXIT.ok
    }
    const report = await runGate(config, tell, onBlock)
    line.clear()
    print(report, () => text(report, config.format))
    return GATE_EXIT[report.verdict]
  } finally {
    line.clear()
  }
}

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`
const change = (log: number): string => `${log >= 0 ? "+" : ""}${percent(Math.expm1(log))}`

function text({ device, a, b, rows, counters, verdict }: GateReport, format: BenchGateConfig["format"]): string {
  const timed = rows.map(({ metric, threshold, first, second, raw, verdict: own }) => ({
    metric,
    A: medianOf(raw.flatMap((one) => one.A)),
    B: medianOf(raw.flatMap((one) => one.B)),
    change: first.low <= 0 && first.high >= 0 ? "~" : change(first.ratio),
    "99 %": `${change(first.low)} … ${change(first.high)}`,
    blocks: String(first.blocks),
    threshold: percent(threshold),
    "second run": second === undefined ? "" : `${change(second.low)} … ${change(second.high)}`,
    verdict: own,
  }))
  const exact = counters
    .filter((row) => row.a !== row.b)
    .map((row) => ({ counter: row.counter, A: row.a.toLocaleString("en-US"), B: row.b.toLocaleString("en-US"), verdict: row.verdict }))
  const unchanged = counters.length - exact.length
  return [
    `${device}: B ${b} against A ${a}; more time is +`,
    formatRows(timed, format),
    ...(exact.length > 0 ? [formatRows(exact, format)] : []),
    ...(unchanged > 0 ? [`${unchanged} exact counters are equal`] : []),
    `verdict: ${verdict}`,
  ].join("\n")
}
