/** Named sets of tokenizer, model, training settings and sample prompts. */
import { AlphaError, EXIT, nearest } from "./base-error.ts"
import type { Values } from "./config-field.ts"
import type { TRAIN_FIELDS } from "./config-train.ts"

/** Fields that a preset sets. */
export type PresetValues = Partial<Values<typeof TRAIN_FIELDS>>

/** A preset; `values` may look at the data, because random tokens need a vocabulary size and real text a tokenizer. */
export interface Preset {
  readonly about: string
  /** It stands for a kind of data, not for a model. */
  readonly isDomain?: true
  readonly values: (data: { readonly isRandom: boolean }) => PresetValues
}

/** The heritage's model: GPT-2 form without biases, untied head. */
const domain = (about: string, nLayer: number, nEmbd: number, nHead: number, context: number, rest: PresetValues): Preset => ({
  about: `${about}: ${nLayer} layers, ${nEmbd} wide, ${nHead} heads, context ${context}`,
  isDomain: true,
  values: () => ({ nLayer, nEmbd, nHead, context, tie: false, batch: 64, steps: 2000, lr: 3e-4, ...rest }),
})

/** nanoGPT's config/train_shakespeare_char.py (model: its defaults of bias off there, GELU exact, tied head). */
const shakespeareChar: PresetValues = {
  tokenizer: "char",
  nLayer: 6,
  nHead: 6,
  nEmbd: 384,
  context: 256,
  dropout: 0.2,
  bias: false,
  tie: true,
  activation: "gelu",
  batch: 64,
  steps: 5000,
  lr: 1e-3,
  minLr: 1e-4,
  schedule: "cosine",
  warmupSteps: 100,
  beta1: 0.9,
  beta2: 0.99,
  weightDecay: 0.1,
  gradClip: 1,
  evalInterval: 250,
  evalSteps: 200,
  logInterval: 10,
  samplePrompts: ["\n", "ROMEO:", "First Citizen:"],
}

/** GPT-2 as OpenAI published it, trained as nanoGPT and llm.c do; 50257 tokens padded to 50304 when they are random. */
const gpt2 = (size: string, nLayer: number, nHead: number, nEmbd: number, lr: number, batch: number): Preset => ({
  about: `GPT-2 ${size}: ${nLayer} layers, ${nEmbd} wide, ${nHead} heads, context 1024; accumSteps ${2 ** 19 / (1024 * batch)} gives its 0.5M tokens per step`,
  values: ({ isRandom }) => ({
    tokenizer: "gpt2",
    vocabSize: isRandom ? 50304 : 50257,
    nLayer,
    nHead,
    nEmbd,
    context: 1024,
    norm: "layernorm",
    normEps: 1e-5,
    position: "learned",
    activation: "gelu_tanh",
    bias: true,
    tie: true,
    dropout: 0,
    batch,
    steps: 20000,
    lr,
    minLr: lr / 10,
    warmupSteps: 700,
    beta2: 0.95,
    weightDecay: 0.1,
    gradClip: 1,
    samplePrompts: ["The", "In the morning,", "Once upon a time"],
  }),
})

/** Llama form: RMS norm, RoPE, SwiGLU, grouped-query attention, no biases; tied head, since at this size the embedding would be a third of the model. */
const llama = (
  about: string,
  nLayer: number,
  nHead: number,
  nKvHead: number,
  nEmbd: number,
  context: number,
  rest: PresetValues,
): Preset => ({
  about: `${about}: ${nLayer} layers, ${nEmbd} wide, ${nHead} heads on ${nKvHead}, context ${context}, tied head`,
  values: () => ({
    tokenizer: "bpe",
    splitPattern: "gpt4",
    nLayer,
    nHead,
    nKvHead,
    nEmbd,
    context,
    norm: "rmsnorm",
    normEps: 1e-5,
    position: "rope",
    ropeTheta: 10000,
    activation: "swiglu",
    bias: false,
    tie: true,
    dropout: 0,
    batch: 16,
    steps: 20000,
    lr: 6e-4,
    minLr: 6e-5,
    warmupSteps: 500,
    beta2: 0.95,
    weightDecay: 0.1,
    gradClip: 1,
    samplePrompts: ["The", "In the morning,", "Once upon a time"],
    ...rest,
  }),
})

/** All presets, in the order in which help lists them. */
export const PRESETS: Readonly<Record<string, Preset>> = {
  novels: domain("prose, BPE", 6, 128, 8, 128, {
    tokenizer: "bpe",
    vocabSize: 2000,
    samplePrompts: ["The ", "Once upon a time", "She looked at him and"],
  }),
  chords: domain("chord progressions, words", 3, 64, 4, 64, { tokenizer: "word", samplePrompts: ["C", "Am F", "Dm7 G7"] }),
  abc: domain("tunes in ABC notation, characters", 4, 128, 4, 256, { tokenizer: "char", samplePrompts: ["X:1\n", "M:4/4\n", "K:D\n"] }),
  dumb_finance: domain("order-book lines, characters", 6, 128, 8, 256, { tokenizer: "char", samplePrompts: ["BUY ", "SELL ", "bid "] }),
  chaos: domain("mixed text, BPE", 6, 128, 8, 128, {
    tokenizer: "bpe",
    vocabSize: 4096,
    lr: 5e-4,
    samplePrompts: ["The ", "I ", "What if"],
  }),
  chat: domain("conversations, BPE, loss on the assistant's tokens", 6, 256, 8, 256, {
    tokenizer: "bpe",
    vocabSize: 4096,
    maskPrompt: true,
    dropout: 0.1,
    lr: 5e-5,
    warmupSteps: 1000,
    batch: 16,
    steps: 10000,
    samplePrompts: ["<|user|>Hello!<|end|><|assistant|>", "<|user|>Who are you?<|end|><|assistant|>"],
  }),
  "shakespeare-char": {
    about: "nanoGPT's train_shakespeare_char: 6 layers, 384 wide, 6 heads, context 256",
    values: () => shakespeareChar,
  },
  // nanoGPT's lr 1e-3 ends at 1.89 … 1.91 nats on tinyshakespeare's last tenth, here as in PyTorch; this small a model takes twice that and ends at 1.81 … 1.84
  "cpu-small": {
    about: "nanoGPT's line for a laptop: 4 layers, 128 wide, 4 heads, context 64, twice its learning rate",
    values: () => ({
      ...shakespeareChar,
      lr: 2e-3,
      minLr: 2e-4,
      nLayer: 4,
      nHead: 4,
      nEmbd: 128,
      context: 64,
      batch: 12,
      steps: 2000,
      dropout: 0,
    }),
  },
  "gpt2-124m": gpt2("small", 12, 12, 768, 6e-4, 16),
  "gpt2-350m": gpt2("medium", 24, 16, 1024, 3e-4, 16),
  "gpt2-774m": gpt2("large", 36, 20, 1280, 2.5e-4, 8),
  "llama-30m": llama("30M parameters", 8, 8, 4, 512, 512, { vocabSize: 12288 }),
  "llama-100m": llama("100M parameters", 12, 12, 4, 768, 1024, { vocabSize: 32768, warmupSteps: 1000 }),
}

/** The preset of that name; an unknown one is refused with the nearest. */
export function findPreset(name: string): Preset {
  const preset = PRESETS[name]
  if (preset && Object.hasOwn(PRESETS, name)) return preset
  const close = nearest(name, Object.keys(PRESETS))
  throw new AlphaError(`preset ${name}: unknown`, {
    hint: close ? `did you mean ${close}?` : `one of ${Object.keys(PRESETS).join(", ")}`,
    code: EXIT.usage,
  })
}
