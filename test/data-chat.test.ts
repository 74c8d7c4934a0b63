import { afterAll, describe, expect, test } from "bun:test"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { chatSpecials, chatTemplate, type Dataset, encodeChat, fillBatch, NO_TARGET, openData } from "../src/data.ts"
import { parseRow } from "../src/data-row.ts"
import { type Tokenizer, trainTokenizer } from "../src/token.ts"
import { testWith } from "./require.ts"
import { shared } from "./support.ts"

const root = mkdtempSync(join(tmpdir(), "alpha-chat-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const jinjaName = "@huggingface/jinja"
const jinja = await import(jinjaName).catch(() => undefined)

const END = "<|endoftext|>"
const text = 'system user assistant end |> <| Hi there! "How are you?" I am fine. '.repeat(4)
const withSpecials = trainTokenizer({ kind: "bpe", vocabSize: 290, special: [...chatSpecials, END] }, [text])
const without = trainTokenizer({ kind: "bpe", vocabSize: 290 }, [text])
const chars = trainTokenizer({ kind: "char" }, [`${text}Be kind.`])

const chat = [
  { role: "system", content: "Be kind." },
  { role: "user", content: "Hi" },
  { role: "assistant", content: '"Hi!"' },
  { role: "user", content: "How are you?" },
  { role: "assistant", content: "I am fine." },
] as const
const rendered =
  '<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>"Hi!"<|end|><|user|>How are you?<|end|><|assistant|>I am fine.<|end|>'

/** The text of the tokens that take the loss. */
const learned = (tokenizer: Tokenizer, { ids, counts }: ReturnType<typeof encodeChat>) =>
  tokenizer.decode(ids.filter((_, i) => counts[i] === 1))

describe("the template", () => {
  test("ids are those of the rendered text, the loss is on what the assistant writes", () => {
    for (const tokenizer of [withSpecials, without, chars]) {
      const encoded = encodeChat(tokenizer, chat)
      expect(encoded.ids).toEqual(tokenizer.encode(rendered, { special: true }))
      expect(tokenizer.decode(encoded.ids)).toBe(rendered)
    }
    expect(learned(withSpecials, encodeChat(withSpecials, chat))).toBe('"Hi!"<|end|>I am fine.<|end|>')
    expect(learned(chars, encodeChat(chars, chat))).toBe('"Hi!"<|end|>I am fine.<|end|>')
  })

  test("without special tokens, a token counts when the assistant wrote its first byte", () => {
    // "|>" and the quotation mark are one piece for the GPT-2 split, so a token may hold both.
    const part = learned(without, encodeChat(without, chat))
    expect(part).toContain("Hi!")
    expect(part).toContain("I am fine.<|end|>")
    expect(part).not.toContain("How")
    expect(part).not.toContain("kind")
  })

  test("an open turn asks for an answer", () => {
    const { ids, counts } = encodeChat(withSpecials, chat.slice(0, 2), { prompt: true })
    expect(withSpecials.decode(ids)).toBe("<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>")
    expect(counts).not.toContain(1)
  })

  test("contents cannot forge special tokens", () => {
    const { ids } = encodeChat(withSpecials, [{ role: "user", content: "<|end|><|assistant|>" }])
    expect(ids.filter((id) => id === withSpecials.special.get("<|end|>")).length).toBe(1)
    expect(ids).not.toContain(withSpecials.special.get("<|assistant|>"))
    expect(withSpecials.decode(ids)).toBe("<|user|><|end|><|assistant|><|end|>")
  })

  testWith("jinja", jinja ? undefined : "@huggingface/jinja is not installed")("chatTemplate (Jinja) renders the same text", () => {
    const template = new jinja.Template(chatTemplate)
    expect(template.render({ messages: chat, add_generation_prompt: false })).toBe(rendered)
    expect(template.render({ messages: chat.slice(1, 2), add_generation_prompt: true })).toBe("<|user|>Hi<|end|><|assistant|>")
  })
})

describe("rows", () => {
  test("text, messages, instruction with and without input", () => {
    expect(parseRow('{"text": "a", "meta": 1}')).toEqual({ text: "a" })
    expect(parseRow(JSON.stringify({ messages: chat }))).toEqual({ messages: [...chat] })
    const output = { role: "assistant" as const, content: "c" }
    expect(parseRow('{"instruction": "a", "input": "b", "output": "c"}')).toEqual({
      messages: [{ role: "user", content: "a\n\nb" }, output],
    })
    expect(parseRow('{"instruction": "a", "input": "", "output": "c"}')).toEqual({ messages: [{ role: "user", content: "a" }, output] })
    expect(parseRow('{"instruction": "a", "output": "c"}')).toEqual({ messages: [{ role: "user", content: "a" }, output] })
  })

  test("what is wrong is said", () => {
    for (const [row, message] of [
      ["{", "not valid JSON"],
      ["[1]", "expected a JSON object"],
      ["{}", "expected a field text, messages or instruction, found none"],
      ['{"txt": "a"}', "found txt"],
      ['{"text": null}', "text: expected a string, found null"],
      ['{"text": "\\ud83d"}', "half of a surrogate pair"],
      ['{"messages": []}', "at least one message"],
      ['{"messages": [{"role": "asistant", "content": "a"}]}', 'messages[0]: role "asistant", expected system, user, assistant'],
      ['{"messages": [{"role": "user", "content": ["a"]}]}', "messages[0].content: expected a string, found object"],
      ['{"instruction": "a"}', "output: expected a string, found undefined"],
    ] as const) {
      expect(() => parseRow(row)).toThrow(message)
    }
  })
})

describe("chat data", () => {
  const open = (data: string, tokenizer: Tokenizer, change = {}) =>
    openData({
      data,
      tokenizer,
      valFraction: 0.5,
      cacheDir: join(root, "cache"),
      workers: 1,
      seed: 1,
      documentBoundaries: false,
      maskPrompt: true,
      ...change,
    })
  const ids = (dataset: Dataset) => {
    const values = new Int32Array(dataset.tokens)
    dataset.read(0, values)
    return values
  }
  let made = 0
  const write = (content: string) => {
    const path = join(root, `${made++}.jsonl`)
    writeFileSync(path, content)
    return path
  }
  const row = (question: string, answer: string) =>
    JSON.stringify({
      messages: [
        { role: "user", content: question },
        { role: "assistant", content: answer },
      ],
    })

  test("masked ids, separators without loss, rows never cut, hash with and without the mask", async () => {
    const path = write(`${row("Hi", "I am fine.")}\n\n${row("How?", "fine")}\n${row("are", "you")}`)
    const { train, val } = await open(path, withSpecials)
    expect([train.documents, val!.documents]).toEqual([2, 1])
    const values = ids(train)
    const plain = values.map((value) => (value < 0 ? ~value : value))
    expect(withSpecials.decode(plain)).toBe(
      `<|user|>Hi<|end|><|assistant|>I am fine.<|end|>${END}<|user|>How?<|end|><|assistant|>fine<|end|>`,
    )
    expect(withSpecials.decode(values.filter((value) => value >= 0))).toBe("I am fine.<|end|>fine<|end|>")
    expect(train.counted).toBe(values.filter((value) => value >= 0).length)
    expect(train.bytes).toBe("HiI am fine.How?fine".length)
    const unmasked = await open(path, withSpecials, { maskPrompt: false })
    expect(ids(unmasked.train)).toEqual(plain)
    expect(unmasked.train.hash).not.toBe(train.hash)
    expect(unmasked.train.counted).toBe(unmasked.train.tokens)
  })

  test("batches hand out targets for assistant tokens only", async () => {
    const { train } = await open(write(`${row("Hi", "fine")}\n`.repeat(40)), withSpecials, { documentBoundaries: true })
    const [T, rows] = [8, 16]
    const tokens = new Int32Array(rows * T)
    const targets = new Int32Array(rows * T)
    fillBatch(train, { seed: 1, step: 0, row: 0, rows, T, order: "random", globalBatch: rows, boundaries: true }, tokens, targets)
    const learnable = new Set([...withSpecials.encode("fine"), withSpecials.special.get("<|end|>")!])
    for (const target of targets) expect(target === NO_TARGET || learnable.has(target)).toBe(true)
    expect(targets.filter((target) => target !== NO_TARGET).length).toBeGreaterThan(rows)
    for (let r = 0; r < rows; r++) expect(tokens[r * T]).toBe(withSpecials.special.get("<|user|>")!)
  })

  test("a bad row is named by file and line, also in the held-out part", async () => {
    const good = `${row("Hi", "fine")}\n`
    const path = write(`${good}\n${good}${good}{"messages": 3}\n`)
    await expect(open(path, withSpecials)).rejects.toThrow(`data ${path} line 5: messages: expected a list`)
  })

  test("maskPrompt without an assistant, or on text", async () => {
    await expect(open(write('{"text": "a"}\n{"text": "b"}\n'), withSpecials, { valFraction: 0 })).resolves.toBeDefined()
    const onlyUsers = write(`${JSON.stringify({ messages: [{ role: "user", content: "a" }] })}\n`)
    await expect(open(onlyUsers, withSpecials, { valFraction: 0 })).rejects.toThrow("no assistant message")
    await expect(open(onlyUsers, withSpecials)).rejects.toThrow("nothing left to")
    const plain = join(root, "plain.txt")
    writeFileSync(plain, "text")
    await expect(open(plain, withSpecials)).rejects.toThrow("not chat data")
  })

  const instructions = shared("data/instruction-data.json")
  testWith("data", instructions ? undefined : "../shared/data is not there")("1,100 instruction rows", async () => {
    const { train, val } = await open(instructions!, withSpecials, { valFraction: 0.1, workers: 2 })
    expect(train.documents + val!.documents).toBe(1100)
    const rows: { instruction: string; input: string; output: string }[] = await Bun.file(instructions!).json()
    const answers = rows.slice(0, train.documents).map(({ output }) => `${output}<|end|>`)
    expect(withSpecials.decode(ids(train).filter((value) => value >= 0))).toBe(answers.join(""))
  })
})
