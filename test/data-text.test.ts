import { afterAll, describe, expect, test } from "bun:test"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type DataOptions, type Dataset, evalWindows, openData, openText } from "../src/data.ts"
import { besideSpecials, chunksOf } from "../src/data-chunk.ts"
import { encodeAll } from "../src/data-pool.ts"
import type { SourceKind } from "../src/data-types.ts"
import { loadTokenizer, type Tokenizer, trainTokenizer } from "../src/token.ts"
import { testWith } from "./require.ts"
import { shared } from "./support.ts"

const root = mkdtempSync(join(tmpdir(), "alpha-text-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let made = 0
function file(content: string | Uint8Array, name = "x.txt"): string {
  const directory = join(root, `d${made++}`)
  mkdirSync(directory)
  writeFileSync(join(directory, name), content)
  return join(directory, name)
}

const options = (data: string, tokenizer: Tokenizer, change: Partial<DataOptions> = {}): DataOptions => ({
  data,
  tokenizer,
  valFraction: 0.1,
  cacheDir: join(root, "cache"),
  workers: 1,
  seed: 1,
  documentBoundaries: false,
  maskPrompt: false,
  ...change,
})

function idsOf(dataset: Dataset | undefined): Int32Array {
  const ids = new Int32Array(dataset!.tokens)
  dataset!.read(0, ids)
  return ids
}

const sha16 = (ids: Int32Array) => new Bun.CryptoHasher("sha256").update(new Uint8Array(Uint16Array.from(ids).buffer)).digest("hex")

const END = "<|endoftext|>"
const prose =
  "It was the best of times, it was the worst of times;\n\n  it's 1859 — the café's naïve season of Light…\n\tDarkness! don't\r\n"
const bpe = trainTokenizer({ kind: "bpe", vocabSize: 310, special: [END] }, [prose.repeat(3)])
const chars = trainTokenizer({ kind: "char" }, [prose])

/** Seeded text of words, punctuation, runs of white space and long words. */
function randomText(length: number, seed: number): string {
  let state = seed
  const next = (n: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * n)
  }
  const parts = [
    "the",
    "of",
    "times",
    " ",
    " ",
    " ",
    "\n",
    "\n\n",
    "  ",
    "\t",
    ", ",
    ". ",
    "'s",
    "don't",
    "12",
    "1859",
    "é",
    "…",
    "😀",
    "x".repeat(40),
    "\r\n",
  ]
  let text = ""
  while (text.length < length) text += parts[next(parts.length)]!
  return text
}

describe("text", () => {
  test("split and ids: the last tenth of the characters, each part encoded on its own", async () => {
    const text = prose.repeat(20)
    const cut = Math.floor([...text].length * 0.9)
    const [head, tail] = [[...text].slice(0, cut).join(""), [...text].slice(cut).join("")]
    for (const tokenizer of [bpe, chars]) {
      const { train, val } = await openData(options(file(text), tokenizer))
      expect(idsOf(train)).toEqual(tokenizer.encode(head))
      expect(idsOf(val)).toEqual(tokenizer.encode(tail))
      expect([train.bytes, val!.bytes]).toEqual([Buffer.byteLength(head), Buffer.byteLength(tail)])
      expect([train.documents, val!.documents]).toEqual([1, 1])
    }
  })

  const gpt2Files = shared("data/gpt2")
  const shakespeare = shared("data/tinyshakespeare.txt")
  const missing = gpt2Files && shakespeare ? undefined : "../shared/data is not there"

  testWith("data", missing)("tinyshakespeare: the known ids of nanoGPT at character level and with GPT-2's BPE", async () => {
    const all = trainTokenizer({ kind: "char" }, [readFileSync(shakespeare!)])
    expect(all.vocabSize).toBe(65)
    const level = await openData(options(shakespeare!, all))
    expect([level.train.tokens, level.val!.tokens]).toEqual([1_003_854, 111_540])
    expect(sha16(idsOf(level.train))).toBe("6ec305602a99ac2802745a134e1f5e33e2231b4855525b00b9aebb730ac2626f")
    expect(sha16(idsOf(level.val))).toBe("d37d30cc0c8327c270d493299c3dca54135f6d5f1c9ef60cda78076e311204b1")
    const gpt2 = loadTokenizer(gpt2Files!)
    const words = await openData(options(shakespeare!, gpt2, { workers: 2 }))
    expect([words.train.tokens, words.val!.tokens]).toEqual([301_966, 36_059])
    expect(sha16(idsOf(words.train))).toBe("502a2bdc8210d1ac5d5674867cb74467dd31db575d25cf6dbb08c8bdbea8680f")
    expect(sha16(idsOf(words.val))).toBe("68a53422394c26a655ebe641f5c6f49888e8f4e45fe5d6f02abda63ba3ebd65b")
    expect(words.train.bytes + words.val!.bytes).toBe(1_115_394)
  })

  test("bits per byte are not told where an unknown token hides bytes", async () => {
    const text = "aaaa bbbb cccc "
    const char = trainTokenizer({ kind: "char", vocabSize: 3, unknown: "<unk>" }, [text])
    expect((await openData(options(file(text.repeat(9)), char))).val!.byteLengths).toBeUndefined()
    expect((await openData(options(file(text.repeat(9)), trainTokenizer({ kind: "char" }, [text])))).val!.byteLengths).toBeDefined()
  })

  test("bits per byte: the targets of the held-out windows stand for every byte but the first token's", async () => {
    const { val } = await openData(options(file(prose.repeat(50)), bpe))
    const windows = evalWindows(val!, 16)
    const buffer = new Int32Array(16)
    let bytes = 0
    for (let index = 0; index < windows.count; index++) bytes += windows.fill(index, 1, buffer, buffer.slice()).bytes!
    const ids = idsOf(val)
    expect(bytes).toBe(val!.bytes - bpe.tokenBytes(ids[0]!).length)
  })

  test("several files: the end-of-text token between them, none behind the last; without one they just follow", async () => {
    const directory = join(root, "several")
    mkdirSync(directory)
    for (const name of ["a", "b", "c"]) writeFileSync(join(directory, `${name}.txt`), `${name} times`)
    const { train } = await openData(options(directory, bpe, { valFraction: 0 }))
    const end = bpe.special.get(END)!
    expect([...idsOf(train)]).toEqual([...bpe.encode("a times"), end, ...bpe.encode("b times"), end, ...bpe.encode("c times")])
    expect([train.documents, train.bytes]).toEqual([3, 21])
    const plain = await openData(options(directory, trainTokenizer({ kind: "char" }, ["abc times"]), { valFraction: 0 }))
    expect([plain.train.tokens, plain.train.documents]).toEqual([21, 3])
  })

  test("documentBoundaries: markers in the text become the token, and the split falls behind one", async () => {
    const stories = Array.from({ length: 10 }, (_, i) => `Story ${i} of times.\n`)
    const path = file(stories.join(END))
    const end = bpe.special.get(END)!
    const open = (documentBoundaries: boolean) => openData(options(path, bpe, { documentBoundaries, valFraction: 0.25 }))
    const { train, val } = await open(true)
    expect(bpe.decode(idsOf(train))).toBe(stories.slice(0, 8).join(END) + END)
    expect(bpe.decode(idsOf(val))).toBe(stories.slice(8).join(END))
    expect([train.documents, val!.documents]).toEqual([8, 2])
    expect(idsOf(train).filter((id) => id === end).length).toBe(8)
    expect(train.bytes).toBe(stories.slice(0, 8).join("").length)
    expect(train.endOfText).toBe(end)
    const plain = await open(false)
    expect(idsOf(plain.train)).not.toContain(end)
    const rows = file('{"text": "a"}\n{"text": "b"}\n', "x.jsonl")
    const none = trainTokenizer({ kind: "char" }, ["ab"])
    await expect(openData(options(rows, none, { documentBoundaries: true, valFraction: 0 }))).rejects.toThrow(
      "needs a tokenizer with an end-of-text token",
    )
  })

  test("what the tokenizer cannot encode leaves nothing in the cache", async () => {
    const path = file(`${prose}Z`)
    const cacheDir = join(root, "refused")
    await expect(openData(options(path, chars, { valFraction: 0, cacheDir }))).rejects.toThrow(`data ${path}: character "Z"`)
    expect(readdirSync(cacheDir)).toEqual([])
  })

  test("no tokenizer, a vocabulary that is too small, too little text", async () => {
    const path = file("abc")
    await expect(openData({ ...options(path, bpe), tokenizer: undefined })).rejects.toThrow("text needs a tokenizer")
    await expect(openData(options(path, bpe, { vocabSize: 300 }))).rejects.toThrow("vocabSize 300 is below the 310 tokens")
    await expect(openData(options(file(prose), bpe, { context: 1024 }))).rejects.toThrow(/tokens, but one window needs context \+ 1 = 1025/)
    await expect(openData(options(file("a"), bpe, { valFraction: 0.5 }))).rejects.toThrow("nothing left to train on")
  })
})

describe("texts for a tokenizer", () => {
  const read = async (data: string, without: string[] = []) => {
    const stream = await openText(data, join(root, "cache"))
    return [...stream!.texts(without)].map((text) => Buffer.from(text).toString())
  }

  test("all of it, in blocks that end with a line; markers are left out", async () => {
    const text = randomText(2_500_000, 9)
    const blocks = await read(file(text))
    expect(blocks.join("")).toBe(text)
    expect(blocks.slice(0, -1).every((block) => block.endsWith("\n"))).toBe(true)
    expect(blocks.length).toBe(3)
    const oneLine = `${"word ".repeat(300_000)}`
    expect((await read(file(oneLine))).join("")).toBe(oneLine)
    expect(await read(file(`a${END}b`), [END])).toEqual(["a", "b"])
  })

  test("its training part is what openData trains on: prose, documents, rows, several files", async () => {
    const many = join(root, "many")
    mkdirSync(many)
    for (const name of ["a", "b", "c"]) writeFileSync(join(many, `${name}.txt`), randomText(400, name.charCodeAt(0)))
    const rows = file(Array.from({ length: 9 }, (_, i) => `{"text": "row ${i}"}\n`).join(""), "x.jsonl")
    for (const [data, marker] of [
      [file(prose.repeat(5)), undefined],
      [file(`${prose}${END}`.repeat(9)), END],
      [many, undefined],
      [rows, undefined],
    ] as const) {
      const { train } = await openData(options(data, bpe, { documentBoundaries: marker !== undefined }))
      const part = await (await openText(data, root))!.training(0.1, marker, undefined)
      const texts = [...part.texts()].map((text) => (typeof text === "string" ? text : new TextDecoder().decode(text)))
      expect(texts.join("")).toBe(bpe.decode(idsOf(train)).replaceAll(END, marker ?? ""))
    }
  })

  test("rows give their contents, and chat rows the special tokens they need", async () => {
    const rows = file(
      '{"text": "one"}\n\n{"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "three"}]}',
      "x.jsonl",
    )
    expect(await read(rows)).toEqual(["one", "two", "three"])
    expect((await openText(rows, root))!.specials).toEqual([])
    const chat = file('\n{"instruction": "two", "output": "three"}', "x.jsonl")
    expect(await read(chat)).toEqual(["two", "three"])
    expect((await openText(chat, root))!.specials).toEqual(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
    const bad = file('{"texts": 1}', "x.jsonl")
    await expect(openText(bad, root)).rejects.toThrow(`data ${bad} line 1: expected a field text, messages or instruction, found texts`)
    await expect(read(file('{"text": "one"}\n\n{"text": }\n', "x.jsonl"))).rejects.toThrow("x.jsonl line 3: not valid JSON")
  })

  test("what is no text is refused by file and offset, before a tokenizer learns from it", async () => {
    const latin = file(Buffer.from("caf\xe9", "latin1"))
    await expect(read(latin)).rejects.toThrow(`data ${latin}: not UTF-8 text, byte 0xe9 at offset 3`)
    const late = file(Buffer.concat([Buffer.from("line\n".repeat(300_000)), Buffer.from([0x61, 0])]))
    await expect(read(late)).rejects.toThrow("binary data (a NUL byte), byte 0x00 at offset 1500001")
    await expect(read(file(Buffer.from("\ufeffhello", "utf16le")))).rejects.toThrow("this is UTF-16 text")
  })

  test("shards and random tokens have no text", async () => {
    expect(await openText("random", root)).toBeUndefined()
    expect(await openText(file(new Uint8Array(4), "x.bin"), root)).toBeUndefined()
  })
})

describe("pieces", () => {
  const collect = async (text: string, tokenizer: Tokenizer, target: number, specials: string[] = []) => {
    const path = file(text)
    const bytes = Buffer.byteLength(text)
    const piece = { source: { path, name: path, kind: "text" as const, bytes }, sha256: "", from: 0, to: bytes }
    const chunks: Uint8Array[] = []
    const cut = besideSpecials((at, from) => tokenizer.cut(at, from), specials)
    for await (const chunk of chunksOf(piece, cut, target, 4000)) chunks.push(chunk.bytes)
    return chunks
  }

  test("fuzz: encoding chunk by chunk equals encoding the whole, for any chunk size", async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const text = randomText(6000, seed)
      for (const target of [1, 7, 100, 1000]) {
        const chunks = await collect(text, bpe, target)
        expect(Buffer.concat(chunks).toString()).toBe(text)
        expect(chunks.length).toBeGreaterThan(3)
        expect(chunks.flatMap((chunk) => [...bpe.encode(chunk)])).toEqual([...bpe.encode(text)])
      }
    }
  })

  test("text without a place to cut is cut between characters, always at the same ones", async () => {
    const text = "é".repeat(10_000)
    const chunks = await collect(text, bpe, 1001)
    expect(Buffer.concat(chunks).toString()).toBe(text)
    expect(chunks.slice(0, 2).map((chunk) => chunk.length)).toEqual([1000, 1000])
  })

  test("special tokens in the text stay whole", async () => {
    const marker = "<|a b|>"
    const chunks = await collect(`times ${marker} of`.repeat(500), bpe, 50, [marker])
    for (const chunk of chunks)
      expect(Buffer.from(chunk).toString().split("<|").length).toBe(Buffer.from(chunk).toString().split("|>").length)
  })

  /** Ids of a file through `workers` workers. */
  const encode = async (path: string, kind: SourceKind, tokenizer: Tokenizer, workers: number, maskPrompt = false) => {
    const piece = { source: { path, name: path, kind, bytes: statSync(path).size }, sha256: "", from: 0, to: statSync(path).size }
    const chunks = chunksOf(piece, (bytes, at) => tokenizer.cut(bytes, at), 50_000)
    const setup = { special: false, maskPrompt, width: 4 as const, endOfText: tokenizer.special.get(END) }
    const parts: Uint8Array[] = []
    for await (const { encoded } of encodeAll(chunks, tokenizer, setup, workers)) parts.push(encoded.payload)
    return Buffer.concat(parts)
  }

  test("1, 2 and 3 workers give the same ids, those of the whole text", async () => {
    const text = randomText(700_000, 5)
    const path = file(text)
    const whole = Buffer.from(bpe.encode(text).buffer)
    for (const workers of [1, 2, 3]) expect((await encode(path, "text", bpe, workers)).equals(whole)).toBe(true)
    const row = (i: number) => JSON.stringify({ instruction: `times ${i}`, output: randomText(200, i) })
    const rows = file(Array.from({ length: 2000 }, (_, i) => `${row(i)}\n`).join(""), "x.jsonl")
    const one = await encode(rows, "rows", bpe, 1, true)
    for (const workers of [2, 3]) expect((await encode(rows, "rows", bpe, workers, true)).equals(one)).toBe(true)
  })

  test("what a worker refuses: file and byte offset in the file, or line", async () => {
    const path = file(`${prose.repeat(3000)}Z${prose}`)
    const rows = file(`${'{"text": "the"}\n'.repeat(10_000)}\n{"text": 3}\n`, "x.jsonl")
    for (const workers of [1, 2]) {
      const error = await encode(path, "text", chars, workers).catch((e) => e)
      expect(error.message).toStartWith(`data ${path}: character "Z"`)
      expect(error.message).toContain(`at byte offset ${Buffer.byteLength(prose) * 3000} `)
      expect(error.hint).toContain("--tokenizer=bpe")
      await expect(encode(rows, "rows", bpe, workers)).rejects.toThrow(`data ${rows} line 10002: text: expected a string, found number`)
    }
  })
})

describe("standard input", () => {
  test("is copied by its content, read once for both tokenizer and data, and recognised as text or rows", async () => {
    const script = file(
      `import { openData, openText } from ${JSON.stringify(join(import.meta.dir, "../src/data.ts"))}
      import { trainTokenizer } from ${JSON.stringify(join(import.meta.dir, "../src/token.ts"))}
      const cacheDir = ${JSON.stringify(join(root, "stdin-cache"))}
      const tokenizer = trainTokenizer({ kind: "char" }, (await openText("-", cacheDir)).texts())
      const { train, source } = await openData({ data: "-", tokenizer, valFraction: 0, cacheDir, workers: 1, seed: 1, documentBoundaries: false, maskPrompt: false })
      console.log(JSON.stringify({ tokens: train.tokens, documents: train.documents, source, vocab: tokenizer.vocabSize }))`,
      "script.ts",
    )
    const run = async (input: string) => {
      const child = Bun.spawn([process.execPath, script], { stdin: new Blob([input]), stdout: "pipe", stderr: "pipe" })
      const [out, error] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
      return (await child.exited) === 0 ? JSON.parse(out) : error
    }
    const text = await run("abcabc")
    expect(text).toMatchObject({ tokens: 6, documents: 1, vocab: 3 })
    expect(readFileSync(text.source, "utf8")).toBe("abcabc")
    expect(await run('{"text": "ab"}\n{"text": "cd"}\n')).toMatchObject({ tokens: 4, documents: 2, vocab: 4 })
    expect(await run("")).toContain("data -: 0 bytes")
  })
})

describe("the cache", () => {
  const setup = () => {
    const cacheDir = join(root, `cache-${made}`)
    const path = file(prose.repeat(30))
    const notes: string[] = []
    const labels = new Set<string>()
    const open = (change: Partial<DataOptions> = {}, tokenizer = bpe) => {
      labels.clear()
      const report = {
        onNote: (note: string) => void notes.push(note),
        onProgress: ({ label }: { label: string }) => void labels.add(label),
      }
      return openData(options(path, tokenizer, { cacheDir, valFraction: 0, ...report, ...change }))
    }
    const files = () => readdirSync(cacheDir)
    const didTokenise = () => [...labels].some((label) => label.startsWith("tokenise"))
    return { cacheDir, path, notes, open, files, didTokenise }
  }

  test("is used when text, tokenizer and options are the same, and only then", async () => {
    const { path, open, files, didTokenise } = setup()
    const first = await open()
    expect(didTokenise()).toBe(true)
    expect((await open()).train.hash).toBe(first.train.hash)
    expect(didTokenise()).toBe(false)
    // A tokenizer of the same kind and size must not share (the origin project's bug).
    const other = trainTokenizer({ kind: "bpe", vocabSize: 310, special: [END] }, [`${prose.repeat(3)} zebra zebra zebra`])
    expect((await open({}, other)).train.hash).not.toBe(first.train.hash)
    expect(didTokenise()).toBe(true)
    await open({ documentBoundaries: true })
    expect(didTokenise()).toBe(true)
    writeFileSync(path, prose.repeat(30).replace("best", "BEST"))
    expect((await open()).train.hash).not.toBe(first.train.hash)
    expect(didTokenise()).toBe(true)
    expect(files().length).toBe(4)
  })

  test("a damaged file is named, made again and gives the same ids", async () => {
    const { cacheDir, notes, open, files, didTokenise } = setup()
    const first = await open()
    const before = idsOf(first.train)
    first.train.close()
    const path = join(cacheDir, files()[0]!)
    const good = readFileSync(path)
    const damages: [string, (bytes: Buffer) => Buffer][] = [
      ["an id changed", (bytes) => bytes.fill(bytes[5000]! ^ 1, 5000, 5001)],
      ["header changed", (bytes) => bytes.fill("9", 60, 61)],
      ["cut", (bytes) => bytes.subarray(0, bytes.length - 2)],
      ["longer", (bytes) => Buffer.concat([bytes, Buffer.from([0, 0])])],
      ["empty", () => Buffer.alloc(0)],
      ["only the header", (bytes) => bytes.subarray(0, 4096)],
      ["zeros", (bytes) => Buffer.alloc(bytes.length)],
    ]
    for (const [name, damage] of damages) {
      writeFileSync(path, damage(Buffer.from(good)))
      notes.length = 0
      const { train } = await open()
      expect([name, didTokenise(), notes.length, notes[0]?.startsWith(`${path}: damaged (`)]).toEqual([name, true, 1, true])
      expect(idsOf(train)).toEqual(before)
      expect(readFileSync(path).equals(good)).toBe(true)
      train.close()
    }
  })

  test("fuzz: any changed byte is found, whatever it is", async () => {
    const { cacheDir, open, files } = setup()
    const { train } = await open()
    const ids = idsOf(train)
    const path = join(cacheDir, files()[0]!)
    const good = readFileSync(path)
    for (let i = 0; i < 150; i++) {
      const at = (i * 7919 + i * i * 31) % good.length
      writeFileSync(path, Buffer.from(good).fill(good[at]! ^ (1 << (i % 8)), at, at + 1))
      expect(idsOf((await open()).train)).toEqual(ids)
      expect(readFileSync(path).equals(good)).toBe(true)
    }
  })

  test("leftovers of killed processes go after a day", async () => {
    const { cacheDir, open, files } = setup()
    mkdirSync(cacheDir)
    for (const name of [".x.tokens.1.tmp", ".y.tokens.2.tmp", "kept.tokens"]) writeFileSync(join(cacheDir, name), "")
    utimesSync(join(cacheDir, ".x.tokens.1.tmp"), 0, 0)
    utimesSync(join(cacheDir, "kept.tokens"), 0, 0)
    await open()
    expect(files().filter((name) => !name.startsWith("x.txt"))).toEqual([".y.tokens.2.tmp", "kept.tokens"])
  })

  test("its files are the same bytes every time and carry a readable header", async () => {
    const { cacheDir, open, files } = setup()
    await open()
    const path = join(cacheDir, files()[0]!)
    const bytes = readFileSync(path)
    const header = JSON.parse(bytes.subarray(0, 4096 - 65).toString())
    expect(header).toMatchObject({ format: "alpha-tokens-1", width: 2, documents: 1, bytes: Buffer.byteLength(prose) * 30 })
    expect(bytes.length).toBe(4096 + 2 * header.tokens)
    rmSync(path)
    await open()
    expect(readFileSync(path).equals(bytes)).toBe(true)
  })
})
