/** `alpha bench serve`: puts load on a server and reports it in the words of vLLM's benchmark. */
import { AlphaError, EXIT } from "./base-error.ts"
import { Progress } from "./base-term.ts"
import { checkRoom, formatMeasurements, type Load, numbers, record, report, runLoad, serveOwn } from "./bench.ts"
import type { Invocation } from "./cli-command.ts"
import { type BenchServeConfig, goodputLimits } from "./config.ts"

export async function serve({ config, environment, json, print }: Invocation<BenchServeConfig>): Promise<number | undefined> {
  const concurrencies = numbers("concurrency", config.concurrency)
  const told: Readonly<Record<string, unknown>>[] = []
  const note = (text: string) => void (json || process.stderr.write(`${text}\n`))
  if (config.preset.length > 0 || config.checkpoint !== undefined) {
    await serveOwn(
      config,
      concurrencies,
      (url, concurrency) => loadOf(config, url, undefined, concurrency),
      note,
      (one, measurement) => {
        told.push(one)
        if (config.record !== undefined) record(config.record, [measurement])
        note(formatMeasurements([measurement], "table"))
      },
    )
  } else {
    const key = environment.get("ALPHA_API_KEYS")?.value.split(",")[0]?.trim()
    for (const concurrency of concurrencies)
      told.push(await underLoad(await loadOf(config, config.url, key, concurrency), config.warmup, json))
  }
  print(told.length === 1 ? told[0] : told, () => told.map(table).join("\n\n"))
  return told.some(({ completed }) => completed !== 0) ? undefined : EXIT.failure
}

async function underLoad(load: Load, warmup: number, json: boolean): Promise<Record<string, unknown>> {
  // Programs are compiled when they are first needed; that belongs to no request.
  if (warmup > 0) await runLoad({ ...load, requests: warmup, concurrency: warmup, rate: Number.POSITIVE_INFINITY, seed: load.seed + 1 })
  const progress = json ? undefined : new Progress({ label: "requests", total: load.requests })
  const result = await runLoad(load, (done) => progress?.update(done))
  progress?.finish()
  return report(load, result)
}

/** Asks the server which model there is, and how many tokens it knows. */
async function loadOf(config: BenchServeConfig, url: string, key: string | undefined, concurrency: number): Promise<Load> {
  const baseUrl = url.replace(/\/+$/, "")
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
  const { data } = (await answer.json()) as { data: { id: string; vocab_size?: number; max_model_len?: number }[] }
  const model = data.find(({ id }) => config.model === undefined || id === config.model)
  if (model === undefined) {
    throw new AlphaError(`${baseUrl} has no model ${config.model ?? ""}`, {
      hint: `it has ${data.map(({ id }) => id).join(", ")}`,
      code: EXIT.usage,
    })
  }
  const { inputTokens, outputTokens, burstiness, seed, requests = Math.max(32, 8 * concurrency) } = config
  if (model.max_model_len !== undefined) checkRoom(config, model.id, model.max_model_len)
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
    ...(told.share_of_offline === undefined
      ? []
      : [
          `${(100 * (told.share_of_offline as number)).toFixed(0)} % of the ${number("offline_throughput", 0)} tokens/s of the same decoding without a server`,
        ]),
    ...(told.added_tpot_ms === undefined
      ? []
      : [`the server adds ${number("added_ttft_ms", 2)} ms to the first token, ${number("added_tpot_ms", 3)} ms to each further one`]),
    ...(told.errors as string[]).map((error) => `error: ${error}`),
  ].join("\n")
}
