/** A model in memory with its pages and compiled steps; its identity and size. */
import { basename, join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { sha256, sha256File } from "./base-file.ts"
import type { Vocabulary } from "./engine-constraint.ts"
import { vocabularyOf } from "./engine-constraint.ts"
import { PagePool } from "./engine-serve-pages.ts"
import type { ModelFacts, ModelSpec, ServeLimits } from "./engine-serve-protocol.ts"
import type { Sequence } from "./engine-serve-sequence.ts"
import {
  cacheBytesPerToken,
  countParams,
  type LoadedModel,
  loadSteps,
  modelDirectory,
  type Row,
  readConfig,
  Step,
  type StepModel,
  type StepResult,
  type StepShape,
  weightFiles,
  writtenHash,
} from "./gpt.ts"
import type { Device } from "./program.ts"
import { parseTokenizer } from "./token.ts"

/** Positions per page. */
const PAGE_SIZE = 16
/** Tokens of a sequence that pages are counted on, where nothing says how many. */
const USUAL_LENGTH = 2048
const CPU_CACHE_BYTES = 1 << 30
/** Compiled steps that are kept, and on the CPU, where each has memory of its own, the bytes of that. */
const STEPS = 96
/** Tokens of the smallest chunk of a prompt (a smaller one costs about as much), and of the largest. */
export const CHUNK_LEAST = 16
export const CHUNK = 1024
const STEP_BYTES = 512 << 20

/** Bytes of a model's pages. */
function cacheBytes(spec: ModelSpec, directory: string, device: Device, limits: ServeLimits): number {
  const { model } = readConfig(directory)
  const perToken = cacheBytesPerToken(model, spec.precision)
  const usual = limits.slots * Math.min(model.blockSize, USUAL_LENGTH) * perToken
  const wanted = limits.cacheBytes ?? (device.name === "cpu" ? Math.min(usual, CPU_CACHE_BYTES) : usual)
  return Math.max(wanted, (model.blockSize + 2 * PAGE_SIZE) * perToken)
}

/** Bytes that a model with its pages takes. */
export function modelBytes(spec: ModelSpec, directory: string, device: Device, limits: ServeLimits): number {
  const { model } = readConfig(directory)
  return countParams(model) * (spec.precision === "bf16" ? 2 : 4) + cacheBytes(spec, directory, device, limits)
}

/** SHA-256 of the weights: of model.safetensors as sha256sum prints it; of shards that of such lines. Loading checks what a trainer wrote down. */
async function fingerprintOf(directory: string): Promise<string> {
  const files = weightFiles(directory)
  const hashes = await Promise.all(files.map((file) => writtenHash(directory, file) ?? sha256File(join(directory, file))))
  if (files.length === 1) return hashes[0]!
  return sha256(files.map((file, i) => `${hashes[i]}  ${basename(file)}\n`).join(""))
}

/** Vocabularies kept: the checkpoints of a run share theirs, which takes a quarter of a second to read. */
const vocabularies = new Map<string, Vocabulary>()
const VOCABULARIES = 4

function readVocabulary(tokenizerJson: string, vocabSize: number): Vocabulary {
  const key = `${vocabSize} ${sha256(tokenizerJson)}`
  const made = vocabularies.get(key) ?? vocabularyOf(parseTokenizer(tokenizerJson), vocabSize)
  vocabularies.delete(key)
  vocabularies.set(key, made)
  if (vocabularies.size > VOCABULARIES) vocabularies.delete(vocabularies.keys().next().value!)
  return made
}

/** Takes one step whenever nothing else is due. */
async function slowly<T>(steps: Generator<void, T>): Promise<T> {
  for (;;) {
    const { done, value } = steps.next()
    if (done === true) return value
    await new Promise((resolve) => setImmediate(resolve))
  }
}

export class Resident {
  readonly facts: ModelFacts
  readonly pool: PagePool
  readonly ends: ReadonlySet<number>
  /** Sequences with a slot, and those that lost it to others and go on before anyone else. */
  readonly running: Sequence[] = []
  readonly paused: Sequence[] = []
  readonly #loaded: LoadedModel
  readonly #device: Device
  readonly #shared: StepModel
  readonly #steps = new Map<string, Step>()
  readonly #vocabulary: Vocabulary | undefined

  private constructor(
    device: Device,
    loaded: LoadedModel,
    shared: StepModel,
    facts: ModelFacts,
    pool: PagePool,
    vocabulary: Vocabulary | undefined,
  ) {
    this.#device = device
    this.#loaded = loaded
    this.#shared = shared
    this.facts = facts
    this.pool = pool
    this.#vocabulary = vocabulary
    this.ends = new Set(facts.ends)
  }

  /** Loads a model while the loop that asked goes on: a step of it after each step of loading. */
  static async load(device: Device, spec: ModelSpec, limits: ServeLimits): Promise<Resident> {
    const started = performance.now()
    for (let attempt = 1; ; attempt++) {
      const directory = modelDirectory(spec.path)
      try {
        const fingerprint = await fingerprintOf(directory)
        const loaded = await slowly(loadSteps(device, directory, spec.precision))
        const resident = Resident.#make(device, loaded, spec, limits, fingerprint, started)
        // On a GPU a program is compiled for longer than it runs.
        if (device.name !== "cpu") await resident.#prepare(limits.slots)
        return resident
      } catch (error) {
        // A run's trainer deletes a checkpoint that is the best no longer, also while it is read here; then there is a newer one.
        if (attempt === 5 || modelDirectory(spec.path) === directory) throw error
      }
    }
  }

  static #make(device: Device, loaded: LoadedModel, spec: ModelSpec, limits: ServeLimits, fingerprint: string, started: number): Resident {
    const { model, directory, tokenizerJson } = loaded
    const perPage = PAGE_SIZE * cacheBytesPerToken(model, spec.precision)
    const pages = Math.floor(cacheBytes(spec, directory, device, limits) / perPage)
    const tokens = tokenizerJson === undefined ? undefined : readVocabulary(tokenizerJson, model.vocabSize)
    const vocabulary = Math.min(model.vocabSize, tokens?.known ?? model.vocabSize)
    // On the CPU nothing is faster for it.
    const batchInvariant = limits.batchInvariant || device.name === "cpu"
    const shared: StepModel = {
      model,
      precision: spec.precision,
      vocabulary,
      pageSize: PAGE_SIZE,
      pageCount: pages,
      maxPages: Math.ceil(model.blockSize / PAGE_SIZE),
      order: batchInvariant ? undefined : "any",
    }
    const facts: ModelFacts = {
      ...spec,
      directory,
      fingerprint,
      blockSize: model.blockSize,
      vocabSize: model.vocabSize,
      vocabulary,
      nEmbd: model.nEmbd,
      parameters: countParams(model),
      ends: [loaded.ids.eos ?? []].flat(),
      device: device.name,
      batchInvariant,
      bytes: loaded.state.bytes() + pages * perPage,
      pages,
      pageSize: PAGE_SIZE,
      loadMs: performance.now() - started,
    }
    return new Resident(device, loaded, shared, facts, new PagePool(pages, PAGE_SIZE, limits.prefixCache), tokens)
  }

  /** The tokens' texts, for constraints. Throws AlphaError where the model has no tokenizer. */
  vocabulary(): Vocabulary {
    if (this.#vocabulary !== undefined) return this.#vocabulary
    const { directory } = this.#loaded
    throw new AlphaError(`${directory} has no tokenizer.json, so that answers cannot be constrained`, { code: EXIT.usage })
  }

  get idle(): boolean {
    return this.running.length + this.paused.length === 0
  }

  /** Steps that the device can have before the first is read; 0 = it runs while the host waits. */
  get ahead(): number {
    return this.#device.ahead
  }

  /** Starts a step; calling the result waits for it. */
  submit(rows: readonly (Row | undefined)[], shape: StepShape): () => StepResult {
    return this.#step(shape).submit(rows)
  }

  #step(shape: StepShape): Step {
    const key = Object.values(shape).join()
    const known = this.#steps.get(key)
    const step = known ?? new Step(this.#device, this.#loaded.state, this.#shared, shape)
    this.#steps.delete(key)
    this.#steps.set(key, step) // the last one is the one used last
    if (known === undefined) this.#forget()
    return step
  }

  async #prepare(slots: number): Promise<void> {
    try {
      await slowly(this.#warm(slots))
    } catch (error) {
      this.free()
      throw error
    }
  }

  /** Compiles what every server needs: decoding of 1, 2, 4 … `slots` sequences, chunks of one prompt. */
  *#warm(slots: number): Generator<void> {
    const plain = { chooses: true, adjusted: undefined, top: 0, scores: false, hidden: false }
    for (let B = 1; B < 2 * slots; B *= 2, yield) {
      this.#step({ B, T: 1, ...plain })
      if (this.ahead > 0) this.#step({ B, T: 1, ...plain, follows: true })
    }
    for (let T = CHUNK_LEAST; T <= Math.min(CHUNK, this.facts.blockSize); T *= 2, yield) this.#step({ B: 1, T, ...plain })
  }

  /** The steps used least recently go. */
  #forget(): void {
    let [bytes, count] = [0, 0]
    for (const [key, step] of [...this.#steps].reverse()) {
      bytes += step.bytes
      if (++count === 1 || (count <= STEPS && (bytes <= STEP_BYTES || this.#device.name !== "cpu"))) continue
      this.#steps.delete(key)
      step.free()
    }
  }

  free(): void {
    for (const step of this.#steps.values()) step.free()
    this.#loaded.state.free()
  }
}
