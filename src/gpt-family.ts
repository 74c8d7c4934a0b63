/** Our model forms and Hugging Face classes: which form is which class exactly, config.json out and in. */

import { AlphaError, EXIT } from "./base-error.ts"
import type { ModelConfig } from "./config.ts"
import { checkedModel, HfFields } from "./gpt-hf-fields.ts"

/** Classes of `transformers` whose function a ModelConfig can equal. */
export type HfClass = "GPT2LMHeadModel" | "LlamaForCausalLM" | "Qwen3ForCausalLM"

/** What a model directory holds: a `transformers` class, or our own form that no class has. */
export type FamilyName = HfClass | "AlphaForCausalLM"

/** Ids of the tokens that generation cares about; several end tokens are allowed. */
export interface TokenIds {
  bos?: number | undefined
  eos?: number | number[] | undefined
  pad?: number | undefined
}

/** Our activation ↔ the names in transformers' ACT2FN with the same formula; the first is written. */
const GPT2_ACTIVATIONS: Partial<Record<ModelConfig["activation"], readonly string[]>> = {
  gelu_tanh: ["gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh"],
  gelu: ["gelu", "gelu_python"],
  relu: ["relu"],
  relu2: ["relu2"],
  silu: ["silu", "swish"],
}

/**
 * The `transformers` class that computes the same function as this configuration, or the first field that no class has and why.
 * GPT-2 always has biases: `bias: false` is written with zero biases, which is the same function.
 */
export function exactClass(config: ModelConfig): HfClass | { none: keyof ModelConfig; why: string } {
  const none = (field: keyof ModelConfig, why: string) => ({ none: field, why })
  if (config.softCap !== undefined) return none("softCap", "no class with this shape caps logits")
  if (config.norm === "layernorm") {
    if (config.position !== "learned") return none("position", `${config.position} with layernorm is in no class`)
    if (config.activation === "swiglu") return none("activation", "swiglu with layernorm is in no class")
    if (config.qkNorm) return none("qkNorm", "no class with layernorm has it")
    if (config.nKvHead !== config.nHead) return none("nKvHead", "GPT-2 has as many key heads as query heads")
    if (config.headDim * config.nHead !== config.nEmbd) return none("headDim", "GPT-2 needs headDim = nEmbd / nHead")
    return "GPT2LMHeadModel"
  }
  if (config.position !== "rope") return none("position", `${config.position} with rmsnorm is in no class`)
  if (config.activation !== "swiglu") return none("activation", `${config.activation} with rmsnorm is in no class`)
  if (config.qkNorm) return config.bias ? none("bias", "Qwen3 has no biases in its MLP") : "Qwen3ForCausalLM"
  if (config.nEmbd % config.nHead !== 0) return none("nHead", "LlamaConfig refuses nEmbd not divisible by nHead")
  return "LlamaForCausalLM"
}

/** The family a configuration is written as. */
export function familyOf(config: ModelConfig): FamilyName {
  const exact = exactClass(config)
  return typeof exact === "string" ? exact : "AlphaForCausalLM"
}

/** Fields that transformers 5 checks to be floats: 1 is refused, 1.0 is not. JSON.stringify writes 1. */
const FLOATS = /("(?:layer_norm_epsilon|rms_norm_eps|initializer_range|rope_theta|factor|low_freq_factor|high_freq_factor)": \d+)(?=,?\n)/g

/** Text of config.json; see `toHfConfig`. */
export function hfConfigText(config: ModelConfig, ids: TokenIds, dtype: "float32" | "bfloat16" | "float16"): string {
  return `${JSON.stringify(toHfConfig(config, ids, dtype), null, 2)}\n`.replace(FLOATS, "$1.0")
}

/**
 * config.json of a model. Beside the fields of its class there is an "alpha" object with our whole configuration (initialisation, dropout,
 * bias-free GPT-2), which other readers ignore. Both spellings of the RoPE fields and of the dtype are written: transformers 5 and older readers.
 */
function toHfConfig(config: ModelConfig, ids: TokenIds, dtype: string): Record<string, unknown> {
  const family = familyOf(config)
  const common = {
    vocab_size: config.vocabSize,
    // transformers refuses more than 1, and uses it only to initialise what a file lacks.
    initializer_range: Math.min(config.initStd, 1),
    tie_word_embeddings: config.tie,
    bos_token_id: ids.bos ?? null,
    eos_token_id: ids.eos ?? null,
    pad_token_id: ids.pad ?? null,
    dtype,
    torch_dtype: dtype,
    use_cache: true,
    alpha: config,
  }
  if (family === "AlphaForCausalLM") return { architectures: [family], model_type: "alpha", ...common }
  if (family === "GPT2LMHeadModel")
    return {
      architectures: [family],
      model_type: "gpt2",
      n_positions: config.blockSize,
      n_ctx: config.blockSize,
      n_embd: config.nEmbd,
      n_layer: config.nLayer,
      n_head: config.nHead,
      n_inner: config.ffnDim,
      activation_function: GPT2_ACTIVATIONS[config.activation]![0],
      layer_norm_epsilon: config.normEps,
      resid_pdrop: config.dropout,
      embd_pdrop: config.dropout,
      attn_pdrop: config.dropout,
      scale_attn_weights: true,
      scale_attn_by_inverse_layer_idx: false,
      reorder_and_upcast_attn: false,
      ...common,
    }
  const scaling = ropeScalingToHf(config.ropeScaling)
  return {
    architectures: [family],
    model_type: family === "LlamaForCausalLM" ? "llama" : "qwen3",
    hidden_size: config.nEmbd,
    intermediate_size: config.ffnDim,
    num_hidden_layers: config.nLayer,
    num_attention_heads: config.nHead,
    num_key_value_heads: config.nKvHead,
    head_dim: config.headDim,
    hidden_act: "silu",
    max_position_embeddings: config.blockSize,
    rms_norm_eps: config.normEps,
    rope_parameters: { rope_theta: config.ropeTheta, ...(scaling ?? { rope_type: "default" }) },
    rope_theta: config.ropeTheta,
    rope_scaling: scaling ?? null,
    attention_bias: config.bias,
    ...(family === "LlamaForCausalLM" ? { mlp_bias: config.bias } : { use_sliding_window: false }),
    attention_dropout: config.dropout,
    ...common,
  }
}

/**
 * Reads a parsed config.json. Fields that are absent take the defaults of their class; a field that changes the function in a way we do not
 * have is refused by name. Where our own "alpha" object is present it must agree with the class fields, and it is what is returned.
 */
export function fromHfConfig(json: unknown, path: string): { model: ModelConfig; family: FamilyName; ids: TokenIds } {
  const f = new HfFields(json, path)
  const family = readFamily(f)
  const ids = { bos: f.tokenId("bos_token_id"), eos: f.tokenIds("eos_token_id"), pad: f.tokenId("pad_token_id") }
  const own = f.json.alpha === undefined ? undefined : checkedModel(new HfFields(f.json.alpha, `${path}: alpha`).json, `${path}: alpha`)
  if (family === "AlphaForCausalLM") {
    if (own === undefined) return f.fail(`model_type is "alpha" but there is no "alpha" object`)
    return { model: own, family, ids }
  }
  f.mustBe("is_encoder_decoder", false)
  f.mustBe("add_cross_attention", false)
  f.mustBe("quantization_config", null)
  const model = checkedModel({ ...(family === "GPT2LMHeadModel" ? readGpt2(f) : readLlama(f, family)) }, path)
  if (own !== undefined) checkAgreement(own, model, family, f)
  return { model: own ?? model, family, ids }
}

function readFamily(f: HfFields): FamilyName {
  const families: Record<string, FamilyName> = {
    gpt2: "GPT2LMHeadModel",
    llama: "LlamaForCausalLM",
    qwen3: "Qwen3ForCausalLM",
    alpha: "AlphaForCausalLM",
  }
  const type = f.json.model_type
  if (typeof type !== "string" || !Object.hasOwn(families, type))
    return f.fail(`model_type ${JSON.stringify(type)} is not one of ${Object.keys(families).join(", ")}`)
  const family = families[type]!
  const architectures = f.json.architectures ?? [family]
  // The bare body ("GPT2Model") is a language model when its head is the tied embedding.
  const body = family.replace(/(LMHeadModel|ForCausalLM)$/, "Model")
  const isBody = Array.isArray(architectures) && architectures[0] === body
  const isKnown = Array.isArray(architectures) && architectures.length === 1 && (architectures[0] === family || isBody)
  if (!isKnown) return f.fail(`architectures ${JSON.stringify(architectures)} is not ["${family}"]`)
  if (isBody && !f.flag("tie_word_embeddings", family === "GPT2LMHeadModel"))
    return f.fail(`${body} has no language model head, and tie_word_embeddings is false`)
  return family
}

function readGpt2(f: HfFields): ModelConfig {
  f.mustBe("scale_attn_weights", true)
  f.mustBe("scale_attn_by_inverse_layer_idx", false)
  const nEmbd = f.size("n_embd")
  const nHead = f.size("n_head")
  if (nEmbd % nHead !== 0) return f.fail(`n_embd ${nEmbd} is not divisible by n_head ${nHead}`)
  const written = f.json.activation_function ?? "gelu_new"
  const activation = (Object.keys(GPT2_ACTIVATIONS) as ModelConfig["activation"][]).find((name) =>
    GPT2_ACTIVATIONS[name]!.includes(written as string),
  )
  if (activation === undefined)
    return f.fail(`activation_function ${JSON.stringify(written)} is not one of ${Object.values(GPT2_ACTIVATIONS).flat().join(", ")}`)
  return {
    vocabSize: f.size("vocab_size"),
    blockSize: f.size("n_positions"),
    nLayer: f.size("n_layer"),
    nHead,
    nKvHead: nHead,
    nEmbd,
    headDim: nEmbd / nHead,
    ffnDim: f.size("n_inner", 4 * nEmbd),
    norm: "layernorm",
    normEps: f.number("layer_norm_epsilon", 1e-5),
    position: "learned",
    ropeTheta: 10000,
    ropeScaling: "none",
    activation,
    bias: true,
    tie: f.flag("tie_word_embeddings", true),
    qkNorm: false,
    softCap: undefined,
    dropout: f.number("resid_pdrop", 0.1),
    initStd: f.number("initializer_range", 0.02),
    residualScaling: true,
  }
}

function readLlama(f: HfFields, family: HfClass): ModelConfig {
  const isQwen = family === "Qwen3ForCausalLM"
  f.mustBe("hidden_act", "silu")
  f.mustBe("partial_rotary_factor", 1)
  if (isQwen) f.mustBe("use_sliding_window", false)
  else f.mustBe("sliding_window", null)
  const layerTypes = f.json.layer_types ?? []
  if (!Array.isArray(layerTypes) || layerTypes.some((type) => type !== "full_attention"))
    return f.fail(`layer_types ${JSON.stringify(layerTypes)}: only full_attention is supported`)
  const nEmbd = f.size("hidden_size")
  const nHead = f.size("num_attention_heads")
  const nKvHead = f.size("num_key_value_heads", nHead)
  if (nHead % nKvHead !== 0) return f.fail(`num_attention_heads ${nHead} is not divisible by num_key_value_heads ${nKvHead}`)
  const headDim = f.size("head_dim", isQwen ? 128 : nEmbd / nHead)
  if (headDim % 2 !== 0) return f.fail(`head_dim ${headDim} is odd`)
  const bias = f.flag("attention_bias", false)
  if (isQwen && bias)
    return f.fail("attention_bias is true in a Qwen3 model: biases in attention without biases in the MLP are not supported")
  if (!isQwen && bias !== f.flag("mlp_bias", false))
    return f.fail(`attention_bias is ${bias} but mlp_bias is ${!bias}: only both or neither is supported`)
  const rope = f.rope()
  return {
    vocabSize: f.size("vocab_size"),
    blockSize: f.size("max_position_embeddings"),
    nLayer: f.size("num_hidden_layers"),
    nHead,
    nKvHead,
    nEmbd,
    headDim,
    ffnDim: f.size("intermediate_size"),
    norm: "rmsnorm",
    normEps: f.number("rms_norm_eps", 1e-6),
    position: "rope",
    ropeTheta: rope.theta,
    ropeScaling: rope.scaling as ModelConfig["ropeScaling"],
    activation: "swiglu",
    bias,
    tie: f.flag("tie_word_embeddings", false),
    qkNorm: isQwen,
    softCap: undefined,
    dropout: f.number("attention_dropout", 0),
    initStd: f.number("initializer_range", 0.02),
    residualScaling: false,
  }
}

/** Fields that need not agree: they change no output, or (bias of GPT-2) are checked against the weights. */
const FREE = new Set<keyof ModelConfig>(["dropout", "initStd", "residualScaling"])

function checkAgreement(own: ModelConfig, read: ModelConfig, family: HfClass, f: HfFields): void {
  if (familyOf(own) !== family) f.fail(`architectures says ${family}, the "alpha" object describes ${familyOf(own)}`)
  for (const field of Object.keys(read) as (keyof ModelConfig)[]) {
    const isUnused = family === "GPT2LMHeadModel" && (field === "bias" || field === "ropeTheta" || field === "ropeScaling")
    if (FREE.has(field) || isUnused || own[field] === read[field]) continue
    f.fail(
      `${String(field)} is ${read[field]} in the fields of ${family} but ${own[field]} in the "alpha" object`,
      `delete the "alpha" object to read the file as a plain ${family}`,
    )
  }
}

/** "linear:2" → { rope_type: "linear", factor: 2 } and so on; undefined without scaling. */
function ropeScalingToHf(scaling: string): Record<string, unknown> | undefined {
  if (scaling === "none") return undefined
  const [type, ...numbers] = scaling.split(":")
  const [factor, low, high, original] = numbers.map(Number)
  if (type === "linear" && numbers.length === 1) return { rope_type: "linear", factor }
  if (type === "llama3" && numbers.length === 4)
    return { rope_type: "llama3", factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original }
  throw new AlphaError(`ropeScaling ${scaling} is not none, linear:F or llama3:F:LOW:HIGH:ORIG`, { code: EXIT.usage })
}
