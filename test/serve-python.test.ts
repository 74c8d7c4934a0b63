/** OpenAI's Python client against the server, where a Python that has it is there (PYTHON names one). */
import { afterAll, expect } from "bun:test"
import { join } from "node:path"
import { chatTemplate } from "../src/data.ts"
import { testWith } from "./require.ts"
import { startTest, workFolder, writeModel } from "./serve-fake.ts"

const python = process.env.PYTHON ?? "python3"
const has = Bun.which(python) !== null && Bun.spawnSync([python, "-c", "import openai"]).success
const work = workFolder()
afterAll(() => work.remove())

const PROGRAM = `
import json, sys, openai
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none-needed", max_retries=0)
out = {}
messages = [{"role": "user", "content": "hello"}]
out["chat"] = client.chat.completions.create(model="tiny", messages=messages).choices[0].message.content
out["stream"] = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(model="tiny", messages=messages, stream=True))
scored = client.completions.create(model="tiny", prompt=[[257, 269, 257]], max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234)
out["scored"] = len(scored.choices[0].logprobs.token_logprobs)
out["embedding"] = len(client.embeddings.create(model="tiny", input="the sea").data[0].embedding)
out["models"] = [m.id for m in client.models.list()]
out["response"] = client.responses.create(model="tiny", input="hello").output_text
try:
    client.completions.create(model="tiny", prompt="x", n=0)
except openai.BadRequestError as error:
    out["param"] = error.param
print(json.dumps(out))
`

testWith("python-openai", has ? undefined : `${python} has no package openai`)(
  "openai for Python reads answers, streams, scores and errors",
  async () => {
    const server = await startTest([writeModel(join(work.path, "tiny"), { chatTemplate })])
    try {
      const child = Bun.spawn([python, "-c", PROGRAM, server.url], { stdout: "pipe", stderr: "pipe" })
      const [out, error] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
      expect([await child.exited, error]).toEqual([0, ""])
      expect(JSON.parse(out)).toEqual({
        chat: "the sea and the whale",
        stream: "the sea and the whale",
        scored: 4,
        embedding: 32,
        models: ["tiny"],
        response: "the sea and the whale",
        param: "n",
      })
    } finally {
      await server.close()
    }
  },
)
