/** `alpha export`: a model as a Hugging Face directory or a GGUF file. */
import { existsSync, realpathSync } from "node:fs"
import { basename } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { formatBytes } from "./base-term.ts"
import type { Invocation } from "./cli-command.ts"
import type { ExportConfig } from "./config.ts"
import {
  countParams,
  exactClass,
  loadWeights,
  modelDirectory,
  readChatTemplate,
  readCheckpointFile,
  readConfig,
  saveCheckpoint,
  writeGguf,
} from "./gpt.ts"

const DTYPE = { f32: "F32", f16: "F16", bf16: "BF16" } as const

export async function run({ config, print }: Invocation<ExportConfig>): Promise<undefined> {
  const { format, out, weights: type } = config
  if (config.model === undefined)
    throw new AlphaError("export: no model is given", { hint: "alpha export --model=runs/NAME --out=PATH", code: EXIT.usage })
  if (out === undefined) throw new AlphaError("export: no place to write is given", { hint: "add --out=PATH", code: EXIT.usage })
  if (existsSync(out))
    throw new AlphaError(`export: ${out} exists already`, { hint: "choose another --out, or delete it", code: EXIT.usage })

  const directory = modelDirectory(config.model, config.runsDir)
  const { model, ids } = readConfig(directory)
  const family = exactClass(model)
  if (typeof family !== "string") {
    const value = `${family.none} ${model[family.none]}`
    throw new AlphaError(`export: no class of transformers or llama.cpp computes this model: ${value}: ${family.why}`, {
      hint: `the next model can be trained with another ${family.none}; alpha infer and alpha eval run this one as it is`,
      code: EXIT.usage,
    })
  }
  const tokenizerJson = readCheckpointFile(directory, "tokenizer.json")
  const chatTemplate = readChatTemplate(directory)
  const params = new Map<string, Float32Array>()
  loadWeights(directory, model, (name, shape) => {
    const values = new Float32Array(shape.reduce((n, d) => n * d, 1))
    params.set(name, values)
    return values
  })
  const content = { model, ids, dtype: DTYPE[type], weights: (name: string) => params.get(name)! }
  let bytes: number
  if (format === "gguf") {
    if (tokenizerJson === undefined)
      throw new AlphaError(`export: ${directory} has no tokenizer.json, which a GGUF file must hold`, {
        hint: "export --format=hf needs none",
        code: EXIT.data,
      })
    const name = basename(realpathSync(directory.replace(/\/checkpoints\/step-\d+$/, "")))
    bytes = writeGguf(out, { ...content, tokenizerJson, chatTemplate, name })
  } else {
    const texts = { ...(tokenizerJson === undefined ? {} : { tokenizerJson }), ...(chatTemplate === undefined ? {} : { chatTemplate }) }
    bytes = saveCheckpoint(out, { ...content, ...texts })
  }
  const parameters = countParams(model)
  print(
    { out, format, class: family, weights: type, parameters, bytes },
    () => `${out}: ${family}, ${parameters} parameters as ${type}, ${formatBytes(bytes)}`,
  )
}
