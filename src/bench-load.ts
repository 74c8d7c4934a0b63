/** Load on a server with OpenAI's completions API, reported in the words of vLLM's `bench serve`. */
import { AlphaError, EXIT } from "./base-error.ts"
import { uniform } from "./base-random.ts"

export interface Load {
  readonly baseUrl: string
  readonly model: string
  readonly key: string | undefined
  /** Requests, prompt and answer tokens of each. */
  readonly requests: number
  readonly inputTokens: number
  readonly outputTokens: number
  /** Ids of prompts are below this. */
  readonly vocabSize: number
  /** Arrivals per second, or Infinity: as soon as `concurrency` allows. */
  readonly rate: number
  /** Shape of the gamma distribution of the gaps: 1 = Poisson, less = bursts, more = even. */
  readonly burstiness: number
  readonly concurrency: number
  readonly seed: number
  /** Limits in ms that a request must meet to count as good. */
  readonly goodput: Partial<Record<"ttft" | "tpot" | "e2el", number>>
}

/** One request as the client saw it; times in ms. */
export interface Outcome {
  readonly error: string | undefined
  readonly inputTokens: number
  readonly outputTokens: number
  readonly ttft: number
  readonly e2el: number
  readonly itls: readonly number[]
}

/** Throws where the requests are longer than the model holds: all would be refused, or end early. */
export function checkRoom({ inputTokens, outputTokens }: Pick<Load, "inputTokens" | "outputTokens">, model: string, room: number): void {
  if (inputTokens + outputTokens <= room) return
  const half = Math.floor(room / 2)
  throw new AlphaError(`bench serve: ${model} holds ${room} tokens, the requests are of ${inputTokens} + ${outputTokens}`, {
    hint: `--inputTokens=${half} --outputTokens=${half}`,
    code: EXIT.usage,
  })
}

/** Prompt ids of request i: random, and the same in every run. */
const promptOf = ({ inputTokens, vocabSize, seed }: Load, i: number): number[] =>
  Array.from({ length: inputTokens }, (_, t) => Math.floor(uniform(seed, 1, i, t) * vocabSize))

/** A draw of the gamma distribution with mean 1 (Marsaglia and Tsang 2000), from counter i. */
export function gammaGap(shape: number, seed: number, i: number): number {
  let n = 0
  const next = () => Math.max(uniform(seed, 2, i, n++), 2 ** -25)
  const normal = () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next())
  const boosted = shape < 1 ? shape + 1 : shape
  const d = boosted - 1 / 3
  for (;;) {
    const x = normal()
    const v = (1 + x / Math.sqrt(9 * d)) ** 3
    if (v <= 0 || Math.log(next()) >= 0.5 * x * x + d - d * v + d * Math.log(v)) continue
    return (d * v * (shape < 1 ? next() ** (1 / shape) : 1)) / shape
  }
}

/** Sends one request and reads its stream. */
async function send(load: Load, i: number): Promise<Outcome> {
  const started = performance.now()
  const failed = (error: string): Outcome => ({ error, inputTokens: load.inputTokens, outputTokens: 0, ttft: 0, e2el: 0, itls: [] })
  try {
    const answer = await fetch(`${load.baseUrl}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...(load.key === undefined ? {} : { authorization: `Bearer ${load.key}` }) },
      body: JSON.stringify({
        model: load.model,
        prompt: [promptOf(load, i)],
        max_tokens: load.outputTokens,
        temperature: 0,
        ignore_eos: true,
        stream: true,
        stream_options: { include_usage: true },
      }),
    })
    if (!answer.ok) return failed(`${answer.status} ${(await answer.text()).slice(0, 200)}`)
    return await readStream(answer, started, load.inputTokens)
  } catch (error) {
    return failed((error as Error).message)
  }
}

async function readStream(answer: Response, started: number, inputTokens: number): Promise<Outcome> {
  const decoder = new TextDecoder()
  const itls: number[] = []
  let [rest, ttft, last, tokens, finish] = ["", 0, started, 0, undefined as string | undefined]
  for await (const bytes of answer.body!) {
    const now = performance.now()
    const events = (rest + decoder.decode(bytes, { stream: true })).split("\n\n")
    rest = events.pop()!
    for (const event of events) {
      if (!event.startsWith("data: {")) continue
      // Nearly all are tokens: what they say is not looked at.
      if (event.includes('"finish_reason":null}')) {
        if (ttft === 0) ttft = now - started
        else itls.push(now - last)
        last = now
        continue
      }
      const { choices = [], usage, error } = JSON.parse(event.slice(6))
      if (error !== undefined) throw new Error(error.message)
      tokens = usage?.completion_tokens ?? tokens
      finish = choices[0]?.finish_reason ?? finish
    }
  }
  if (finish === undefined) throw new Error("the stream ended without a finish_reason")
  return { error: undefined, inputTokens, outputTokens: tokens, ttft, e2el: last - started, itls }
}

export interface LoadResult {
  /** In the order in which they ended. */
  readonly outcomes: readonly Outcome[]
  readonly seconds: number
  /** Most requests at a time. */
  readonly most: number
}

/** Sends all requests: by the clock where a rate is given, and never more than `concurrency` at once. */
export async function runLoad(load: Load, onDone: (done: number) => void = () => {}): Promise<LoadResult> {
  const outcomes: Outcome[] = []
  const waiting: (() => void)[] = []
  let [running, most] = [0, 0]
  const started = performance.now()
  let due = started
  const all: Promise<void>[] = []
  for (let i = 0; i < load.requests; i++) {
    if (load.rate !== Number.POSITIVE_INFINITY && i > 0) {
      due += (gammaGap(load.burstiness, load.seed, i) / load.rate) * 1000
      await Bun.sleep(Math.max(0, due - performance.now()))
    }
    if (running >= load.concurrency) await new Promise<void>((resolve) => waiting.push(resolve))
    running++
    most = Math.max(most, running)
    all.push(
      send(load, i).then((outcome) => {
        outcomes.push(outcome)
        onDone(outcomes.length)
        running--
        waiting.shift()?.()
      }),
    )
  }
  await Promise.all(all)
  return { outcomes, seconds: (performance.now() - started) / 1000, most }
}

/** The value below which a share p (0 … 100) of sorted numbers lies, with linear interpolation as NumPy has it. */
export function percentile(sorted: readonly number[], p: number): number {
  if (sorted.length === 0) return 0
  const at = ((sorted.length - 1) * p) / 100
  const below = sorted[Math.floor(at)]!
  return below + (sorted[Math.ceil(at)]! - below) * (at % 1)
}

const PERCENTILES = [50, 90, 95, 99]

function statistics(name: string, values: readonly number[]): Record<string, number> {
  const sorted = [...values].sort((a, b) => a - b)
  const mean = sorted.reduce((sum, value) => sum + value, 0) / Math.max(1, sorted.length)
  const variance = sorted.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, sorted.length)
  return {
    [`mean_${name}_ms`]: mean,
    [`median_${name}_ms`]: percentile(sorted, 50),
    [`std_${name}_ms`]: Math.sqrt(variance),
    ...Object.fromEntries(PERCENTILES.map((p) => [`p${p}_${name}_ms`, percentile(sorted, p)])),
  }
}

/**
 * The report by vLLM's keys. TTFT: time to first token; TPOT: time per output token after the first; ITL: between two events of a stream;
 * E2EL: whole request; goodput: requests per second that meet every limit.
 */
export function report(load: Load, { outcomes, seconds, most }: LoadResult): Record<string, unknown> {
  const good = outcomes.filter(({ error }) => error === undefined)
  const tpotOf = ({ e2el, ttft, outputTokens }: Outcome) => (outputTokens > 1 ? (e2el - ttft) / (outputTokens - 1) : 0)
  const meets = (one: Outcome) => {
    const { ttft = Infinity, tpot = Infinity, e2el = Infinity } = load.goodput
    return one.ttft <= ttft && tpotOf(one) <= tpot && one.e2el <= e2el
  }
  const input = good.reduce((sum, one) => sum + one.inputTokens, 0)
  const output = good.reduce((sum, one) => sum + one.outputTokens, 0)
  return {
    date: new Date().toISOString(),
    backend: "openai",
    endpoint_type: "openai",
    model_id: load.model,
    tokenizer_id: load.model,
    num_prompts: load.requests,
    request_rate: load.rate === Number.POSITIVE_INFINITY ? "inf" : load.rate,
    burstiness: load.burstiness,
    max_concurrency: load.concurrency,
    max_concurrent_requests: most,
    duration: seconds,
    completed: good.length,
    failed: outcomes.length - good.length,
    total_input_tokens: input,
    total_output_tokens: output,
    request_throughput: good.length / seconds,
    request_goodput: Object.keys(load.goodput).length === 0 ? null : good.filter(meets).length / seconds,
    output_throughput: output / seconds,
    total_token_throughput: (input + output) / seconds,
    ...statistics(
      "ttft",
      good.map(({ ttft }) => ttft),
    ),
    ...statistics("tpot", good.filter(({ outputTokens }) => outputTokens > 1).map(tpotOf)),
    ...statistics(
      "itl",
      good.flatMap(({ itls }) => itls),
    ),
    ...statistics(
      "e2el",
      good.map(({ e2el }) => e2el),
    ),
    errors: [...new Set(outcomes.flatMap(({ error }) => error ?? []))],
  }
}
