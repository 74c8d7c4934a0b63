/**
 * Load on a running server: bun perf/serve.ts --base-url=http://127.0.0.1:8080 [--model=NAME] [--num-prompts=100] [--input-len=128] [--output-len=64]
 * [--max-concurrency=8] [--request-rate=inf] [--burstiness=1] [--goodput=ttft:200,tpot:50] [--seed=0] [--warmup=2]. Prints one JSON line with vLLM's keys.
 * Closed loop: --request-rate=inf with a concurrency; open loop: a rate, Poisson by default. ALPHA_API_KEYS gives the key.
 */
import { parseArgs } from "node:util"
import { type Load, report, runLoad } from "./serve-load.ts"

const { values: flags } = parseArgs({
  options: {
    "base-url": { type: "string", default: "http://127.0.0.1:8080" },
    model: { type: "string" },
    "num-prompts": { type: "string", default: "100" },
    "input-len": { type: "string", default: "128" },
    "output-len": { type: "string", default: "64" },
    "max-concurrency": { type: "string", default: "8" },
    "request-rate": { type: "string", default: "inf" },
    burstiness: { type: "string", default: "1" },
    goodput: { type: "string", default: "" },
    seed: { type: "string", default: "0" },
    warmup: { type: "string", default: "2" },
  },
})

const baseUrl = flags["base-url"].replace(/\/+$/, "")
const key = process.env.ALPHA_API_KEYS?.split(",")[0]
const listed = await fetch(`${baseUrl}/v1/models`, { headers: key === undefined ? {} : { authorization: `Bearer ${key}` } })
const { data } = (await listed.json()) as { data: { id: string; vocab_size?: number }[] }
const model = data.find(({ id }) => flags.model === undefined || id === flags.model)
if (model === undefined) throw new Error(`no model ${flags.model ?? ""} at ${baseUrl}: it has ${data.map(({ id }) => id).join(", ")}`)

const load: Load = {
  baseUrl,
  model: model.id,
  key,
  requests: Number(flags["num-prompts"]),
  inputTokens: Number(flags["input-len"]),
  outputTokens: Number(flags["output-len"]),
  vocabSize: Math.min(model.vocab_size ?? 256, 256),
  rate: flags["request-rate"] === "inf" ? Number.POSITIVE_INFINITY : Number(flags["request-rate"]),
  burstiness: Number(flags.burstiness),
  concurrency: Number(flags["max-concurrency"]),
  seed: Number(flags.seed),
  goodput: Object.fromEntries(
    flags.goodput
      .split(",")
      .filter((part) => part !== "")
      .map((part) => {
        const [name, limit] = part.split(":")
        if (!["ttft", "tpot", "e2el"].includes(name!) || !(Number(limit) > 0))
          throw new Error(`--goodput ${part}: expected ttft:MS, tpot:MS or e2el:MS`)
        return [name, Number(limit)]
      }),
  ),
}
// Programs are compiled when they are first needed; that belongs to no request.
await runLoad({
  ...load,
  requests: Number(flags.warmup),
  concurrency: Number(flags.warmup),
  rate: Number.POSITIVE_INFINITY,
  seed: load.seed + 1,
})
console.log(JSON.stringify(report(load, await runLoad(load))))
