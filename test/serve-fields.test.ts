/** The field table: every field of OpenAI's document has a row, and every row does what its status says. */
import { describe, expect, test } from "bun:test"
import { ApiError } from "../src/serve-error.ts"
import { FIELDS } from "../src/serve-fields.ts"
import { docsPage } from "../src/serve-page-docs.ts"
import { parseRows, type Row, type Rows, rowsSchema } from "../src/serve-shape.ts"

/** Names of the request fields in OpenAI's published document, version 2.3.0. */
const PUBLISHED = {
  "POST /v1/completions":
    "best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty prompt seed stop stream stream_options suffix temperature top_p user",
  "POST /v1/chat/completions":
    "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options",
  "POST /v1/embeddings": "dimensions encoding_format input model user",
  "POST /v1/responses":
    "background context_management conversation include input instructions max_output_tokens max_tool_calls metadata model moderation parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention reasoning safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p truncation user",
} as const

/** The least that each endpoint takes. */
const LEAST: Record<keyof typeof FIELDS, Record<string, unknown>> = {
  "POST /v1/completions": { prompt: "a" },
  "POST /v1/chat/completions": { messages: [{ role: "user", content: "a" }] },
  "POST /v1/responses": { input: "a" },
  "POST /v1/embeddings": { input: "a" },
  "POST /tokenize": { prompt: "a" },
  "POST /detokenize": { tokens: [1] },
  "POST /v1/load": { model: "a" },
  "POST /v1/unload": { model: "a" },
  "GET /api/inference": { query: "a" },
  "POST /api/generate": { prompt: "a" },
  "POST /api/chat": { messages: [{ role: "user", content: "a" }] },
}

function refusal(rows: Rows, body: unknown): { status: number; param: string | null; message: string } | undefined {
  try {
    parseRows(rows, body)
    return undefined
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    return { status: error.status, param: error.body.error.param, message: error.message }
  }
}

/** A value that no shape but "any object" takes. */
const WRONG = { "not a field": Number.NaN }
const endpoints = Object.entries(FIELDS) as [keyof typeof FIELDS, Rows][]

describe.each(endpoints)("%s", (name, rows) => {
  const least = LEAST[name]

  test("takes the least, and null for what is absent", () => {
    expect(refusal(rows, least)).toBeUndefined()
    const nulls = Object.fromEntries(
      Object.keys(rows)
        .filter((field) => !(field in least))
        .map((field) => [field, null]),
    )
    expect(refusal(rows, { ...nulls, ...least })).toBeUndefined()
  })

  test("refuses unknown fields and missing ones by name", () => {
    expect(refusal(rows, { ...least, temprature: 1 })).toMatchObject({ status: 400, param: "temprature" })
    for (const field of Object.keys(rows).filter((one) => rows[one]!.required)) {
      const { [field]: _, ...rest } = least
      expect(refusal(rows, rest)).toMatchObject({ status: 400, param: field })
    }
    expect(refusal(rows, [])).toMatchObject({ status: 400, param: "body" })
  })

  test.each(Object.entries(rows) as [string, Row][])("%s", (field, row) => {
    const told = refusal(rows, { ...least, [field]: WRONG })
    expect(told?.status).toBe(400)
    expect(told?.param).toStartWith(field)
    expect(told?.message).toStartWith(told!.param!)
    expect(row.doc.length).toBeGreaterThan(3)
    if (row.default !== undefined && !name.startsWith("GET")) expect(refusal(rows, { ...least, [field]: row.default })).toBeUndefined()
  })
})

test.each(Object.entries(PUBLISHED))("%s has a row for every published field, and marks the others", (name, published) => {
  const rows: Rows = FIELDS[name as keyof typeof PUBLISHED]
  const names = published.split(" ")
  expect(names.filter((field) => !(field in rows))).toEqual([])
  expect(Object.keys(rows).filter((field) => !names.includes(field) && !rows[field]!.extension)).toEqual([])
  expect(names.filter((field) => rows[field]!.extension)).toEqual([])
})

test("errors name the place inside a value", () => {
  const chat = FIELDS["POST /v1/chat/completions"]
  const says = (body: object) => refusal(chat, { ...LEAST["POST /v1/chat/completions"], ...body })?.param
  expect(says({ messages: [] })).toBe("messages")
  expect(says({ messages: [{ role: "user", content: "a" }, { role: "user" }] })).toBe("messages[1].content")
  expect(says({ messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }] })).toStartWith("messages[0].content[0]")
  expect(says({ messages: [{ role: "tool", content: "a" }] })).toBe("messages[0].tool_call_id")
  expect(says({ messages: [{ role: "user", content: "a", tool_calls: [] }] })).toBe("messages[0].tool_calls")
  expect(says({ response_format: { type: "json_schema" } })).toBe("response_format.json_schema")
  expect(says({ response_format: { type: "json_schema", json_schema: { name: "a b" } } })).toBe("response_format.json_schema.name")
  expect(says({ tools: [{ type: "function", function: { name: "f", parameters: 3 } }] })).toBe("tools[0].function.parameters")
  const nested = (depth: number): object => (depth === 0 ? {} : { items: nested(depth - 1) })
  const format = (schema: object) => ({ response_format: { type: "json_schema", json_schema: { name: "a", schema } } })
  expect(says(format(nested(100)))).toBeUndefined()
  expect(says(format(nested(101)))).toBe("response_format.json_schema.schema")
  expect(says(format({ enum: Array.from({ length: 10_000 }, (_, i) => i) }))).toBe("response_format.json_schema.schema")
  expect(says({ stop: ["a", "b", "c", "d", "e"] })).toBe("stop")
  expect(says({ stop: "" })).toBe("stop")
  expect(says({ logit_bias: { x: 1 } })).toBe("logit_bias.x")
  expect(says({ logit_bias: { 5: 101 } })).toBe("logit_bias.5")
  expect(says({ n: 1.5 })).toBe("n")
  expect(says({ seed: 2 ** 60 })).toBe("seed")
  expect(says({ stream_options: { include_usage: "yes" } })).toBe("stream_options.include_usage")
  expect(says({ store: true })).toBe("store")
  expect(says({ store: false, service_tier: "auto", modalities: ["text"], parallel_tool_calls: true })).toBeUndefined()
})

test("prompts: text, texts, ids, arrays of ids, never mixed", () => {
  const parse = (prompt: unknown) => parseRows(FIELDS["POST /v1/completions"], { prompt }).prompt
  expect(parse("a")).toEqual(["a"])
  expect(parse("")).toEqual([""])
  expect(parse(["a", "b"])).toEqual(["a", "b"])
  expect(parse([1, 2])).toEqual([[1, 2]])
  expect(parse([[1, 2], [3]])).toEqual([[1, 2], [3]])
  for (const bad of [[], [[]], [1, "a"], ["a", [1]], [-1], [1.5], 7]) expect(() => parse(bad), JSON.stringify(bad)).toThrow(/^prompt/)
})

test("the documentation shows every field with its status", () => {
  const page = docsPage()
  for (const [name, rows] of endpoints) {
    const section = page.slice(page.indexOf(`<section id="${name.replace(/\W+/g, "-")}">`)).split("</section>")[0]!
    for (const [field, row] of Object.entries(rows))
      expect(section).toContain(`<tr class="${row.status}"><th scope="row"><code>${field}</code>`)
  }
  expect(page).not.toMatch(/(?:src|href)="(?:https?:)?\/\//)
})

test("the tables are JSON Schema too", () => {
  const schema = rowsSchema(FIELDS["POST /v1/completions"]) as { properties: Record<string, { maximum?: number }>; required: string[] }
  expect(schema.required).toEqual(["prompt"])
  expect(schema.properties.temperature).toMatchObject({ type: "number", minimum: 0, maximum: 2, default: 1 })
})
