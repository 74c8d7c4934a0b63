/** A serve job in this thread with small random models, for tests and soaks. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { randomBits } from "../src/base-random.ts"
import { resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { Inbox } from "../src/engine-inbox.ts"
import { serve } from "../src/engine-serve.ts"
import { eachEvent } from "../src/engine-serve-events.ts"
import type {
  Alternatives,
  ModelFacts,
  ModelSpec,
  RequestEvent,
  RequestFailure,
  ServeEvent,
  ServeLimits,
  ServeMessage,
  ServeReport,
  ServeRequest,
  ServeStatistics,
} from "../src/engine-serve-protocol.ts"
import { initialise, saveCheckpoint } from "../src/gpt.ts"
import type { Device } from "../src/program.ts"
import { type Tokenizer, trainTokenizer } from "../src/token.ts"
import { sampleText } from "./support.ts"

export const device = openCpu(2)
const work = mkdtempSync(join(tmpdir(), "alpha-serve-"))

/** Deletes the models. */
export function clean(): void {
  rmSync(work, { recursive: true, force: true })
}

export const tokenizer = trainTokenizer({ kind: "bpe", vocabSize: 300, special: ["<|endoftext|>", "<|end|>"] }, [sampleText(4000)])
export const END = tokenizer.special.get("<|end|>")!

/** A model directory with random weights, whose vocabulary is padded beyond the tokenizer's. */
export function makeModel(
  name: string,
  {
    seed = 3,
    blockSize = 128,
    own = tokenizer,
    poison = false,
  }: { seed?: number; blockSize?: number; own?: Tokenizer; poison?: boolean } = {},
): string {
  const model = resolveModel({ vocabSize: own.vocabSize + 20, blockSize, nLayer: 2, nHead: 2, nEmbd: 32, initStd: 0.4 })
  const state = device.state()
  initialise(device, state, model, seed)
  if (poison) (state.read("norm.weight") as Float32Array).fill(Number.NaN)
  const dir = join(work, name)
  saveCheckpoint(dir, { model, ids: { eos: END }, tokenizerJson: own.toJson(), weights: (weight) => state.read(weight) as Float32Array })
  state.free()
  return dir
}

export const PLAIN: ServeRequest = {
  id: 0,
  model: "m",
  kind: "generate",
  prompt: Int32Array.of(1, 2, 3),
  maxTokens: 16,
  sampling: {
    temperature: 1,
    topK: undefined,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    frequencyPenalty: 0,
    presencePenalty: 0,
    logitBias: [],
    seed: 1,
  },
  topLogprobs: 0,
  promptLogprobs: false,
  stopIds: [],
  ignoreEnd: false,
  constraint: undefined,
  client: "c",
  queueMs: undefined,
}

export const LIMITS: ServeLimits = {
  slots: 8,
  cacheBytes: undefined,
  queueRequests: 1000,
  queueTokens: 1e7,
  memoryBytes: undefined,
  prefixCache: true,
  batchInvariant: true,
}

/** All that a request told. */
export interface Told {
  readonly ids: number[]
  readonly logprobs: number[]
  readonly top: (Alternatives | undefined)[]
  readonly prompt: number[]
  readonly promptTop: Alternatives[]
  embedding: Float32Array | undefined
  fingerprint: string | undefined
  finished: Extract<RequestEvent, { type: "finished" }> | undefined
  failed: RequestFailure | undefined
  readonly events: RequestEvent[]
}

/** What must be equal however a request was run. */
export const bytesOf = ({ ids, logprobs, top, prompt, promptTop, embedding, finished, fingerprint }: Told): string =>
  JSON.stringify({ ids, logprobs, top, prompt, promptTop, embedding, reason: finished?.reason, fingerprint })

export class ServeEngine {
  readonly #inbox = new Inbox<ServeMessage>()
  readonly #stop = { stopped: false }
  readonly #told = new Map<number, { told: Told; done: (told: Told) => void; onEvent: ((event: RequestEvent) => void) | undefined }>()
  readonly #calls = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>()
  readonly #done: Promise<ServeReport>
  readonly evicted: string[] = []
  #next = 1

  constructor(limits: Partial<ServeLimits> = {}, on: Device = device) {
    this.#done = serve({ limits: { ...LIMITS, ...limits } }, on, this.#stop, (event) => this.#hear(event), this.#inbox)
  }

  #hear(event: ServeEvent): void {
    if (event.type === "evicted") this.evicted.push(event.key)
    else if (event.type === "step") eachEvent(event, (id, one) => this.#take(id, one))
    else {
      const call = this.#calls.get(event.call)
      if (event.type === "answer") call?.resolve(event.value as never)
      else call?.reject(new Error(event.message))
    }
  }

  #take(id: number, event: RequestEvent): void {
    const entry = this.#told.get(id)
    if (entry === undefined) throw new Error(`an event for ${id}, which has ended: ${event.type}`)
    const { told } = entry
    told.events.push(event)
    if (event.type === "started") told.fingerprint = event.fingerprint
    else if (event.type === "token") {
      told.ids.push(event.id)
      told.logprobs.push(event.logprob)
      told.top.push(event.top)
    } else if (event.type === "promptLogprobs") {
      told.prompt.push(...event.logprobs)
      told.promptTop.push(...(event.top ?? []))
    } else if (event.type === "embedding") told.embedding = event.values
    entry.onEvent?.(event)
    if (event.type === "finished") told.finished = event
    else if (event.type === "failed") told.failed = event
    else return
    this.#told.delete(id)
    entry.done(told)
  }

  #call<T>(message: (call: number) => ServeMessage): Promise<T> {
    const call = this.#next++
    return new Promise<T>((resolve, reject) => {
      this.#calls.set(call, { resolve, reject })
      this.#inbox.push(message(call))
    })
  }

  load(path: string, spec: Partial<ModelSpec> = {}): Promise<ModelFacts> {
    return this.#call((call) => ({ type: "load", call, spec: { key: "m", path, precision: "f32", ...spec } }))
  }

  unload(key: string): Promise<void> {
    return this.#call((call) => ({ type: "unload", call, key }))
  }

  drain(): Promise<void> {
    return this.#call((call) => ({ type: "drain", call }))
  }

  statistics(): Promise<ServeStatistics> {
    return this.#call((call) => ({ type: "statistics", call }))
  }

  /** Resolves when the request has finished or failed. */
  ask(request: Partial<ServeRequest>, onEvent?: (event: RequestEvent) => void): Promise<Told> & { readonly id: number } {
    const id = this.#next++
    const told: Told = {
      ids: [],
      logprobs: [],
      top: [],
      prompt: [],
      promptTop: [],
      embedding: undefined,
      fingerprint: undefined,
      finished: undefined,
      failed: undefined,
      events: [],
    }
    const answer = new Promise<Told>((done) => {
      this.#told.set(id, { told, done, onEvent })
      this.#inbox.push({ type: "submit", request: { ...PLAIN, ...request, id } })
    })
    return Object.assign(answer, { id })
  }

  cancel(id: number): void {
    this.#inbox.push({ type: "cancel", id })
  }

  stop(): Promise<ServeReport> {
    this.#stop.stopped = true
    return this.#done
  }
}

const pick = (seed: number, i: number, n: number): number => randomBits(seed, 77, 0, i) % n

/** A request of any kind: the same for the same seed. */
export function randomRequest(seed: number): Partial<ServeRequest> {
  const p = (i: number, n: number) => pick(seed, i, n)
  const length = 1 + p(0, 100)
  const shared = p(1, 3) // many begin alike
  return {
    prompt: Int32Array.from({ length }, (_, i) => (i < 60 && shared > 0 ? (i * 7 + shared) % 290 : p(100 + i, 290))),
    maxTokens: p(2, 30),
    sampling: {
      temperature: [0, 0.7, 1, 1.5][p(3, 4)]!,
      topK: [undefined, 5, 40][p(4, 3)],
      topP: [1, 0.9][p(5, 2)]!,
      minP: [0, 0.05][p(6, 2)]!,
      repetitionPenalty: [1, 1, 1.2][p(7, 3)]!,
      frequencyPenalty: [0, 0, 0.5][p(8, 3)]!,
      presencePenalty: [0, 0, 1.5][p(9, 3)]!,
      logitBias: p(10, 3) === 0 ? [[p(11, 290), 3], [290 + p(12, 5), -100]] : [], // biome-ignore format: one line
      seed: p(13, 1e9),
    },
    topLogprobs: [0, 0, 5][p(14, 3)]!,
    promptLogprobs: p(15, 4) === 0,
    kind: p(16, 12) === 0 ? "embed" : "generate",
    stopIds: p(19, 4) === 0 ? Array.from({ length: 20 }, (_, i) => 256 + i) : [],
    client: `client ${p(17, 4)}`,
    constraint: p(18, 6) === 0 ? { type: "regex", pattern: "[a-z ]{3,9}(!|\\?)" } : undefined,
  }
}
