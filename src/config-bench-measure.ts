/** The fields of the measuring commands: `alpha bench ops`, `train`, `infer`, `tokenizer`, `startup`, `all`, `counters`. */
import { choice, float, inGroup, int, list, text, type Values } from "./config-field.ts"
import { FILES } from "./config-shared.ts"

/** Forms of a table. */
export const TABLE_FORM = inGroup("Output", {
  format: choice("form of the result; --json has all of it", ["table", "markdown", "csv"], {
    default: "table",
    aliases: ["markdown=markdown", "csv=csv"],
  }),
}).format

/** How results are told, and where they are kept. */
export const BENCH_OUTPUT = inGroup("Output", {
  format: choice("form of the result (log: an entry for perf/LOG.md); --json has every sample", ["table", "markdown", "csv", "log"], {
    default: "table",
    aliases: ["markdown=markdown", "csv=csv", "log=log"],
  }),
  record: text("CSV file to which the results are added, as perf/history.csv; --record alone is that file", { bare: "perf/history.csv" }),
  config: FILES.config,
})

/** What is measured, on which devices. Lists may be given with commas. */
export const BENCH = {
  ...inGroup("What", {
    preset: list("presets to measure (alpha help presets)", { default: [] }),
    device: list("devices, one process each: cpu, gpu, gpu:N, auto", { default: ["auto"], aliases: ["backend"] }),
    precision: list("f32, bf16", { default: ["f32"], aliases: ["dtype"] }),
    threads: int("CPU threads", { derive: "all cores", min: 1, max: 1024 }),
    batch: list("sequences at a time", { default: [] }),
    context: int("tokens of a sequence", { optional: true, min: 1 }),
    steps: int("training steps of each process", { derive: "as many as take the time of --seconds", min: 2, aliases: ["iters"] }),
    prompt: int("tokens of a prompt, at most what the model holds: pp512", { default: 512, min: 1 }),
    generate: int("tokens of an answer: tg128", { default: 128, min: 1, aliases: ["new"] }),
    model: text("run, checkpoint or model directory, instead of a preset with random weights", {}),
    program: choice("ops: of a preset's training step, or of a step of its generation", ["train", "decode"], { default: "train" }),
    only: text("pattern (regular expression) that names must match", { default: "." }),
    data: text("text file to encode; none: invented words", {}),
    runsDir: FILES.runsDir,
  }),
  ...inGroup("Sampling", {
    rounds: int("fresh processes per figure, or samples at least", { default: 3, min: 1, max: 1000 }),
    seconds: float("length of one sample's work", { default: 3, above: 0, max: 600 }),
  }),
  ...BENCH_OUTPUT,
}
export type BenchConfig = Values<typeof BENCH>

/** Some rows of a table. */
export function pick<F extends Record<string, unknown>, const K extends readonly (keyof F)[]>(fields: F, ...names: K): Pick<F, K[number]> {
  return Object.fromEntries(names.map((name) => [name, fields[name]])) as Pick<F, K[number]>
}

const OUTPUT = ["format", "record", "config"] as const
export const BENCH_OPS = pick(BENCH, "preset", "program", "device", "precision", "threads", "batch", "only", "rounds", "seconds", ...OUTPUT)
export const BENCH_TRAIN = pick(
  BENCH,
  "preset",
  "device",
  "precision",
  "threads",
  "batch",
  "context",
  "steps",
  "rounds",
  "seconds",
  ...OUTPUT,
)
export const BENCH_INFER = pick(
  BENCH,
  ...(["preset", "model", "device", "precision", "threads", "batch", "prompt", "generate", "rounds", "seconds", "runsDir"] as const),
  ...OUTPUT,
)
export const BENCH_TOKENIZER = pick(BENCH, "data", "rounds", "seconds", ...OUTPUT)
export const BENCH_STARTUP = pick(BENCH, "device", "rounds", ...OUTPUT)
export const BENCH_ALL = pick(BENCH, "preset", "device", "precision", "threads", "rounds", "seconds", ...OUTPUT)
export const BENCH_COUNTERS = pick(BENCH, "preset", "device", "precision", "threads", "batch", "format", "config")
