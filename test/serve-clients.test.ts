/** Real clients against the server: openai, the AI SDK, compatcanary, curl, promtool. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test"
import { join } from "node:path"
import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { DefaultChatTransport, embed, generateObject, generateText, jsonSchema, readUIMessageStream, streamText, tool } from "ai"
import OpenAI from "openai"
import { chatTemplate } from "../src/data.ts"
import { draining } from "../src/serve-error.ts"
import { testWith } from "./require.ts"
import { fakeEngine, startTest, type TestServer, workFolder, writeModel } from "./serve-fake.ts"
import { until } from "./support.ts"

const work = workFolder()
const KEY = "client-key-1"
let server: TestServer
let openai: OpenAI
let provider: ReturnType<typeof createOpenAICompatible>
beforeAll(async () => {
  server = await startTest([writeModel(join(work.path, "tiny"), { chatTemplate })], {
    environment: { ALPHA_API_KEYS: KEY },
    metricsCompat: "vllm",
  })
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: KEY, maxRetries: 2 })
  provider = createOpenAICompatible({
    name: "alpha",
    baseURL: `${server.url}/v1`,
    apiKey: KEY,
    includeUsage: true,
    supportsStructuredOutputs: true,
  })
})
afterAll(async () => {
  await server.close()
  work.remove()
})
afterEach(() => {
  server.engine.script = fakeEngine().script
  server.engine.holdAfter = Number.POSITIVE_INFINITY
})

const messages = [{ role: "user" as const, content: "hello" }]
const SAID = "the sea and the whale"
const parameters = {
  type: "object" as const,
  properties: { place: { type: "string" as const } },
  required: ["place"],
  additionalProperties: false,
}

describe("openai", () => {
  test("chat, whole and streamed, with usage", async () => {
    const whole = await openai.chat.completions.create({ model: "tiny", messages })
    expect([whole.choices[0]!.message.content, whole.choices[0]!.finish_reason]).toEqual([SAID, "stop"])
    const stream = openai.chat.completions.stream({ model: "tiny", messages, stream_options: { include_usage: true } })
    const final = await stream.finalChatCompletion()
    expect(final.choices[0]!.message.content).toBe(SAID)
    expect(final.usage?.completion_tokens).toBe(whole.usage!.completion_tokens)
  })

  test("completions, embeddings (base64 by default), models, responses", async () => {
    const { choices } = await openai.completions.create({ model: "tiny", prompt: ["a", "b"], max_tokens: 20 })
    expect(choices.map(({ text }) => text)).toEqual([SAID, SAID])
    const { data } = await openai.embeddings.create({ model: "tiny", input: "the sea" })
    expect([data[0]!.embedding.length, typeof data[0]!.embedding[0]]).toEqual([32, "number"])
    const ids: string[] = []
    for await (const { id } of openai.models.list()) ids.push(id)
    expect(ids).toEqual(["tiny"])
    expect((await openai.models.retrieve("tiny")).owned_by).toBe("alpha")
    const response = await openai.responses.create({ model: "tiny", input: "hello" })
    expect(response.output_text).toBe(SAID)
    const events: string[] = []
    let last = ""
    for await (const event of await openai.responses.create({ model: "tiny", input: "hello", stream: true })) {
      events.push(event.type)
      if (event.type === "response.completed") last = event.response.status ?? ""
    }
    expect([events[0], events.at(-1), last]).toEqual(["response.created", "response.completed", "completed"])
  })

  test("runs tools", async () => {
    const tools = [{ type: "function" as const, function: { name: "look", parameters } }]
    const { choices } = await openai.chat.completions.create({ model: "tiny", messages, tools, tool_choice: "required" })
    const call = choices[0]!.message.tool_calls![0]!
    expect(call.type === "function" && JSON.parse(call.function.arguments)).toEqual({ place: "sea" })
    const streamed = await openai.chat.completions.stream({ model: "tiny", messages, tools, tool_choice: "required" }).finalChatCompletion()
    expect(streamed.choices[0]!.finish_reason).toBe("tool_calls")
  })

  test("reads our errors: the field, the status, when to try again", async () => {
    const bad = await openai.chat.completions.create({ model: "tiny", messages, temperature: 3 }).catch((error) => error)
    expect(bad).toBeInstanceOf(OpenAI.BadRequestError)
    expect([bad.param, bad.code, bad.requestID.startsWith("req_")]).toEqual(["temperature", "invalid_value", true])
    const wrong = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "wrong-key-99" })
    expect(await wrong.models.list().catch((error) => error)).toBeInstanceOf(OpenAI.AuthenticationError)
    let tries = 0
    server.engine.script = () => (tries++ < 2 ? { code: "queue_full", message: "full", retryAfterMs: 5 } : { text: "the sea" })
    expect((await openai.completions.create({ model: "tiny", prompt: "a" })).choices[0]!.text).toBe("the sea")
    expect(tries).toBe(3)
  })

  test("takes no cut answer for a whole one", async () => {
    server.engine.holdAfter = 2
    const told = (async () => {
      for await (const _chunk of await openai.chat.completions.create({ model: "tiny", messages, stream: true })) {
        for (const cancel of [...server.context.running]) cancel(draining())
      }
    })()
    const error = await told.catch((thrown) => thrown)
    expect(error).toBeInstanceOf(OpenAI.APIError)
    expect(error.code).toBe("draining")
  })

  test("aborting frees the slot", async () => {
    server.engine.holdAfter = 2
    const before = server.engine.cancelled.length
    const stream = await openai.chat.completions.create({ model: "tiny", messages, stream: true })
    for await (const _chunk of stream) break
    await until("its end", () => server.engine.open.size === 0)
    expect(server.engine.cancelled.length).toBe(before + 1)
  })
})

describe("the AI SDK", () => {
  test("text, streams, embeddings", async () => {
    const whole = await generateText({ model: provider("tiny"), prompt: "hello" })
    expect([whole.text, whole.finishReason]).toEqual([SAID, "stop"])
    const stream = streamText({ model: provider("tiny"), prompt: "hello" })
    let text = ""
    for await (const piece of stream.textStream) text += piece
    expect(text).toBe(SAID)
    expect((await stream.usage).outputTokens).toBe(whole.usage.outputTokens!)
    const { embedding } = await embed({ model: provider.textEmbeddingModel("tiny"), value: "the sea" })
    expect(embedding.length).toBe(32)
  })

  test("objects and tools by schema", async () => {
    const schema = jsonSchema<{ place: string }>(parameters)
    const { object } = await generateObject({ model: provider("tiny"), schema, prompt: "where?" })
    expect(object).toEqual({ place: "sea" })
    const { toolCalls } = await generateText({
      model: provider("tiny"),
      prompt: "where?",
      toolChoice: "required",
      tools: { look: tool({ description: "Looks.", inputSchema: schema }) },
    })
    expect(toolCalls.map(({ toolName, input }) => [toolName, input])).toEqual([["look", { place: "sea" }]])
  })

  test("an answer that breaks off is an error", async () => {
    server.engine.holdAfter = 2
    const faults: unknown[] = []
    const stream = streamText({ model: provider("tiny"), prompt: "hello", maxRetries: 0, onError: ({ error }) => void faults.push(error) })
    for await (const _piece of stream.textStream) for (const cancel of [...server.context.running]) cancel(draining())
    expect(faults.length).toBe(1)
  })

  test("useChat's stream has its parts in order", async () => {
    const transport = new DefaultChatTransport({ api: `${server.url}/api/chat`, headers: { authorization: `Bearer ${KEY}` } })
    const stream = await transport.sendMessages({
      chatId: "c",
      trigger: "submit-message",
      messageId: undefined,
      messages: [{ id: "m", role: "user", parts: [{ type: "text", text: "hello" }] }],
      abortSignal: undefined,
    })
    let text = ""
    for await (const message of readUIMessageStream({ stream }))
      text = message.parts.map((part) => (part.type === "text" ? part.text : "")).join("")
    expect(text).toBe(SAID)
  })
})

/** Runs a program; its output and exit code. */
async function run(args: readonly string[], stdin?: string): Promise<{ code: number; output: string }> {
  const child = Bun.spawn([...args], {
    stdin: stdin === undefined ? "ignore" : new TextEncoder().encode(stdin),
    stdout: "pipe",
    stderr: "pipe",
  })
  const [out, error] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  return { code: await child.exited, output: out + error }
}

const curl = Bun.which("curl")
testWith("curl", curl === null ? "apt-get install curl" : undefined)("curl reads JSON and events", async () => {
  const request = (stream: boolean) => [
    "curl",
    "-sSN",
    `${server.url}/v1/completions`,
    "-H",
    `Authorization: Bearer ${KEY}`,
    "-d",
    JSON.stringify({ prompt: "x", max_tokens: 20, stream }),
  ]
  const whole = await run(request(false))
  expect(JSON.parse(whole.output).choices[0].text).toBe(SAID)
  const events = await run(request(true))
  expect([events.code, events.output.endsWith("data: [DONE]\n\n")]).toEqual([0, true])
})

const promtool = Bun.which("promtool")
testWith("promtool", promtool === null ? "apt-get install prometheus" : undefined)("promtool accepts the metrics", async () => {
  await openai.completions.create({ model: "tiny", prompt: "a" })
  const text = await (await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${KEY}` } })).text()
  expect(text).toMatch(/^alpha_time_to_first_token_seconds_bucket\{model="tiny",le="\+Inf"\} [1-9]/m)
  for (const name of [
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries_total",
    "time_to_first_token_seconds_count",
  ]) {
    expect(text).toContain(`\nvllm:${name}`)
  }
  const own = text.replace(/^(?:# \w+ )?vllm:.*\n/gm, "")
  expect(await run(["promtool", "check", "metrics"], own)).toEqual({ code: 0, output: "" })
})
