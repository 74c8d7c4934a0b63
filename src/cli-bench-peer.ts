/** `alpha bench peer` and `alpha bench cuda`: other programs beside us, in turns, as ratios with intervals. */
import { formatMeasurements, logEntries, type Measurement, measurePeer, record, withStatistics } from "./bench.ts"
import type { Invocation } from "./cli-command.ts"
import { BENCH_PEER, type BenchPeerConfig, type Fields } from "./config.ts"

type PeerInvocation = Invocation<Partial<BenchPeerConfig>, Fields>

/** `only`: the heritage's `bench cuda`, which is the matrix products alone. */
export async function run({ config, json, print }: PeerInvocation, only?: BenchPeerConfig["peer"]): Promise<undefined> {
  const defaults = Object.fromEntries(
    Object.entries(BENCH_PEER).map(([name, field]) => [name, field.default]),
  ) as unknown as BenchPeerConfig
  const values = { ...defaults, ...config, ...(only === undefined ? {} : { peer: only }) }
  const measurements: Measurement[] = []
  const tell = (note: string) => void process.stderr.write(`${note}\n`)
  // Each figure is recorded when it is there: a run that is cut off keeps what it has.
  await measurePeer(values, tell, (one) => {
    measurements.push(one)
    if (values.record !== undefined) record(values.record, [one])
  })
  print(json ? measurements.map(withStatistics) : undefined, () =>
    values.format === "log" ? logEntries(measurements) : formatMeasurements(measurements, values.format),
  )
}
