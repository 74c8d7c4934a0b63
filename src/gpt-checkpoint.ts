/** Checkpoint directories: Hugging Face model directories with trainer state and checksums, written whole or not at all. */

import { closeSync, existsSync, openSync, readFileSync, readSync, renameSync, rmSync, statSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { fsyncPath, makeDirectory, publishDirectory, readJson, sha256, temporaryName, withFile, writeDurable } from "./base-file.ts"
import type { ModelConfig } from "./config.ts"
import { type FamilyName, familyOf, fromHfConfig, hfConfigText, type TokenIds } from "./gpt-family.ts"
import { type NamedTensor, readSafetensors, type StoredTensor, writeSafetensors } from "./gpt-safetensors.ts"
import { loadWeightSteps, namedWeights, type PlaceWeights, weightFiles } from "./gpt-weights.ts"

export interface CheckpointContent {
  model: ModelConfig
  /** Ids of the tokens that begin, end and pad a text. */
  ids?: TokenIds
  /** Text of tokenizer.json. */
  tokenizerJson?: string
  /** Jinja template of a chat model. */
  chatTemplate?: string
  /** Element type of model.safetensors; BF16 and F16 round to nearest even. Default F32. */
  dtype?: "F32" | "BF16" | "F16"
  /** Values of one of our parameters; called once per tensor while writing. */
  weights: (name: string) => Float32Array
  /** What a resumed run needs besides the weights. `state` is JSON; equal state gives equal bytes. */
  trainer?: { tensors: NamedTensor[]; state: object }
}

const TORCH_DTYPE = { F32: "float32", BF16: "bfloat16", F16: "float16" } as const

const MANIFEST = "trainer.json"
const MANIFEST_FORMAT = 1

/** Suffix of a checkpoint that was moved aside while its replacement is renamed into place. */
export const REPLACED = ".replaced"

/** What stands at the end of trainer.json: the checksum of everything before it. */
const SEAL = /^([\s\S]*),\n "sha256": "([0-9a-f]{64})"\n\}\n$/

interface Manifest {
  state: object
  files: Record<string, { bytes: number; sha256: string }>
}

/**
 * Writes the directory `dir` as a whole: after a kill at any instant the old or the new checkpoint is there (`recoverCheckpoints` finishes a
 * replacement that was cut). Same content, same bytes. Returns the bytes written.
 */
export function saveCheckpoint(dir: string, content: CheckpointContent): number {
  const temporary = temporaryName(dir)
  rmSync(temporary, { recursive: true, force: true })
  makeDirectory(temporary)
  try {
    const bytes = writeFiles(temporary, content)
    if (existsSync(dir)) replaceDirectory(temporary, dir)
    else publishDirectory(temporary, dir)
    return bytes
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true })
    throw error
  }
}

function writeFiles(
  dir: string,
  { model, ids = {}, tokenizerJson, chatTemplate, dtype = "F32", weights, trainer }: CheckpointContent,
): number {
  const family = familyOf(model)
  const files: Manifest["files"] = {}
  const text = (name: string, body: string) => {
    writeDurable(join(dir, name), body)
    files[name] = { bytes: Buffer.byteLength(body), sha256: sha256(body) }
  }
  const json = (name: string, value: object) => text(name, `${JSON.stringify(value, null, 2)}\n`)

  text("config.json", hfConfigText(model, ids, TORCH_DTYPE[dtype]))
  json("generation_config.json", { bos_token_id: ids.bos ?? null, eos_token_id: ids.eos ?? null, pad_token_id: ids.pad ?? null })
  if (tokenizerJson !== undefined) {
    text("tokenizer.json", tokenizerJson)
    json("tokenizer_config.json", tokenizerConfig(model, ids, tokenizerJson, chatTemplate))
  }
  const tensors = namedWeights(model, family, dtype, weights)
  files["model.safetensors"] = writeSafetensors(join(dir, "model.safetensors"), tensors, { format: "pt" })
  // vLLM loads every *.safetensors of a directory, so also trainer.safetensors, unless an index says which to take.
  const weight_map = Object.fromEntries(tensors.map(({ name }) => [name, "model.safetensors"]))
  json("model.safetensors.index.json", { metadata: { total_size: files["model.safetensors"].bytes }, weight_map })
  if (trainer !== undefined) {
    files["trainer.safetensors"] = writeSafetensors(join(dir, "trainer.safetensors"), trainer.tensors)
    const body = JSON.stringify({ format: MANIFEST_FORMAT, state: trainer.state, files }, refuseUnwritable, 1)
    writeDurable(join(dir, MANIFEST), `${body.slice(0, -2)},\n "sha256": "${sha256(body)}"\n}\n`)
  }
  return Object.values(files).reduce((total, { bytes }) => total + bytes, 0)
}

/** JSON has no NaN or Infinity: JSON.stringify would write null in silence. */
function refuseUnwritable(key: string, value: unknown): unknown {
  if (typeof value === "number" && !Number.isFinite(value))
    throw new AlphaError(`cannot write ${MANIFEST}: ${key} is ${value}, which JSON cannot hold`)
  return value
}

function tokenizerConfig(model: ModelConfig, ids: TokenIds, tokenizerJson: string, chatTemplate: string | undefined): object {
  const added = (JSON.parse(tokenizerJson) as { added_tokens?: { id: number; content: string }[] }).added_tokens ?? []
  const textOf = (id: number | undefined) => added.find((token) => token.id === id)?.content ?? null
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    model_max_length: model.blockSize,
    clean_up_tokenization_spaces: false,
    bos_token: textOf(ids.bos),
    eos_token: textOf(Array.isArray(ids.eos) ? ids.eos[0] : ids.eos),
    pad_token: textOf(ids.pad),
    ...(chatTemplate === undefined ? {} : { chat_template: chatTemplate }),
  }
}

function replaceDirectory(temporary: string, dir: string): void {
  const old = join(dirname(dir), `.${basename(dir)}${REPLACED}`)
  rmSync(old, { recursive: true, force: true })
  fsyncPath(temporary)
  withFile("replace", dir, () => {
    renameSync(dir, old)
    renameSync(temporary, dir)
  })
  fsyncPath(dirname(dir))
  rmSync(old, { recursive: true, force: true })
}

/** The list in trainer.json after checking its own seal; undefined where a directory has no trainer.json (it was not written by a trainer). */
function readManifest(dir: string): Manifest | undefined {
  const path = join(dir, MANIFEST)
  if (!existsSync(path)) {
    if (existsSync(join(dir, "trainer.safetensors"))) throw damaged(path, "is missing")
    return undefined
  }
  const sealed = SEAL.exec(withFile("read", path, () => readFileSync(path, "utf8")))
  if (sealed === null) throw damaged(path, "does not end with its checksum (truncated?)")
  const body = `${sealed[1]}\n}`
  if (sha256(body) !== sealed[2]) throw damaged(path, "was altered: its checksum does not match")
  const manifest = JSON.parse(body) as Manifest & { format: number }
  if (manifest.format !== MANIFEST_FORMAT) throw damaged(path, `has format ${manifest.format}, this version reads ${MANIFEST_FORMAT}`)
  return manifest
}

function damaged(path: string, what: string): AlphaError {
  return new AlphaError(`${path} ${what}`, { hint: "use another checkpoint of the run, or copy this one again", code: EXIT.data })
}

/**
 * Checks size and SHA-256 of the files that trainer.json lists (of `names` only, where given; they must be listed). Throws AlphaError naming the
 * first that is missing, truncated or altered. Returns the names that were checked: none in a directory that no trainer wrote.
 */
export function verifyCheckpoint(dir: string, names?: readonly string[]): string[] {
  return finish(verifySteps(dir, names))
}

/** The same in steps of some ten milliseconds, for those who have something else to do in between. */
function* verifySteps(dir: string, names?: readonly string[]): Generator<void, string[]> {
  const manifest = readManifest(dir)
  if (manifest === undefined) return []
  const checked = names ?? Object.keys(manifest.files)
  for (const name of checked) {
    const path = join(dir, name)
    const wanted = manifest.files[name]
    if (wanted === undefined) throw damaged(path, `is not in the list of ${MANIFEST}`)
    const size = statSync(path, { throwIfNoEntry: false })?.size
    if (size === undefined) throw damaged(path, "is missing")
    if (size !== wanted.bytes)
      throw damaged(path, `has ${size} bytes, ${wanted.bytes} were written (${size < wanted.bytes ? "truncated" : "altered"})`)
    if ((yield* hashSteps(path)) !== wanted.sha256) throw damaged(path, "was altered: its SHA-256 is not the one it was written with")
  }
  return [...checked]
}

function* hashSteps(path: string): Generator<void, string> {
  const file = withFile("read", path, () => openSync(path, "r"))
  try {
    const hasher = new Bun.CryptoHasher("sha256")
    const piece = new Uint8Array(4 << 20)
    for (;;) {
      const count = withFile("read", path, () => readSync(file, piece))
      if (count === 0) return hasher.digest("hex")
      hasher.update(piece.subarray(0, count))
      yield
    }
  } finally {
    closeSync(file)
  }
}

/** Takes all steps at once. */
export function finish<T>(steps: Generator<void, T>): T {
  for (;;) {
    const { done, value } = steps.next()
    if (done === true) return value
  }
}

/** SHA-256 of a file as its trainer wrote it; undefined where no trainer did. */
export const writtenHash = (dir: string, name: string): string | undefined => readManifest(dir)?.files[name]?.sha256

/** A file of the directory, checked against trainer.json where there is one; undefined where it does not exist. */
export function readCheckpointFile(dir: string, name: string): string | undefined {
  if (!existsSync(join(dir, name))) {
    // In a directory with a list, a listed file that is gone is damage.
    const manifest = readManifest(dir)
    if (manifest !== undefined && Object.hasOwn(manifest.files, name)) throw damaged(join(dir, name), "is missing")
    return undefined
  }
  verifyCheckpoint(dir, [name])
  return withFile("read", join(dir, name), () => readFileSync(join(dir, name), "utf8"))
}

/** The chat template of a directory: chat_template.jinja (transformers 5), or the one in tokenizer_config.json; of several the one named default. */
export function readChatTemplate(dir: string): string | undefined {
  const own = readCheckpointFile(dir, "chat_template.jinja")
  const config = own ?? readCheckpointFile(dir, "tokenizer_config.json")
  if (own !== undefined || config === undefined) return own
  const template = (readJson(join(dir, "tokenizer_config.json")) as { chat_template?: unknown } | null)?.chat_template
  const chosen = Array.isArray(template) ? template.find((entry) => entry?.name === "default")?.template : template
  return typeof chosen === "string" ? chosen : undefined
}

/**
 * The model of a directory, ours or one that `transformers` wrote. The end tokens of generation_config.json win over those of config.json.
 * `family` is the class it was written as.
 */
export function readConfig(dir: string): { model: ModelConfig; family: FamilyName; ids: TokenIds } {
  const path = join(dir, "config.json")
  if (!existsSync(path))
    throw new AlphaError(`${dir}: no config.json`, { hint: "give a run, a checkpoint or a Hugging Face model directory", code: EXIT.data })
  verifyCheckpoint(dir, ["config.json"])
  const read = fromHfConfig(readJson(path), path)
  if (readCheckpointFile(dir, "generation_config.json") === undefined) return read
  const eos = (readJson(join(dir, "generation_config.json")) as { eos_token_id?: unknown } | null)?.eos_token_id
  const isIds = Number.isSafeInteger(eos) || (Array.isArray(eos) && eos.every(Number.isSafeInteger))
  return isIds ? { ...read, ids: { ...read.ids, eos: eos as number | number[] } } : read
}

/**
 * Fills every parameter with the weights of `dir` as f32; `want` gives the destination of a parameter. Checksums first where there are any;
 * then every tensor is accounted for before the first value is written (see `loadWeightSteps`).
 */
export function loadWeights(dir: string, config: ModelConfig, want: (name: string, shape: readonly number[]) => Float32Array): void {
  finish(weightSteps(dir, config, (name, shape, fill) => fill(want(name, shape))))
}

/** The same in steps; `place` calls `fill` with the destination of a parameter. */
export function* weightSteps(dir: string, config: ModelConfig, place: PlaceWeights): Generator<void> {
  const { family } = readConfig(dir)
  yield* verifySteps(dir, weightFiles(dir))
  yield* loadWeightSteps(dir, config, family, place)
}

/** Trainer state of a checkpoint, checked. A directory without it (a model from elsewhere) is an error. */
export function loadTrainer(dir: string): { tensors: Map<string, StoredTensor>; state: Record<string, unknown> } {
  const manifest = readManifest(dir)
  if (manifest === undefined)
    throw new AlphaError(`${dir}: no ${MANIFEST}, so there is no run to resume`, {
      hint: `start a new run from its weights: alpha train --init=${dir}`,
      code: EXIT.data,
    })
  verifyCheckpoint(dir, ["trainer.safetensors"])
  return { tensors: readSafetensors(join(dir, "trainer.safetensors")).tensors, state: manifest.state as Record<string, unknown> }
}
