/** Odd values in every field of every endpoint: answered or refused by name, never a fault. */
import { afterAll, expect, test } from "bun:test"
import { join } from "node:path"
import { uniform } from "../src/base-random.ts"
import { FIELDS } from "../src/serve-fields.ts"
import type { Row, Rows } from "../src/serve-shape.ts"
import { startTest, workFolder, writeModel } from "./serve-fake.ts"
import { ERROR, violations } from "./serve-schema.ts"

const work = workFolder()
afterAll(() => work.remove())
const SEED = 11
const ROUNDS = 40

/** Values near what fields take, and far from it. */
const POOL: readonly unknown[] = [
  null,
  true,
  false,
  0,
  1,
  -1,
  2,
  0.5,
  1e308,
  -0,
  2 ** 31,
  2 ** 53,
  1e-320,
  "",
  "a",
  "the sea",
  "\ud800",
  "\u0000",
  "x".repeat(5000),
  "plain",
  "plain@1",
  [],
  [[]],
  {},
  [1],
  [[1], [2]],
  ["a"],
  ["a", "b"],
  [null],
  [0, -1],
  [1e9],
  { a: 1 },
  { "5": 3 },
  { "0": -100 },
  { type: "text" },
  { type: "json_object" },
  { type: "json_schema", json_schema: { name: "a", schema: {} } },
  { type: "function", function: { name: "f" } },
  [{ type: "function", function: { name: "f" } }],
  [{ type: "function", name: "f" }],
  "auto",
  "none",
  "required",
  [{ role: "user", content: "a" }],
  [{ role: "tool", content: "a", tool_call_id: "c" }],
  [{ role: "assistant", content: null }],
  [{ role: "user", content: [{ type: "text", text: "a" }] }],
  [{ type: "function_call_output", call_id: "c", output: "x" }],
  { include_usage: true },
  ["message.output_text.logprobs"],
  "base64",
  { constructor: 1 },
  { format: { type: "json_object" } },
]

function fits(row: Row, value: unknown): boolean {
  try {
    row.shape.parse(value, "x")
    return true
  } catch {
    return false
  }
}

test(`${ROUNDS} rounds of odd values, seed ${SEED}`, async () => {
  const server = await startTest([writeModel(join(work.path, "plain"))], {
    environment: { ALPHA_ADMIN_KEY: "admin-key-1", ALPHA_API_KEYS: "admin-key-1" },
  })
  let draws = 0
  const draw = (n: number) => Math.floor(uniform(SEED, 0, 0, draws++) * n)
  const statuses = new Map<number, number>()
  const least: Record<string, unknown> = {
    prompt: "a",
    messages: [{ role: "user", content: "a" }],
    input: "a",
    tokens: [1],
    model: "plain",
    query: "a",
  }
  try {
    for (let round = 0; round < ROUNDS; round++) {
      for (const [name, rows] of Object.entries(FIELDS) as [string, Rows][]) {
        const [method, path] = name.split(" ") as [string, string]
        const body = Object.fromEntries(
          Object.keys(rows).flatMap((field) => (rows[field]!.required && field in least ? [[field, least[field]]] : [])),
        )
        for (let i = 0; i <= draw(3); i++) {
          const field = Object.keys(rows)[draw(Object.keys(rows).length)]!
          // Mostly values that pass alone, so that what comes after the table is reached.
          const fitting = draw(5) === 0 ? [] : POOL.filter((value) => fits(rows[field]!, value))
          const values = fitting.length > 0 ? fitting : POOL
          body[field] = values[draw(values.length)]
        }
        const parameters = Object.fromEntries(
          Object.entries(body).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)]),
        )
        const query = method === "GET" ? `?${new URLSearchParams(parameters)}` : ""
        const answer = await fetch(server.url + path + query, {
          method,
          headers: { authorization: "Bearer admin-key-1" },
          ...(method === "POST" ? { body: JSON.stringify(body) } : {}),
        })
        const text = await answer.text()
        const about = `${name} ${JSON.stringify(body).slice(0, 300)}: ${text.slice(0, 300)}`
        expect([200, 400, 404], about).toContain(answer.status)
        if (answer.status >= 400) {
          expect(violations(ERROR, JSON.parse(text)), about).toEqual([])
          expect(JSON.parse(text).error.param, about).toBeString()
        }
        statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1)
      }
    }
    expect(server.engine.open.size).toBe(0)
    expect(server.context.running.size).toBe(0)
    expect(statuses.get(200)!).toBeGreaterThan(ROUNDS)
  } finally {
    await server.close()
  }
})
