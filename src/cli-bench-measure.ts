/** `alpha bench ops`, `train`, `infer`, `tokenizer`, `startup`, `counters` and `all`: measures and tells. */
import { type BenchName, checkWords, formatMeasurements, logEntries, type Measurement, record, runBench, withStatistics } from "./bench.ts"
import type { Invocation } from "./cli-command.ts"
import { BENCH, type BenchConfig, type Fields } from "./config.ts"

/** What `all` runs, in this order. */
const ALL = ["startup", "tokenizer", "ops", "train", "infer", "serve"] as const satisfies readonly BenchName[]

export async function measure(
  name: BenchName | "all",
  { config, loaded, json, print }: Invocation<Partial<BenchConfig>, Fields>,
): Promise<undefined> {
  const defaults = Object.fromEntries(Object.entries(BENCH).map(([field, { default: value }]) => [field, value])) as unknown as BenchConfig
  const values = { ...defaults, ...config }
  checkWords(values)
  const tell = (note: string) => void process.stderr.write(`${note}\n`)
  const measurements: Measurement[] = []
  for (const one of name === "all" ? ALL : [name]) {
    if (name === "all" && !json) tell(`bench ${one}`)
    // All cases of all ops take minutes; the ops of a training step are what counts.
    const own = name === "all" && one === "ops" && values.preset.length === 0 ? { ...values, preset: ["cpu-small"] } : values
    const some = await runBench(one, own, Object.keys(loaded.fields), tell)
    if (config.record !== undefined) record(config.record, some)
    measurements.push(...some)
  }
  print(json ? measurements.map(withStatistics) : undefined, () =>
    values.format === "log" ? logEntries(measurements) : formatMeasurements(measurements, values.format),
  )
}
