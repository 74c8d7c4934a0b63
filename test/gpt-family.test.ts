import { afterAll, describe, expect, test } from "bun:test"
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError } from "../src/base-error.ts"
import { sha256 } from "../src/base-file.ts"
import { fillNormal } from "../src/base-random.ts"
import { type ModelConfig, resolveModel } from "../src/config.ts"
import { loadWeights, readConfig, saveCheckpoint } from "../src/gpt-checkpoint.ts"
import { bytesOf, readFloats } from "../src/gpt-convert.ts"
import { exactClass, familyOf } from "../src/gpt-family.ts"
import { paramSpecs } from "../src/gpt-params.ts"
import { readSafetensors } from "../src/gpt-safetensors.ts"
import { weightFiles } from "../src/gpt-weights.ts"
import { testWith } from "./require.ts"
import { shared } from "./support.ts"

/** Directories written by transformers; see make.py there. */
const FIXTURES = join(import.meta.dir, "fixtures/hf")
const names = readdirSync(FIXTURES).filter((name) => existsSync(join(FIXTURES, name, "config.json")))

const work = mkdtempSync(join(tmpdir(), "alpha-family-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))

const messageOf = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof AlphaError) return `${error.message} — ${error.hint}`
    throw error
  }
  return "nothing was thrown"
}

/** All parameters of a directory. */
function load(dir: string, model = readConfig(dir).model): Map<string, Float32Array> {
  const params = new Map<string, Float32Array>()
  loadWeights(dir, model, (name, shape) => {
    const values = new Float32Array(shape.reduce((n, d) => n * d, 1)).fill(Number.NaN)
    params.set(name, values)
    return values
  })
  return params
}

/** A copy of a fixture with changed config.json fields; undefined removes one. */
function variant(name: string, fields: Record<string, unknown>): string {
  const dir = mkdtempSync(join(work, "variant-"))
  cpSync(join(FIXTURES, name), dir, { recursive: true })
  const config = { ...JSON.parse(readFileSync(join(dir, "config.json"), "utf8")), ...fields }
  writeFileSync(join(dir, "config.json"), JSON.stringify(config))
  return dir
}

const tiny = (fields: Partial<ModelConfig>) => resolveModel({ vocabSize: 11, blockSize: 8, nLayer: 2, nHead: 2, nEmbd: 8, ...fields })
const llama = { norm: "rmsnorm", position: "rope", activation: "swiglu" } as const

describe("directories that transformers wrote", () => {
  test.each(names)("%s: every parameter has the numbers PyTorch has", (name) => {
    const dir = join(FIXTURES, name)
    const expected = JSON.parse(readFileSync(join(dir, "expected.json"), "utf8"))
    const found = Object.fromEntries([...load(dir)].map(([param, values]) => [param, sha256(bytesOf(values))]))
    expect(found).toEqual(expected)
  })

  test("the fixtures cover one file and shards, f32, bf16 and f16, tied and untied, all classes", () => {
    const seen = names.map((name) => {
      const { family, model } = readConfig(join(FIXTURES, name))
      const files = weightFiles(join(FIXTURES, name))
      const dtypes = new Set(
        readSafetensors(join(FIXTURES, name, files[0]!))
          .tensors.values()
          .map(({ dtype }) => dtype),
      )
      return `${family} ${[...dtypes]} ${files.length === 1 ? "file" : "shards"} ${model.tie ? "tied" : "untied"}`
    })
    expect(seen.sort()).toEqual([
      "GPT2LMHeadModel BF16 shards untied",
      "GPT2LMHeadModel F16 file tied",
      "GPT2LMHeadModel F32 file tied",
      "LlamaForCausalLM F16 file tied",
      "LlamaForCausalLM F16 file untied",
      "LlamaForCausalLM F32 shards tied",
      "Qwen3ForCausalLM BF16 file tied",
    ])
  })

  test("config.json becomes our fields", () => {
    expect(readConfig(join(FIXTURES, "llama-f16"))).toEqual({
      family: "LlamaForCausalLM",
      ids: { bos: 0, eos: [0, 3], pad: undefined },
      model: {
        vocabSize: 37,
        blockSize: 24,
        nLayer: 2,
        nHead: 4,
        nKvHead: 2,
        nEmbd: 16,
        headDim: 6,
        ffnDim: 24,
        norm: "rmsnorm",
        normEps: 1e-6,
        position: "rope",
        ropeTheta: 500000,
        ropeScaling: "llama3:8:1:4:16",
        activation: "swiglu",
        bias: true,
        tie: false,
        qkNorm: false,
        softCap: undefined,
        dropout: 0,
        initStd: 0.02,
        residualScaling: false,
      },
    })
    const gpt2 = readConfig(join(FIXTURES, "gpt2-shards-bf16")).model
    expect([gpt2.activation, gpt2.ffnDim, gpt2.tie, gpt2.bias, gpt2.position, gpt2.headDim]).toEqual([
      "gelu",
      40,
      false,
      true,
      "learned",
      8,
    ])
    expect(readConfig(join(FIXTURES, "qwen3-bf16")).model).toMatchObject({ qkNorm: true, headDim: 8, bias: false, ropeScaling: "none" })
  })

  for (const name of ["gpt2", "llama"]) {
    const dir = shared(`golden/${name}/model`)
    testWith("shared", dir === undefined ? `../shared/golden/${name} is not here` : undefined)(`the golden ${name} model loads`, () => {
      for (const values of load(dir as string).values()) expect(values.every(Number.isFinite)).toBe(true)
    })
  }

  test("fields of older versions and absent fields mean what they meant there", () => {
    const old = {
      rope_parameters: undefined,
      rope_theta: 5000,
      rope_scaling: { type: "linear", factor: 2 },
      head_dim: undefined,
      num_key_value_heads: null,
    }
    expect(readConfig(variant("llama-shards", old)).model).toMatchObject({
      ropeTheta: 5000,
      ropeScaling: "linear:2",
      headDim: 4,
      nKvHead: 4,
    })
    expect(readConfig(variant("llama-shards", { tie_word_embeddings: undefined, rope_parameters: undefined })).model).toMatchObject({
      tie: false,
      ropeTheta: 10000,
    })
    const bare = {
      architectures: undefined,
      activation_function: undefined,
      tie_word_embeddings: undefined,
      layer_norm_epsilon: undefined,
      n_inner: undefined,
    }
    expect(readConfig(variant("gpt2", bare)).model).toMatchObject({ activation: "gelu_tanh", tie: true, normEps: 1e-5, ffnDim: 64 })
  })
})

describe("what we do not have is refused by name", () => {
  const refused: [string, Record<string, unknown>, string][] = [
    ["gpt2", { model_type: "gpt_neox" }, 'model_type "gpt_neox"'],
    ["gpt2", { architectures: ["GPT2ForSequenceClassification"] }, "GPT2ForSequenceClassification"],
    ["gpt2", { architectures: ["GPT2Model"], tie_word_embeddings: false }, "GPT2Model has no language model head"],
    ["gpt2", { activation_function: "gelu_fast" }, 'activation_function "gelu_fast"'],
    ["gpt2", { scale_attn_by_inverse_layer_idx: true }, "scale_attn_by_inverse_layer_idx is true"],
    ["gpt2", { scale_attn_weights: false }, "scale_attn_weights is false"],
    ["gpt2", { add_cross_attention: true }, "add_cross_attention is true"],
    ["gpt2", { quantization_config: { bits: 4 } }, "quantization_config"],
    ["gpt2", { n_embd: undefined }, "n_embd is missing"],
    ["gpt2", { n_head: 3 }, "n_embd 16 is not divisible by n_head 3"],
    ["gpt2", { n_layer: 2.5 }, "n_layer is 2.5"],
    ["gpt2", { layer_norm_epsilon: "small" }, 'layer_norm_epsilon is "small"'],
    ["gpt2", { bos_token_id: "<s>" }, 'bos_token_id is "<s>"'],
    ["llama-f16", { mlp_bias: false }, "attention_bias is true but mlp_bias is false"],
    ["llama-f16", { hidden_act: "gelu" }, 'hidden_act is "gelu"'],
    ["llama-f16", { sliding_window: 128 }, "sliding_window is 128"],
    ["llama-f16", { partial_rotary_factor: 0.5 }, "partial_rotary_factor is 0.5"],
    ["llama-f16", { num_key_value_heads: 3 }, "num_attention_heads 4 is not divisible by num_key_value_heads 3"],
    ["llama-f16", { head_dim: 5 }, "head_dim 5 is odd"],
    ["llama-f16", { rope_parameters: { rope_type: "yarn", factor: 2, rope_theta: 1e4 } }, 'rope_type "yarn"'],
    ["llama-f16", { rope_parameters: { rope_type: "llama3", rope_theta: 1e4, factor: 8 } }, "low_freq_factor is missing"],
    ["llama-f16", { rope_parameters: { mrope_section: [1, 2] } }, "mrope_section is not supported"],
    ["llama-f16", { rope_theta: 777 }, "rope_theta is 777 but rope_parameters says 500000"],
    ["qwen3-bf16", { use_sliding_window: true }, "use_sliding_window is true"],
    ["qwen3-bf16", { layer_types: ["full_attention", "sliding_attention"] }, "layer_types"],
    ["qwen3-bf16", { attention_bias: true }, "attention_bias is true in a Qwen3 model"],
  ]
  test.each(refused)("%s with %j", (name, fields, words) => {
    const dir = variant(name, fields)
    expect(messageOf(() => readConfig(dir))).toContain(words)
    expect(messageOf(() => readConfig(dir))).toContain(join(dir, "config.json"))
  })

  test("weights that do not fit config.json name the tensor", () => {
    expect(messageOf(() => load(variant("gpt2", { n_layer: 3 })))).toContain("tensor transformer.h.2.ln_1.weight is missing")
    expect(messageOf(() => load(variant("gpt2", { n_layer: 1 })))).toContain("tensor transformer.h.1.attn.c_attn.bias has no place")
    expect(messageOf(() => load(variant("gpt2", { vocab_size: 38 })))).toContain(
      "tensor transformer.wte.weight has shape (37, 16), config.json needs (38, 16)",
    )
    expect(messageOf(() => load(variant("gpt2", { tie_word_embeddings: false })))).toContain("tensor lm_head.weight is missing")
    const sharded = variant("llama-shards", {})
    rmSync(join(sharded, weightFiles(sharded)[1]!))
    expect(messageOf(() => load(sharded))).toContain("model-00002-of-00004.safetensors: does not exist")
    const pickled = variant("gpt2", {})
    rmSync(join(pickled, "model.safetensors"))
    writeFileSync(join(pickled, "pytorch_model.bin"), "")
    expect(messageOf(() => load(pickled))).toContain("pytorch_model.bin is not read")
    const escaping = variant("llama-shards", {})
    writeFileSync(
      join(escaping, "model.safetensors.index.json"),
      JSON.stringify({ weight_map: { "model.norm.weight": "../x.safetensors" } }),
    )
    expect(messageOf(() => load(escaping))).toContain('tensor model.norm.weight lies in "../x.safetensors"')
  })
})

test("exactClass knows the three classes and names the field that keeps a model out of them", () => {
  const cases: [Partial<ModelConfig>, string][] = [
    [{}, "GPT2LMHeadModel"],
    [{ bias: true, activation: "relu2", tie: false, ffnDim: 20 }, "GPT2LMHeadModel"],
    [llama, "LlamaForCausalLM"],
    [{ ...llama, bias: true, nKvHead: 1, headDim: 6, ropeScaling: "linear:2" }, "LlamaForCausalLM"],
    [{ ...llama, qkNorm: true }, "Qwen3ForCausalLM"],
    [{ ...llama, qkNorm: true, bias: true }, "bias"],
    [{ ...llama, nHead: 3, headDim: 4 }, "nHead"],
    [{ ...llama, softCap: 30 }, "softCap"],
    [{ ...llama, activation: "silu" }, "activation"],
    [{ ...llama, position: "learned" }, "position"],
    [{ position: "rope" }, "position"],
    [{ activation: "swiglu" }, "activation"],
    [{ qkNorm: true }, "qkNorm"],
    [{ nKvHead: 1 }, "nKvHead"],
    [{ headDim: 6 }, "headDim"],
    [{ softCap: 15 }, "softCap"],
  ]
  for (const [fields, answer] of cases) {
    const found = exactClass(tiny(fields))
    expect<string>(typeof found === "string" ? found : found.none).toBe(answer)
  }
})

describe("directories that we write", () => {
  const forms: [string, Partial<ModelConfig>][] = [
    ["GPT-2 without biases (nanoGPT)", { dropout: 0.2, initStd: 1 }],
    ["GPT-2 with biases, untied", { bias: true, tie: false, activation: "silu", normEps: 1 }],
    ["Llama, grouped heads", { ...llama, nKvHead: 1, headDim: 6, ropeScaling: "llama3:8:1:4:64", ropeTheta: 500000 }],
    ["Llama with biases, untied", { ...llama, bias: true, tie: false, ropeScaling: "linear:2.5" }],
    ["Qwen3", { ...llama, qkNorm: true }],
    ["our own, with a soft cap", { ...llama, softCap: 30, bias: true, qkNorm: true }],
    ["our own, RoPE with layer norm", { position: "rope", nKvHead: 1, tie: false }],
  ]
  test.each(forms)("%s: configuration and every bit come back", (form, fields) => {
    const model = tiny(fields)
    const specs = paramSpecs(model)
    const params = new Map(
      specs.map((spec, index) => {
        const values = new Float32Array(spec.shape.reduce((n, d) => n * d, 1))
        fillNormal(values, 1, index, 0.3)
        return [spec.name, values]
      }),
    )
    const dir = join(work, form.replaceAll(" ", "-"))
    const ids = { bos: 1, eos: [1, 2], pad: undefined }
    saveCheckpoint(dir, { model, ids, weights: (name) => params.get(name)! })
    expect(readConfig(dir)).toEqual({ model, ids, family: familyOf(model) })
    expect(load(dir)).toEqual(params)
  })

  test.each(names)("%s written again holds what transformers wrote: same names, shapes and numbers", (name) => {
    const source = join(FIXTURES, name)
    const { model, ids } = readConfig(source)
    const params = load(source)
    const dir = join(work, `again-${name}`)
    saveCheckpoint(dir, { model, ids, weights: (param) => params.get(param)! })
    const contents = (folder: string) =>
      Object.fromEntries(
        weightFiles(folder)
          .flatMap((file) => [...readSafetensors(join(folder, file)).tensors.values()])
          .map((tensor) => {
            const values = new Float32Array(tensor.shape.reduce((n, d) => n * d, 1))
            readFloats(tensor, 0, values)
            return [tensor.name, { shape: tensor.shape, sha256: sha256(bytesOf(values)) }]
          }),
      )
    expect(contents(dir)).toEqual(contents(source))

    // Every field that transformers wrote and that bears on the function or on generation has its value.
    const config = (folder: string) => JSON.parse(readFileSync(join(folder, "config.json"), "utf8"))
    const skipped =
      /^(dtype|transformers_version|summary_.*|n_inner|add_cross_attention|pretraining_tp|layer_types|max_window_layers|sliding_window)$/
    for (const [field, value] of Object.entries(config(source)))
      if (!skipped.test(field)) expect({ [field]: config(dir)[field] }).toEqual({ [field]: value })
  })

  test("numbers that transformers wants as floats are written as floats", () => {
    const dir = join(work, "floats")
    const model = tiny({ ...llama, normEps: 1, initStd: 3, ropeScaling: "linear:2" })
    saveCheckpoint(dir, {
      model,
      weights: (name) =>
        new Float32Array(
          paramSpecs(model)
            .find((s) => s.name === name)!
            .shape.reduce((n, d) => n * d, 1),
        ),
    })
    const text = readFileSync(join(dir, "config.json"), "utf8")
    for (const part of ['"rms_norm_eps": 1.0,', '"initializer_range": 1.0,', '"factor": 2.0', '"rope_theta": 10000.0', '"hidden_size": 8,'])
      expect(text).toContain(part)
    expect(readConfig(dir).model).toEqual(model)
  })

  test("an edited field that contradicts the alpha object is refused, as are biases in a model without", () => {
    const dir = join(work, "edited")
    const model = tiny({})
    const zeros = (name: string) =>
      new Float32Array(
        paramSpecs(model)
          .find((s) => s.name === name)!
          .shape.reduce((n, d) => n * d, 1),
      )
    saveCheckpoint(dir, { model, weights: zeros })
    const path = join(dir, "config.json")
    const config = JSON.parse(readFileSync(path, "utf8"))
    writeFileSync(path, JSON.stringify({ ...config, n_head: 4 }))
    expect(messageOf(() => readConfig(dir))).toContain('nHead is 4 in the fields of GPT2LMHeadModel but 2 in the "alpha" object')
    writeFileSync(path, JSON.stringify({ ...config, alpha: { ...config.alpha, colour: 1 } }))
    expect(messageOf(() => readConfig(dir))).toContain("colour is not a field of a model")
    writeFileSync(path, JSON.stringify({ ...config, alpha: { ...config.alpha, position: "rope" } }))
    expect(messageOf(() => readConfig(dir))).toContain('the "alpha" object describes AlphaForCausalLM')
    writeFileSync(path, JSON.stringify(config))
    const weights = join(dir, "model.safetensors")
    const bytes = new Uint8Array(readFileSync(weights))
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + new DataView(bytes.buffer).getUint32(0, true))))
    bytes[8 + new DataView(bytes.buffer).getUint32(0, true) + header["transformer.h.1.mlp.c_fc.bias"].data_offsets[0]] = 1
    writeFileSync(weights, bytes)
    expect(messageOf(() => load(dir))).toContain("tensor transformer.h.1.mlp.c_fc.bias is not zero, but the model has bias = false")
    writeFileSync(path, JSON.stringify({ ...config, alpha: undefined }))
    expect(load(dir).get("h.1.mlp.up.bias")![0]).toBeGreaterThan(0)
  })
})
