/** What the main thread and the serving engine in the Worker say to each other. */
import type { Precision } from "./gpt.ts"

/** Bounds of the engine as a whole; per model where it says so. */
export interface ServeLimits {
  /** Sequences of a model that run together. */
  readonly slots: number
  /** Bytes of a model's pages of keys and values; undefined: room for `slots` sequences of 2,048 tokens (or blockSize), at most 1 GiB on the CPU. */
  readonly cacheBytes: number | undefined
  /** Requests that wait for a slot, over all models, and the prompt and answer tokens that they may come to. */
  readonly queueRequests: number
  readonly queueTokens: number
  /** Bytes of all models with their pages: the one used least recently goes when a further one comes; undefined: no limit. */
  readonly memoryBytes: number | undefined
  /** Whether pages of earlier requests are used again. */
  readonly prefixCache: boolean
  /** Whether the bytes of an answer may not depend on who else runs; without it a GPU takes what is fastest. */
  readonly batchInvariant: boolean
}

/** The serve job runs until it is told to stop. */
export interface ServeJob {
  readonly limits: ServeLimits
}

/** Where a model comes from. Loading a key again swaps: running requests finish on the old weights, waiting ones start on the new. */
export interface ModelSpec {
  /** Name in requests. */
  readonly key: string
  /** Run, checkpoint or Hugging Face model directory. */
  readonly path: string
  readonly precision: Precision
}

/** A loaded model. */
export interface ModelFacts extends ModelSpec {
  /** The directory itself: of a run its best checkpoint, or its last. */
  readonly directory: string
  /** SHA-256 of the weights: of model.safetensors as sha256sum prints it; of sharded weights that of such lines in the order of the file names. */
  readonly fingerprint: string
  /** Most positions of prompt and answer together. */
  readonly blockSize: number
  /** Ids that prompts may hold, and ids that can be chosen. */
  readonly vocabSize: number
  readonly vocabulary: number
  readonly nEmbd: number
  readonly parameters: number
  /** End-of-text tokens: chosen, they end an answer. */
  readonly ends: readonly number[]
  readonly device: string
  /** Whether the bytes of an answer depend on weights, request and device alone. */
  readonly batchInvariant: boolean
  /** Bytes of weights and pages. */
  readonly bytes: number
  readonly pages: number
  readonly pageSize: number
  readonly loadMs: number
}

/** What every answer's bytes must match, given as data; compiled in the Worker. */
export type Constraint =
  | { readonly type: "json_object" }
  | { readonly type: "json_schema"; readonly schema: unknown }
  /** ECMAScript syntax of whole-text matches, without look-around and back-references. */
  | { readonly type: "regex"; readonly pattern: string }
  /** GBNF as llama.cpp writes it; the rule `root` is the start. */
  | { readonly type: "grammar"; readonly text: string }
  | { readonly type: "literal"; readonly text: string }
  /** Any UTF-8 text. */
  | { readonly type: "text" }
  | { readonly type: "sequence"; readonly items: readonly Constraint[] }
  | { readonly type: "choice"; readonly items: readonly Constraint[] }

/** How a request chooses its tokens. In this order: penalties, logitBias, constraint, temperature, topK, topP, minP, draw. */
export interface RequestSampling {
  /** 0 = the most likely token. */
  readonly temperature: number
  /** Undefined keeps all. */
  readonly topK: number | undefined
  readonly topP: number
  readonly minP: number
  /** Of every token of prompt and answer so far; 1 = off. */
  readonly repetitionPenalty: number
  /** Of the answer's tokens: subtracted for each occurrence, and once. */
  readonly frequencyPenalty: number
  readonly presencePenalty: number
  /** Added to the logit of an id. */
  readonly logitBias: readonly (readonly [id: number, bias: number])[]
  /** 0 … 2³² − 1 */
  readonly seed: number
}

/** `logprob` and its alternatives are those of the model itself: no temperature, penalty, bias or constraint. */
export interface ServeRequest {
  /** Chosen by the main thread, used once. */
  readonly id: number
  /** Key of a model. */
  readonly model: string
  /** Embed: no answer, but the mean over the prompt of the hidden states after the last norm. */
  readonly kind: "generate" | "embed"
  /** 1 … blockSize ids. */
  readonly prompt: Int32Array
  /** 0: the prompt is only computed. */
  readonly maxTokens: number
  readonly sampling: RequestSampling
  /** Alternatives of every position, 0 … 20, most likely first. */
  readonly topLogprobs: number
  /** Tell the logprobs of the prompt's tokens, with as many alternatives. */
  readonly promptLogprobs: boolean
  /** Ids that end the answer like the model's own end-of-text tokens. */
  readonly stopIds: readonly number[]
  /** Go on past the model's own end-of-text tokens. */
  readonly ignoreEnd: boolean
  readonly constraint: Constraint | undefined
  /** Requests of one client share its turn: a client with many does not delay one with few. */
  readonly client: string
  /** Fail when not started this long after it was submitted; undefined: waits. */
  readonly queueMs: number | undefined
}

/** Most likely tokens of a position. */
export interface Alternatives {
  readonly ids: Int32Array
  readonly logprobs: Float32Array
}

/**
 * end: an end-of-text or stop id was chosen, the last of the answer's tokens · complete: the constraint allows nothing more ·
 * length: maxTokens or blockSize reached.
 */
export type ServeFinish = "end" | "complete" | "length"

/** queueMs: until a slot was free · prefillMs: from there to the first token · decodeMs: from it to the last. */
export interface RequestTimes {
  readonly queueMs: number
  readonly prefillMs: number
  readonly decodeMs: number
}

/**
 * What went wrong: request: a field cannot be (names `param`) · queue_full, queue_timeout: `retryAfterMs` says when there may be room ·
 * model: not loaded, or gone · damaged: the logits are not numbers · cancelled · draining.
 */
export interface RequestFailure {
  readonly type: "failed"
  readonly code: "request" | "queue_full" | "queue_timeout" | "model" | "damaged" | "cancelled" | "draining" | "internal"
  readonly message: string
  readonly hint: string | undefined
  /** Field of the ServeRequest. */
  readonly param: string | undefined
  readonly retryAfterMs: number | undefined
}

/** In this order: queued, started, promptLogprobs*, token*, then finished or failed, which is the last. */
export type RequestEvent =
  | { readonly type: "queued"; readonly ahead: number }
  /** Has a slot; cachedTokens: of the prompt, found in pages of earlier requests (finished tells the final number). */
  | { readonly type: "started"; readonly fingerprint: string; readonly cachedTokens: number; readonly queueMs: number }
  /** Of prompt tokens `from`, `from` + 1, …; the first of all is 1, since nothing precedes token 0. */
  | {
      readonly type: "promptLogprobs"
      readonly from: number
      readonly logprobs: Float32Array
      readonly top: readonly Alternatives[] | undefined
    }
  | { readonly type: "token"; readonly id: number; readonly logprob: number; readonly top: Alternatives | undefined }
  | { readonly type: "embedding"; readonly values: Float32Array }
  | {
      readonly type: "finished"
      readonly reason: ServeFinish
      readonly promptTokens: number
      readonly cachedTokens: number
      readonly completionTokens: number
      readonly times: RequestTimes
    }
  | RequestFailure

/** One running sequence. */
export interface SlotFacts {
  readonly id: number
  readonly model: string
  readonly client: string
  readonly phase: "prefill" | "decode"
  readonly promptTokens: number
  readonly computedTokens: number
  readonly completionTokens: number
  readonly pages: number
  readonly runningMs: number
}

export interface ModelStatistics {
  readonly key: string
  readonly fingerprint: string
  readonly running: number
  readonly waiting: number
  readonly pagesTotal: number
  /** Held by running sequences, and kept for later ones. */
  readonly pagesUsed: number
  readonly pagesCached: number
  readonly bytes: number
}

/** Counters since the start of the job. */
export interface ServeStatistics {
  readonly running: number
  readonly waiting: number
  readonly waitingTokens: number
  readonly slots: readonly SlotFacts[]
  readonly models: readonly ModelStatistics[]
  readonly prefillTokens: number
  /** Prompt tokens looked up in, and found in, earlier pages. */
  readonly prefixQueries: number
  readonly prefixHits: number
  readonly decodeTokens: number
  readonly decodeSteps: number
  readonly prefillMs: number
  readonly decodeMs: number
  readonly preemptions: number
  readonly finished: Readonly<Record<ServeFinish, number>>
  readonly failed: Readonly<Record<RequestFailure["code"], number>>
}

/** Main thread → serve job. `call` numbers what is answered. */
export type ServeMessage =
  | { readonly type: "load"; readonly call: number; readonly spec: ModelSpec }
  | { readonly type: "unload"; readonly call: number; readonly key: string }
  | { readonly type: "statistics"; readonly call: number }
  /** Refuses what comes from now on; answered when the last request has ended. */
  | { readonly type: "drain"; readonly call: number }
  | { readonly type: "submit"; readonly request: ServeRequest }
  | { readonly type: "cancel"; readonly id: number }

type Numbered<E> = readonly (readonly [id: number, event: E])[]

/** The token events of one step, one at most for each request; as arrays, which cost a tenth of so many objects on their way. */
export interface StepTokens {
  readonly requests: Float64Array
  readonly ids: Int32Array
  readonly logprobs: Float32Array
  /** Where anyone wants some. */
  readonly top: readonly (Alternatives | undefined)[] | undefined
}

/** Serve job → main thread: all that happened in one step together, in this order; one answer to a call; or a model that went by itself. */
export type ServeEvent =
  | {
      readonly type: "step"
      readonly events: Numbered<RequestEvent>
      readonly tokens: StepTokens | undefined
      readonly ends: Numbered<RequestEvent>
    }
  | { readonly type: "answer"; readonly call: number; readonly value: ModelFacts | ServeStatistics | undefined }
  | { readonly type: "refusal"; readonly call: number; readonly message: string; readonly hint: string | undefined; readonly code: number }
  | { readonly type: "evicted"; readonly key: string }

export interface ServeReport {
  readonly requests: number
}
