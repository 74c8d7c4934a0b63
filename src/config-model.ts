/** The fields of a model. */

import { AlphaError, EXIT } from "./base-error.ts"
import { bool, choice, float, inGroup, int, type Resolved, text, type Values } from "./config-field.ts"
import type { Naming } from "./config-merge.ts"
import { VOCABULARY } from "./config-shared.ts"

/** Every field of a model, by its nanoGPT name; shapes in tokens T, channels C, heads H, head size D, vocabulary V. */
export const MODEL = inGroup("Model", {
  vocabSize: { ...VOCABULARY.vocabSize, group: "Model" },
  blockSize: int("longest sequence the model can see", { derive: "context", min: 1, unit: "tokens", aliases: ["block"] }),
  nLayer: int("transformer blocks", { default: 6, min: 1, max: 1024, aliases: ["layers"] }),
  nHead: int("H: attention heads", { default: 8, min: 1, aliases: ["heads"] }),
  nKvHead: int("heads of keys and values: nHead = MHA, 1 = MQA, between = GQA", { derive: "nHead", min: 1, aliases: ["kvHeads"] }),
  nEmbd: int("C: width of the residual stream", { default: 256, min: 1, unit: "channels", aliases: ["dim"] }),
  headDim: int("D: width of one head", { derive: "nEmbd / nHead", min: 1, unit: "channels" }),
  ffnDim: int("width of the feed-forward layer", {
    derive: "4·nEmbd, for swiglu 8/3·nEmbd up to a multiple of 64",
    min: 1,
    unit: "channels",
  }),
  norm: choice("normalisation", ["layernorm", "rmsnorm"], { default: "layernorm", aliases: ["normType"] }),
  normEps: float("added to the variance before the root", { default: 1e-5, above: 0, max: 1 }),
  position: choice("position coding", ["learned", "rope"], { default: "learned", aliases: ["posEnc"] }),
  ropeTheta: float("base of the rotary frequencies", { default: 10000, above: 1 }),
  ropeScaling: text("stretching of the rotary frequencies for long contexts", {
    default: "none",
    form: {
      pattern: /^(none|linear:[\d.]+|llama3:[\d.]+:[\d.]+:[\d.]+:\d+)$/,
      words: "none, linear:FACTOR or llama3:FACTOR:LOW:HIGH:ORIGINAL",
    },
  }),
  activation: choice(
    "of the feed-forward layer; gelu is exact (erf), gelu_tanh GPT-2's, relu2 = relu²",
    ["gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu"],
    {
      default: "gelu",
      aliases: ["ffnActivation"],
    },
  ),
  bias: bool("biases in linear layers and layer norms", { default: false }),
  tie: bool("the output head shares the token embedding's weights", { default: true, aliases: ["tieEmbeddings"] }),
  qkNorm: bool("RMS norm of queries and keys per head", { default: false }),
  softCap: float("logits become cap·tanh(logits/cap); none = no cap", { optional: true, above: 0 }),
  dropout: float("probability of dropping an activation in training", { default: 0, min: 0, below: 1 }),
  initStd: float("standard deviation of the initial weights", { default: 0.02, above: 0, max: 10 }),
  residualScaling: bool("initial weights of layers that write to the residual stream are divided by √(2·nLayer)", { default: true }),
})

/** A model with every field filled; only softCap may be absent. */
export type ModelConfig = Resolved<typeof MODEL>
type PartialModel = Partial<Values<typeof MODEL>>

/** The model fields among `values`. */
export function modelFields(values: PartialModel): PartialModel {
  return Object.fromEntries(Object.entries(values).filter(([name, value]) => name in MODEL && value !== undefined)) as PartialModel
}

/** The derived fields that need nothing from outside the model: nKvHead, headDim, ffnDim. */
export function deriveModel(model: Pick<ModelConfig, "nHead" | "nEmbd" | "activation"> & PartialModel) {
  const { nHead, nEmbd, activation } = model
  return {
    nKvHead: model.nKvHead ?? nHead,
    headDim: model.headDim ?? nEmbd / nHead,
    ffnDim: model.ffnDim ?? (activation === "swiglu" ? Math.ceil(((8 / 3) * nEmbd) / 64) * 64 : 4 * nEmbd),
  }
}

/**
 * Fills defaults and derived fields and checks what contradicts. vocabSize and blockSize must be given.
 * `naming` adds where a value came from to the errors ("nHead 5 (--nHead)").
 */
export function resolveModel(partial: PartialModel, naming?: Naming): ModelConfig {
  const defaults = Object.fromEntries(Object.entries(MODEL).map(([name, field]) => [name, field.default])) as unknown as ModelConfig
  const given = { ...defaults, ...modelFields(partial) }
  for (const name of ["vocabSize", "blockSize"] as const) {
    if (given[name] === undefined) throw new AlphaError(`model: ${name} is not given`, { hint: `set it: --${name}=N`, code: EXIT.usage })
  }
  checkModel(given, naming)
  return { ...given, ...deriveModel(given) } as ModelConfig
}

/** Refuses fields that contradict each other, naming both values. */
export function checkModel(model: ModelConfig | Values<typeof MODEL>, naming: Naming = (name, value) => `${name} ${value}`): void {
  const { nHead, nEmbd, position, ropeScaling } = model
  const named = (name: keyof typeof MODEL) => naming(name, model[name])
  const refuse = (message: string, hint: string) => {
    throw new AlphaError(`model: ${message}`, { hint, code: EXIT.usage })
  }
  if (model.headDim === undefined && nEmbd % nHead !== 0) {
    const lower = Math.floor(nEmbd / nHead) * nHead
    const widths = lower > 0 ? `nEmbd ${lower} or ${lower + nHead}` : `nEmbd ${nHead}`
    refuse(`${named("nEmbd")} is not divisible by ${named("nHead")}`, `choose ${widths}, another nHead, or set headDim`)
  }
  if (model.nKvHead !== undefined && nHead % model.nKvHead !== 0) {
    refuse(`${named("nHead")} is not divisible by ${named("nKvHead")}`, `nKvHead must divide nHead: ${divisors(nHead).join(", ")}`)
  }
  const headDim = model.headDim ?? nEmbd / nHead
  if (position === "rope" && headDim % 2 !== 0) {
    const cause = model.headDim === undefined ? `${named("nEmbd")} / ${named("nHead")} = ${headDim}` : named("headDim")
    refuse(`${named("position")} rotates pairs, but the head size is odd: ${cause}`, "choose an even head size or position learned")
  }
  if (position !== "rope" && ropeScaling !== "none") {
    refuse(`${named("ropeScaling")} needs position rope, but it is ${named("position")}`, "set position rope or ropeScaling none")
  }
  const [kind, factor, low, high] = ropeScaling.split(":")
  if (kind !== "none" && !(Number(factor) > 0)) refuse(`${named("ropeScaling")}: the factor must be above 0`, "for example linear:2")
  if (kind === "llama3" && !(Number(low) < Number(high))) {
    refuse(`${named("ropeScaling")}: LOW ${low} must be below HIGH ${high}`, "Llama 3.1 uses llama3:8:1:4:8192")
  }
}

const divisors = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0)
