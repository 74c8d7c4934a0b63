/** Health, readiness, metrics, slots, the list of models; loading and unloading them. */
import { buildInfo } from "./base-build.ts"
import type { ServeStatistics } from "./engine.ts"
import type { Call, Context } from "./serve-context.ts"
import { ApiError } from "./serve-error.ts"
import { FIELDS } from "./serve-fields.ts"
import { exposition, sampled } from "./serve-metrics.ts"
import type { ModelEntry } from "./serve-models.ts"
import { parseRows } from "./serve-shape.ts"

/** The process lives. */
export const health = ({ context }: Call): Response =>
  context.failed === undefined ? Response.json({ status: "ok" }) : Response.json({ status: "failed" }, { status: 503 })

/** Requests can be answered now. */
export function ready({ context }: Call): Response {
  const status = context.failed !== undefined ? "failed" : context.draining ? "draining" : context.models.isReady ? "ready" : "loading"
  return Response.json({ status }, { status: status === "ready" ? 200 : 503 })
}

const modelJson = ({ id, created, loaded, current }: ModelEntry) => ({
  id,
  object: "model",
  created,
  owned_by: "alpha",
  loaded: loaded !== undefined,
  current,
  ...(loaded === undefined
    ? {}
    : {
        batch_invariant: loaded.facts.batchInvariant,
        fingerprint: loaded.facts.fingerprint,
        max_model_len: loaded.blockSize,
        vocab_size: loaded.vocabSize,
        parameters: loaded.facts.parameters,
        precision: loaded.facts.precision,
        device: loaded.facts.device,
        chat_template: loaded.template.kind === "plain" ? "none: plain text" : loaded.template.kind,
      }),
})

export const listModels = ({ context }: Call): Response => Response.json({ object: "list", data: context.models.entries().map(modelJson) })

export function oneModel({ context, http }: Call): Response {
  const id = http.req.param("id") ?? ""
  const entry = context.models.entries().find((one) => one.id === id)
  if (entry !== undefined) return Response.json(modelJson(entry))
  throw new ApiError(404, `model ${JSON.stringify(id.slice(0, 100))} is not served here`, {
    type: "invalid_request_error",
    param: "model",
    code: "model_not_found",
  })
}

export async function load(call: Call): Promise<Response> {
  const { model } = parseRows(FIELDS["POST /v1/load"], await call.json())
  call.context.models.adopt(model.replace(/@\d+$/, ""), call.context.runsDir)
  const lease = await call.context.models.lease(model)
  try {
    const { key, fingerprint, bytes, loadMs } = lease.model.facts
    return Response.json({ model: key, fingerprint, bytes, load_ms: loadMs })
  } finally {
    lease.release()
  }
}

export async function unload(call: Call): Promise<Response> {
  const { model } = parseRows(FIELDS["POST /v1/unload"], await call.json())
  await call.context.models.unload(model)
  return Response.json({ model, unloaded: true })
}

/** What runs now; without who asked. */
export async function slots({ context }: Call): Promise<Response> {
  const { running, waiting, waitingTokens, slots: all, models } = await context.serving.statistics()
  return Response.json({
    running,
    waiting,
    waiting_tokens: waitingTokens,
    slots: all.map((slot) => ({
      id: slot.id,
      model: slot.model,
      phase: slot.phase,
      prompt_tokens: slot.promptTokens,
      computed_tokens: slot.computedTokens,
      completion_tokens: slot.completionTokens,
      pages: slot.pages,
      running_ms: Math.round(slot.runningMs),
    })),
    models: models.map((model) => ({
      model: model.key,
      fingerprint: model.fingerprint,
      running: model.running,
      waiting: model.waiting,
      pages_total: model.pagesTotal,
      pages_used: model.pagesUsed,
      pages_cached: model.pagesCached,
      bytes: model.bytes,
    })),
  })
}

export async function metrics({ context }: Call): Promise<Response> {
  const statistics = await context.serving.statistics()
  const families = [...ours(context, statistics), ...(context.metricsCompat === "vllm" ? vllm(context, statistics) : [])]
  return new Response(exposition(families), { headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" } })
}

type Families = Parameters<typeof exposition>[0]

function ours({ metrics: own, startedAt, draining }: Context, now: ServeStatistics): Families {
  const { version, commit } = buildInfo()
  const one = (value: number) => [[{}, value]] as const
  const perModel = (pick: (model: ServeStatistics["models"][number]) => number) =>
    now.models.map((model) => [{ model: model.key }, pick(model)] as const)
  return [
    sampled("gauge", "alpha_build_info", "Version of the server.", [[{ version, commit }, 1]]),
    sampled("gauge", "alpha_start_time_seconds", "Unix time of the start.", one(startedAt / 1000)),
    sampled("gauge", "alpha_draining", "1 while the server ends.", one(draining ? 1 : 0)),
    sampled("gauge", "process_resident_memory_bytes", "Resident memory of the process.", one(process.memoryUsage.rss())),
    sampled(
      "gauge",
      "alpha_requests_running",
      "Sequences that have a slot, by model.",
      perModel(({ running }) => running),
    ),
    sampled(
      "gauge",
      "alpha_requests_waiting",
      "Sequences that wait for a slot, by model.",
      perModel(({ waiting }) => waiting),
    ),
    sampled("gauge", "alpha_waiting_tokens", "Prompt and answer tokens that waiting requests may come to.", one(now.waitingTokens)),
    sampled("gauge", "alpha_kv_cache_usage_ratio", "Share of the pages of keys and values that running sequences hold.", perModel(share)),
    sampled(
      "gauge",
      "alpha_model_bytes",
      "Weights and pages, by model.",
      perModel(({ bytes }) => bytes),
    ),
    sampled("counter", "alpha_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", one(now.prefixQueries)),
    sampled("counter", "alpha_prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", one(now.prefixHits)),
    sampled("counter", "alpha_prefill_tokens_total", "Prompt tokens computed.", one(now.prefillTokens)),
    sampled("counter", "alpha_decode_tokens_total", "Tokens decoded.", one(now.decodeTokens)),
    sampled("counter", "alpha_decode_steps_total", "Decode steps.", one(now.decodeSteps)),
    sampled("counter", "alpha_prefill_seconds_total", "Time spent on prefill.", one(now.prefillMs / 1000)),
    sampled("counter", "alpha_decode_seconds_total", "Time spent on decoding.", one(now.decodeMs / 1000)),
    sampled("counter", "alpha_preemptions_total", "Sequences that gave their pages back and began again.", one(now.preemptions)),
    ...Object.values(own),
  ]
}

const share = ({ pagesTotal, pagesUsed }: ServeStatistics["models"][number]): number => (pagesTotal === 0 ? 0 : pagesUsed / pagesTotal)

/** The names that dashboards and routers of vLLM read. */
function vllm({ metrics: own }: Context, now: ServeStatistics): Families {
  const perModel = (pick: (model: ServeStatistics["models"][number]) => number) =>
    now.models.map((model) => [{ model_name: model.key, engine: "0" }, pick(model)] as const)
  const one = (value: number) => [[{ engine: "0" }, value]] as const
  return [
    sampled(
      "gauge",
      "vllm:num_requests_running",
      "Number of requests in model execution batches.",
      perModel(({ running }) => running),
    ),
    sampled(
      "gauge",
      "vllm:num_requests_waiting",
      "Number of requests waiting to be processed.",
      perModel(({ waiting }) => waiting),
    ),
    sampled("gauge", "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", perModel(share)),
    sampled(
      "counter",
      "vllm:prefix_cache_queries_total",
      "Prefix cache queries, in terms of number of queried tokens.",
      one(now.prefixQueries),
    ),
    sampled("counter", "vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.", one(now.prefixHits)),
    sampled("counter", "vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", one(now.preemptions)),
    sampled("counter", "vllm:prompt_tokens_total", "Number of prefill tokens processed.", one(now.prefillTokens)),
    sampled("counter", "vllm:generation_tokens_total", "Number of generation tokens processed.", one(now.decodeTokens)),
    sampled(
      "counter",
      "vllm:request_success_total",
      "Count of successfully processed requests.",
      Object.entries(now.finished).map(([reason, count]) => [
        { finished_reason: reason === "length" ? "length" : "stop", ended_by: reason },
        count,
      ]),
    ),
    own.firstToken.as("vllm:time_to_first_token_seconds"),
    own.betweenTokens.as("vllm:inter_token_latency_seconds"),
    own.perToken.as("vllm:time_per_output_token_seconds"),
    own.whole.as("vllm:e2e_request_latency_seconds"),
    own.queued.as("vllm:request_queue_time_seconds"),
  ]
}
