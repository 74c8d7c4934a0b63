/** The fields of a training run. */

import { AlphaError, EXIT } from "./base-error.ts"
import { bool, choice, float, inGroup, int, list, type Resolved, text, type Values } from "./config-field.ts"
import type { Loaded } from "./config-merge.ts"
import { checkModel, deriveModel, MODEL } from "./config-model.ts"
import { COMPUTE, FILES, VOCABULARY } from "./config-shared.ts"

const DATA = inGroup("Data", {
  preset: text("named set of tokenizer, model, training settings and sample prompts (alpha help presets)", { aliases: ["domain"] }),
  data: text("text, jsonl or .bin file, directory, glob, - for stdin, or random", {}),
  valData: text("held-out data of the same kinds", { derive: "the last valFraction of data" }),
  valFraction: float("share of the data that is held out when valData is not given", { default: 0.1, min: 0, below: 1 }),
  order: choice("random windows or sequential epochs", ["random", "sequential"], { default: "random", aliases: ["packed=sequential"] }),
  documentBoundaries: bool("windows start at document starts, no target lies in another document", { default: false }),
  maskPrompt: bool("loss on assistant tokens only (chat data)", { default: false, aliases: ["sft"] }),
})

const STEPS = inGroup("Steps", {
  steps: int("optimizer steps; a resumed run may be given more: its warm-up stays, decaySteps follows unless it was set", {
    default: 1000,
    min: 1,
    aliases: ["iters", "maxIters"],
  }),
  batch: int("B: sequences per device step", { default: 16, min: 1, unit: "sequences", aliases: ["batchSize"] }),
  context: int("T: tokens per training sequence; blockSize follows unless it is given", { default: 256, min: 1, unit: "tokens" }),
  accumSteps: int("device steps whose gradients are summed into one optimizer step", {
    default: 1,
    min: 1,
    aliases: ["gradAccumSteps", "gradientAccumulationSteps"],
  }),
  seed: int("of initial weights, batches, dropout and samples", { default: 1337, min: 0, max: 2 ** 32 - 1 }),
  activationCheckpointing: bool("recompute activations in the backward pass: less memory, about a third more work", {
    default: false,
    aliases: ["checkpoint"],
  }),
})

const OPTIMIZER = inGroup("Optimizer", {
  optimizer: choice("update rule; muon updates matrices of the blocks, AdamW the rest", ["adamw", "muon", "lion", "sgd"], {
    default: "adamw",
    aliases: ["optim"],
  }),
  lr: float("peak learning rate", { default: 6e-4, above: 0, max: 10, aliases: ["learningRate"] }),
  minLr: float("learning rate at the end of the schedule", { derive: "lr / 10", min: 0, aliases: ["lrMin"] }),
  schedule: choice("shape after warm-up (alpha help schedules)", ["cosine", "linear", "wsd", "constant"], { default: "cosine" }),
  warmupSteps: int("steps of linear warm-up", { derive: "5 % of steps, at most 2000", min: 0, unit: "steps", aliases: ["warmupIters"] }),
  decaySteps: int("step at which minLr is reached", { derive: "steps", min: 1, unit: "steps", aliases: ["lrDecayIters"] }),
  wsdDecayFraction: float("last share of decaySteps in which wsd decays", { default: 0.2, above: 0, max: 1 }),
  beta1: float("decay of the first moment", { default: 0.9, min: 0, below: 1 }),
  beta2: float("decay of the second moment", { derive: "0.95, for lion 0.99", min: 0, below: 1 }),
  eps: float("added to the root of the second moment", { default: 1e-8, above: 0 }),
  momentum: float("of muon and sgd", { derive: "0.95 for muon, 0.9 for sgd", min: 0, below: 1 }),
  weightDecay: float("decoupled, on matrices only unless the lists say otherwise", { default: 0.1, min: 0 }),
  decayList: list("further parameters to decay, by a part of their name", { default: [] }),
  noDecayList: list("parameters not to decay, by a part of their name", { default: [] }),
  gradClip: float("largest global gradient norm; none = no clipping", { default: 1, optional: true, above: 0 }),
  spikeThreshold: float("skip a step whose gradient norm is more than this many standard deviations above its running mean", {
    optional: true,
    above: 0,
  }),
})

const EVALUATION = inGroup("Evaluation", {
  evalInterval: int("steps between evaluations on held-out data; none = never", { default: 250, optional: true, min: 1, unit: "steps" }),
  evalSteps: int("batches per evaluation", { default: 20, min: 1, unit: "batches", aliases: ["evalIters"] }),
  patience: int("stop after this many evaluations without a better loss", { optional: true, min: 1, unit: "evaluations" }),
  sampleInterval: int("steps between samples; none = never", { default: 500, optional: true, min: 1, unit: "steps" }),
  samplePrompts: list("beginnings of the samples; none given: the first words of the held-out text", { default: [] }),
  sampleTokens: int("length of a sample", { default: 100, min: 1, unit: "tokens" }),
  logInterval: int("steps between log lines and metric records", { default: 10, min: 1, unit: "steps", aliases: ["logEvery"] }),
})

const CHECKPOINTS = inGroup("Run", {
  run: text("name of the run, or the path of its directory", { derive: "preset or data, date and time", aliases: ["runDir"] }),
  resume: text(
    "continue a run bit for bit; --resume alone continues --run, else the newest run; --resume=or-start starts --run where it does not exist yet, and has nothing to do where it is complete; its settings stay unless given anew, its seed, optimizer, precision and order always",
    { bare: "newest" },
  ),
  init: text("start from these weights: a run, checkpoint or Hugging Face model directory", { aliases: ["initCheckpoint"] }),
  checkpointInterval: int("steps between checkpoints", { derive: "evalInterval, else 500", min: 1, unit: "steps" }),
  keepCheckpoints: int("newest checkpoints to keep, beside the best; 0 = none are written, for measurements", { default: 2, min: 0 }),
  keepEvery: int("also keep each checkpoint whose step is a multiple of this", { optional: true, min: 1, unit: "steps" }),
  ...FILES,
})

const OBSERVE = inGroup("Device", {
  profile: int("step at which every kernel is timed alone: time, share, rate of each; on a GPU the steps before it tell bubbles", {
    optional: true,
    bare: "10",
    min: 1,
  }),
  traceFile: text("file for the timeline of the profiled step, for chrome://tracing (implies --profile)", {}),
  tuned: bool("use what alpha bench tune found fastest for this preset on this device: the same bits, sooner", { default: true }),
  dryRun: bool("say what would be trained and what memory it takes, then stop", { default: false }),
})

/** The knobs that the project's older engine had, with the nearest meaning in this one; ALPHA_… in the environment as ever. */
const RUNTIME = inGroup("Runtime", {
  adaptiveMemStatsPollEvery: int("steps between looks at a GPU's memory, told with the metrics", { default: 16, min: 1, unit: "steps" }),
  adaptiveSyncMinInterval: int("results of this many steps are read together: least steps between two waits for a GPU", {
    default: 1,
    min: 1,
    unit: "steps",
  }),
  adaptiveSyncDeferredThreshold: int("steps whose results a GPU may still owe when the next is given to it (its ring holds 4)", {
    default: 3,
    min: 0,
    unit: "steps",
  }),
  adaptiveSyncPendingThreshold: int("steps that a GPU is given at most before the host waits for the oldest (its ring holds 4)", {
    default: 4,
    min: 1,
    unit: "steps",
  }),
  gpuMetricsSampleEvery: int("steps between looks at a GPU's utilisation, power, temperature and clocks", {
    default: 75,
    min: 1,
    unit: "steps",
  }),
  callbackYieldEvery: int("steps between moments in which the trainer hears a stop", { default: 1, min: 1, unit: "steps" }),
  failOnSmokeTest: bool("a GPU that computes small known sums wrongly ends the run before it begins; else it is only told", {
    default: true,
  }),
})

/** Several processes that train one model (alpha help ranks). */
const RANKS = inGroup("Ranks", {
  dist: choice("how ranks exchange gradients; none: a launcher's variables are ignored", ["auto", "none", "mpi", "nccl"], {
    default: "auto",
  }),
  gpus: int("ranks to start on this host, one per GPU, where no launcher starts them", { optional: true, min: 1, max: 1024 }),
  shardOptimizer: bool("ZeRO-1: each rank keeps the moments of its share of the parameters only", { default: false, aliases: ["zero1"] }),
  bucketMiB: int("gradients that NCCL sums at a time, while backward goes on with the rest; 0: all at once after it", {
    default: 0,
    min: 0,
    max: 1 << 20,
    unit: "MiB",
  }),
  mpiLibrary: text("MPI library to open in place of the one that fits the launcher", {}),
  ncclLibrary: text("NCCL to open in place of libnccl.so.2", {}),
})

const SERVING = inGroup("Run", {
  remoteOptimizer: bool("checkpoints shipped to ALPHA_REMOTE_URL take the optimizer's state along, so that the run can go on there", {
    default: false,
  }),
  serve: int(
    "also serve on this port: /v1 with the run's last checkpoint, /training, /runs, /metrics; other settings of the server by its variables, such as ALPHA_HOST",
    {
      optional: true,
      bare: "8080",
      min: 0,
      max: 65535,
    },
  ),
})

const TOKENIZER = inGroup("Tokenizer", {
  ...VOCABULARY,
  tokenizerArtifacts: text("tokenizer.json that is loaded if it exists, else built and saved there", {}),
})

/** What comes behind the model's fields. */
const REST = { ...STEPS, ...OPTIMIZER, ...EVALUATION, ...CHECKPOINTS, ...SERVING, ...COMPUTE, ...RANKS, ...OBSERVE, ...RUNTIME }

/** Every field of a training run that is not the model's. */
export const TRAIN = { ...DATA, ...TOKENIZER, ...REST }

/** What `alpha train` reads: one flat set of names; vocabSize is the tokenizer's wish and the model's size at once. */
export const TRAIN_FIELDS = { ...DATA, ...TOKENIZER, ...MODEL, vocabSize: VOCABULARY.vocabSize, ...REST }

/** Derived fields that wait for what training finds out: the tokenizer's size, the split, the run's name. */
type Late = "vocabSize" | "run" | "valData" | "threads"
export type TrainConfig = Omit<Resolved<typeof TRAIN>, Late> & Pick<Values<typeof TRAIN>, Late>
/** The flat configuration that the train command receives. */
export type TrainInput = TrainConfig & Omit<Resolved<typeof MODEL>, "vocabSize">

/** Fills what follows from other fields and refuses contradictions; the last step of loading `alpha train`'s configuration. */
export function finishTrain(loaded: Loaded<typeof TRAIN_FIELDS>): Loaded<typeof TRAIN_FIELDS> & { values: TrainInput } {
  const { values } = loaded
  linkContext(loaded)
  yieldWeaker(loaded)
  checkModel(values, loaded.naming)
  loaded.derive(deriveModel(values))
  loaded.derive({
    minLr: values.lr / 10,
    warmupSteps: Math.min(2000, Math.ceil(values.steps / 20)),
    decaySteps: values.steps,
    beta2: values.optimizer === "lion" ? 0.99 : 0.95,
    momentum: values.optimizer === "sgd" ? 0.9 : 0.95,
    checkpointInterval: values.evalInterval ?? 500,
    profile: values.traceFile === undefined ? undefined : Math.min(10, values.steps),
  })
  checkTrain(loaded)
  return loaded as Loaded<typeof TRAIN_FIELDS> & { values: TrainInput }
}

/**
 * Of context and blockSize the one that was asked for more strongly sets the other: --blockSize=64 alone trains on 64 tokens.
 * The blockSize of a model that is continued stays; a context that nobody asked for shrinks to it.
 */
function linkContext(loaded: Loaded<typeof TRAIN_FIELDS>): void {
  const { values, origins } = loaded
  const stronger = loaded.strength("blockSize") - loaded.strength("context")
  if (values.blockSize === undefined) loaded.override("blockSize", values.context, "context")
  else if (origins.blockSize.layer === "base") {
    if (stronger > 0 && values.context > values.blockSize) loaded.override("context", values.blockSize, "blockSize")
  } else if (stronger < 0) loaded.override("blockSize", values.context, "context")
  else if (stronger > 0) loaded.override("context", values.blockSize, "blockSize")
}

/**
 * A preset's value that a stronger choice makes impossible gives way: --preset=cpu-small --steps=20 is no contradiction. So does the warm-up of a
 * run that is continued to fewer steps.
 */
function yieldWeaker(loaded: Loaded<typeof TRAIN_FIELDS>): void {
  const { values, origins } = loaded
  const yields = (name: keyof typeof TRAIN_FIELDS, ...layers: string[]) => {
    if (["preset", ...layers].includes(origins[name].layer)) loaded.override(name, undefined, "")
  }
  if ((values.warmupSteps ?? 0) > values.steps) yields("warmupSteps", "base")
  if ((values.minLr ?? 0) > values.lr) yields("minLr")
  if (values.data !== "random" && loaded.strength("tokenizer") > loaded.strength("vocabSize")) yields("vocabSize")
}

function checkTrain(loaded: Loaded<typeof TRAIN_FIELDS>): void {
  const { values, naming } = loaded
  const named = (name: keyof typeof TRAIN_FIELDS) => naming(name, values[name])
  const refuse = (message: string, hint: string) => {
    throw new AlphaError(`train: ${message}`, { hint, code: EXIT.usage })
  }
  const { context, blockSize, steps, warmupSteps, decaySteps, schedule } = values as TrainInput
  if (values.position === "learned" && context > blockSize) {
    refuse(
      `${named("context")} is longer than the learned positions: ${named("blockSize")}`,
      `set --context=${blockSize} or a larger --blockSize`,
    )
  }
  if (warmupSteps > steps) refuse(`${named("warmupSteps")} is more than ${named("steps")}`, "warm up for about 5 % of the steps")
  if (schedule !== "constant" && warmupSteps > decaySteps) {
    refuse(`${named("warmupSteps")} ends after ${named("decaySteps")}`, "decaySteps counts from step 0, warm-up included")
  }
  if ((values.profile ?? 0) > steps) refuse(`${named("profile")} is behind the last of ${named("steps")}`, `set --profile=${steps} or less`)
  if ((values.minLr ?? 0) > values.lr) refuse(`${named("minLr")} is above ${named("lr")}`, "lr is the peak, minLr the end")
  if (values.patience !== undefined && values.evalInterval === undefined) {
    refuse(`${named("patience")} counts evaluations, but ${named("evalInterval")}`, "set --evalInterval=N or --patience=none")
  }
  if (values.valData !== undefined && loaded.isGiven("valFraction")) {
    refuse(`${named("valFraction")} has no effect beside ${named("valData")}`, "give one of the two")
  }
  if (values.resume !== undefined && loaded.isGiven("init")) {
    refuse(`${named("resume")} restores weights, but ${named("init")} sets others`, "give one of the two")
  }
  if (values.data === "random" && values.vocabSize === undefined) {
    refuse(`${named("data")} needs a vocabulary size`, "set --vocabSize=N")
  }
  if (values.data !== "random" && values.tokenizer === "gpt2" && values.vocabSize !== undefined && values.vocabSize !== 50257) {
    refuse(`${named("vocabSize")} contradicts ${named("tokenizer")}, which has 50257 tokens`, "drop --vocabSize, or choose --tokenizer=bpe")
  }
}
