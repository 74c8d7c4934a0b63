import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type AlphaError, EXIT } from "../src/base-error.ts"
import { randomBits } from "../src/base-random.ts"
import { resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { chatTemplate, encodeChat } from "../src/data.ts"
import type { Answer } from "../src/engine-answer.ts"
import { type GenerateEvent, type GenerateJob, generate } from "../src/engine-generate.ts"
import { promptReader } from "../src/engine-prompt.ts"
import { AnswerText, StopFilter } from "../src/engine-text.ts"
import { initialise, type LoadedModel, saveCheckpoint } from "../src/gpt.ts"
import { type Tokenizer, trainTokenizer } from "../src/token.ts"

const device = openCpu(2)
const work = mkdtempSync(join(tmpdir(), "alpha-generate-"))
afterAll(() => {
  device.close()
  rmSync(work, { recursive: true, force: true })
})

const SPECIAL = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"]
const tokenizer = trainTokenizer({ kind: "bpe", vocabSize: 270, special: SPECIAL }, ["the ship and the sea and the whale ".repeat(20)])

/** A model directory with random weights; its vocabulary is padded beyond the tokenizer's. */
function makeModel(name: string, options: { chatTemplate?: string; tokenizer?: Tokenizer | undefined; blockSize?: number } = {}): string {
  const model = resolveModel({ vocabSize: 320, blockSize: options.blockSize ?? 64, nLayer: 1, nHead: 2, nEmbd: 32, initStd: 0.4 })
  const state = device.state()
  initialise(device, state, model, 3)
  const dir = join(work, name)
  const own = "tokenizer" in options ? options.tokenizer : tokenizer
  saveCheckpoint(dir, {
    model,
    ids: { bos: tokenizer.special.get("<|endoftext|>"), eos: tokenizer.special.get("<|end|>") },
    ...(own === undefined ? {} : { tokenizerJson: own.toJson() }),
    ...(options.chatTemplate === undefined ? {} : { chatTemplate: options.chatTemplate }),
    weights: (weight) => state.read(weight) as Float32Array,
  })
  state.free()
  return dir
}

const plainModel = makeModel("plain")
const GREEDY = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }
const WARM = { ...GREEDY, temperature: 1, seed: 11 }
const base: GenerateJob = {
  model: plainModel,
  precision: "f32",
  prompts: [],
  sampling: GREEDY,
  maxTokens: 10,
  stop: [],
  overflow: "error",
  batch: 4,
  keep: false,
}

async function run(job: Partial<GenerateJob>, stopAfter = Number.POSITIVE_INFINITY) {
  const events: GenerateEvent[] = []
  const flag = {
    get stopped() {
      return events.filter(({ type }) => type === "token").length >= stopAfter
    },
  }
  const report = await generate({ ...base, ...job }, device, flag, (event) => events.push(event))
  const answers: Answer[] = []
  for (const event of events) if (event.type === "done") answers[event.index] = event.answer
  return { report, answers, events }
}

const failure = async (job: Partial<GenerateJob>): Promise<AlphaError> =>
  run(job).then(
    () => expect.unreachable(),
    (error) => error as AlphaError,
  )
const texts = (...list: string[]) => list.map((text) => ({ text }))

describe("stop texts", () => {
  /** What a filter lets through when `text` comes in pieces of the given lengths. */
  const filter = (stops: string[], pieces: string[]) => {
    const stopper = new StopFilter(stops)
    let out = ""
    for (const piece of pieces) {
      out += stopper.push(piece)
      if (stopper.found !== undefined) break
    }
    return { text: out + stopper.finish(), found: stopper.found }
  }

  test("known cases", () => {
    expect(filter([], ["a", "b"])).toEqual({ text: "ab", found: undefined })
    expect(filter(["END"], ["some E", "N", "D more"])).toEqual({ text: "some ", found: "END" })
    expect(filter(["END"], ["an E", "N"])).toEqual({ text: "an EN", found: undefined })
    expect(filter(["aab"], ["aaaab"])).toEqual({ text: "aa", found: "aab" })
    expect(filter(["aab"], [..."aaaab"])).toEqual({ text: "aa", found: "aab" })
    expect(filter(["ab", "b"], ["xab"])).toEqual({ text: "x", found: "ab" })
    expect(filter(["abc", "b"], ["xabc"])).toEqual({ text: "xa", found: "b" })
    expect(filter(["🌊"], ["a🌊b"])).toEqual({ text: "a", found: "🌊" })
  })

  test("where it stops does not depend on the pieces", () => {
    const pick = (seed: number, i: number, n: number) => randomBits(seed, 1, 0, i) % n
    for (let seed = 0; seed < 400; seed++) {
      const text = Array.from({ length: 30 }, (_, i) => "abc"[pick(seed, i, 3)]).join("")
      const stops = Array.from({ length: 1 + pick(seed, 99, 3) }, (_, s) =>
        Array.from({ length: 2 + pick(seed, 200 + s, 4) }, (_, i) => "abc"[pick(seed, 300 + 10 * s + i, 3)]).join(""),
      )
      const pieces: string[] = []
      for (let at = 0, i = 0; at < text.length; i++) {
        const size = 1 + pick(seed, 500 + i, 5)
        pieces.push(text.slice(at, at + size))
        at += size
      }
      const whole = filter(stops, [text])
      expect(filter(stops, pieces)).toEqual(whole)
      expect(filter(stops, [...text])).toEqual(whole)
      if (whole.found === undefined) expect(whole.text).toBe(text)
      else expect(text).toStartWith(whole.text + whole.found)
    }
  })

  test("text comes in whole characters and adds up to the decoded tokens", () => {
    const text = "a € 🐋 naïve 日本 ende"
    const ids = tokenizer.encode(text)
    const answer = new AnswerText(tokenizer, [])
    let joined = ""
    for (const id of ids) {
      const piece = answer.push(id)
      expect(piece).not.toContain("\ufffd")
      joined += piece
    }
    expect(joined + answer.finish()).toBe(text)
    const cut = new AnswerText(tokenizer, [])
    for (const id of tokenizer.encode("x🐋").subarray(0, -1)) cut.push(id)
    expect(cut.finish()).toBe("\ufffd")
    expect(cut.text).toBe("x\ufffd")
  })
})

describe("prompts", () => {
  const loaded = (changes: Partial<LoadedModel>) =>
    ({
      directory: "DIR",
      model: resolveModel({ vocabSize: 300, blockSize: 64 }),
      ids: {},
      tokenizerJson: tokenizer.toJson(),
      chatTemplate: undefined,
      ...changes,
    }) as LoadedModel
  const hi = [{ role: "user", content: "the <|end|> sea" }] as const

  test("text, with special tokens; ids; an empty prompt", async () => {
    const read = promptReader(loaded({ ids: { bos: 7, eos: [8, 9] } }), tokenizer)
    expect(await read({ text: "the<|end|>" })).toEqual([...tokenizer.encode("the"), tokenizer.special.get("<|end|>")!])
    expect(await read({ ids: [5, 299] })).toEqual([5, 299])
    expect(await read({ text: "" })).toEqual([7])
    expect(await promptReader(loaded({ ids: { eos: [8, 9] } }), tokenizer)({ text: "" })).toEqual([8])
    await expect(promptReader(loaded({}), tokenizer)({ text: "" })).rejects.toThrow("the prompt is empty")
    await expect(read({ ids: [5, 300] })).rejects.toThrow("token id 300 is not below vocabSize 300 of DIR")
    await expect(promptReader(loaded({}), undefined)({ text: "a" })).rejects.toThrow("DIR has no tokenizer.json")
  })

  test("what the tokenizer's post-processor puts around a text", async () => {
    const json = JSON.parse(tokenizer.toJson())
    const bos = { SpecialToken: { id: "<|endoftext|>", type_id: 0 } }
    json.post_processor = {
      type: "Sequence",
      processors: [
        { type: "ByteLevel" },
        {
          type: "TemplateProcessing",
          single: [bos, { Sequence: { id: "A", type_id: 0 } }],
          pair: [],
          special_tokens: {
            "<|endoftext|>": { id: "<|endoftext|>", ids: [tokenizer.special.get("<|endoftext|>")], tokens: ["<|endoftext|>"] },
          },
        },
      ],
    }
    const read = promptReader(loaded({ tokenizerJson: JSON.stringify(json), chatTemplate }), tokenizer)
    expect(await read({ text: "the" })).toEqual([tokenizer.special.get("<|endoftext|>")!, ...tokenizer.encode("the")])
    expect((await read({ messages: hi }))[0]).toBe(tokenizer.special.get("<|user|>")!)
  })

  test("our own chat template cannot be forged; another one is rendered by Jinja", async () => {
    const ours = await promptReader(loaded({ chatTemplate }), tokenizer)({ messages: hi })
    expect(ours).toEqual([...encodeChat(tokenizer, hi, { prompt: true }).ids])
    expect(ours.filter((id) => id === tokenizer.special.get("<|end|>"))).toHaveLength(1)
    writeFileSync(join(work, "tokenizer_config.json"), JSON.stringify({ bos_token: { content: "<|endoftext|>" } }))
    const template =
      "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}[{{ m.role | upper }}] {{ m.content | trim }}\n{% endfor %}" +
      "{% if add_generation_prompt %}[BOT]{% endif %}"
    const read = promptReader(loaded({ directory: work, chatTemplate: template }), tokenizer)
    const ids = await read({ messages: [{ role: "user", content: " the sea " }] })
    expect(tokenizer.decode(ids)).toBe("<|endoftext|>[USER] the sea\n[BOT]")
    expect(ids[0]).toBe(tokenizer.special.get("<|endoftext|>")!)
    const broken = promptReader(loaded({ directory: work, chatTemplate: "{{ raise_exception('roles must alternate') }}" }), tokenizer)
    await expect(broken({ messages: hi })).rejects.toThrow(/chat template of .* refuses this conversation: .*roles must alternate/)
    await expect(promptReader(loaded({}), tokenizer)({ messages: hi })).rejects.toThrow("DIR has no chat template")
  })
})

describe("generate", () => {
  test("streams what it answers; stop texts across tokens; end tokens", async () => {
    const { answers, events, report } = await run({ prompts: texts("the whale "), maxTokens: 30 })
    const [answer] = answers
    expect(answer!.finish).toBe("length")
    expect(answer!.ids).toHaveLength(30)
    expect(answer!.text).toBe(tokenizer.decode(answer!.ids))
    const streamed = events.flatMap((event) => (event.type === "token" ? [event.text] : [])).join("")
    expect(streamed).toBe(answer!.text!)
    expect(report.prefill.tokens).toBe(answer!.promptIds.length)
    expect(report.decode.tokens).toBe(29)
    // A stop text of two characters in the middle of two tokens.
    const at = answer!.text!.length >> 1
    const stop = answer!.text!.slice(at, at + 2)
    const cut = await run({ prompts: texts("the whale "), maxTokens: 30, stop: ["never there", stop] })
    expect(cut.answers[0]).toMatchObject({ finish: "stop", stop, text: answer!.text!.slice(0, answer!.text!.indexOf(stop)) })
    // The token that is called the end of text ends the answer, is listed, and is not text.
    const sampled = (await run({ prompts: texts("the whale "), sampling: { ...WARM, temperature: 30 }, maxTokens: 54 })).answers[0]!
    expect(Math.max(...sampled.ids)).toBeLessThan(tokenizer.vocabSize)
    for (let seed = 0; seed < 60; seed++) {
      const { finish, ids, text } = (await run({ prompts: texts("a"), sampling: { ...WARM, temperature: 50, seed }, maxTokens: 60 }))
        .answers[0]!
      const end = tokenizer.special.get("<|end|>")!
      expect(finish).toBe(ids.includes(end) ? "end" : "length")
      if (finish !== "end") continue
      expect(ids.indexOf(end)).toBe(ids.length - 1)
      expect(text).toBe(tokenizer.decode(ids.slice(0, -1).filter((id) => id < tokenizer.vocabSize - SPECIAL.length)))
      return
    }
    expect.unreachable()
  })

  test("every prompt of a batch is answered as it is alone, in fewer slots than prompts", async () => {
    const prompts = texts("the", "the ship and the whale", "a", "and the sea", "whale whale whale", "sea", "the ")
    for (const sampling of [GREEDY, { ...WARM, repetitionPenalty: 1.2, topP: 0.9 }]) {
      const alone: Answer[] = []
      for (const prompt of prompts) alone.push((await run({ prompts: [prompt], sampling })).answers[0]!)
      const together = (await run({ prompts, sampling, batch: 3 })).answers
      const what = ({ promptIds, ids, logprobs, text, finish }: Answer) => ({ promptIds, ids, logprobs, text, finish })
      expect(together.map(what)).toEqual(alone.map(what))
    }
  })

  test("a window that is too small: an error with the numbers, or it slides", async () => {
    const prompts = [{ ids: Array.from({ length: 50 }, (_, i) => (i * 5) % 260) }]
    const error = await failure({ prompts, maxTokens: 15 })
    expect(error.message).toBe(`50 tokens of the prompt and maxTokens 15 do not fit blockSize 64 of ${plainModel}`)
    expect(error.hint).toStartWith("set --maxTokens=14 or less, or --overflow=slide drops the oldest half of the window")
    expect(error.code).toBe(EXIT.usage)
    expect((await failure({ prompts: [prompts[0]!, { ids: Array(64).fill(1) }], maxTokens: undefined })).message).toBe(
      `prompt 2 of 2: 64 tokens of the prompt do not fit blockSize 64 of ${plainModel}`,
    )
    expect((await run({ prompts, maxTokens: undefined })).answers[0]!.ids).toHaveLength(14)

    const slid = (await run({ prompts, maxTokens: 40, overflow: "slide" })).answers[0]!
    const sequence = [...prompts[0]!.ids, ...slid.ids]
    // Tokens up to position 64 come from the full window, those after from the newest 32 and what follows them.
    const before = (await run({ prompts, maxTokens: 14 })).answers[0]!
    expect(slid.ids.slice(0, 14)).toEqual([...before.ids])
    const after = (await run({ prompts: [{ ids: sequence.slice(65 - 32, 65) }], maxTokens: 25 })).answers[0]!
    expect(slid.ids.slice(15)).toEqual([...after.ids])
    const long = (await run({ prompts: [{ ids: Array.from({ length: 500 }, (_, i) => i % 260) }], maxTokens: 3, overflow: "slide" }))
      .answers[0]!
    const newest = (await run({ prompts: [{ ids: Array.from({ length: 32 }, (_, i) => (468 + i) % 260) }], maxTokens: 3 })).answers[0]!
    expect(long.ids).toEqual(newest.ids)
  })

  test("a job that is stopped gives what it has, for every prompt", async () => {
    const { answers } = await run({ prompts: texts("the", "sea", "whale"), batch: 2, maxTokens: 50 }, 9)
    expect(answers.map(({ finish }) => finish)).toEqual(["interrupted", "interrupted", "interrupted"])
    expect(answers.map(({ ids }) => ids.length)).toEqual([5, 5, 0])
    const plain = answers[0]!.ids.filter((id) => id < tokenizer.vocabSize - SPECIAL.length)
    expect(answers[0]!.text).toBe(tokenizer.decode(plain))
  })

  test("a kept model computes only what is new of the next prompt", async () => {
    const dir = makeModel("chat", { chatTemplate, blockSize: 256 })
    const ask = [{ role: "user", content: "the whale" } as const]
    const first = await run({ model: dir, prompts: [{ messages: ask }], keep: true, sampling: WARM, maxTokens: 20 })
    expect(first.report.chats).toBe(true)
    const { text } = first.answers[0]!
    const next = [...ask, { role: "assistant", content: text! } as const, { role: "user", content: "and the sea" } as const]
    const second = await run({ model: dir, prompts: [{ messages: next }], keep: true, sampling: WARM, maxTokens: 20 })
    expect(second.report.prefill.tokens).toBeLessThanOrEqual(second.answers[0]!.promptIds.length - first.answers[0]!.promptIds.length)
    const fresh = await run({ model: dir, prompts: [{ messages: next }], sampling: WARM, maxTokens: 20 })
    expect(fresh.answers[0]!.ids).toEqual(second.answers[0]!.ids)
    expect(fresh.answers[0]!.logprobs).toEqual(second.answers[0]!.logprobs)
  })

  test("without a tokenizer: ids in, ids out", async () => {
    const dir = makeModel("ids", { tokenizer: undefined })
    const { answers, events } = await run({ model: dir, prompts: [{ ids: [1, 2, 3] }] })
    expect(answers[0]).toMatchObject({ promptIds: [1, 2, 3], text: undefined, finish: "length" })
    expect(events.filter((event) => event.type === "token" && event.text !== undefined)).toEqual([])
    expect((await failure({ model: dir, prompts: [{ ids: [1] }], stop: ["x"] })).message).toContain("stop texts need a tokenizer")
  })
})
