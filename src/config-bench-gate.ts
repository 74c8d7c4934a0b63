/** The fields of `alpha bench gate`. */

import { BENCH_OUTPUT, TABLE_FORM } from "./config-bench-measure.ts"
import { choice, float, inGroup, int, list, text, type Values } from "./config-field.ts"

export const BENCH_GATE = {
  ...inGroup("Builds", {
    a: text("the build that counts as right: a binary, or a git ref that is built first", {}),
    b: text("the build that is judged; none: a against itself, which teaches the thresholds", {}),
    allow: list("exact counters that may grow: dispatches, barriers, bytes_arena, binary_bytes …", { default: [] }),
  }),
  ...inGroup("What", {
    case: list(
      "what is timed: train, infer, startup; cpu: a training process by its processor time, which others on the machine disturb less",
      {
        default: ["train"],
      },
    ),
    preset: list("preset that trains and answers", { default: ["cpu-small"] }),
    device: text("cpu, gpu or gpu:N", { default: "auto", aliases: ["backend"] }),
    precision: choice("of training and generation", ["f32", "bf16"], { default: "f32" }),
    threads: int("CPU threads", { derive: "all cores", min: 1, max: 1024 }),
    batch: int("sequences at a time", { derive: "the preset's", min: 1 }),
    steps: int("training steps of each process", { derive: "as many as take the time of --seconds", min: 2 }),
    seconds: float("length of each process's work", { default: 2, above: 0, max: 600 }),
  }),
  ...inGroup("Statistics", {
    blocks: int("blocks A B B A before the first look", { default: 8, min: 2 }),
    maxBlocks: int("blocks at most; what is undecided then is inconclusive", { default: 64, min: 2 }),
    threshold: float("share by which a metric may differ: 0.02 = 2 %", { derive: "the noise that is stored, else 0.03", above: 0, max: 1 }),
    noise: text("CSV file of the runs of a build against itself", { default: "perf/gate-noise.csv" }),
    learn: int("runs of a build against itself", { default: 5, min: 1 }),
    seed: int("of the bootstrap", { default: 1, min: 0, max: 2 ** 32 - 1 }),
  }),
  format: TABLE_FORM,
  config: BENCH_OUTPUT.config,
}
export type BenchGateConfig = Values<typeof BENCH_GATE>
