/** A server on a scripted engine: what HTTP does with tokens, failures and cancels, without a model's whims. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Environment } from "../src/config.ts"
import { resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import type { RunStore } from "../src/db.ts"
import type {
  Alternatives,
  Constraint,
  ModelFacts,
  RequestEvent,
  RequestFailure,
  ServeRequest,
  ServeStatistics,
  Serving,
} from "../src/engine.ts"
import { initialise, saveCheckpoint } from "../src/gpt.ts"
import { createApp } from "../src/serve-app.ts"
import { readKeys } from "../src/serve-auth.ts"
import type { Context } from "../src/serve-context.ts"
import { RemoteRuns } from "../src/serve-ingest-store.ts"
import { type KeyLimits, KeyUsage } from "../src/serve-limit.ts"
import { serverMetrics } from "../src/serve-metrics.ts"
import { Models } from "../src/serve-models.ts"
import { ROUTES } from "../src/serve-routes.ts"
import { type Tokenizer, trainTokenizer } from "../src/token.ts"
import { type FakeRuns, fakeRuns } from "./serve-fake-runs.ts"

const SPECIAL = [
  "<|endoftext|>",
  "<|user|>",
  "<|assistant|>",
  "<|system|>",
  "<|end|>",
  "<|fim_prefix|>",
  "<|fim_suffix|>",
  "<|fim_middle|>",
]
export const tokenizer: Tokenizer = trainTokenizer({ kind: "bpe", vocabSize: 278, special: SPECIAL }, [
  "the ship and the sea and the whale ".repeat(20),
])

/** A folder that is gone after the tests. */
export function workFolder(): { path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), "alpha-serve-"))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

/** A model directory with random weights at `directory`. */
export function writeModel(
  directory: string,
  {
    chatTemplate,
    blockSize = 1024,
    seed = 3,
    nLayer = 1,
    nEmbd = 32,
  }: { chatTemplate?: string; blockSize?: number; seed?: number; nLayer?: number; nEmbd?: number } = {},
): string {
  const device = openCpu(1)
  const model = resolveModel({ vocabSize: 320, blockSize, nLayer, nHead: 2, nEmbd, initStd: 0.4 })
  const state = device.state()
  initialise(device, state, model, seed)
  saveCheckpoint(directory, {
    model,
    ids: { bos: tokenizer.special.get("<|endoftext|>"), eos: tokenizer.special.get("<|endoftext|>") },
    tokenizerJson: tokenizer.toJson(),
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    weights: (weight) => state.read(weight) as Float32Array,
  })
  state.free()
  device.close()
  return directory
}

/** What the scripted engine answers: a text (then an end-of-text token unless `cut`), or a failure. */
export type Script = (
  request: ServeRequest,
) => { text: string; ends?: boolean } | (Pick<RequestFailure, "code" | "message"> & Partial<RequestFailure>)

/** Something that a constraint allows. */
function allowed(constraint: Constraint): string {
  switch (constraint.type) {
    case "literal":
      return constraint.text
    case "sequence":
      return constraint.items.map(allowed).join("")
    case "choice":
      return allowed(constraint.items.at(-1)!)
    default:
      return '{"place": "sea"}'
  }
}

const top = (id: number, count: number): Alternatives | undefined =>
  count === 0
    ? undefined
    : {
        ids: Int32Array.from({ length: count }, (_, i) => (id + i) % 256),
        logprobs: Float32Array.from({ length: count }, (_, i) => -0.1 - i),
      }

export interface FakeEngine extends Serving {
  script: Script
  /** After so many tokens an answer waits until it is cancelled, or this grows: a test that steps in never comes too late. */
  holdAfter: number
  readonly requests: ServeRequest[]
  readonly cancelled: number[]
  readonly open: Set<number>
}

export function fakeEngine(): FakeEngine {
  const facts = new Map<string, ModelFacts>()
  const engine: FakeEngine = {
    script: (request) => ({ text: request.constraint === undefined ? "the sea and the whale" : allowed(request.constraint) }),
    holdAfter: Number.POSITIVE_INFINITY,
    requests: [],
    cancelled: [],
    open: new Set(),
    async load(spec) {
      await Bun.sleep(1)
      const fingerprint = [...spec.path]
        .reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) >>> 0, 7)
        .toString(16)
        .padStart(64, "0")
      const own: ModelFacts = {
        ...spec,
        directory: spec.path,
        fingerprint,
        blockSize: 1024,
        vocabSize: 320,
        vocabulary: 278,
        nEmbd: 32,
        parameters: 1000,
        ends: [tokenizer.special.get("<|endoftext|>")!],
        device: "fake",
        batchInvariant: true,
        bytes: 1000,
        pages: 64,
        pageSize: 16,
        loadMs: 1,
      }
      facts.set(spec.key, own)
      return own
    },
    async unload(key) {
      facts.delete(key)
    },
    submit(request, listen) {
      engine.requests.push(request)
      engine.open.add(request.id)
      void play(engine, facts.get(request.model), request, listen)
    },
    cancel(id) {
      if (engine.open.delete(id)) engine.cancelled.push(id)
    },
    async statistics(): Promise<ServeStatistics> {
      const none = { queue_full: 0, queue_timeout: 0, model: 0, damaged: 0, cancelled: 0, draining: 0, internal: 0, request: 0 }
      return {
        running: engine.open.size,
        waiting: 0,
        waitingTokens: 0,
        slots: [],
        models: [...facts].map(([key, { fingerprint }]) => ({
          key,
          fingerprint,
          running: engine.open.size,
          waiting: 0,
          pagesTotal: 64,
          pagesUsed: 2,
          pagesCached: 1,
          bytes: 1000,
        })),
        prefillTokens: 5,
        prefixQueries: 4,
        prefixHits: 2,
        decodeTokens: 9,
        decodeSteps: 9,
        prefillMs: 1,
        decodeMs: 2,
        preemptions: 0,
        finished: { end: 1, complete: 0, length: 0 },
        failed: none,
      }
    },
    async drain() {},
    async stop() {
      return { requests: engine.requests.length }
    },
  }
  return engine
}

async function play(
  engine: FakeEngine,
  model: ModelFacts | undefined,
  request: ServeRequest,
  listen: (event: RequestEvent) => void,
): Promise<void> {
  const { id, topLogprobs, maxTokens, prompt } = request
  const blank = { hint: undefined, param: undefined, retryAfterMs: undefined }
  await Promise.resolve()
  const end = (event: RequestEvent) => {
    engine.open.delete(id)
    listen(event)
  }
  if (model === undefined) return end({ type: "failed", code: "model", message: `no model ${request.model}`, ...blank })
  const script = engine.script(request)
  if (!("text" in script)) return end({ type: "failed", ...blank, ...script })
  listen({ type: "queued", ahead: 0 })
  listen({ type: "started", fingerprint: model.fingerprint, cachedTokens: 0, queueMs: 0.5 })
  const finished = (reason: "end" | "complete" | "length", completionTokens: number): RequestEvent => ({
    type: "finished",
    reason,
    promptTokens: prompt.length,
    cachedTokens: 3,
    completionTokens,
    times: { queueMs: 0, prefillMs: 1, decodeMs: 1 },
  })
  if (request.kind === "embed") {
    listen({ type: "embedding", values: Float32Array.from({ length: 32 }, (_, i) => prompt[0]! + i / 32) })
    return end(finished("complete", 0))
  }
  if (request.promptLogprobs && prompt.length > 1) {
    const rest = Array.from(prompt.subarray(1))
    listen({
      type: "promptLogprobs",
      from: 1,
      logprobs: Float32Array.from(rest, () => -0.1),
      top: rest.map((one) => top(one, Math.max(1, topLogprobs))!),
    })
  }
  const ids = [...tokenizer.encode(script.text), ...(script.ends === false || request.constraint !== undefined ? [] : model.ends)]
  const told = ids.slice(0, maxTokens)
  for (const [i, one] of told.entries()) {
    await Promise.resolve()
    while (i >= engine.holdAfter && engine.open.has(id)) await Bun.sleep(5)
    if (!engine.open.has(id)) return
    listen({ type: "token", id: one, logprob: Math.fround(-0.1), top: top(one, topLogprobs) })
  }
  const reason =
    told.length < ids.length || (maxTokens === told.length && script.ends === false)
      ? "length"
      : request.constraint !== undefined
        ? "complete"
        : "end"
  end(finished(reason, told.length))
}

export interface TestServer {
  readonly url: string
  readonly engine: FakeEngine
  readonly context: Context
  readonly runs: FakeRuns
  close(): Promise<void>
}

export interface TestOptions {
  readonly environment?: Readonly<Record<string, string>>
  readonly publicRead?: boolean
  readonly cors?: readonly string[]
  readonly limits?: Partial<KeyLimits>
  readonly maxBody?: number
  readonly metricsCompat?: "none" | "vllm"
  readonly follow?: string
  /** What the routes of runs read in place of runs in memory. */
  readonly store?: RunStore
  /** Where shipped runs go. */
  readonly runsDir?: string
}

/** Starts the app on a free port with the models at `paths`. */
export async function startTest(paths: readonly string[], options: TestOptions = {}): Promise<TestServer> {
  const engine = fakeEngine()
  const environment: Environment = new Map(Object.entries(options.environment ?? {}).map(([name, value]) => [name, { value, from: name }]))
  const log = () => {}
  const models = new Models(engine, { precision: "f32", log })
  const runs = fakeRuns()
  const context: Context = {
    serving: engine,
    runs: options.store ?? runs,
    runsDir: options.runsDir ?? join(tmpdir(), "alpha-no-runs"),
    remote: new RemoteRuns(options.runsDir ?? join(tmpdir(), "alpha-no-runs")),
    models,
    keys: readKeys(environment, options.publicRead ?? false),
    usage: new KeyUsage({ concurrency: undefined, tokensPerMinute: undefined, ...options.limits }),
    metrics: serverMetrics(),
    log,
    limits: { queueTokens: 20_000, queueMs: 60_000, maxBody: options.maxBody ?? 2 ** 20 },
    cors: options.cors ?? [],
    metricsCompat: options.metricsCompat ?? "none",
    loopback: true,
    startedAt: Date.now(),
    running: new Set(),
    listening: new Set(),
    draining: false,
    failed: undefined,
  }
  for (const path of paths) models.add(path, "runs")
  if (options.follow !== undefined) models.add(options.follow, "runs", "best")
  await models.start()
  const app = createApp(context, ROUTES)
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, idleTimeout: 0, fetch: (request) => app.fetch(request) })
  return { url: `http://127.0.0.1:${server.port}`, engine, context, runs, close: () => server.stop(true) }
}
