/** `alpha serve` as a process with its real engine: equal bytes under load, following a run, draining, a scanner of APIs. */
import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test"
import { cpSync, existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { setLink } from "../src/gpt.ts"
import { testWith } from "./require.ts"
import { tokenizer, workFolder, writeModel } from "./serve-fake.ts"
import { freePort, PATIENCE_MS, PROGRAM, until } from "./support.ts"

setDefaultTimeout(300_000)
const root = join(import.meta.dir, "..")
const work = workFolder()
const runsDir = join(work.path, "runs")
const checkpoint = (step: number) => join(runsDir, "story/checkpoints", `step-00000${step}`)
writeModel(checkpoint(1), { seed: 1 })
setLink(join(runsDir, "story"), "best", checkpoint(1))
const tiny = writeModel(join(work.path, "tiny"), { blockSize: 4096 })

// biome-ignore lint/suspicious/noExplicitAny: answers are checked field by field
type Json = any

interface Served {
  readonly url: string
  readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">
  post(path: string, body: object): Promise<Response>
}
const children: Bun.Subprocess[] = []
afterEach(async () => {
  for (const child of children.splice(0)) {
    child.kill("SIGKILL")
    await child.exited
  }
})
afterAll(() => work.remove())

function spawn(flags: readonly string[], environment: Record<string, string> = {}, program: readonly string[] = PROGRAM) {
  const env = { PATH: process.env.PATH ?? "", HOME: work.path, ...environment }
  const args = [...program, "serve", "--json", "--port=0", "--device=cpu", "--threads=1", `--runsDir=${runsDir}`, ...flags]
  const child = Bun.spawn(args, { cwd: work.path, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" })
  children.push(child)
  return child
}

/** Starts a server; resolves when its models are loaded. */
async function start(
  flags: readonly string[],
  environment: Record<string, string> = {},
  program: readonly string[] = PROGRAM,
): Promise<Served> {
  const child = spawn(flags, environment, program)
  const reader = child.stdout.getReader()
  const { value } = await reader.read()
  reader.releaseLock()
  if (value === undefined) throw new Error(await new Response(child.stderr).text())
  const { url } = JSON.parse(new TextDecoder().decode(value)) as { url: string }
  return { url, child, post: (path, body) => fetch(url + path, { method: "POST", body: JSON.stringify(body) }) }
}

/** Data of a stream's events. */
const dataOf = (text: string): string[] =>
  text
    .split("\n\n")
    .filter((part) => part.startsWith("data: "))
    .map((part) => part.slice(6))

describe("answers", () => {
  test("are the same bytes alone and together, whole and streamed, after cancels", async () => {
    const { post } = await start([`--model=${tiny}`, "--slots=4"])
    const requests = Array.from({ length: 24 }, (_, i) => ({
      prompt: i % 3 === 0 ? "the sea and the ship ".repeat(1 + (i % 5)) : ["the", "a whale", "sea "][i % 3]!,
      max_tokens: 5 + (i % 20),
      temperature: i % 4 === 0 ? 0 : 1,
      top_k: i % 5 === 0 ? 7 : 0,
      frequency_penalty: i % 2,
      seed: i,
      logprobs: 2,
      ...(i % 6 === 5 ? { regex: "[a-f ]{3,9}" } : {}),
    }))
    const ask = async (body: object) => ((await (await post("/v1/completions", body)).json()) as Json).choices
    const alone: Json[] = []
    for (const request of requests) alone.push(await ask(request))
    const gone = requests.map((request) => {
      const controller = new AbortController()
      setTimeout(() => controller.abort(), 5)
      return post("/v1/completions", { ...request, max_tokens: 500 }).catch(() => {})
    })
    const together = await Promise.all(requests.map(ask))
    expect(together).toEqual(alone)
    await Promise.all(gone)
    const streamed = await Promise.all(
      requests.map(async (request) => {
        const events = dataOf(await (await post("/v1/completions", { ...request, stream: true })).text())
        expect(events.pop()).toBe("[DONE]")
        return events.map((event) => JSON.parse(event).choices[0].text).join("")
      }),
    )
    expect(streamed).toEqual(alone.map(([{ text }]) => text))
  })

  test("satisfy compatcanary, which scans APIs", async () => {
    const { url } = await start([`--model=${tiny}`])
    for (const profile of ["chat", "modern"]) {
      const args = ["scan", "--base-url", `${url}/v1`, "--model", "tiny", "--profile", profile, "--format", "json", "--fail-on", "any"]
      const child = Bun.spawn([process.execPath, join(root, "node_modules/compatcanary/src/cli.js"), ...args], {
        stdout: "pipe",
        stderr: "pipe",
      })
      const output = (await new Response(child.stdout).text()) + (await new Response(child.stderr).text())
      expect([profile, await child.exited, output]).toEqual([profile, 0, output])
    }
  })

  test("echo with logprobs adds up to what alpha eval says, bit for bit", async () => {
    const { post } = await start([`--model=${tiny}`, "--slots=4"])
    const text = "the sea and the whale and the ship of the sea. ".repeat(12)
    writeFileSync(join(work.path, "held-out.txt"), text)
    const args = ["eval", "--json", `--model=${tiny}`, "--data=held-out.txt", "--device=cpu", "--threads=1"]
    const measured = Bun.spawnSync([...PROGRAM, ...args], { cwd: work.path, env: { PATH: process.env.PATH ?? "", HOME: work.path } })
    const { loss, targets } = JSON.parse(measured.stdout.toString()) as { loss: number; targets: number }
    // Others run beside it.
    const others = Array.from({ length: 3 }, (_, i) => post("/v1/completions", { prompt: "the ship", max_tokens: 100, seed: i }))
    const { choices } = (await (await post("/v1/completions", { prompt: text, max_tokens: 0, echo: true, logprobs: 1 })).json()) as Json
    await Promise.all(others)
    const scores = choices[0].logprobs.token_logprobs.slice(1) as number[]
    expect(scores.length).toBe(targets)
    expect(scores.reduce((nats, logprob) => nats - logprob, 0) / targets).toBe(loss)
  })

  test("reuse the beginning of an earlier prompt, and say how much", async () => {
    const { post } = await start([`--model=${tiny}`])
    const body = { prompt: "the sea and the whale ".repeat(40), max_tokens: 4, logprobs: 1, echo: true }
    const [first, second] = [
      await (await post("/v1/completions", body)).json(),
      await (await post("/v1/completions", { ...body, echo: false })).json(),
    ] as Json[]
    expect(first.usage.prompt_tokens_details.cached_tokens).toBe(0)
    expect(second.usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(50)
    expect(first.choices[0].text).toEndWith(second.choices[0].text)
  })
})

test("a followed run swaps to its new best checkpoint; no request fails or is mixed; a step can be pinned", async () => {
  const { url, post } = await start(["--follow=story"])
  const fingerprintOf = async (body: object): Promise<string> => {
    const answer = await post("/v1/completions", { prompt: "the sea", max_tokens: 30, ...body })
    const { system_fingerprint, ...rest } = (await answer.json()) as Json
    expect([answer.status, rest.error]).toEqual([200, undefined])
    return system_fingerprint
  }
  const old = await fingerprintOf({})
  writeModel(join(work.path, "next"), { seed: 2 })
  const seen = new Set<string>()
  const mixed: string[] = []
  const asking = Promise.all(
    Array.from({ length: 4 }, async () => {
      for (const latest = performance.now() + PATIENCE_MS; performance.now() < latest && seen.size < 2; ) {
        const events = dataOf(await (await post("/v1/completions", { prompt: "the", n: 2, max_tokens: 40, stream: true })).text())
        expect(events.pop()).toBe("[DONE]")
        const own = new Set(events.map((event) => JSON.parse(event).system_fingerprint as string))
        if (own.size !== 1) mixed.push([...own].join(" "))
        for (const one of own) seen.add(one)
      }
    }),
  )
  cpSync(join(work.path, "next"), checkpoint(2), { recursive: true })
  setLink(join(runsDir, "story"), "best", checkpoint(2))
  await asking
  expect([seen.size, mixed]).toEqual([2, []])
  expect(await fingerprintOf({})).not.toBe(old)
  expect(await fingerprintOf({ model: "story@1" })).toBe(old)
  const { data } = (await (await fetch(`${url}/v1/models`)).json()) as Json
  expect(data.map(({ id }: Json) => id)).toEqual(["story", "story@1", "story@2"])
  const missing = await post("/v1/completions", { prompt: "x", model: "story@7" })
  expect([missing.status, ((await missing.json()) as Json).error.code]).toEqual([404, "model_not_found"])
})

test("--batch-invariant=off changes nothing on the CPU, and the model says so", async () => {
  const ask = async (flags: readonly string[]) => {
    const { url, post } = await start([`--model=${tiny}`, ...flags])
    const { data } = (await (await fetch(`${url}/v1/models`)).json()) as Json
    const { choices } = (await (await post("/v1/completions", { prompt: "the sea", max_tokens: 20, seed: 4 })).json()) as Json
    return { invariant: data[0].batch_invariant, text: choices[0].text }
  }
  const usual = await ask([])
  expect(usual.invariant).toBe(true)
  expect(await ask(["--batch-invariant=off"])).toEqual(usual)
})

/** A request that outlasts the signal on any machine. */
const LONG = { prompt: "the sea", max_tokens: 4000, n: 8, ignore_eos: true, stream: true }

describe("SIGTERM", () => {
  test("lets running requests end, refuses new ones, and exits with 0", async () => {
    const { url, post, child } = await start([`--model=${tiny}`, "--drainTimeout=3600"])
    const running = await post("/v1/completions", LONG)
    child.kill("SIGTERM")
    await until("the draining", async () => (await fetch(`${url}/ready`)).status === 503, 5)
    expect(await (await fetch(`${url}/ready`)).json()).toEqual({ status: "draining" })
    const late = await post("/v1/completions", { prompt: "the sea" })
    expect([late.status, ((await late.json()) as Json).error.code]).toEqual([503, "draining"])
    const events = dataOf(await running.text())
    expect(events.pop()).toBe("[DONE]")
    expect(JSON.parse(events.pop()!).choices[0].finish_reason).toBe("length")
    expect(await child.exited).toBe(0)
  })

  test("ends what takes too long with an error", async () => {
    const { post, child } = await start([`--model=${tiny}`, "--drainTimeout=0"])
    const running = await post("/v1/completions", LONG)
    child.kill("SIGTERM")
    const events = dataOf(await running.text())
    expect(JSON.parse(events.at(-1)!).error.code).toBe("draining")
    expect(await child.exited).toBe(0)
  })
})

describe("starting", () => {
  test("on a public address takes a key, and PORT is honoured", async () => {
    const refused = spawn([`--model=${tiny}`, "--host=0.0.0.0"])
    expect(await new Response(refused.stderr).text()).toContain("no key is set for inference")
    expect(await refused.exited).toBe(EXIT.usage)
    const port = await freePort()
    const env = { PORT: String(port), ALPHA_API_KEYS: "a-long-key", ALPHA_PORT: "" }
    const args = [...PROGRAM, "serve", "--json", "--device=cpu", "--threads=1", `--model=${tiny}`, "--host=0.0.0.0"]
    const child = Bun.spawn(args, {
      cwd: work.path,
      env: { PATH: process.env.PATH ?? "", ...env },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    })
    children.push(child)
    const { value } = await child.stdout.getReader().read()
    expect(JSON.parse(new TextDecoder().decode(value))).toMatchObject({ port, open: false })
    expect((await fetch(`http://127.0.0.1:${port}/v1/models`)).status).toBe(401)
    expect((await fetch(`http://127.0.0.1:${port}/ready`)).status).toBe(200)
  })

  test("without a model, with a damaged one, or on a taken port fails with a reason", async () => {
    const taken = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() })
    const cases: [string[], number, string][] = [
      [[`--model=${tiny}`, `--port=${taken.port}`], EXIT.busy, `port ${taken.port} of 127.0.0.1 is in use`],
      [[], EXIT.usage, "no model is given"],
      [["--model=nowhere"], EXIT.data, "nowhere: no such directory"],
      [["--follow=nowhere"], EXIT.data, "nowhere: no such run"],
      [[`--model=${work.path}`], EXIT.data, "no model.safetensors"],
    ]
    for (const [flags, code, reason] of cases) {
      const child = spawn(flags)
      expect(await new Response(child.stderr).text()).toContain(reason)
      expect([flags, await child.exited]).toEqual([flags, code])
    }
    await taken.stop(true)
  })

  test("--routes lists every route", async () => {
    const child = spawn(["--routes"])
    const routes = JSON.parse(await new Response(child.stdout).text()) as { method: string; path: string; scope: string }[]
    expect(routes).toContainEqual(expect.objectContaining({ method: "POST", path: "/v1/load", scope: "admin" }))
    expect(routes.every(({ scope }) => ["open", "infer", "read", "ingest", "admin"].includes(scope))).toBe(true)
  })
})

const binary = join(root, "alpha")
const withBinary = testWith("binary", existsSync(binary) ? undefined : "npm run build")

withBinary("the binary serves its pages and answers", async () => {
  const { url, post } = await start([`--model=${tiny}`], {}, [binary])
  const pages = {
    "/": "alpha playground",
    "/docs": "POST /v1/completions",
    "/login": "Log in",
    "/assets/page.css": "--ground",
    "/assets/playground.js": "The playground in the browser",
    "/runs": "/assets/dash.js",
    "/assets/dash.js": "/api/training/live",
    "/assets/dash.css": ".uplot",
  }
  for (const [path, text] of Object.entries(pages)) {
    expect([path, (await (await fetch(url + path)).text()).includes(text)]).toEqual([path, true])
  }
  const { tokens } = (await (await post("/tokenize", { prompt: "the sea" })).json()) as Json
  expect(tokens).toEqual(Array.from(tokenizer.encode("the sea")))
})

withBinary("the README's Dockerfile and its variables start a server that platforms can watch", async () => {
  const dockerfile = /```dockerfile\n([\s\S]*?)```/.exec(readFileSync(join(root, "README.md"), "utf8"))![1]!
  const [, image] = dockerfile.split(/^FROM debian.*$/m)
  const settings = [...image!.matchAll(/^ENV (.*)$/gm)].flatMap(([, all]) =>
    all!.split(" ").map((one) => one.split("=") as [string, string]),
  )
  const command = JSON.parse(/^CMD (.*)$/m.exec(image!)![1]!) as string[]
  expect(image).toContain("COPY --from=build /src/alpha /usr/local/bin/alpha")
  expect(command).toEqual(["alpha", "serve"])
  const port = await freePort()
  // The volume's mount point is the test's own folder; the rest is as the platform sets it.
  const env = {
    ...Object.fromEntries(settings.map(([name, value]) => [name, value.replace("/data/runs", runsDir)])),
    PORT: String(port),
    ALPHA_MODEL: "story",
    ALPHA_API_KEYS: "a-long-key",
  }
  const child = Bun.spawn([binary, ...command.slice(1)], { cwd: work.path, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" })
  children.push(child)
  const url = `http://127.0.0.1:${port}`
  await until("a server", async () => (await fetch(`${url}/ready`).catch(() => undefined))?.status === 200)
  expect((await fetch(`${url}/v1/models`)).status).toBe(401)
  expect((await fetch(`${url}/v1/models`, { headers: { authorization: "Bearer a-long-key" } })).status).toBe(200)
  child.kill("SIGTERM")
  expect(await child.exited).toBe(0)
})

test("constraints without end are refused, and the next request is answered", async () => {
  const { post } = await start([`--model=${tiny}`])
  const format = (schema: object) => ({ response_format: { type: "json_schema", json_schema: { name: "a", schema } } })
  const cases: [object, string][] = [
    [format({ allOf: [{ $ref: "#" }] }), "response_format.json_schema.schema"],
    [format({ $ref: "#" }), "response_format.json_schema.schema"],
    [{ grammar: `root ::= ${"(".repeat(20_000)}"a"${")".repeat(20_000)}` }, "grammar"],
    [{ grammar: 'root ::= root "a" | "b"' }, "grammar"],
    [{ regex: "((a{0,1000}){0,1000}){0,1000}" }, "regex"],
  ]
  for (const [body, param] of cases) {
    const refused = await post("/v1/completions", { prompt: "the sea", ...body })
    expect([refused.status, ((await refused.json()) as Json).error.param]).toEqual([400, param])
  }
  expect((await post("/v1/completions", { prompt: "the sea", regex: "(a|a|b)*".repeat(200) })).status).toBe(200)
})
