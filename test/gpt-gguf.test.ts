import { afterAll, describe, expect, test } from "bun:test"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { AlphaError } from "../src/base-error.ts"
import { type ModelConfig, resolveModel } from "../src/config.ts"
import { loadWeights, readConfig } from "../src/gpt-checkpoint.ts"
import { type GgufContent, writeGguf } from "../src/gpt-gguf.ts"
import { paramSpecs } from "../src/gpt-params.ts"
import { testWith } from "./require.ts"

const FIXTURES = join(import.meta.dir, "fixtures/hf")
const work = mkdtempSync(join(tmpdir(), "alpha-gguf-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))

const tokenizerJson = readFileSync(join(FIXTURES, "llama-bpe/tokenizer.json"), "utf8")

const messageOf = (run: () => unknown): string => {
  try {
    run()
  } catch (error) {
    if (error instanceof AlphaError) return error.message
    throw error
  }
  return "nothing was thrown"
}

interface Parsed {
  version: number
  keys: Record<string, unknown>
  tensors: Record<string, { dimensions: number[]; type: number; data: Uint8Array }>
}

/** A reader of its own, from docs/gguf.md; checks alignment and that nothing is left over. */
function parseGguf(path: string): Parsed {
  const bytes = new Uint8Array(readFileSync(path))
  const view = new DataView(bytes.buffer)
  let at = 4
  /** Where the next `count` bytes start. */
  const take = (count: number): number => {
    at += count
    return at - count
  }
  const u32 = () => view.getUint32(take(4), true)
  const u64 = () => Number(view.getBigUint64(take(8), true))
  const text = () => {
    const start = take(u64())
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(start, at))
  }
  const value = (type: number): unknown => {
    if (type === 4) return u32()
    if (type === 5) return view.getInt32(take(4), true)
    if (type === 6) return view.getFloat32(take(4), true)
    if (type === 7) return bytes[take(1)] === 1
    if (type === 8) return text()
    if (type !== 9) throw new Error(`type ${type}`)
    const [inner, count] = [u32(), u64()]
    return Array.from({ length: count }, () => value(inner))
  }
  expect(new TextDecoder().decode(bytes.subarray(0, 4))).toBe("GGUF")
  const [version, tensorCount, keyCount] = [u32(), u64(), u64()]
  const keys: Record<string, unknown> = {}
  for (let i = 0; i < keyCount; i++) {
    const key = text()
    keys[key] = value(u32())
  }
  const list = Array.from({ length: tensorCount }, () => {
    const name = text()
    const dimensions = Array.from({ length: u32() }, u64)
    return { name, dimensions, type: u32(), offset: u64() }
  })
  const start = Math.ceil(at / 32) * 32
  let end = start
  const tensors: Parsed["tensors"] = {}
  for (const { name, dimensions, type, offset } of list) {
    expect(start + offset).toBe(end)
    const size = dimensions.reduce((n, d) => n * d, 1) * (type === 0 ? 4 : 2)
    tensors[name] = { dimensions, type, data: bytes.slice(start + offset, start + offset + size) }
    end = start + Math.ceil((offset + size) / 32) * 32
  }
  expect(bytes.length).toBe(end)
  return { version, keys, tensors }
}

/** A model whose parameter p holds p's index · 1000 + 0, 1, 2 …, so that every element can be traced. */
function counting(
  fields: Partial<ModelConfig>,
  overrides: Partial<GgufContent> = {},
): { content: GgufContent; base: (name: string) => number } {
  const model = resolveModel({ vocabSize: 304, blockSize: 8, nLayer: 1, nHead: 2, nEmbd: 4, ffnDim: 3, ...fields })
  const specs = paramSpecs(model)
  const base = (name: string) => specs.findIndex((spec) => spec.name === name) * 10000
  const weights = (name: string) => {
    const spec = specs.find((s) => s.name === name)!
    return Float32Array.from({ length: spec.shape.reduce((n, d) => n * d, 1) }, (_, i) => base(name) + i)
  }
  return { content: { model, ids: { bos: 0, eos: 0 }, tokenizerJson, dtype: "F32", weights, name: "counting", ...overrides }, base }
}
const llama = { norm: "rmsnorm", position: "rope", activation: "swiglu" } as const

const write = (content: GgufContent): Parsed => {
  const path = join(work, "m.gguf")
  writeGguf(path, content)
  return parseGguf(path)
}
const floats = (tensor: { data: Uint8Array } | undefined) => [...new Float32Array(tensor!.data.buffer)]
const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i)

describe("gpt2", () => {
  test("keys, names, dimensions and values", () => {
    const { content, base } = counting({ activation: "gelu_tanh", tie: false })
    const { version, keys, tensors } = write(content)
    expect(version).toBe(3)
    expect(keys).toMatchObject({
      "general.architecture": "gpt2",
      "general.alignment": 32,
      "general.file_type": 0,
      "gpt2.context_length": 8,
      "gpt2.embedding_length": 4,
      "gpt2.block_count": 1,
      "gpt2.feed_forward_length": 3,
      "gpt2.attention.head_count": 2,
      "gpt2.attention.layer_norm_epsilon": Math.fround(1e-5),
      "gpt2.vocab_size": 304,
    })
    const shapes = Object.fromEntries(Object.entries(tensors).map(([name, { dimensions }]) => [name, dimensions]))
    expect(shapes).toEqual({
      "token_embd.weight": [4, 304],
      "position_embd.weight": [4, 8],
      "blk.0.attn_norm.weight": [4],
      "blk.0.attn_norm.bias": [4],
      "blk.0.attn_qkv.weight": [4, 12],
      "blk.0.attn_qkv.bias": [12],
      "blk.0.attn_output.weight": [4, 4],
      "blk.0.attn_output.bias": [4],
      "blk.0.ffn_norm.weight": [4],
      "blk.0.ffn_norm.bias": [4],
      "blk.0.ffn_up.weight": [4, 3],
      "blk.0.ffn_up.bias": [3],
      "blk.0.ffn_down.weight": [3, 4],
      "blk.0.ffn_down.bias": [4],
      "output_norm.weight": [4],
      "output_norm.bias": [4],
      "output.weight": [4, 304],
    })
    expect(floats(tensors["blk.0.attn_qkv.weight"])).toEqual(range(base("h.0.attn.qkv.weight"), 48))
    expect(floats(tensors["blk.0.ffn_down.weight"])).toEqual(range(base("h.0.mlp.down.weight"), 12))
    expect(floats(tensors["blk.0.attn_qkv.bias"])).toEqual(Array(12).fill(0))
    expect(floats(tensors["output.weight"])).toEqual(range(base("head.weight"), 1216))
  })

  test("f16 and bf16 for matrices, f32 for vectors and positions; the same input gives the same bytes", () => {
    for (const [dtype, type, fileType] of [
      ["F16", 1, 1],
      ["BF16", 30, 32],
    ] as const) {
      const { content } = counting({ activation: "gelu_tanh", bias: true }, { dtype })
      // Scaled down to what f16 can hold.
      const scaled = { ...content, weights: (name: string) => content.weights(name).map((x) => x / 4096) }
      const { keys, tensors } = write(scaled)
      expect(keys["general.file_type"]).toBe(fileType)
      const types = Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.type]))
      expect([types["token_embd.weight"], types["blk.0.ffn_up.weight"], types["position_embd.weight"], types["blk.0.ffn_up.bias"]]).toEqual(
        [type, type, 0, 0],
      )
      const first = readFileSync(join(work, "m.gguf"))
      write(scaled)
      expect(readFileSync(join(work, "m.gguf")).equals(first)).toBe(true)
    }
  })
})

describe("llama", () => {
  test("q and k rows of each head are interleaved for the rotation of neighbours; v, gate and up are split off", () => {
    const { content, base } = counting({ ...llama, nHead: 2, nKvHead: 1, nEmbd: 2, headDim: 4, bias: true, ffnDim: 3 })
    const { keys, tensors } = write(content)
    const qkv = base("h.0.attn.qkv.weight")
    // Two columns per row. Head 0 has rows 0 1 2 3 and becomes 0 2 1 3; head 1 4 5 6 7 becomes 4 6 5 7.
    const rows = (...list: number[]) => list.flatMap((row) => [qkv + 2 * row, qkv + 2 * row + 1])
    expect(floats(tensors["blk.0.attn_q.weight"])).toEqual(rows(0, 2, 1, 3, 4, 6, 5, 7))
    expect(floats(tensors["blk.0.attn_k.weight"])).toEqual(rows(8, 10, 9, 11))
    expect(floats(tensors["blk.0.attn_v.weight"])).toEqual(rows(12, 13, 14, 15))
    const biases = base("h.0.attn.qkv.bias")
    expect(floats(tensors["blk.0.attn_k.bias"])).toEqual([8, 10, 9, 11].map((row) => biases + row))
    expect(floats(tensors["blk.0.ffn_gate.weight"])).toEqual(range(base("h.0.mlp.gateUp.weight"), 6))
    expect(floats(tensors["blk.0.ffn_up.weight"])).toEqual(range(base("h.0.mlp.gateUp.weight") + 6, 6))
    expect(tensors["blk.0.ffn_down.weight"]!.dimensions).toEqual([3, 2])
    expect(keys).toMatchObject({
      "general.architecture": "llama",
      "llama.attention.head_count": 2,
      "llama.attention.head_count_kv": 1,
      "llama.attention.key_length": 4,
      "llama.rope.dimension_count": 4,
      "llama.rope.freq_base": 10000,
    })
    expect(keys["llama.rope.scaling.type"]).toBeUndefined()
  })

  test("RoPE scaling: linear as a key, llama3 as factors per frequency", () => {
    expect(write(counting({ ...llama, ropeScaling: "linear:2.5" }).content).keys).toMatchObject({
      "llama.rope.scaling.type": "linear",
      "llama.rope.scaling.factor": 2.5,
    })
    const scaled = { ...llama, nEmbd: 8, nHead: 1, ropeTheta: 10000, ropeScaling: "llama3:8:1:4:200" } as const
    // Wavelengths 2π·(1, 10, 100, 1000) against 200 / 4 = 50 and 200 / 1 = 200: kept, between, beyond, beyond.
    const between = 1 / ((1 - (200 / (20 * Math.PI) - 1) / 3) / 8 + (200 / (20 * Math.PI) - 1) / 3)
    expect(floats(write(counting(scaled).content).tensors["rope_freqs.weight"])).toEqual([1, Math.fround(between), 8, 8])
  })

  test("qwen3: heads stay as they are, their norms are written", () => {
    const { content, base } = counting({ ...llama, nHead: 1, nEmbd: 2, headDim: 4, qkNorm: true })
    const { keys, tensors } = write(content)
    expect(keys["general.architecture"]).toBe("qwen3")
    expect(floats(tensors["blk.0.attn_q.weight"])).toEqual(range(base("h.0.attn.qkv.weight"), 8))
    expect(floats(tensors["blk.0.attn_k_norm.weight"])).toEqual(range(base("h.0.attn.kNorm.weight"), 4))
  })
})

describe("vocabulary", () => {
  test("tokens in order of their ids, types, merges, special ids", () => {
    const { content } = counting({ activation: "gelu_tanh" }, { ids: { bos: 0, eos: [0, 5], pad: 3 }, chatTemplate: "{{ x }}" })
    const { keys } = write(content)
    const tokens = keys["tokenizer.ggml.tokens"] as string[]
    const types = keys["tokenizer.ggml.token_type"] as number[]
    const file = JSON.parse(tokenizerJson)
    expect(tokens.length).toBe(304)
    for (const [token, id] of Object.entries(file.model.vocab)) expect(tokens[id as number]).toBe(token)
    expect([tokens[0], types[0], types[1], tokens[303], types[303]]).toEqual(["<|endoftext|>", 3, 1, "[PAD303]", 5])
    expect(keys["tokenizer.ggml.merges"]).toEqual(
      file.model.merges.map((merge: string | string[]) => (Array.isArray(merge) ? merge.join(" ") : merge)),
    )
    expect(keys).toMatchObject({
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "gpt-2",
      "tokenizer.ggml.bos_token_id": 0,
      "tokenizer.ggml.eos_token_id": 0,
      "tokenizer.ggml.eot_token_id": 5,
      "tokenizer.ggml.padding_token_id": 3,
      "tokenizer.ggml.add_bos_token": false,
      "tokenizer.chat_template": "{{ x }}",
    })
  })

  test("what llama.cpp has no counterpart for is refused", () => {
    const refusal = (change: Record<string, unknown>, ids: GgufContent["ids"] = { bos: 0, eos: 0 }, vocabSize = 304) => {
      const json = JSON.stringify({ ...JSON.parse(tokenizerJson), ...change })
      return messageOf(() => write(counting({ activation: "gelu_tanh", vocabSize }, { tokenizerJson: json, ids }).content))
    }
    const split = (regex: string) => ({
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: regex } },
        { type: "ByteLevel", add_prefix_space: false, use_regex: false },
      ],
    })
    const bos = {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<|endoftext|>" } }, { Sequence: { id: "A" } }],
      special_tokens: { "<|endoftext|>": { ids: [0] } },
    }
    expect(refusal({ model: { type: "WordLevel", vocab: {} } })).toContain(
      "a tokenizer of type WordLevel: GGUF export needs a byte-level BPE",
    )
    expect(refusal({ normalizer: { type: "NFC" } })).toContain("it has a normalizer")
    expect(refusal({ pre_tokenizer: split("\\w+") })).toContain("llama.cpp has no split pattern")
    expect(refusal({ pre_tokenizer: { type: "ByteLevel", add_prefix_space: true } })).toContain("llama.cpp has no split pattern")
    expect(refusal({}, {})).toContain("no end-of-text token")
    expect(refusal({}, { eos: [1, 2, 3] })).toContain("3 end tokens")
    expect(refusal({}, { eos: 0 }, 250)).toMatch(/token ".*" has id 2\d\d, the model has 250 rows/)
    expect(refusal({ post_processor: bos }, { bos: 7, eos: 0 })).toContain("its post_processor adds other tokens")
    expect(refusal({ post_processor: bos })).toBe("nothing was thrown")
    expect(parseGguf(join(work, "m.gguf")).keys["tokenizer.ggml.add_bos_token"]).toBe(true)
  })
})

test("models that llama.cpp computes otherwise are refused, naming the field", () => {
  const refusal = (fields: Partial<ModelConfig>) => messageOf(() => write(counting(fields).content))
  expect(refusal({ activation: "gelu" })).toContain("activation gelu: llama.cpp's gpt2 has gelu_tanh only")
  expect(refusal({ softCap: 30 })).toContain("softCap 30")
  expect(refusal({ ...llama, qkNorm: true, ropeScaling: "llama3:8:1:4:64" })).toContain("ropeScaling llama3:8:1:4:64")
  expect(messageOf(() => writeGguf(join(work, "none/m.gguf"), counting({ activation: "gelu_tanh" }).content))).toContain(
    "its directory does not exist",
  )
  expect(readdirSync(work).filter((name) => name !== "m.gguf")).toEqual([])
})

/** node_modules of a folder where `npm install node-llama-cpp` ran. */
const llamaCpp = process.env.NODE_LLAMA_CPP
const missing =
  llamaCpp !== undefined && existsSync(join(llamaCpp, "node-llama-cpp"))
    ? undefined
    : "NODE_LLAMA_CPP names no node_modules folder with node-llama-cpp; npm install it elsewhere"
for (const name of ["gpt2-bpe", "llama-bpe"]) {
  testWith("llama.cpp", missing)(
    `llama.cpp continues ${name} as transformers does`,
    async () => {
      const dir = join(FIXTURES, name)
      const { model, ids } = readConfig(dir)
      const params = new Map<string, Float32Array>()
      loadWeights(dir, model, (param, shape) => {
        const values = new Float32Array(shape.reduce((n, d) => n * d, 1))
        params.set(param, values)
        return values
      })
      const path = join(work, `${name}.gguf`)
      writeGguf(path, {
        model,
        ids,
        tokenizerJson: readFileSync(join(dir, "tokenizer.json"), "utf8"),
        dtype: "F32",
        weights: (param) => params.get(param)!,
        name,
      })
      const greedy = JSON.parse(readFileSync(join(dir, "greedy.json"), "utf8"))
      const script = join(work, "continue.mjs")
      writeFileSync(
        script,
        `import { getLlama } from ${JSON.stringify(join(llamaCpp as string, "node-llama-cpp/dist/index.js"))}
    const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" })
    const model = await llama.loadModel({ modelPath: ${JSON.stringify(path)} })
    const sequence = (await model.createContext({ contextSize: 48 })).getSequence()
    const ids = model.tokenize(${JSON.stringify(greedy.prompt)})
    const fresh = []
    for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) if (fresh.push(token) === ${greedy.new.length}) break
    console.log(JSON.stringify({ ids, new: fresh }))
    process.exit(0)`,
      )
      const child = Bun.spawn(["node", script], { stdout: "pipe", stderr: "inherit" })
      const lines = (await new Response(child.stdout).text()).trim().split("\n")
      expect(JSON.parse(lines.at(-1)!)).toEqual({ ids: greedy.ids, new: greedy.new })
    },
    300_000,
  )
}
