/** `alpha bench loop`: build, train, ask, remember; with --check only whether that was done for these sources. */
import { AlphaError, EXIT } from "./base-error.ts"
import { checkTree, type LoopReport, runLoop } from "./bench.ts"
import type { Base, Invocation } from "./cli-command.ts"
import { type BENCH_LOOP, type BenchLoopConfig, heritageLoop } from "./config.ts"

/** The heritage's variables. */
export async function base(): Promise<Base | undefined> {
  const values = heritageLoop(process.env)
  return Object.keys(values).length === 0 ? undefined : { values, from: "the environment" }
}

export async function run({ config, print }: Invocation<BenchLoopConfig, typeof BENCH_LOOP>): Promise<number> {
  if (config.check) {
    const problem = checkTree(config)
    if (problem !== undefined) throw new AlphaError(`bench loop: ${problem}`, { hint: "alpha bench loop", code: EXIT.failure })
    print({ ok: true }, () => "the last loop of this tree was ok and answered its prompts")
    return EXIT.ok
  }
  const report = await runLoop(config, (note) => void process.stderr.write(`${note}\n`))
  print(report.row, () => text(report))
  return report.code
}

function text({ row }: LoopReport): string {
  const speed = row.avg_tok_s === "0" ? "no speed" : `${row.avg_tok_s} tokens/s (last ${row.last_tok_s})`
  const change =
    row.speedup_pct === "" ? "nothing to compare with on this device" : `${row.speedup_pct} % against the median of the last ok rows`
  return [
    `${row.status}: ${row.steps} steps on ${row.device || row.backend}, ${speed}, loss ${row.loss || "none"}`,
    `${change}; ${row.prompts} prompts answered; log ${row.log_file}`,
  ].join("\n")
}
