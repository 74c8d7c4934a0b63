/** What is measured: ops, training, generation, serving, tokenizers, start; and whether two builds are equally fast. */

export { GATE_EXIT } from "./bench-gate.ts"
export { type GateReport, learnNoise, runGate } from "./bench-gate-run.ts"
export { logEntries, readHistory, record, withTable } from "./bench-history.ts"
export { checkRoom, type Load, type LoadResult, report, runLoad } from "./bench-load.ts"
export { checkTree, type LoopReport, runLoop } from "./bench-loop-run.ts"
export { formatMeasurements, formatRows, type Measurement, medianOf, withStatistics } from "./bench-measure.ts"
export { measurePeer } from "./bench-peers.ts"
export { reportPage } from "./bench-report.ts"
export { type ServeTold, serveOwn } from "./bench-serve-own.ts"
export { BENCHES, type BenchName, checkWords, numbers, runBench } from "./bench-table.ts"
export { settingsText, tune } from "./bench-tune-run.ts"
