/** The fields of the commands that read a trained model: infer, eval, export. */
import { AlphaError, EXIT } from "./base-error.ts"
import { bool, choice, float, inGroup, int, list, type Resolved, text, type Values } from "./config-field.ts"
import type { Loaded } from "./config-merge.ts"
import { COMPUTE, FILES } from "./config-shared.ts"

const MODEL_SOURCE = {
  model: text("run, checkpoint directory or Hugging Face model directory", { aliases: ["checkpoint"] }),
}

/** What `alpha infer` reads. */
export const INFER = {
  ...inGroup("Input", {
    ...MODEL_SOURCE,
    prompt: text("text to continue, or ids:1,2,3; without it standard input is read, as with -", { aliases: ["start"] }),
    promptFile: text("file of prompts, one per line; .jsonl: a field prompt, messages or ids in each", {}),
    chat: bool("talk with the model by its chat template; /reset begins anew, /quit ends", { default: false }),
  }),
  ...inGroup("Sampling", {
    maxTokens: int("longest continuation", {
      derive: "200, or what blockSize leaves",
      min: 1,
      unit: "tokens",
      aliases: ["steps", "maxNewTokens"],
    }),
    temperature: float("divides the logits; 0 = greedy", { default: 0.8, min: 0, max: 100, aliases: ["temp"] }),
    topK: int("keep the K most likely tokens; none = all", { default: 40, optional: true, min: 1, aliases: ["topk"] }),
    topP: float("keep the most likely tokens that together reach this probability; 1 = all", {
      default: 1,
      above: 0,
      max: 1,
      aliases: ["topp"],
    }),
    minP: float("keep tokens at least this fraction as likely as the most likely one; 0 = all", { default: 0, min: 0, max: 1 }),
    repetitionPenalty: float("divides positive and multiplies negative logits of tokens already seen; 1 = off", {
      default: 1,
      above: 0,
      max: 100,
    }),
    seed: int("of the random choices", { default: 1337, min: 0, max: 2 ** 32 - 1 }),
    stop: list("texts that end a continuation", { default: [] }),
    overflow: choice(
      "when prompt and continuation exceed blockSize: refuse, or drop the oldest half whenever it is full",
      ["error", "slide"],
      {
        default: "error",
      },
    ),
    batch: int("prompts that are continued at once", { default: 8, min: 1, unit: "sequences" }),
  }),
  ...COMPUTE,
  ...inGroup("Files", FILES),
}
export type InferConfig = Omit<Resolved<typeof INFER>, "threads" | "maxTokens"> & Pick<Values<typeof INFER>, "threads" | "maxTokens">

/** Refuses inputs that exclude each other. */
export function finishInfer(loaded: Loaded<typeof INFER>): Loaded<typeof INFER> & { values: InferConfig } {
  const { values, naming } = loaded
  const inputs = (["prompt", "promptFile"] as const).filter((name) => values[name] !== undefined)
  const named = inputs.map((name) => naming(name, values[name]))
  if (inputs.length > 1)
    throw new AlphaError(`infer: ${named.join(" and ")} both give prompts`, { hint: "give one of them", code: EXIT.usage })
  if (values.stop.includes(""))
    throw new AlphaError(`${naming("stop", '""')}: every answer would end before it begins`, { hint: "leave it out", code: EXIT.usage })
  return loaded as Loaded<typeof INFER> & { values: InferConfig }
}

/** What `alpha eval` reads. */
export const EVAL = {
  ...inGroup("Input", {
    ...MODEL_SOURCE,
    data: text("text, jsonl or .bin file, directory, glob, or - for stdin", {}),
    context: int("tokens per window", { derive: "the model's blockSize", min: 1, unit: "tokens" }),
    stride: int("tokens between the starts of two windows; each token is scored once, in the window that shows it most context", {
      derive: "context",
      min: 1,
      unit: "tokens",
    }),
    batch: int("windows that are scored at once", { default: 8, min: 1, unit: "sequences" }),
  }),
  ...COMPUTE,
  ...inGroup("Files", FILES),
}
export type EvalConfig = Values<typeof EVAL>

/** What `alpha export` reads. */
export const EXPORT = {
  ...inGroup("Input", {
    ...MODEL_SOURCE,
    format: choice("Hugging Face directory or GGUF file", ["hf", "gguf"], { default: "hf" }),
    out: text("directory or file to write; must not exist", {}),
    weights: choice("element type of the weights that are written", ["f32", "f16", "bf16"], { default: "f32", aliases: ["dtype"] }),
  }),
  ...inGroup("Files", FILES),
}
export type ExportConfig = Values<typeof EXPORT>
