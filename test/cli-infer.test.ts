import { afterAll, describe, expect, test } from "bun:test"
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { inOrder } from "../src/cli-infer.ts"
import { parsePrompt, parsePrompts, readPrompts } from "../src/cli-infer-prompts.ts"
import { type Answer, AnswerWriter, wholeText } from "../src/cli-infer-view.ts"
import { PROGRAM } from "./support.ts"

const FIXTURES = join(import.meta.dir, "fixtures/hf")
const work = mkdtempSync(join(tmpdir(), "alpha-infer-"))
afterAll(() => rmSync(work, { recursive: true, force: true }))
const model = join(FIXTURES, "gpt2-bpe")
const greedy: { prompt: string; ids: number[]; new: number[] } = await Bun.file(join(model, "greedy.json")).json()

const command = (args: readonly string[]) => ({
  cmd: [...PROGRAM, "infer", ...args],
  cwd: work,
  env: { PATH: process.env.PATH ?? "", HOME: process.env.HOME ?? "" },
})

async function infer(args: readonly string[], input = "") {
  const run = Bun.spawn({ ...command(args), stdin: new TextEncoder().encode(input), stdout: "pipe", stderr: "pipe" })
  const [stdout, stderr] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()])
  return {
    stdout,
    stderr,
    code: await run.exited,
    json: () =>
      stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line)),
  }
}

describe("prompts", () => {
  const errorOf = (work: () => unknown): string => {
    try {
      work()
    } catch (error) {
      return (error as Error).message
    }
    return ""
  }

  test("a flag: text or ids", () => {
    expect(parsePrompt("ids:1, 2,3")).toEqual({ ids: [1, 2, 3] })
    expect(parsePrompt("ids: what")).toEqual({ text: "ids: what" })
  })

  test("files: lines, or objects that name their line when they are wrong", () => {
    expect(parsePrompts("a\n\n b\r\nids:7\n", "x.txt")).toEqual([{ text: "a" }, { text: " b" }, { ids: [7] }])
    const messages = [{ role: "user", content: "hi" }]
    const rows = [{ prompt: "a\nb" }, { messages }, { ids: [1, 2] }].map((row) => JSON.stringify(row)).join("\n")
    expect(parsePrompts(rows, "x.jsonl")).toEqual([{ text: "a\nb" }, { messages }, { ids: [1, 2] }] as never)
    expect(errorOf(() => parsePrompts("\n", "x.txt"))).toBe("prompts x.txt: the file has no prompt")
    const wrong = (line: string) => errorOf(() => parsePrompts(`{"prompt":"a"}\n${line}`, "x.jsonl"))
    expect(wrong("{")).toStartWith("prompts x.jsonl:2: not valid JSON")
    expect(wrong('{"text":"a"}')).toBe("prompts x.jsonl:2: expected one of the fields prompt, messages and ids, found none")
    expect(wrong('{"prompt":"a","ids":[1]}')).toEndWith("found prompt and ids")
    expect(wrong('{"prompt":7}')).toBe("prompts x.jsonl:2: prompt is not a text")
    expect(wrong('{"ids":[1.5]}')).toBe("prompts x.jsonl:2: ids is not a list of whole numbers")
    expect(wrong('{"messages":[{"role":"usr","content":"a"}]}')).toStartWith('prompts x.jsonl:2: messages[0]: role "usr"')
    expect(wrong("null")).toEndWith("found none")
  })

  test("standard input, where nothing else gives a prompt", async () => {
    const input = (text: string | Uint8Array, isTTY = false) => ({
      isTTY,
      read: async () => (typeof text === "string" ? new TextEncoder().encode(text) : text),
    })
    const none = { prompt: undefined, promptFile: undefined }
    expect(await readPrompts(none, input("two\nlines\n"))).toEqual([{ text: "two\nlines" }])
    expect(await readPrompts({ ...none, prompt: "-" }, input("x", true))).toEqual([{ text: "x" }])
    expect(await readPrompts({ ...none, prompt: "y" }, input("x"))).toEqual([{ text: "y" }])
    await expect(readPrompts(none, input("", true))).rejects.toThrow("infer: no prompt is given")
    await expect(readPrompts(none, input(Uint8Array.of(97, 255)))).rejects.toThrow("first bad byte at offset 1 of 2")
  })
})

describe("answers", () => {
  const answer: Answer = {
    promptIds: [1],
    ids: [5, 6],
    logprobs: [-1, -2],
    text: "ab",
    finish: "length",
    stop: undefined,
    prefillMs: 1,
    decodeMs: 1,
  }
  const written = (tokens: { id: number; text: string | undefined }[], done: Answer) => {
    let out = ""
    const writer = new AnswerWriter({ write: (text: string) => (out += text) })
    for (const token of tokens) writer.token({ type: "token", index: 0, ...token })
    writer.done(done)
    return out
  }

  test("are written as they come, the end when it is certain, with one line end", () => {
    expect(
      written(
        [
          { id: 5, text: "a" },
          { id: 6, text: "" },
        ],
        answer,
      ),
    ).toBe("ab\n")
    expect(written([{ id: 5, text: "ab\n" }], { ...answer, text: "ab\n" })).toBe("ab\n")
    expect(
      written(
        [
          { id: 5, text: undefined },
          { id: 6, text: undefined },
        ],
        { ...answer, text: undefined },
      ),
    ).toBe("5,6\n")
    expect(wholeText({ ids: [1, 2] }, { ...answer, text: undefined })).toBe("ids:1,2,5,6\n")
    expect(wholeText({ text: "x " }, answer)).toBe("x ab\n")
  })

  test("of several prompts come in the order of the prompts", () => {
    const seen: number[] = []
    const put = inOrder((index) => seen.push(index))
    for (const index of [2, 0, 3, 1]) put(index, answer)
    expect(seen).toEqual([0, 1, 2, 3])
  })
})

describe("alpha infer", () => {
  const first = ["--model", model, "--prompt", greedy.prompt, "--temperature=0", "--maxTokens=24"]

  test("one prompt: text on standard output, speed on standard error; --json has ids, logprobs, reason, timing", async () => {
    const json = await infer([...first, "--json", "--threads=1"])
    expect(json.stderr).toBe("")
    const [row] = json.json()
    expect(row).toMatchObject({
      type: "answer",
      index: 0,
      prompt: greedy.prompt,
      prompt_ids: greedy.ids,
      ids: greedy.new,
      finish_reason: "length",
      stop: null,
      model,
      device: "cpu",
      precision: "f32",
      seed: 1337,
    })
    expect(row.logprobs).toHaveLength(24)
    expect(Math.max(...row.logprobs)).toBeLessThan(0)
    expect(Object.keys(row.timing)).toEqual([
      "prefill_tokens",
      "prefill_ms",
      "prefill_tokens_per_s",
      "decode_tokens",
      "decode_ms",
      "decode_tokens_per_s",
    ])
    const text = await infer(first)
    expect(text.stdout).toBe(`${greedy.prompt}${row.text}\n`)
    expect(text.stderr).toMatch(
      /prefill 4 tokens, [\d.]+[KM]? tokens\/s · decode 23 tokens, [\d.]+[KM]? tokens\/s · loaded in .* · cpu, f32\n$/,
    )
    const stopped = (await infer([...first, "--json", `--stop=${row.text.slice(5, 7)}`])).json()[0]
    expect(stopped).toMatchObject({ finish_reason: "stop", stop: row.text.slice(5, 7) })
    expect(row.text).toStartWith(stopped.text)
  })

  test("a file of prompts is answered in batches as each alone; the seed decides", async () => {
    const prompts = ["The king said:", "the ship is", "the other"]
    writeFileSync(join(work, "prompts.jsonl"), prompts.map((prompt) => JSON.stringify({ prompt })).join("\n"))
    const options = ["--model", model, "--maxTokens=12", "--seed=5", "--json"]
    const rows = (await infer([...options, "--promptFile=prompts.jsonl", "--batch=2"])).json()
    expect(rows.map(({ index }) => index)).toEqual([0, 1, 2])
    for (const [i, prompt] of prompts.entries()) {
      const [alone] = (await infer([...options, "--prompt", prompt])).json()
      expect([alone.ids, alone.logprobs]).toEqual([rows[i].ids, rows[i].logprobs])
    }
    const other = (await infer([...options, "--seed=6", "--promptFile=prompts.jsonl"])).json()
    expect(other.map(({ ids }) => ids)).not.toEqual(rows.map(({ ids }) => ids))
    writeFileSync(join(work, "prompts.txt"), prompts.join("\n"))
    const text = await infer(["--model", model, "--maxTokens=12", "--seed=5", "--promptFile=prompts.txt"])
    expect(text.stdout).toBe(rows.map(({ text }, i) => `${prompts[i]}${text}\n`).join("---\n"))
  })

  test("a run by its name, standard input, ids in and ids out", async () => {
    mkdirSync(join(work, "runs/first/checkpoints"), { recursive: true })
    cpSync(model, join(work, "runs/first/checkpoints/step-000001"), { recursive: true })
    symlinkSync("checkpoints/step-000001", join(work, "runs/first/best"))
    const [row] = (await infer(["first", "--json", "--temperature=0"], "The king said:\n")).json()
    expect(row.ids.slice(0, 24)).toEqual(greedy.new)
    expect(row.ids.length).toBeLessThanOrEqual(44) // what blockSize 48 leaves
    const ids = await infer([join(FIXTURES, "llama-shards"), "ids:1,2,3", "--maxTokens=5", "--temperature=0"])
    expect(ids.stdout).toMatch(/^ids:1,2,3(,\d+){1,5}\n$/)
  })

  test("errors name the thing and the next step", async () => {
    const long = await infer([...first, "--maxTokens=45"])
    expect(long.code).toBe(EXIT.usage)
    expect(long.stdout).toBe("")
    expect(long.stderr).toContain(`4 tokens of the prompt and maxTokens 45 do not fit blockSize 48 of ${model}`)
    expect(long.stderr).toContain("hint: set --maxTokens=44 or less, or --overflow=slide")
    expect((await infer([...first, "--maxTokens=45", "--overflow=slide"])).code).toBe(EXIT.ok)
    const none = await infer(["--prompt=x"])
    expect(none).toMatchObject({ code: EXIT.usage, stderr: expect.stringContaining("infer: no model is given") })
    const stop = await infer([...first, "--stop="])
    expect(stop).toMatchObject({ code: EXIT.usage, stderr: expect.stringContaining('stop "" (--stop): every answer would end') })
    const missing = await infer(["nowhere", "x"])
    expect(missing).toMatchObject({ code: EXIT.data, stderr: expect.stringContaining("nowhere: no such directory") })
    const chat = await infer(["--model", model, "--chat"], "hi\n")
    expect(chat).toMatchObject({ code: EXIT.data, stderr: expect.stringContaining("has no chat template") })
  })

  test("Ctrl-C ends the answer and keeps what there is", async () => {
    const args = [
      "--model",
      model,
      "--prompt=the",
      "--maxTokens=100000000",
      "--overflow=slide",
      "--temperature=50",
      "--topK=none",
      "--repetitionPenalty=1",
    ]
    // The model without its end token goes on for ever.
    cpSync(model, join(work, "endless"), { recursive: true })
    const config = await Bun.file(join(work, "endless/config.json")).json()
    writeFileSync(join(work, "endless/config.json"), JSON.stringify({ ...config, eos_token_id: null }))
    rmSync(join(work, "endless/generation_config.json"))
    const run = Bun.spawn({ ...command(["--model=endless", ...args.slice(2)]), stdin: "ignore", stdout: "pipe", stderr: "pipe" })
    const reader = run.stdout.getReader()
    await reader.read()
    run.kill("SIGINT")
    let chunk = await reader.read()
    while (!chunk.done) chunk = await reader.read()
    expect(await run.exited).toBe(EXIT.interrupted)
    expect(await new Response(run.stderr).text()).toContain("decode ")
  })

  test("--chat: turns, /reset, /quit", async () => {
    const dir = join(work, "chatty")
    cpSync(model, dir, { recursive: true })
    writeFileSync(join(dir, "chat_template.jinja"), "{% for m in messages %}{{ m.content }};{% endfor %}")
    const options = ["--model=chatty", "--chat", "--maxTokens=4", "--json"]
    const talk = await infer(options, "the king\n/reset\n\nthe king\nthe ship\n/what\n/quit\nnever asked\n")
    expect(talk.code).toBe(EXIT.ok)
    const rows = talk.json()
    expect(rows).toHaveLength(3)
    expect(rows[1].ids).toEqual(rows[0].ids)
    expect(rows[1].messages).toEqual([{ role: "user", content: "the king" }])
    expect(rows[2].messages.map(({ role }: { role: string }) => role)).toEqual(["user", "assistant", "user"])
    expect(rows[2].messages[1].content).toBe(rows[1].text)
    expect(talk.stderr).toContain("/reset begins anew, /quit ends")
    const full = await infer([...options, "--maxTokens=40"], `${"the king ".repeat(20)}\n`)
    expect(full).toMatchObject({ code: EXIT.usage, stderr: expect.stringContaining("do not fit blockSize 48") })
  })
})
