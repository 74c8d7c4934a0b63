/** `alpha bench peer` and `alpha bench cuda`: other programs beside us, in turns, as ratios with intervals. */
import { formatMeasurements, logEntries, measurePeer, record, withStatistics } from "./bench.ts"
import type { Invocation } from "./cli-command.ts"
import { BENCH_PEER, type BenchPeerConfig, type Fields } from "./config.ts"

type PeerInvocation = Invocation<Partial<BenchPeerConfig>, Fields>

/** `only`: the heritage's `bench cuda`, which is the matrix products alone. */
export async function run({ config, json, print }: PeerInvocation, only?: BenchPeerConfig["peer"]): Promise<undefined> {
  const defaults = Object.fromEntries(
    Object.entries(BENCH_PEER).map(([name, field]) => [name, field.default]),
  ) as unknown as BenchPeerConfig
  const values = { ...defaults, ...config, ...(only === undefined ? {} : { peer: only }) }
  const measurements = await measurePeer(values, (note) => void process.stderr.write(`${note}\n`))
  if (values.record !== undefined) record(values.record, measurements)
  print(json ? measurements.map(withStatistics) : undefined, () =>
    values.format === "log" ? logEntries(measurements) : formatMeasurements(measurements, values.format),
  )
}
