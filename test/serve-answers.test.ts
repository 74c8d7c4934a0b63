/** What answers say: text, ends, scores, usage, tools, errors; on a scripted engine. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test"
import { join } from "node:path"
import { chatTemplate } from "../src/data.ts"
import { draining } from "../src/serve-error.ts"
import { dataEvent, eventStream } from "../src/serve-stream.ts"
import { gapIds } from "../src/serve-text.ts"
import { trainTokenizer } from "../src/token.ts"
import { fakeEngine, startTest, type TestServer, tokenizer, workFolder, writeModel } from "./serve-fake.ts"
import * as form from "./serve-schema.ts"
import { until } from "./support.ts"

const work = workFolder()
const plain = writeModel(join(work.path, "plain"))
const chat = writeModel(join(work.path, "chat"), { chatTemplate })
let server: TestServer
beforeAll(async () => {
  server = await startTest([plain, chat])
})
afterAll(async () => {
  await server.close()
  work.remove()
})
afterEach(() => {
  server.engine.script = fakeEngine().script
  server.engine.holdAfter = Number.POSITIVE_INFINITY
  server.engine.requests.length = 0
  server.engine.cancelled.length = 0
})

// biome-ignore lint/suspicious/noExplicitAny: answers are checked by their schemas
type Json = any

async function post(path: string, body: object): Promise<Json> {
  const answer = await fetch(server.url + path, { method: "POST", body: JSON.stringify(body) })
  return { status: answer.status, headers: answer.headers, ...((await answer.json()) as object) }
}

/** The events of a stream; its last must be [DONE]. */
async function stream(path: string, body: object): Promise<Json[]> {
  const answer = await fetch(server.url + path, { method: "POST", body: JSON.stringify({ ...body, stream: true }) })
  expect(answer.headers.get("content-type")).toStartWith("text/event-stream")
  const events = (await answer.text())
    .split("\n\n")
    .filter((part) => part !== "" && !part.startsWith(":"))
    .map((part) => part.replace(/^event: .*\n/, "").replace(/^data: /, ""))
  expect(events.pop()).toBe("[DONE]")
  return events.map((event) => JSON.parse(event))
}

const ask = (content: string) => ({ model: "chat", messages: [{ role: "user", content }] })

describe("completions", () => {
  test("have the published form, and stream the same", async () => {
    const body = { prompt: ["the sea", "the ship"], n: 2, max_tokens: 20, logprobs: 3, seed: 5 }
    const whole = await post("/v1/completions", body)
    expect(form.violations(form.COMPLETION, whole)).toEqual([])
    expect(whole.choices.map(({ index }: Json) => index)).toEqual([0, 1, 2, 3])
    expect(whole.choices[3]).toMatchObject({ text: "the sea and the whale", finish_reason: "stop" })
    const events = await stream("/v1/completions", { ...body, stream_options: { include_usage: true } })
    for (const event of events) expect(form.violations(form.COMPLETION_CHUNK, event)).toEqual([])
    expect(new Set(events.map(({ id, created, model }) => `${id} ${created} ${model}`)).size).toBe(1)
    const last = events.at(-1)
    expect(last.choices).toEqual([])
    expect(last.usage).toEqual(whole.usage)
    expect(events.slice(0, -1).every(({ usage }) => usage === null)).toBe(true)
    for (const { index, text, logprobs, finish_reason } of whole.choices) {
      const own = events.flatMap(({ choices }) => choices).filter((choice) => choice.index === index)
      expect(own.map((choice) => choice.text).join("")).toBe(text)
      expect(own.at(-1).finish_reason).toBe(finish_reason)
      expect(own.flatMap((choice) => choice.logprobs.text_offset)).toEqual(logprobs.text_offset)
    }
  })

  test("the i-th answer has its own seed, and the first the request's", async () => {
    await post("/v1/completions", { prompt: "the sea", n: 3, seed: 7 })
    const seeds = server.engine.requests.map(({ sampling }) => sampling.seed)
    expect(seeds[0]).toBe(7)
    expect(new Set(seeds).size).toBe(3)
  })

  test("end before a stop text that spans tokens, and say so", async () => {
    for (const stop of ["sea and", "ea an", ["nothing", "d the w"], "the whale"]) {
      const { choices, usage } = await post("/v1/completions", { prompt: "x", max_tokens: 50, stop, logprobs: 0 })
      const text = "the sea and the whale".split(Array.isArray(stop) ? stop[1]! : stop)[0]!
      expect(choices[0]).toMatchObject({ text, finish_reason: "stop" })
      const { tokens, text_offset } = choices[0].logprobs
      expect(text_offset.every((offset: number) => offset < text.length)).toBe(true)
      expect(tokens.join("")).toStartWith(text)
      expect(usage.completion_tokens).toBeLessThanOrEqual(tokenizer.encode("the sea and the whale").length)
      const events = await stream("/v1/completions", { prompt: "x", max_tokens: 50, stop })
      expect(events.map(({ choices: [choice] }) => choice.text).join("")).toBe(text)
    }
    expect(server.engine.open.size).toBe(0)
  })

  test("that are cut say length, also where the cut falls into a possible stop text", async () => {
    const cut = await post("/v1/completions", { prompt: "x", max_tokens: 2, stop: " seaside" })
    expect(cut.choices[0]).toMatchObject({ text: "the sea", finish_reason: "length" })
    expect(cut.usage).toMatchObject({ completion_tokens: 2, total_tokens: cut.usage.prompt_tokens + 2 })
  })

  test("echo with logprobs scores the prompt as lm-eval reads it", async () => {
    const [one, two] = [Array.from(tokenizer.encode("the sea and")), Array.from(tokenizer.encode("the whale"))]
    const payload = { model: "plain", prompt: [one, two], temperature: 0, max_tokens: 1, logprobs: 1, seed: 1234, echo: true }
    const { choices } = await post("/v1/completions", payload)
    for (const [i, prompt] of [one, two].entries()) {
      const { tokens, token_logprobs, top_logprobs, text_offset } = choices[i].logprobs
      for (const list of [tokens, token_logprobs, top_logprobs, text_offset]) expect(list.length).toBe(prompt.length + 1)
      expect([token_logprobs[0], top_logprobs[0]]).toEqual([null, null])
      for (let t = 1; t < tokens.length; t++) expect(top_logprobs[t][tokens[t]]).toBe(token_logprobs[t])
      expect(choices[i].text).toStartWith(tokenizer.decode(prompt))
    }
    const scored = await post("/v1/completions", { prompt: [one], max_tokens: 0, logprobs: 1, echo: true })
    expect(scored.choices[0].logprobs.tokens.length).toBe(one.length)
    expect(scored.choices[0].finish_reason).toBe("length")
  })

  test("offsets count code points, and tokens that are half a character show their bytes", async () => {
    server.engine.script = () => ({ text: "é😀x" })
    const { choices } = await post("/v1/completions", { prompt: "ü", max_tokens: 20, logprobs: 0, echo: true })
    const { tokens, text_offset } = choices[0].logprobs
    expect(choices[0].text).toBe("üé😀x")
    expect(tokens).toContain("bytes:\\xf0")
    expect(text_offset[tokens.indexOf("x")]).toBe(3)
  })

  test("a suffix makes a gap where the model has tokens for it", async () => {
    await post("/v1/completions", { prompt: "the sea", suffix: " whale", ignore_eos: true })
    const [request] = server.engine.requests
    expect(tokenizer.decode(request!.prompt)).toBe("<|fim_prefix|>the sea<|fim_suffix|> whale<|fim_middle|>")
    expect(request!.ignoreEnd).toBe(true)
    for (const body of [{ prompt: ["a", "b"] }, { prompt: [[1]] }, { prompt: "a", echo: true }]) {
      expect(await post("/v1/completions", { ...body, suffix: "b" })).toMatchObject({ status: 400, error: { param: "suffix" } })
    }
    const { model } = await server.context.models.lease("plain")
    const without = trainTokenizer({ kind: "bpe", vocabSize: 270 }, ["the ship and the sea and the whale ".repeat(20)])
    await expect(gapIds({ ...model, tokenizer: without }, "a", "b")).rejects.toThrow("suffix: model plain has no fill-in-the-middle tokens")
  })

  test("best_of returns the likeliest, and counts all", async () => {
    let i = 0
    server.engine.script = () => ({ text: ["the", "the sea", "the sea and"][i++ % 3]! })
    const { choices, usage } = await post("/v1/completions", { prompt: "x", n: 1, best_of: 3 })
    expect(choices.length).toBe(1)
    expect(usage.completion_tokens).toBe(2 + 3 + 4)
    expect(await post("/v1/completions", { prompt: "x", n: 2, best_of: 1 })).toMatchObject({ status: 400, error: { param: "best_of" } })
    expect(await post("/v1/completions", { prompt: "x", best_of: 2, stream: true })).toMatchObject({
      status: 400,
      error: { param: "best_of" },
    })
  })
})

describe("chat", () => {
  test("has the published form, and streams the same", async () => {
    const body = { ...ask("hello"), logprobs: true, top_logprobs: 2, n: 2 }
    const whole = await post("/v1/chat/completions", body)
    expect(form.violations(form.CHAT, whole)).toEqual([])
    expect(whole.choices[1]).toMatchObject({ message: { role: "assistant", content: "the sea and the whale" }, finish_reason: "stop" })
    expect(whole.choices[0].logprobs.content.length).toBe(whole.usage.completion_tokens / 2)
    const events = await stream("/v1/chat/completions", body)
    for (const event of events) expect(form.violations(form.CHAT_CHUNK, event)).toEqual([])
    for (const index of [0, 1]) {
      const own = events.map(({ choices }) => choices[0]).filter((choice) => choice.index === index)
      expect(own[0].delta).toEqual({ role: "assistant", content: "" })
      expect(own.map(({ delta }) => delta.content ?? "").join("")).toBe("the sea and the whale")
      expect(own.flatMap(({ logprobs }) => logprobs?.content ?? [])).toEqual(whole.choices[index].logprobs.content)
      expect(own.filter(({ finish_reason }) => finish_reason !== null).length).toBe(1)
      expect(own.at(-1).finish_reason).toBe("stop")
    }
  })

  test("prompts follow the model's template, else plain paragraphs, and stop where a turn ends", async () => {
    const messages = [
      { role: "developer", content: "Be brief." },
      {
        role: "user",
        content: [
          { type: "text", text: "Hi " },
          { type: "text", text: "you" },
        ],
      },
    ]
    await post("/v1/chat/completions", { model: "chat", messages })
    expect(tokenizer.decode(server.engine.requests[0]!.prompt)).toBe("<|system|>Be brief.<|end|><|user|>Hi you<|end|><|assistant|>")
    expect(server.engine.requests[0]!.stopIds).toEqual([tokenizer.special.get("<|end|>")!])
    await post("/v1/chat/completions", { model: "plain", messages })
    expect(tokenizer.decode(server.engine.requests[1]!.prompt)).toBe("Be brief.\n\nUser: Hi you\n\nAssistant:")
    server.engine.script = () => ({ text: "the sea\n\nUser: the whale" })
    const { choices } = await post("/v1/chat/completions", { model: "plain", messages })
    expect(choices[0]).toMatchObject({ message: { content: "the sea" }, finish_reason: "stop" })
  })

  test("fields that contradict each other are named", async () => {
    const cases: [object, string][] = [
      [{ max_tokens: 3, max_completion_tokens: 4 }, "max_tokens"],
      [{ top_logprobs: 3 }, "top_logprobs"],
      [{ stream_options: {} }, "stream_options"],
      [{ regex: "a", grammar: "b" }, "grammar"],
      [{ tool_choice: "required" }, "tool_choice"],
      [{ logit_bias: { 400: 1 } }, "logit_bias.400"],
      [{ max_completion_tokens: 1100 }, "max_completion_tokens"],
      [{ n: 128 }, "n"],
      [{ messages: [{ role: "user", content: "a", name: "Ann" }] }, "messages[0].name"],
    ]
    for (const [more, param] of cases) {
      const told = await post("/v1/chat/completions", { ...ask("hello"), ...more })
      expect([told.status, told.error?.param]).toEqual([400, param])
      expect(form.violations(form.ERROR, { error: told.error })).toEqual([])
    }
    expect(server.engine.requests.length).toBe(0)
    expect(await post("/v1/chat/completions", { ...ask("x"), model: "gpt-4" })).toMatchObject({
      status: 404,
      error: { code: "model_not_found" },
    })
    const long = await post("/v1/completions", { prompt: "the sea ".repeat(900) })
    expect(long).toMatchObject({ status: 400, error: { param: "prompt", code: "context_length_exceeded" } })
  })
})

describe("Jinja templates", () => {
  /** ChatML with a place for tools and names, as Qwen writes it. */
  const template =
    "{%- if tools %}{{ '<|system|>' + (tools | tojson) + '<|end|>' }}{%- endif %}" +
    "{%- for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{%- for c in m.tool_calls or [] %}{{ '[' + c.function.name + ' ' + c.function.arguments.place + ']' }}{%- endfor %}{{ '<|end|>' }}{%- endfor %}" +
    "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{%- endif %}"
  let jinja: TestServer
  beforeAll(async () => {
    const broken = writeModel(join(work.path, "broken"), { chatTemplate: "{% for" })
    jinja = await startTest([writeModel(join(work.path, "jinja"), { chatTemplate: template }), broken])
  })
  afterAll(() => jinja.close())
  const chatWith = (body: object) => fetch(`${jinja.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(body) })

  test("make the prompt with tools and their calls, and show what ends a turn", async () => {
    const call = { id: "c", type: "function", function: { name: "look", arguments: '{"place": "sea"}' } }
    const messages = [
      { role: "user", content: "Look" },
      { role: "assistant", content: "", tool_calls: [call] },
      { role: "tool", tool_call_id: "c", content: "a whale" },
    ]
    const tools = [{ type: "function", function: { name: "look" } }]
    expect((await chatWith({ messages, tools, tool_choice: "required" })).status).toBe(200)
    const { prompt, stopIds } = jinja.engine.requests[0]!
    expect(tokenizer.decode(prompt)).toBe(
      '<|system|>[{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]<|end|>' +
        "<|user|>Look<|end|><|assistant|>[look sea]<|end|><|tool|>a whale<|end|><|assistant|>",
    )
    expect(stopIds).toEqual([tokenizer.special.get("<|end|>")!])
  })

  test("that cannot be read refuse conversations, with the reason, and nothing else", async () => {
    const refused = await chatWith({ model: "broken", messages: [{ role: "user", content: "a" }] })
    expect([refused.status, ((await refused.json()) as Json).error.param]).toEqual([400, "model"])
    expect((await fetch(`${jinja.url}/v1/completions`, { method: "POST", body: '{"model": "broken", "prompt": "a"}' })).status).toBe(200)
  })
})

describe("tools", () => {
  const tools = [
    {
      type: "function",
      function: { name: "look", description: "Looks.", parameters: { type: "object", properties: { place: { type: "string" } } } },
    },
    { type: "function", function: { name: "wait" } },
  ]

  test("a forced call has the schema's arguments, whole and streamed", async () => {
    const choice = { tools, tool_choice: { type: "function", function: { name: "look" } } }
    const whole = await post("/v1/chat/completions", { ...ask("x"), ...choice })
    expect(form.violations(form.CHAT, whole)).toEqual([])
    const { message, finish_reason } = whole.choices[0]
    expect([message.content, finish_reason]).toEqual([null, "tool_calls"])
    expect(message.tool_calls[0].function).toEqual({ name: "look", arguments: '{"place": "sea"}' })
    const { constraint } = server.engine.requests[0]!
    expect(constraint).toMatchObject({ type: "sequence", items: [{ type: "literal" }, { type: "json_schema" }, { type: "literal" }] })
    const events = await stream("/v1/chat/completions", { ...ask("x"), ...choice })
    for (const event of events) expect(form.violations(form.CHAT_CHUNK, event)).toEqual([])
    const calls = events.flatMap(({ choices }) => choices[0].delta.tool_calls ?? [])
    expect(calls[0]).toMatchObject({ index: 0, type: "function", function: { name: "look", arguments: "" } })
    expect(calls.map((call) => call.function.arguments).join("")).toBe('{"place": "sea"}')
    expect(events.at(-1).choices[0].finish_reason).toBe("tool_calls")
  })

  test("a call that is cut says length", async () => {
    const cut = await post("/v1/chat/completions", { ...ask("x"), tools, tool_choice: "required", max_tokens: 60 })
    expect(cut.choices[0].finish_reason).toBe("length")
  })

  test("auto leaves the choice; what begins like a call but is none is text", async () => {
    server.engine.script = () => ({ text: "<tool_cat> is no call", ends: true })
    const { choices } = await post("/v1/chat/completions", { ...ask("x"), tools })
    expect(choices[0]).toMatchObject({ message: { content: "<tool_cat> is no call" }, finish_reason: "stop" })
    const { constraint, prompt } = server.engine.requests[0]!
    expect(constraint).toMatchObject({ type: "choice", items: [{ type: "regex" }, { type: "choice" }] })
    const pattern = new RegExp(`^(?:${(constraint as Json).items[0].pattern})$`)
    for (const text of ["", "hello", "<tool_cal", "<tool_cat>", "a <tool_call>"]) expect([text, pattern.test(text)]).toEqual([text, true])
    for (const text of ["<tool_call>", "<tool_call>\n{}"]) expect([text, pattern.test(text)]).toEqual([text, false])
    expect(tokenizer.decode(prompt)).toContain('{"name":"look","description":"Looks."')
  })

  test("results of calls reach the model", async () => {
    await post("/v1/chat/completions", {
      model: "chat",
      messages: [
        { role: "user", content: "Look" },
        { role: "assistant", content: null, tool_calls: [{ id: "c1", type: "function", function: { name: "look", arguments: "{}" } }] },
        { role: "tool", tool_call_id: "c1", content: "a whale" },
      ],
    })
    const prompt = tokenizer.decode(server.engine.requests[0]!.prompt)
    expect(prompt).toContain('<|assistant|><tool_call>\n{"name": "look", "arguments": {}}\n</tool_call><|end|>')
    expect(prompt).toContain("<|user|><tool_response>\na whale\n</tool_response><|end|>")
  })
})

test("responses have the published form, and stream the same", async () => {
  const body = {
    model: "chat",
    input: [{ role: "user", content: "hi" }],
    instructions: "Be brief.",
    metadata: { a: "b" },
    max_output_tokens: 4,
  }
  const whole = await post("/v1/responses", body)
  expect(form.violations(form.RESPONSE, whole)).toEqual([])
  expect(whole).toMatchObject({
    status: "incomplete",
    incomplete_details: { reason: "max_output_tokens" },
    metadata: { a: "b" },
    store: false,
  })
  for (const more of [{}, { tools: [{ type: "function", name: "look" }], tool_choice: "required" as const, max_output_tokens: 200 }]) {
    const events = await stream("/v1/responses", { ...body, ...more, include: ["message.output_text.logprobs"], top_logprobs: 1 })
    for (const event of events)
      expect([event.type, form.violations(form.RESPONSE_EVENTS.get(event.type)!, event)]).toEqual([event.type, []])
    expect(events.map(({ sequence_number }) => sequence_number)).toEqual(events.map((_, i) => i))
    const last = events.at(-1)
    expect(last.type).toBe("tools" in more ? "response.completed" : "response.incomplete")
    const said = events
      .filter(({ type }) => type.endsWith(".delta"))
      .map(({ delta }) => delta)
      .join("")
    const [item] = last.response.output
    expect(said).toBe("tools" in more ? item.arguments : item.content[0].text)
    expect(item.status).toBe("tools" in more ? "completed" : "incomplete")
  }
})

test("embeddings come as numbers and as base64 of the same", async () => {
  const floats = await post("/v1/embeddings", { input: ["the sea", "the ship"] })
  expect(form.violations(form.EMBEDDINGS, floats)).toEqual([])
  const base64 = await post("/v1/embeddings", { input: "the sea", encoding_format: "base64" })
  expect(form.violations(form.EMBEDDINGS, base64)).toEqual([])
  const bytes = Buffer.from(base64.data[0].embedding, "base64")
  expect(Array.from(new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4))).toEqual(floats.data[0].embedding)
  expect(await post("/v1/embeddings", { input: ["a", ""] })).toMatchObject({ status: 400, error: { param: "input[1]" } })
  expect(await post("/v1/embeddings", { input: "a", dimensions: 8 })).toMatchObject({ status: 400, error: { param: "dimensions" } })
})

test("models, tokenize and detokenize", async () => {
  const list = (await (await fetch(`${server.url}/v1/models`)).json()) as Json
  expect(form.violations(form.MODELS, list)).toEqual([])
  expect(list.data.map(({ id }: Json) => id)).toEqual(["plain", "chat"])
  const { tokens, count, token_strs } = await post("/tokenize", { prompt: "the sea" })
  expect([count, token_strs.join("")]).toEqual([tokens.length, "the sea"])
  expect(await post("/detokenize", { tokens })).toMatchObject({ prompt: "the sea" })
  expect(await post("/detokenize", { tokens: [1, 9999] })).toMatchObject({ status: 400, error: { param: "tokens[1]" } })
  const long = "the sea and the whale ".repeat(2000)
  const many = await post("/tokenize", { prompt: long })
  expect(many.tokens).toEqual(Array.from(tokenizer.encode(long)))
})

describe("failures", () => {
  test("of the engine before the first word have their status, later ones end the stream with an error", async () => {
    server.engine.script = () => ({ code: "queue_full", message: "full", retryAfterMs: 250 })
    for (const body of [{ prompt: "x" }, { prompt: "x", stream: true }]) {
      const full = await post("/v1/completions", body)
      expect([full.status, full.headers.get("retry-after-ms"), full.headers.get("x-should-retry")]).toEqual([429, "250", "true"])
    }
    server.engine.script = () => ({ code: "request", message: "no such rule", param: "constraint" })
    expect(await post("/v1/completions", { prompt: "x", grammar: "root ::= x" })).toMatchObject({
      status: 400,
      error: { param: "grammar" },
    })
    expect(server.context.running.size).toBe(0)
  })

  test("a stream that is cut by draining ends with an error event, never as if it were whole", async () => {
    server.engine.holdAfter = 2
    const answer = await fetch(`${server.url}/v1/completions`, { method: "POST", body: JSON.stringify({ prompt: "x", stream: true }) })
    const reader = answer.body!.getReader()
    await reader.read()
    for (const cancel of [...server.context.running]) cancel(draining())
    let rest = ""
    for (let next = await reader.read(); !next.done; next = await reader.read()) rest += new TextDecoder().decode(next.value)
    expect(rest).toContain('"code":"draining"')
    expect(rest).not.toContain("[DONE]")
    expect(server.engine.cancelled.length).toBe(1)
  })

  test("a client that goes frees its slot, with and without a stream", async () => {
    server.engine.holdAfter = 1
    for (const stream of [true, false]) {
      const controller = new AbortController()
      const sent = fetch(`${server.url}/v1/completions`, {
        method: "POST",
        body: JSON.stringify({ prompt: "x", stream, n: 3 }),
        signal: controller.signal,
      })
      sent.then((answer) => answer.text()).catch(() => {})
      await until("three answers", () => server.engine.open.size === 3)
      controller.abort()
      await until("their end", () => server.engine.open.size === 0)
      expect([stream, server.engine.open.size, server.context.running.size]).toEqual([stream, 0, 0])
    }
    expect(server.engine.cancelled.length).toBe(6)
  })
})

test("a silent stream is kept alive by comments, and ends its source when the reader goes", async () => {
  const told: string[] = []
  const pinged = Promise.withResolvers<void>()
  const source = (async function* () {
    await pinged.promise
    yield dataEvent({ a: 1 })
    await new Promise(() => {})
  })()
  const reader = eventStream(source, { onGone: () => void told.push("gone"), pingMs: 10 }).body!.getReader()
  let text = ""
  while (!text.includes("data:")) {
    text += new TextDecoder().decode((await reader.read()).value)
    if (text.includes(": ping\n\n: ping\n\n")) pinged.resolve()
  }
  expect(text).toMatch(/^(: ping\n\n)+data: \{"a":1\}\n\n$/)
  await reader.cancel()
  expect(told).toEqual(["gone"])
})

test("limits of a key: requests at a time, tokens in a minute", async () => {
  const limited = await startTest([plain], { limits: { concurrency: 1, tokensPerMinute: 60 } })
  try {
    limited.engine.holdAfter = 1
    const send = (max_tokens: number) =>
      fetch(`${limited.url}/v1/completions`, { method: "POST", body: JSON.stringify({ prompt: "the sea", max_tokens }) })
    const first = send(10)
    await until("the first", () => limited.engine.open.size === 1)
    const second = await send(10)
    expect([second.status, Number(second.headers.get("retry-after-ms")) > 0]).toEqual([429, true])
    limited.engine.holdAfter = Number.POSITIVE_INFINITY
    expect((await first).status).toBe(200)
    expect((await send(45)).status).toBe(200)
    expect((await send(56)).status).toBe(429)
    expect((await send(61)).status).toBe(400)
  } finally {
    await limited.close()
  }
})

describe("older endpoints", () => {
  test("models, inference, generate", async () => {
    expect(await (await fetch(`${server.url}/api/models`)).json()).toMatchObject([{ name: "plain", loaded: true }, { name: "chat" }])
    const events = await (await fetch(`${server.url}/api/inference?query=x&steps=20&temp=0&topk=3`)).text()
    expect(events).toStartWith('data: {"token":"the"}\n\n')
    expect(events).toEndWith("data: [DONE]\n\n")
    expect(events).toContain('"finish_reason":"stop"')
    const bad = await fetch(`${server.url}/api/inference?query=x&steps=501`)
    expect([bad.status, ((await bad.json()) as Json).error.param]).toEqual([400, "steps"])
    expect(await post("/api/generate", { prompt: "x", max_tokens: 2 })).toMatchObject({ text: "the sea", finish_reason: "length" })
  })
})

test("one request with many answers takes a few at a time, and waits for room it once had", async () => {
  let most = 0
  let refused = 0
  server.engine.script = () => {
    most = Math.max(most, server.engine.open.size)
    if (server.engine.requests.length > 40 && server.engine.requests.length % 3 === 0 && refused++ < 20) {
      return { code: "queue_full", message: "full", retryAfterMs: 2 }
    }
    return { text: "the sea" }
  }
  const inputs = Array.from({ length: 200 }, (_, i) => `the sea ${i}`)
  const { data } = await post("/v1/embeddings", { model: "plain", input: inputs })
  expect(data.map(({ index }: Json) => index)).toEqual(inputs.map((_, i) => i))
  const { choices } = await post("/v1/completions", { model: "plain", prompt: inputs.slice(0, 50), n: 2, max_tokens: 5 })
  expect(choices.length).toBe(100)
  expect(choices.every(({ text }: Json) => text === "the sea")).toBe(true)
  expect([most <= 32, refused > 0]).toEqual([true, true])
  expect(await post("/v1/completions", { prompt: "a", max_tokens: 900, n: 64 })).toMatchObject({ status: 400, error: { param: "n" } })
})
