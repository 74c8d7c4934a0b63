/** Random requests of every endpoint that answers with a model, and their answers without what names one answer. */
import { uniform } from "../src/base-random.ts"

export interface RandomRequest {
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
}

const WORDS = ["the", "sea", "and", "whale", "ship", "green", "calm", "deep", "é", "1851", "\n", "Ahab"]
const SCHEMA = {
  type: "object",
  properties: { place: { enum: ["sea", "land"] }, depth: { type: "integer", minimum: 0, maximum: 99 } },
  required: ["place", "depth"],
}

/** The request of number `i`: many begin alike, so that caches have something to find. */
export function randomRequest(seed: number, i: number): RandomRequest {
  let draws = 0
  const next = () => uniform(seed, 21, i, draws++)
  const below = (n: number) => Math.floor(next() * n)
  const one = <T>(...values: readonly T[]): T => values[below(values.length)] as T
  const text = (length: number): string => {
    const shared = one(0, 1, 2)
    const words = Array.from(
      { length: 1 + below(length) },
      (_, at) => WORDS[at < 40 && shared > 0 ? (at * 5 + shared) % WORDS.length : below(WORDS.length)],
    )
    return words.join(" ")
  }
  const sampling = {
    temperature: one(0, 0.7, 1, 1.5),
    top_p: one(1, 0.9),
    frequency_penalty: one(0, 0, 0.5),
    presence_penalty: one(0, 0, 1.5),
    seed: below(1e9),
    ...(next() < 0.3 ? { stop: one<unknown>("sea", ["\n", "whale and"], " ") } : {}),
    ...(next() < 0.2 ? { logit_bias: { [below(270)]: one(-100, 3) } } : {}),
  }
  const extensions = { top_k: one(0, 5, 40), min_p: one(0, 0.05), repetition_penalty: one(1, 1, 1.2) }
  const stream = next() < 0.4 ? { stream: true, stream_options: { include_usage: next() < 0.5 } } : {}
  const messages = () => [
    ...(next() < 0.3 ? [{ role: "system", content: text(10) }] : []),
    { role: "user", content: text(30) },
    ...(next() < 0.3
      ? [
          { role: "assistant", content: text(20) },
          { role: "user", content: text(10) },
        ]
      : []),
  ]
  const kind = below(20)
  if (kind < 9) {
    const prompt = one<() => unknown>(
      () => text(60),
      () => Array.from({ length: 1 + below(60) }, () => below(270)),
      () => [text(20), text(40)],
    )()
    const echo = next() < 0.3
    const logprobs = next() < 0.4 ? { logprobs: below(6) } : {}
    const form = next() < 0.2 ? { regex: "[a-z ]{3,9}(!|\\?)" } : {}
    const n = 1 + below(3)
    const best = next() < 0.1 && !("stream" in stream) ? { best_of: n + 1 } : {}
    return {
      path: "/v1/completions",
      body: { prompt, max_tokens: below(30), n, ...best, ...sampling, ...extensions, ...stream, echo, ...logprobs, ...form },
    }
  }
  if (kind < 15) {
    const logprobs = next() < 0.3 ? { logprobs: true, top_logprobs: below(6) } : {}
    const form =
      next() < 0.3
        ? { response_format: one<object>({ type: "json_object" }, { type: "json_schema", json_schema: { name: "place", schema: SCHEMA } }) }
        : {}
    const tools =
      next() < 0.15 && !("response_format" in form)
        ? { tools: [{ type: "function", function: { name: "look", parameters: SCHEMA } }], tool_choice: one("auto", "required") }
        : {}
    return {
      path: "/v1/chat/completions",
      body: {
        messages: messages(),
        max_tokens: 1 + below(40),
        n: 1 + below(2),
        ...sampling,
        ...extensions,
        ...stream,
        ...logprobs,
        ...form,
        ...tools,
      },
    }
  }
  const { temperature, top_p } = sampling
  if (kind < 17) {
    const streamed = next() < 0.4 ? { stream: true } : {}
    return {
      path: "/v1/responses",
      body: { input: text(40), max_output_tokens: 16 + below(20), temperature, top_p, seed: sampling.seed, ...streamed },
    }
  }
  if (kind < 19)
    return { path: "/v1/embeddings", body: { input: one<unknown>(text(50), [text(5), text(50)]), encoding_format: one("float", "base64") } }
  return { path: "/api/generate", body: { prompt: text(30), max_tokens: 1 + below(20), temperature, seed: sampling.seed } }
}

/**
 * Ids and times are new in every answer, what the cache saved depends on what came before, and a ping may come at any time; where several
 * continuations are streamed, which of them is ahead may differ, but not what each of them says.
 */
export function withoutNames(answer: string): string {
  const plain = answer
    .replace(/^:.*\n\n/gm, "")
    .replace(/"((?:\w+_)?id)":"(?:cmpl|chatcmpl|resp|msg|call|req|fc)[-_][^"]*"/g, '"$1":""')
    .replace(/"(created|created_at|completed_at)":[\d.]+/g, '"$1":0')
    .replace(/"(cached_tokens|cache_write_tokens)":\d+/g, '"$1":0')
  if (!plain.startsWith("data: ")) return plain
  const events = plain
    .split("\n\n")
    .map((text, at) => ({ text, at, index: Number(/"choices":\[\{"index":(\d+)/.exec(text)?.[1] ?? Number.NaN) }))
  const isChoice = (one: { index: number }) => !Number.isNaN(one.index)
  const choices = events.filter(isChoice).toSorted((a, b) => a.index - b.index || a.at - b.at)
  return [...choices, ...events.filter((one) => !isChoice(one))].map(({ text }) => text).join("\n\n")
}

/** Status and body of one request. */
export async function answerTo(url: string, { path, body }: RandomRequest): Promise<string> {
  const answer = await fetch(url + path, { method: "POST", body: JSON.stringify(body) })
  return `${answer.status} ${withoutNames(await answer.text())}`
}
