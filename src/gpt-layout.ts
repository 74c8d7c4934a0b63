/** Where each tensor of a model directory lies in our parameters: names, shapes, packing, transposition. */

import type { ModelConfig } from "./config.ts"
import type { FamilyName } from "./gpt-family.ts"
import { paramSpecs } from "./gpt-params.ts"

/** A tensor of model.safetensors and what it holds. */
export interface WeightTensor {
  /** Name in the file, as `transformers` writes it. */
  name: string
  shape: readonly number[]
  /** Rows `row` … of one of our parameters; `transposed` for GPT-2's Conv1D (in, out). Undefined: zeros (a bias that our model does not have). */
  part: { param: string; row: number; transposed: boolean } | undefined
}

const LLAMA_BLOCK = { q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj", o: "self_attn.o_proj" }

/** Every tensor of the file, in the order it is written. For our own family the file holds our parameters as they are. */
export function weightTensors(config: ModelConfig, family: FamilyName): WeightTensor[] {
  if (family === "AlphaForCausalLM") return paramSpecs(config).map(({ name, shape }) => whole(name, shape, name))
  return family === "GPT2LMHeadModel" ? gpt2(config) : llama(config)
}

function whole(name: string, shape: readonly number[], param: string, transposed = false): WeightTensor {
  return { name, shape, part: { param, row: 0, transposed } }
}

/** GPT-2's linears are Conv1D: (in, out). A model without biases is written with zeros, which is the same function. */
function gpt2({ vocabSize: V, blockSize: T, nEmbd: C, ffnDim: F, nLayer, bias, tie }: ModelConfig): WeightTensor[] {
  const vector = (name: string, size: number, param: string): WeightTensor =>
    bias ? whole(name, [size], param) : { name, shape: [size], part: undefined }
  const norm = (name: string, param: string) => [
    whole(`${name}.weight`, [C], `${param}.weight`),
    vector(`${name}.bias`, C, `${param}.bias`),
  ]
  const conv = (name: string, from: number, to: number, param: string) => [
    whole(`${name}.weight`, [from, to], `${param}.weight`, true),
    vector(`${name}.bias`, to, `${param}.bias`),
  ]
  const blocks = Array.from({ length: nLayer }, (_, n) => [
    ...norm(`transformer.h.${n}.ln_1`, `h.${n}.attnNorm`),
    ...conv(`transformer.h.${n}.attn.c_attn`, C, 3 * C, `h.${n}.attn.qkv`),
    ...conv(`transformer.h.${n}.attn.c_proj`, C, C, `h.${n}.attn.proj`),
    ...norm(`transformer.h.${n}.ln_2`, `h.${n}.mlpNorm`),
    ...conv(`transformer.h.${n}.mlp.c_fc`, C, F, `h.${n}.mlp.up`),
    ...conv(`transformer.h.${n}.mlp.c_proj`, F, C, `h.${n}.mlp.down`),
  ])
  return [
    whole("transformer.wte.weight", [V, C], "wte.weight"),
    whole("transformer.wpe.weight", [T, C], "wpe.weight"),
    ...blocks.flat(),
    ...norm("transformer.ln_f", "norm"),
    ...(tie ? [] : [whole("lm_head.weight", [V, C], "head.weight")]),
  ]
}

/** Llama and Qwen3: q, k, v and gate, up are separate tensors; ours are packed, rows in that order. */
function llama({ vocabSize: V, nEmbd: C, ffnDim: F, nLayer, nHead, nKvHead, headDim: D, bias, tie, qkNorm }: ModelConfig): WeightTensor[] {
  const rows = (name: string, count: number, from: number, param: string, row: number): WeightTensor[] => [
    { name: `${name}.weight`, shape: [count, from], part: { param: `${param}.weight`, row, transposed: false } },
    ...(bias ? [{ name: `${name}.bias`, shape: [count], part: { param: `${param}.bias`, row, transposed: false } }] : []),
  ]
  const blocks = Array.from({ length: nLayer }, (_, n) => {
    const from = `model.layers.${n}`
    const to = `h.${n}`
    return [
      whole(`${from}.input_layernorm.weight`, [C], `${to}.attnNorm.weight`),
      ...rows(`${from}.${LLAMA_BLOCK.q}`, nHead * D, C, `${to}.attn.qkv`, 0),
      ...rows(`${from}.${LLAMA_BLOCK.k}`, nKvHead * D, C, `${to}.attn.qkv`, nHead * D),
      ...rows(`${from}.${LLAMA_BLOCK.v}`, nKvHead * D, C, `${to}.attn.qkv`, (nHead + nKvHead) * D),
      ...(qkNorm
        ? [
            whole(`${from}.self_attn.q_norm.weight`, [D], `${to}.attn.qNorm.weight`),
            whole(`${from}.self_attn.k_norm.weight`, [D], `${to}.attn.kNorm.weight`),
          ]
        : []),
      ...rows(`${from}.${LLAMA_BLOCK.o}`, C, nHead * D, `${to}.attn.proj`, 0),
      whole(`${from}.post_attention_layernorm.weight`, [C], `${to}.mlpNorm.weight`),
      ...rows(`${from}.mlp.gate_proj`, F, C, `${to}.mlp.gateUp`, 0),
      ...rows(`${from}.mlp.up_proj`, F, C, `${to}.mlp.gateUp`, F),
      ...rows(`${from}.mlp.down_proj`, C, F, `${to}.mlp.down`, 0),
    ]
  })
  return [
    whole("model.embed_tokens.weight", [V, C], "wte.weight"),
    ...blocks.flat(),
    whole("model.norm.weight", [C], "norm.weight"),
    ...(tie ? [] : [whole("lm_head.weight", [V, C], "head.weight")]),
  ]
}
