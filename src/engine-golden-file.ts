/** A golden run on disk (recorded with PyTorch and transformers), read and checked file by file. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { readJson, withFile } from "./base-file.ts"
import type { ModelConfig } from "./config.ts"
import { familyOf, namedWeights, readConfig, readSafetensors } from "./gpt.ts"

/** How far PyTorch's own bf16 autocast is from its f32 run: the yardstick for bf16. */
export interface Bf16Yardstick {
  readonly losses: readonly number[]
  /** Relative L2 distances. */
  readonly logits: number
  readonly gradients: Readonly<Record<string, number>>
}

/**
 * What a directory holds:
 *
 *   model/               initial weights as a Hugging Face model directory
 *   batches.bin          int32 little-endian (steps, batch, context + 1): [:, :-1] are inputs, [:, 1:] are targets
 *   golden.json          args.context, args.batch · optimizer (AdamW, decay on matrices) · steps: loss (mean) and lr of each · bf16 (optional)
 *   logits0.safetensors  logits (batch, context, vocabulary) of step 0
 *   grads0.safetensors   gradients of step 0 before clipping, by Hugging Face name · final.safetensors  weights after the last step
 */
export interface Golden {
  readonly modelDirectory: string
  readonly model: ModelConfig
  /** Batch and context. */
  readonly B: number
  readonly T: number
  readonly optimizer: {
    readonly beta1: number
    readonly beta2: number
    readonly eps: number
    readonly weightDecay: number
    readonly clip: number
  }
  readonly steps: readonly { readonly loss: number; readonly lr: number }[]
  readonly bf16: Bf16Yardstick | undefined
  readonly batches: Int32Array
  readonly logits: Float32Array
  /** By Hugging Face name, exactly the tensors of the model. */
  readonly gradients: ReadonlyMap<string, Float32Array>
  readonly final: ReadonlyMap<string, Float32Array>
}

/** Reads a directory; throws AlphaError naming the file, and in it the field or tensor, that is missing, damaged or of another shape. */
export function readGolden(directory: string): Golden {
  const at = (name: string) => join(directory, name)
  const path = at("golden.json")
  const json = new Fields(readJson(path), path)
  const modelDirectory = at("model")
  const { model } = readConfig(modelDirectory)
  const [B, T] = [json.size("args.batch"), json.size("args.context")]
  if (model.position === "learned" && T > model.blockSize)
    json.fail(`args.context ${T} is beyond the ${model.blockSize} positions of the model`)
  if (json.get("optimizer.name") !== "adamw")
    json.fail(`optimizer.name ${JSON.stringify(json.get("optimizer.name"))}: only "adamw" is replayed`)
  const steps = json.list("steps").map((_, i) => ({ loss: json.number(`steps.${i}.loss`), lr: json.number(`steps.${i}.lr`) }))
  const shapes = new Map(namedWeights(model, familyOf(model), "F32", () => new Float32Array()).map(({ name, shape }) => [name, shape]))
  return {
    modelDirectory,
    model,
    B,
    T,
    optimizer: {
      beta1: json.number("optimizer.beta1"),
      beta2: json.number("optimizer.beta2"),
      eps: json.number("optimizer.eps"),
      weightDecay: json.number("optimizer.weight_decay"),
      clip: json.number("optimizer.clip"),
    },
    steps,
    bf16: json.get("bf16") === undefined ? undefined : yardstick(json, steps.length, [...shapes.keys()]),
    batches: readBatches(at("batches.bin"), steps.length * B * (T + 1), model.vocabSize),
    logits: readTensors(at("logits0.safetensors"), new Map([["logits", [B, T, model.vocabSize]]])).get("logits") as Float32Array,
    gradients: readTensors(at("grads0.safetensors"), shapes),
    final: readTensors(at("final.safetensors"), shapes),
  }
}

function yardstick(json: Fields, steps: number, names: readonly string[]): Bf16Yardstick {
  const losses = json.list("bf16.losses").map((_, i) => json.number(`bf16.losses.${i}`))
  if (losses.length !== steps) json.fail(`bf16.losses has ${losses.length} entries, steps has ${steps}`)
  const gradients = json.get("bf16.gradients") as Record<string, unknown> | undefined
  const known = (name: string): number => {
    const value = gradients?.[name]
    return typeof value === "number" ? value : json.fail(`bf16.gradients has no number for ${name}`)
  }
  return { losses, logits: json.number("bf16.logits"), gradients: Object.fromEntries(names.map((name) => [name, known(name)])) }
}

/** Values in a parsed JSON file by dotted path, with errors that name file and path. */
class Fields {
  constructor(
    readonly json: unknown,
    readonly path: string,
  ) {}

  fail(what: string): never {
    throw new AlphaError(`${this.path}: ${what}`, { code: EXIT.data })
  }

  get(name: string): unknown {
    return name.split(".").reduce<unknown>((value, key) => (value as Record<string, unknown> | null | undefined)?.[key], this.json)
  }

  number(name: string): number {
    const value = this.get(name)
    return typeof value === "number" && Number.isFinite(value)
      ? value
      : this.fail(`${name} is ${JSON.stringify(value) ?? "missing"}, not a number`)
  }

  size(name: string): number {
    const value = this.number(name)
    return Number.isSafeInteger(value) && value > 0 ? value : this.fail(`${name} is ${value}, not a size`)
  }

  list(name: string): readonly unknown[] {
    const value = this.get(name)
    return Array.isArray(value) && value.length > 0 ? value : this.fail(`${name} is not a list with entries`)
  }
}

function readBatches(path: string, count: number, vocabSize: number): Int32Array {
  const bytes = withFile("read", path, () => readFileSync(path))
  if (bytes.length !== count * 4)
    throw new AlphaError(`${path}: ${bytes.length} bytes, golden.json needs ${count * 4}`, { code: EXIT.data })
  const tokens = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))
  const bad = tokens.findIndex((id) => id < 0 || id >= vocabSize)
  if (bad >= 0)
    throw new AlphaError(`${path}: token ${tokens[bad]} at index ${bad} is outside the vocabulary of ${vocabSize}`, { code: EXIT.data })
  return tokens
}

/** Exactly the tensors `shapes` names, in f32. */
function readTensors(path: string, shapes: ReadonlyMap<string, readonly number[]>): Map<string, Float32Array> {
  const { tensors, foreign } = readSafetensors(path)
  const fail = (what: string): never => {
    throw new AlphaError(`${path}: tensor ${what}`, { code: EXIT.data })
  }
  for (const name of [...tensors.keys(), ...foreign.keys()]) if (!shapes.has(name)) fail(`${name} is none of the model's`)
  return new Map(
    [...shapes].map(([name, shape]) => {
      const tensor = tensors.get(name) ?? fail(foreign.has(name) ? `${name} is ${foreign.get(name)}, expected F32` : `${name} is missing`)
      if (tensor.dtype !== "F32") fail(`${name} is ${tensor.dtype}, expected F32`)
      if (tensor.shape.join() !== shape.join()) fail(`${name} has shape (${tensor.shape.join(", ")}), expected (${shape.join(", ")})`)
      return [name, new Float32Array(tensor.data().buffer)]
    }),
  )
}
