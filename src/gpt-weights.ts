/** Weights between the files of a model directory and our parameters: every tensor accounted for, by name and shape. */

import { existsSync } from "node:fs"
import { basename, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { readJson } from "./base-file.ts"
import type { ModelConfig } from "./config.ts"
import { floatBytes, readFloats, Scratch } from "./gpt-convert.ts"
import type { FamilyName } from "./gpt-family.ts"
import { type WeightTensor, weightTensors } from "./gpt-layout.ts"
import { paramSpecs } from "./gpt-params.ts"
import { elementCount, type NamedTensor, readSafetensors, type SafetensorsFile, type StoredTensor } from "./gpt-safetensors.ts"

const SINGLE = "model.safetensors"
const INDEX = "model.safetensors.index.json"

/** Constant buffers that old versions of `transformers` saved beside the weights. */
const BUFFERS = /(^|\.)(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)$/

/** Elements compared at a time, and transposed at a time. */
const PIECE = 1 << 16
const STRIP = 1 << 19

/** Names of the weight files of a directory: one file, or the shards of its index. */
export function weightFiles(dir: string): string[] {
  if (existsSync(join(dir, SINGLE))) return [SINGLE]
  if (existsSync(join(dir, INDEX))) return [...new Set(Object.values(readIndex(dir)))].sort()
  const pickled = existsSync(join(dir, "pytorch_model.bin"))
  throw new AlphaError(`${dir}: no ${SINGLE} and no ${INDEX}`, {
    hint: pickled
      ? "pytorch_model.bin is not read: load it in transformers and save_pretrained it again"
      : "give the directory of a model or checkpoint",
    code: EXIT.data,
  })
}

/** tensor name → file name of a sharded model. */
function readIndex(dir: string): Record<string, string> {
  const path = join(dir, INDEX)
  const map = (readJson(path) as { weight_map?: unknown } | null)?.weight_map
  if (typeof map !== "object" || map === null || Array.isArray(map)) throw new AlphaError(`${path}: no weight_map`, { code: EXIT.data })
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== "string" || file === "" || basename(file) !== file || file === "..")
      throw new AlphaError(`${path}: tensor ${name} lies in ${JSON.stringify(file)}, not a file of this directory`, { code: EXIT.data })
  }
  return map as Record<string, string>
}

/** All tensors of the weight files by name without the prefix of the body ("transformer.", "model."), which may or may not be there. */
function openWeights(dir: string): Map<string, StoredTensor> {
  const all = new Map<string, StoredTensor>()
  const files = new Map<string, SafetensorsFile>()
  for (const file of weightFiles(dir)) {
    const opened = readSafetensors(join(dir, file))
    files.set(file, opened)
    for (const [name, dtype] of opened.foreign) {
      if (!BUFFERS.test(name))
        throw new AlphaError(`${opened.path}: tensor ${name} is ${dtype}, weights must be F32, BF16 or F16`, { code: EXIT.data })
    }
    for (const [name, tensor] of opened.tensors) {
      if (BUFFERS.test(name)) continue
      const twin = all.get(bare(name))
      if (twin !== undefined)
        throw new AlphaError(`${opened.path}: tensor ${name} is there twice (also as ${twin.name} in ${twin.path})`, { code: EXIT.data })
      all.set(bare(name), tensor)
    }
  }
  if (!files.has(SINGLE)) checkIndex(dir, files)
  return all
}

function checkIndex(dir: string, files: Map<string, SafetensorsFile>): void {
  for (const [name, file] of Object.entries(readIndex(dir))) {
    const { tensors, foreign } = files.get(file)!
    if (!tensors.has(name) && !foreign.has(name))
      throw new AlphaError(`${join(dir, file)}: tensor ${name} is missing (${INDEX} says it is here)`, { code: EXIT.data })
  }
}

const bare = (name: string): string => name.replace(/^(transformer|model)\./, "")

/** Calls `fill` once with the place for a parameter's values. */
export type PlaceWeights = (name: string, shape: readonly number[], fill: (values: Float32Array) => void) => void

/**
 * Fills every parameter of `config` with the weights of a model directory, widened to f32, a parameter per step.
 * Reads F32, BF16 and F16, one file or shards; packs q, k, v and gate, up; transposes GPT-2's Conv1D. A tensor that is missing, left over
 * or of another shape is an error that names it, thrown before `place` is called for the first time.
 */
export function* loadWeightSteps(dir: string, config: ModelConfig, family: FamilyName, place: PlaceWeights): Generator<void> {
  const stored = openWeights(dir)
  const tensors = weightTensors(config, family)
  const take = (name: string, shape: readonly number[]): StoredTensor => {
    const tensor = stored.get(bare(name))
    if (tensor === undefined)
      throw new AlphaError(`${dir}: tensor ${name} is missing from ${weightFiles(dir).join(", ")}`, { code: EXIT.data })
    if (tensor.shape.join() !== shape.join())
      throw new AlphaError(
        `${tensor.path}: tensor ${tensor.name} has shape (${tensor.shape.join(", ")}), config.json needs (${shape.join(", ")})`,
        { code: EXIT.data },
      )
    stored.delete(bare(name))
    return tensor
  }
  const found = tensors.map((tensor) => ({ ...tensor, stored: take(tensor.name, tensor.shape) }))
  // Some writers store the head of a tied model a second time.
  const head = config.tie && stored.has("lm_head.weight") ? take("lm_head.weight", [config.vocabSize, config.nEmbd]) : undefined
  const left = stored.values().next().value
  if (left !== undefined)
    throw new AlphaError(`${left.path}: tensor ${left.name} has no place in a ${family} with this config.json`, { code: EXIT.data })

  const scratch = new Scratch()
  for (const { name, shape: paramShape } of paramSpecs(config)) {
    place(name, paramShape, (values) => {
      const rowSize = elementCount(paramShape.slice(1))
      for (const { shape, part, stored: tensor } of found.filter((one) => one.part?.param === name)) {
        const start = part!.row * rowSize
        const into = values.subarray(start, start + elementCount(shape))
        if (part!.transposed) loadTransposed(tensor, into, scratch)
        else readFloats(tensor, 0, into)
      }
      if (head !== undefined && name === "wte.weight") checkTied(head, values)
    })
    yield
  }
  for (const { part, stored: tensor } of found) if (part === undefined) checkZeros(tensor)
}

/** Reads a Conv1D (in, out) strip by strip into our (out, in). */
function loadTransposed(tensor: StoredTensor, into: Float32Array, scratch: Scratch): void {
  const [rows, columns] = tensor.shape as [number, number]
  const height = Math.max(1, Math.floor(STRIP / columns))
  for (let row = 0; row < rows; row += height) {
    const strip = scratch.floats(Math.min(height, rows - row) * columns)
    readFloats(tensor, row * columns, strip)
    transposeStrip(strip, columns, into, row, rows)
  }
}

/** into[c, row + r] = strip[r, c] of a matrix (rows, columns), in tiles of 32 × 32 that stay in the cache. */
function transposeStrip(strip: Float32Array, columns: number, into: Float32Array, row: number, rows: number): void {
  const tile = 32
  const height = strip.length / columns
  for (let r0 = 0; r0 < height; r0 += tile) {
    const rEnd = Math.min(r0 + tile, height)
    for (let c0 = 0; c0 < columns; c0 += tile) {
      const cEnd = Math.min(c0 + tile, columns)
      for (let c = c0; c < cEnd; c++) for (let r = r0; r < rEnd; r++) into[c * rows + row + r] = strip[r * columns + c]!
    }
  }
}

function checkZeros(tensor: StoredTensor): void {
  const values = new Float32Array(elementCount(tensor.shape))
  readFloats(tensor, 0, values)
  if (values.some((value) => value !== 0))
    throw new AlphaError(`${tensor.path}: tensor ${tensor.name} is not zero, but the model has bias = false`, {
      hint: `delete the "alpha" object of config.json to read the model with biases`,
      code: EXIT.data,
    })
}

function checkTied(head: StoredTensor, wte: Float32Array): void {
  const piece = new Float32Array(PIECE)
  for (let done = 0; done < wte.length; done += PIECE) {
    const part = piece.subarray(0, Math.min(PIECE, wte.length - done))
    readFloats(head, done, part)
    if (part.some((value, i) => !Object.is(value, wte[done + i])))
      throw new AlphaError(`${head.path}: tensor ${head.name} differs from the embedding, but tie_word_embeddings is true`, {
        code: EXIT.data,
      })
  }
}

/** The tensors of model.safetensors for a configuration, taken lazily from our parameters. The bytes of one are valid until those of the next are taken. */
export function namedWeights(
  config: ModelConfig,
  family: FamilyName,
  dtype: "F32" | "BF16" | "F16",
  weights: (name: string) => Float32Array,
): NamedTensor[] {
  const shapes = new Map(paramSpecs(config).map(({ name, shape }) => [name, shape]))
  const scratch = new Scratch()
  return weightTensors(config, family).map((tensor) => ({
    name: tensor.name,
    shape: tensor.shape,
    dtype,
    data: () => floatBytes(partValues(tensor, shapes, weights, scratch), dtype, tensor.name, scratch),
  }))
}

/** The values of one tensor of the file: a view where it can be; transposed, or zeros, in scratch memory where not. */
function partValues(
  { shape, part }: WeightTensor,
  shapes: Map<string, readonly number[]>,
  weights: (name: string) => Float32Array,
  scratch: Scratch,
): Float32Array {
  const count = elementCount(shape)
  if (part === undefined) return scratch.floats(count).fill(0)
  const rowSize = elementCount(shapes.get(part.param)!.slice(1))
  const values = weights(part.param).subarray(part.row * rowSize, part.row * rowSize + count)
  if (!part.transposed) return values
  const [rows, columns] = shape as [number, number]
  const out = scratch.floats(count)
  transposeStrip(values, rows, out, 0, columns)
  return out
}
