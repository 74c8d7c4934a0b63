/** The fields of `alpha bench serve`. */
import { AlphaError, EXIT } from "./base-error.ts"
import { BENCH_OUTPUT } from "./config-bench-measure.ts"
import { bool, float, inGroup, int, list, text, type Values } from "./config-field.ts"
import type { Loaded } from "./config-merge.ts"
import { SERVE } from "./config-serve.ts"
import { COMPUTE, FILES } from "./config-shared.ts"

const GOODPUT = /^(ttft|tpot|e2el):(\d+(?:\.\d+)?)$/

const LOAD = inGroup("Load", {
  url: text("where the server listens; ALPHA_API_KEYS gives its key", {
    default: "http://127.0.0.1:8080",
    form: { pattern: /^https?:\/\/[^/]+\/?$/, words: "an address like http://127.0.0.1:8080" },
    aliases: ["baseUrl"],
  }),
  model: text("name of a model there; else its first", {}),
  requests: int("requests to send for each concurrency", {
    derive: "8 for each that runs at a time, at least 32",
    min: 1,
    aliases: ["numPrompts"],
  }),
  inputTokens: int("random tokens of each prompt", { default: 128, min: 1, unit: "tokens", aliases: ["inputLen"] }),
  outputTokens: int("tokens of each answer, whatever the model would end at", {
    default: 64,
    min: 1,
    unit: "tokens",
    aliases: ["outputLen"],
  }),
  concurrency: list("most requests at a time; several, such as 1,8,32, one after another", { default: ["8"], aliases: ["maxConcurrency"] }),
  rate: float("requests that arrive in a second; none = as fast as concurrency allows", {
    optional: true,
    above: 0,
    aliases: ["requestRate"],
  }),
  burstiness: float("shape of the gaps between arrivals: 1 = Poisson, less = bursts, more = even", { default: 1, above: 0, max: 1000 }),
  goodput: list("limits in ms that a request must meet to count as good: ttft:200, tpot:50, e2el:5000", { default: [] }),
  warmup: int("requests before the clock starts", { default: 2, min: 0 }),
  seed: int("of prompts and arrivals", { default: 0, min: 0, max: 2 ** 32 - 2 }),
})

const OWN = inGroup("Own server", {
  preset: list("serve random weights of this preset from a process of its own for as long as it takes", { default: [] }),
  checkpoint: text("serve this run, checkpoint or model directory likewise", {}),
  offline: bool("with an own server: time the same decoding without it too, and tell the share", { default: true }),
  rounds: int("samples of the throughput", { default: 1, min: 1, max: 1000 }),
  device: COMPUTE.device,
  precision: COMPUTE.precision,
  threads: COMPUTE.threads,
  batchInvariant: SERVE.batchInvariant,
  runsDir: FILES.runsDir,
})

/** What `alpha bench serve` reads; names of vLLM's flags are understood too. */
export const BENCH_SERVE = { ...LOAD, ...OWN, record: BENCH_OUTPUT.record, config: FILES.config }
export type BenchServeConfig = Values<typeof BENCH_SERVE>

/** Limits by name. Throws AlphaError where one is written wrongly. */
export function goodputLimits(goodput: readonly string[]): Partial<Record<"ttft" | "tpot" | "e2el", number>> {
  return Object.fromEntries(
    goodput
      .flatMap((one) => one.split(","))
      .map((one) => {
        const [, name, limit] = GOODPUT.exec(one.trim()) ?? []
        if (name !== undefined) return [name, Number(limit)]
        throw new AlphaError(`--goodput ${one}: expected ttft:MS, tpot:MS or e2el:MS`, { code: EXIT.usage })
      }),
  )
}

/** Refuses limits that nobody could read. */
export function finishBenchServe(loaded: Loaded<typeof BENCH_SERVE>): Loaded<typeof BENCH_SERVE> {
  goodputLimits(loaded.values.goodput)
  return loaded
}
