/** The model that answers: loaded once, and kept with its cache while jobs of one conversation follow each other. */
import { type PromptReader, promptReader } from "./engine-prompt.ts"
import { createGenerator, type Generator, type LoadedModel, loadModel, type Precision } from "./gpt.ts"
import type { Device } from "./program.ts"
import { parseTokenizer, type Tokenizer } from "./token.ts"

export interface Host {
  readonly path: string
  readonly precision: Precision
  readonly loaded: LoadedModel
  readonly tokenizer: Tokenizer | undefined
  readonly read: PromptReader
  /** End-of-text tokens. */
  readonly ends: ReadonlySet<number>
  generator: Generator | undefined
}

const hosts = new WeakMap<Device, Host>()

/** The model at `path`, in memory. */
export function openHost(device: Device, path: string, precision: Precision): Host {
  const known = hosts.get(device)
  if (known?.path === path && known.precision === precision) return known
  closeHost(device)
  const loaded = loadModel(device, path, precision)
  const tokenizer = loaded.tokenizerJson === undefined ? undefined : parseTokenizer(loaded.tokenizerJson)
  const ends = new Set([loaded.ids.eos ?? []].flat())
  const host = { path, precision, loaded, tokenizer, read: promptReader(loaded, tokenizer), ends, generator: undefined }
  hosts.set(device, host)
  return host
}

/** Tokens that a kept generator has room for at least, so that the first turns of a conversation need no new one. */
const ROOM = 2048

/** A generator for at least `slots` sequences of at least `length` tokens: the one there is, with what its slots hold, if it is large enough. */
export function hostGenerator(device: Device, host: Host, slots: number, length: number, keep: boolean): Generator {
  const known = host.generator
  if (known !== undefined && known.slots >= slots && known.length >= length) return known
  known?.free()
  const { model, state } = host.loaded
  const roomy = keep ? Math.min(model.blockSize, Math.max(ROOM, 2 ** Math.ceil(Math.log2(length)))) : length
  const vocabulary = Math.min(model.vocabSize, host.tokenizer?.vocabSize ?? model.vocabSize)
  host.generator = createGenerator(device, state, model, { precision: host.precision, slots, length: roomy, vocabulary, order: "layers" })
  return host.generator
}

/** Gives the model's memory back. */
export function closeHost(device: Device): void {
  const host = hosts.get(device)
  host?.generator?.free()
  host?.loaded.state.free()
  hosts.delete(device)
}
