/** What is measured: ops, training, generation, serving, tokenizers, start; and whether two builds are equally fast. */

export { record } from "./bench-history.ts"
export { type Load, type LoadResult, report, runLoad } from "./bench-load.ts"
export { formatMeasurements, type Measurement, withStatistics } from "./bench-measure.ts"
export { BENCHES, type BenchName, runBench } from "./bench-table.ts"
