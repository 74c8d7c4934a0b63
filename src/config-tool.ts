/** The fields of the commands that need no model, tokenizer and doctor, and the knobs of the program itself. */
import { bool, choice, inGroup, list, text, type Values } from "./config-field.ts"
import { COMPUTE, FILES, VOCABULARY } from "./config-shared.ts"

/** What `alpha tokenizer build` reads. */
export const TOKENIZER_BUILD = {
  ...inGroup("Input", {
    data: text("text or jsonl file, directory, glob, or - for stdin", { aliases: ["input"] }),
    from: text("vocabulary to convert instead: tokenizer.json, encoder.json + vocab.bpe, or a tiktoken rank file", {}),
    out: text("tokenizer.json to write", { default: "tokenizer.json" }),
    config: FILES.config,
  }),
  ...VOCABULARY,
  ...inGroup("Tokenizer", { unknown: text("char, word: token for what is not in the vocabulary; none = refuse it", {}) }),
}
export type TokenizerBuildConfig = Values<typeof TOKENIZER_BUILD>

const TOKENIZER_FILE = text("tokenizer.json, rank file, directory with one, run, or gpt2", {
  default: "tokenizer.json",
  aliases: ["tokenizerArtifacts"],
})

/** What `alpha tokenizer encode`, `decode` and `info` read. */
export const TOKENIZER_USE = inGroup("Input", {
  tokenizer: TOKENIZER_FILE,
  text: text("text to encode, or token ids to decode", {}),
  data: text("file to read instead; - reads standard input", { aliases: ["input"] }),
  out: text("file to write instead of printing; a .bin file holds token ids as 16 or 32-bit integers", {}),
  allowSpecial: bool("special tokens in the text become their ids", { default: false }),
  runsDir: FILES.runsDir,
  config: FILES.config,
})
export type TokenizerUseConfig = Values<typeof TOKENIZER_USE>

/** What `alpha doctor` reads. */
export const DOCTOR = {
  ...inGroup("Checks", {
    golden: text("directory of a golden run (model, batches.bin, golden.json) to replay", {}),
    config: FILES.config,
  }),
  ...COMPUTE,
}
export type DoctorConfig = Values<typeof DOCTOR>

/** Knobs that are read from the environment alone. */
export const RUNTIME = inGroup("Environment", {
  debug: bool("print stack traces with errors", { default: false }),
  isa: choice("highest instruction set the CPU kernels may use", ["v4", "v3", "base"], { optional: true }),
  nativeLibrary: text("native library to load instead of the program's own; fleet deploy --rebuildNative makes one", {}),
  require: list("what tests must not skip: vulkan, ssh, browser", { default: [] }),
})
