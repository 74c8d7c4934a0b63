/** Streams of a server that is behind: tokens of several steps leave together, each as an event of its own. */
import { afterAll, beforeAll, expect, test } from "bun:test"
import { join } from "node:path"
import { startTest, type TestServer, tokenizer, workFolder, writeModel } from "./serve-fake.ts"

const work = workFolder()
let server: TestServer
beforeAll(async () => {
  server = await startTest([writeModel(join(work.path, "tiny"))])
})
afterAll(async () => {
  await server.close()
  work.remove()
})

test("tokens that come together leave in few writes, each as an event of its own", async () => {
  const text = "the ship and the sea and the whale ".repeat(8)
  server.engine.script = () => ({ text })
  const tokens = tokenizer.encode(text).length
  for (const [path, body] of [
    ["/v1/completions", { prompt: "x", max_tokens: 500 }],
    ["/v1/chat/completions", { messages: [{ role: "user", content: "x" }], max_tokens: 500 }],
  ] as const) {
    const answer = await fetch(server.url + path, { method: "POST", body: JSON.stringify({ ...body, stream: true }) })
    let [reads, all] = [0, ""]
    for await (const bytes of answer.body!.pipeThrough(new TextDecoderStream())) {
      reads++
      all += bytes
    }
    const texts = all
      .split("\n\n")
      .filter((event) => event.startsWith("data: {"))
      .map((event) => JSON.parse(event.slice(6)).choices[0])
      .flatMap(({ text: own, delta }) => own || delta?.content || [])
    expect(texts.join("")).toBe(text)
    expect(texts).toHaveLength(tokens)
    expect(reads).toBeLessThan(tokens)
  }
})
