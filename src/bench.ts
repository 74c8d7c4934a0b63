/** What is measured: ops, training, generation, serving, tokenizers, start; and whether two builds are equally fast. */

export { GATE_EXIT } from "./bench-gate.ts"
export { type GateReport, learnNoise, runGate } from "./bench-gate-run.ts"
export { record } from "./bench-history.ts"
export { type Load, type LoadResult, report, runLoad } from "./bench-load.ts"
export { checkTree, type LoopReport, runLoop } from "./bench-loop-run.ts"
export { formatMeasurements, formatRows, type Measurement, medianOf, withStatistics } from "./bench-measure.ts"
export { BENCHES, type BenchName, runBench } from "./bench-table.ts"
