/** The fields of `alpha bench tune` and `alpha bench report`. */

import { BENCH_OUTPUT, TABLE_FORM } from "./config-bench-measure.ts"
import { bool, choice, float, inGroup, int, list, text, type Values } from "./config-field.ts"

/** What `alpha bench tune` reads. */
export const BENCH_TUNE = {
  ...inGroup("What", {
    preset: list("preset that trains", { default: ["cpu-small"] }),
    device: text("cpu, gpu or gpu:N", { default: "auto", spellings: { helios: "gpu", cpu_ref: "cpu" }, aliases: ["backend"] }),
    precision: choice("of training", ["f32", "bf16"], { default: "f32" }),
    batch: int("sequences at a time", { derive: "the preset's", min: 1 }),
  }),
  ...inGroup("Search", {
    steps: int("training steps of the last round; earlier rounds take fewer", { default: 100, min: 8 }),
    iterations: int("settings that are tried, the usual ones first", { default: 20, min: 1, max: 10_000 }),
    seed: int("of the settings that are drawn", { default: 1, min: 0, max: 2 ** 32 - 1 }),
    lossBound: float("share by which other kernels may change the loss; runtime knobs may not change a bit", {
      default: 0.01,
      min: 0,
      max: 1,
    }),
    requireOk: bool("exit code 1 where no settings are ok", { default: true }),
    perfDir: text("directory of the results", { default: "perf" }),
  }),
  format: TABLE_FORM,
  config: BENCH_OUTPUT.config,
}
export type BenchTuneConfig = Values<typeof BENCH_TUNE>

/** What `alpha bench report` reads. */
export const BENCH_REPORT = {
  ...inGroup("Report", {
    history: text("measurements", { default: "perf/history.csv" }),
    loop: text("compiled loops", { default: "perf/compiled-loop-history.csv" }),
    out: text("HTML page with a chart of everything", { default: "perf/report.html" }),
    readme: text("only renew the table of this file from the history; --readme alone is README.md", { bare: "README.md" }),
  }),
  config: BENCH_OUTPUT.config,
}
export type BenchReportConfig = Values<typeof BENCH_REPORT>

/** The heritage's variables of the tuner. */
export function heritageTune(environment: Readonly<Record<string, string | undefined>>): Record<string, unknown> {
  const value = environment.TUNE_REQUIRE_OK
  return value === undefined || value === "" ? {} : { requireOk: value }
}
