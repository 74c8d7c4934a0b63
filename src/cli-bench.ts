/** `alpha bench serve`: puts load on a server and reports it in the words of vLLM's benchmark. */
import { AlphaError, EXIT } from "./base-error.ts"
import { Progress } from "./base-term.ts"
import { type Load, report, runLoad } from "./bench.ts"
import type { Invocation } from "./cli-command.ts"
import { type BenchServeConfig, type Environment, goodputLimits } from "./config.ts"

export async function serve({ config, environment, json, print }: Invocation<BenchServeConfig>): Promise<number | undefined> {
  const load = await loadOf(config, environment)
  // Programs are compiled when they are first needed; that belongs to no request.
  if (config.warmup > 0) {
    await runLoad({ ...load, requests: config.warmup, concurrency: config.warmup, rate: Number.POSITIVE_INFINITY, seed: load.seed + 1 })
  }
  const progress = json ? undefined : new Progress({ label: "requests", total: load.requests })
  const result = await runLoad(load, (done) => progress?.update(done))
  progress?.finish()
  const told = report(load, result)
  print(told, () => table(told))
  return result.outcomes.some(({ error }) => error === undefined) ? undefined : EXIT.failure
}

/** Asks the server which model there is, and how many tokens it knows. */
async function loadOf(config: BenchServeConfig, environment: Environment): Promise<Load> {
  const baseUrl = config.url.replace(/\/+$/, "")
  const key = environment.get("ALPHA_API_KEYS")?.value.split(",")[0]?.trim()
  const answer = await fetch(`${baseUrl}/v1/models`, { headers: key === undefined ? {} : { authorization: `Bearer ${key}` } }).catch(
    (error) => {
      throw new AlphaError(`${baseUrl} cannot be reached: ${(error as Error).message}`, {
        hint: "start it with alpha serve",
        code: EXIT.failure,
      })
    },
  )
  if (!answer.ok)
    throw new AlphaError(`${baseUrl}/v1/models answers ${answer.status}`, { hint: "401: set ALPHA_API_KEYS", code: EXIT.failure })
  const { data } = (await answer.json()) as { data: { id: string; vocab_size?: number }[] }
  const model = data.find(({ id }) => config.model === undefined || id === config.model)
  if (model === undefined) {
    throw new AlphaError(`${baseUrl} has no model ${config.model ?? ""}`, {
      hint: `it has ${data.map(({ id }) => id).join(", ")}`,
      code: EXIT.usage,
    })
  }
  const { requests, inputTokens, outputTokens, concurrency, burstiness, seed } = config
  const rate = config.rate ?? Number.POSITIVE_INFINITY
  // Ids that every tokenizer has.
  const vocabSize = Math.min(model.vocab_size ?? 256, 256)
  const goodput = goodputLimits(config.goodput)
  return { baseUrl, model: model.id, key, requests, inputTokens, outputTokens, vocabSize, rate, burstiness, concurrency, seed, goodput }
}

const ROWS = [
  ["ttft", "time to first token"],
  ["tpot", "time per token after the first"],
  ["itl", "between two events"],
  ["e2el", "whole request"],
] as const

function table(told: Readonly<Record<string, unknown>>): string {
  const number = (name: string, digits = 1) => (told[name] as number).toFixed(digits)
  const goodput = told.request_goodput === null ? "" : `, good ${number("request_goodput", 2)}`
  return [
    `${told.completed} answered, ${told.failed} failed in ${number("duration")} s, at most ${told.max_concurrent_requests} at a time`,
    `${number("request_throughput", 2)} requests/s${goodput} · ${number("output_throughput", 0)} output tokens/s · ${number("total_token_throughput", 0)} tokens/s`,
    ...ROWS.map(
      ([key, about]) =>
        `${about.padEnd(32)}p50 ${number(`p50_${key}_ms`, 2)}  p90 ${number(`p90_${key}_ms`, 2)}  p99 ${number(`p99_${key}_ms`, 2)}  mean ${number(`mean_${key}_ms`, 2)} ms`,
    ),
    ...(told.errors as string[]).map((error) => `error: ${error}`),
  ].join("\n")
}
