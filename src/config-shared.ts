/** Rows that several commands share. */
import { bool, choice, inGroup, int, list, text } from "./config-field.ts"

/** Where and how numbers are computed. */
export const COMPUTE = inGroup("Device", {
  device: text("cpu, gpu, gpu:N, gpu:UUID (its first 8 digits or more), or auto", {
    default: "auto",
    form: { pattern: /^(cpu|auto|gpu(:(\d{1,3}|[0-9a-f]{8,32}))?)$/, words: "cpu, gpu, gpu:N, gpu:UUID or auto" },
    spellings: { cpu_ref: "cpu", helios: "gpu" },
    aliases: ["backend"],
  }),
  precision: choice("f32, or bf16 with f32 master weights and sums", ["f32", "bf16"], {
    default: "f32",
    spellings: { float32: "f32", bfloat16: "bf16" },
    aliases: ["dtype"],
  }),
  debugGpu: bool("one GPU launch at a time, NaN in memory nobody wrote, stray writes named: slow", { default: false }),
  threads: int("CPU threads; results do not depend on it", { derive: "all cores", min: 1, max: 1024 }),
})

/** Where runs live and where settings come from. */
export const FILES = inGroup("Run", {
  runsDir: text("directory that holds the runs", { default: "runs" }),
  config: text("JSON file of fields; flags and environment win over it", {}),
})

/** Which tokenizer, and how a byte-level BPE is learned. */
export const VOCABULARY = inGroup("Tokenizer", {
  tokenizer: choice("byte-level BPE learned from the data, characters, words, or GPT-2's BPE", ["bpe", "char", "word", "gpt2"], {
    default: "bpe",
    aliases: ["type"],
  }),
  vocabSize: int("V: size of a learned vocabulary; the range of random data", {
    derive: "4096 for bpe, fewer where a short text gives no more; else the tokenizer's own",
    min: 2,
    max: 2 ** 24,
  }),
  splitPattern: choice(
    "rule that splits text before BPE merges",
    ["gpt2", "gpt2-digits", "gpt4", "llama3", "nanochat", "qwen2", "gpt4o", "words"],
    { default: "gpt2" },
  ),
  specialTokens: list("texts that become one token each, such as <|user|>", { default: [] }),
})

/** Size of a byte-level BPE vocabulary when vocabSize is not given. */
export const BPE_VOCABULARY = 4096
