/** A model as a GGUF file: llama.cpp's architectures gpt2, llama and qwen3. */

import { AlphaError, EXIT } from "./base-error.ts"
import type { ModelConfig } from "./config.ts"
import { floatBytes, Scratch } from "./gpt-convert.ts"
import { exactClass, type HfClass, type TokenIds } from "./gpt-family.ts"
import { type GgufTensor, type GgufValue, writeGgufFile } from "./gpt-gguf-file.ts"
import { ggufVocabulary } from "./gpt-gguf-vocab.ts"
import { weightTensors } from "./gpt-layout.ts"
import { paramSpecs } from "./gpt-params.ts"
import { elementCount } from "./gpt-safetensors.ts"

export interface GgufContent {
  model: ModelConfig
  ids: TokenIds
  /** Text of tokenizer.json. */
  tokenizerJson: string
  chatTemplate?: string | undefined
  /** Element type of the matrices; vectors and position embeddings are always F32. */
  dtype: "F32" | "F16" | "BF16"
  weights: (name: string) => Float32Array
  /** Name shown by programs that load the file. */
  name: string
}

/** LLAMA_FTYPE of llama.h. */
const FILE_TYPE = { F32: 0, F16: 1, BF16: 32 } as const

/** Hugging Face name of a part → its GGUF name, in block N ("blk.N.…") or at the top. */
const BLOCK: Record<string, string> = {
  ln_1: "attn_norm",
  "attn.c_attn": "attn_qkv",
  "attn.c_proj": "attn_output",
  ln_2: "ffn_norm",
  "mlp.c_fc": "ffn_up",
  "mlp.c_proj": "ffn_down",
  input_layernorm: "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "self_attn.o_proj": "attn_output",
  post_attention_layernorm: "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
}
const TOP: Record<string, string> = {
  wte: "token_embd",
  wpe: "position_embd",
  ln_f: "output_norm",
  embed_tokens: "token_embd",
  norm: "output_norm",
  lm_head: "output",
}

/**
 * Writes a GGUF file (version 3) that llama.cpp runs with the same function. Refuses, naming the field, what llama.cpp's graph of the
 * architecture does otherwise: its gpt2 has the tanh GELU only, its qwen3 takes no llama3 RoPE factors. Returns the bytes written.
 * Sources: ggml-org/llama.cpp conversion/{gpt2,llama,qwen}.py, src/models/{gpt2,llama,qwen3}.cpp.
 */
export function writeGguf(path: string, content: GgufContent): number {
  const { model, ids, tokenizerJson, chatTemplate, dtype, name } = content
  const family = ggufClass(model)
  const architecture = { GPT2LMHeadModel: "gpt2", LlamaForCausalLM: "llama", Qwen3ForCausalLM: "qwen3" }[family]
  const keys: Record<string, GgufValue> = {
    "general.architecture": { text: architecture },
    "general.type": { text: "model" },
    "general.name": { text: name },
    "general.file_type": { u32: FILE_TYPE[dtype] },
  }
  for (const [key, value] of Object.entries(modelKeys(model, family))) keys[`${architecture}.${key}`] = value
  const vocabulary = ggufVocabulary(tokenizerJson, model.vocabSize, ids, chatTemplate, "tokenizer.json")
  return writeGgufFile(path, { ...keys, ...vocabulary }, ggufTensors(content, family))
}

/** The field that keeps a model with an exact class of transformers out of llama.cpp, and why; undefined when it can be exported. */
export function ggufObstacle(model: ModelConfig): { field: "activation" | "ropeScaling"; why: string } | undefined {
  const family = exactClass(model)
  if (family === "GPT2LMHeadModel" && model.activation !== "gelu_tanh")
    return { field: "activation", why: "llama.cpp's gpt2 has gelu_tanh only" }
  if (family === "Qwen3ForCausalLM" && model.ropeScaling.startsWith("llama3"))
    return { field: "ropeScaling", why: "llama.cpp's qwen3 has linear scaling only" }
  return undefined
}

function ggufClass(model: ModelConfig): HfClass {
  const family = exactClass(model)
  if (typeof family !== "string")
    throw new AlphaError(`cannot export as GGUF: ${family.none} ${model[family.none]}: ${family.why}`, { code: EXIT.usage })
  const obstacle = ggufObstacle(model)
  if (obstacle !== undefined)
    throw new AlphaError(`cannot export as GGUF: ${obstacle.field} ${model[obstacle.field]}: ${obstacle.why}`, {
      hint: "alpha export --format=hf writes this model for transformers",
      code: EXIT.usage,
    })
  return family
}

function modelKeys(model: ModelConfig, family: HfClass): Record<string, GgufValue> {
  const sizes = {
    vocab_size: { u32: model.vocabSize },
    context_length: { u32: model.blockSize },
    embedding_length: { u32: model.nEmbd },
    block_count: { u32: model.nLayer },
    feed_forward_length: { u32: model.ffnDim },
    "attention.head_count": { u32: model.nHead },
  }
  if (family === "GPT2LMHeadModel") return { ...sizes, "attention.layer_norm_epsilon": { f32: model.normEps } }
  const [kind, factor] = model.ropeScaling.split(":")
  return {
    ...sizes,
    "attention.head_count_kv": { u32: model.nKvHead },
    "attention.key_length": { u32: model.headDim },
    "attention.value_length": { u32: model.headDim },
    "attention.layer_norm_rms_epsilon": { f32: model.normEps },
    "rope.dimension_count": { u32: model.headDim },
    "rope.freq_base": { f32: model.ropeTheta },
    ...(kind === "linear" ? { "rope.scaling.type": { text: "linear" }, "rope.scaling.factor": { f32: Number(factor) } } : {}),
  }
}

/** Our linears are (out, in) as ggml wants them, so nothing is transposed; q and k of "llama" are reordered for its rotation of neighbours. */
function ggufTensors({ model, dtype, weights }: GgufContent, family: HfClass): GgufTensor[] {
  const shapes = new Map(paramSpecs(model).map(({ name, shape }) => [name, shape]))
  const scratch = new Scratch()
  const tensors = weightTensors(model, family).map(({ name: hfName, shape, part }): GgufTensor => {
    const name = ggufName(hfName)
    const own = part?.transposed ? [...shape].reverse() : shape
    const type = shape.length === 1 || name.startsWith("position_embd") ? "F32" : dtype
    const values = (): Float32Array => {
      if (part === undefined) return scratch.floats(elementCount(shape)).fill(0)
      const rowSize = elementCount(shapes.get(part.param)!.slice(1))
      const view = weights(part.param).subarray(part.row * rowSize, part.row * rowSize + elementCount(shape))
      return family === "LlamaForCausalLM" && /\.attn_[qk]\./.test(name) ? interleaveHalves(view, model.headDim, rowSize, scratch) : view
    }
    return { name, shape: own, dtype: type, data: () => floatBytes(values(), type, name, scratch) }
  })
  const factors = ropeFactors(model)
  if (factors !== undefined)
    tensors.push({
      name: "rope_freqs.weight",
      shape: [factors.length],
      dtype: "F32",
      data: () => floatBytes(factors, "F32", "rope_freqs.weight"),
    })
  return tensors
}

/** "transformer.h.3.attn.c_attn.weight" → "blk.3.attn_qkv.weight" */
function ggufName(name: string): string {
  const [, layer, part, kind] = /^(?:(?:transformer\.|model\.)?(?:h|layers)\.(\d+)\.|(?:transformer\.|model\.)?)(.+)\.(weight|bias)$/.exec(
    name,
  )!
  return layer === undefined ? `${TOP[part!]}.${kind}` : `blk.${layer}.${BLOCK[part!]}.${kind}`
}

/**
 * Rows of each head from (0 … D−1) to (0, D/2, 1, D/2+1, …): Llama in transformers rotates row i with row i + D/2, llama.cpp's "llama"
 * rotates rows 2i and 2i + 1.
 */
function interleaveHalves(values: Float32Array, headDim: number, rowSize: number, scratch: Scratch): Float32Array {
  const out = scratch.floats(values.length)
  const half = headDim / 2
  for (let row = 0; row < values.length / rowSize; row++) {
    const d = row % headDim
    const from = row - d + (d % 2) * half + (d >> 1)
    out.set(values.subarray(from * rowSize, (from + 1) * rowSize), row * rowSize)
  }
  return out
}

/** What llama.cpp divides each rotary frequency by for Llama 3.1's scaling (D/2); undefined for other scalings. Source: transformers modeling_rope_utils. */
function ropeFactors({ ropeScaling, ropeTheta, headDim }: ModelConfig): Float32Array | undefined {
  const [kind, ...numbers] = ropeScaling.split(":")
  if (kind !== "llama3") return undefined
  const [factor, low, high, original] = numbers.map(Number) as [number, number, number, number]
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * ropeTheta ** ((2 * i) / headDim)
    if (wavelength < original / high) return 1
    if (wavelength > original / low) return factor
    const smooth = (original / wavelength - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)
  })
}
