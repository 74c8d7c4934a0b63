import { afterAll, describe, expect, test } from "bun:test"
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type DataOptions, openData } from "../src/data.ts"
import { mappedReader, positionedReader } from "../src/data-reader.ts"
import { characterOffset, countCharacters, scanText } from "../src/data-scan.ts"
import { findSources } from "../src/data-source.ts"
import type { Source } from "../src/data-types.ts"

const root = mkdtempSync(join(tmpdir(), "alpha-data-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let made = 0
/** A fresh directory with these files. */
function directory(files: Record<string, string | Uint8Array>): string {
  const path = join(root, `d${made++}`)
  mkdirSync(path)
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(path, name, ".."), { recursive: true })
    writeFileSync(join(path, name), content)
  }
  return path
}

const cacheDir = join(root, "cache")
const options = (data: string, change: Partial<DataOptions> = {}): DataOptions => ({
  data,
  valFraction: 0.1,
  cacheDir,
  workers: 1,
  seed: 1,
  documentBoundaries: false,
  maskPrompt: false,
  ...change,
})

/** An llm.c shard. */
function shard(ids: number[], { magic = 20240520, version = 1, count = ids.length } = {}): Uint8Array {
  const header = new Int32Array(256)
  header.set([magic, version, count])
  const body = magic === 20240801 ? Uint32Array.from(ids) : Uint16Array.from(ids)
  return Buffer.concat([new Uint8Array(header.buffer), new Uint8Array(body.buffer)])
}

const nanoShard = (ids: number[]) => new Uint8Array(Uint16Array.from(ids).buffer)
const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

describe("finding files", () => {
  const names = async (spec: string) => (await findSources(spec, cacheDir)).map(({ name }) => name)

  test("a directory: every visible file below it in byte order; a glob; a file", async () => {
    const path = directory({ "b.txt": "b", "a/z.txt": "z", "a.txt": "a", "B.md": "B", ".hidden": "h", ".git/x.txt": "x", "empty.txt": "" })
    expect(await names(path)).toEqual(["B.md", "a.txt", "a/z.txt", "b.txt"].map((name) => join(path, name)))
    expect(await names(join(path, "*.txt"))).toEqual([join(path, "a.txt"), join(path, "b.txt")])
    expect(await names(join(path, "**/*.txt"))).toEqual([join(path, "a.txt"), join(path, "a/z.txt"), join(path, "b.txt")])
    expect(await names(join(path, "a.txt"))).toEqual([join(path, "a.txt")])
  })

  test("a nanoGPT directory stands for its shards", async () => {
    const path = directory({ "train.bin": nanoShard([1, 2]), "val.bin": nanoShard([3, 4]), "prepare.py": "import os", "input.txt": "text" })
    expect(await names(path)).toEqual([join(path, "train.bin"), join(path, "val.bin")])
  })

  test("missing: names the nearest file; a glob without match; an empty directory", async () => {
    const path = directory({ "novels.txt": "x" })
    const error = await findSources(join(path, "novel.txt"), cacheDir).catch((e) => e)
    expect(error.message).toContain("novel.txt: no such file")
    expect(error.hint).toContain("novels.txt")
    const far = await findSources(join(path, "letters.txt"), cacheDir).catch((e) => e)
    expect(far.hint).toBe("relative paths start at the working directory")
    const remote = await findSources("https://example.org/book.txt", cacheDir).catch((e) => e)
    expect(remote.hint).toBe("data are files: curl -LO https://example.org/book.txt")
    await expect(findSources(join(path, "*.md"), cacheDir)).rejects.toThrow("no file matches")
    await expect(findSources(directory({}), cacheDir)).rejects.toThrow("no files below")
    await expect(findSources(join(path, "no/x.txt"), cacheDir)).rejects.toThrow("no does not exist")
  })

  test("empty: an error naming the file and what was expected", async () => {
    const path = directory({ "a.txt": "" })
    await expect(findSources(join(path, "a.txt"), cacheDir)).rejects.toThrow("a.txt: 0 bytes — expected text, jsonl rows or .bin shards")
    await expect(findSources(path, cacheDir)).rejects.toThrow("0 bytes")
  })

  test("text mixed with shards is refused by name", async () => {
    const path = directory({ "a.txt": "a", "b.bin": nanoShard([1]) })
    await expect(findSources(join(path, "*"), cacheDir)).rejects.toThrow(/both token shards .*b\.bin.* and text .*a\.txt/)
  })

  test("a JSON array becomes rows, one element per line", async () => {
    const path = directory({ "a.json": JSON.stringify([{ text: "x\ny" }, { text: "z" }], null, 2), "bad.json": "{}", "cut.json": "[1, " })
    const [source] = await findSources(join(path, "a.json"), cacheDir)
    expect(source).toMatchObject({ name: join(path, "a.json"), kind: "rows" })
    expect(await Bun.file(source!.path).text()).toBe('{"text":"x\\ny"}\n{"text":"z"}\n')
    await expect(findSources(join(path, "bad.json"), cacheDir)).rejects.toThrow("bad.json: expected a JSON array")
    await expect(findSources(join(path, "cut.json"), cacheDir)).rejects.toThrow("cut.json: not valid JSON")
  })
})

describe("checking text", () => {
  const scan = (content: string | Uint8Array) => {
    const path = join(directory({ "x.txt": content }), "x.txt")
    const source: Source = { path, name: "x.txt", kind: "text", bytes: Buffer.byteLength(content) }
    return { source, scan: scanText(source, () => {}) }
  }

  test("counts code points and finds them again", async () => {
    const text = "aé€😀\n".repeat(1000)
    const { source, scan: running } = scan(text)
    const found = await running
    expect(found.characters).toBe(5000)
    expect(found.sha256).toBe(new Bun.CryptoHasher("sha256").update(text).digest("hex"))
    for (const index of [0, 1, 2, 3, 4, 2501, 4999, 5000]) {
      expect(await characterOffset(source, found, index)).toBe(Buffer.byteLength([...text].slice(0, index).join("")))
    }
  })

  test("characters that cross a 4 MiB block are fine, and offsets behind it are right", async () => {
    const text = `${"x".repeat((4 << 20) - 1)}€${"é".repeat(100)}`
    const { source, scan: running } = scan(text)
    const found = await running
    expect(found.characters).toBe((4 << 20) + 100)
    expect(await characterOffset(source, found, 4 << 20)).toBe((4 << 20) + 2)
    expect(await characterOffset(source, found, (4 << 20) + 7)).toBe((4 << 20) + 2 + 14)
  })

  test("countCharacters equals the number of code points for any alignment", () => {
    const bytes = Buffer.from("aé€😀xyz".repeat(9))
    const copy = new Uint8Array(bytes.length + 3)
    for (let shift = 0; shift < 4; shift++) {
      copy.set(bytes, shift)
      const view = copy.subarray(shift, shift + bytes.length)
      if (shift + bytes.length <= copy.length) expect(countCharacters(view)).toBe(63)
    }
  })

  test("a bad byte is named with its offset, also at the end and behind a block", async () => {
    await expect(scan(Buffer.from([0x61, 0x62, 0xe9, 0x63])).scan).rejects.toThrow(
      "x.txt: not UTF-8 text, byte 0xe9 at offset 2 — expected UTF-8 text",
    )
    await expect(scan(Buffer.from([0x61, 0xe2, 0x82])).scan).rejects.toThrow("byte 0xe2 at offset 1")
    await expect(scan(Buffer.from([0x61, 0xed, 0xa0, 0x80])).scan).rejects.toThrow("byte 0xed at offset 1")
    const big = Buffer.alloc((4 << 20) + 10, "a")
    big[(4 << 20) + 5] = 0xff
    await expect(scan(big).scan).rejects.toThrow(`byte 0xff at offset ${(4 << 20) + 5}`)
    big[(4 << 20) - 1] = 0xe2 // starts a character that the next block does not go on with
    await expect(scan(big).scan).rejects.toThrow(`byte 0xe2 at offset ${(4 << 20) - 1}`)
  })

  test("binary files are recognised", async () => {
    await expect(scan("ab\0c").scan).rejects.toThrow("binary data (a NUL byte), byte 0x00 at offset 2")
    await expect(scan(Bun.gzipSync(Buffer.from("hello"))).scan).rejects.toThrow("this is gzip data")
    await expect(scan(Buffer.from("\uFEFFhé", "utf16le")).scan).rejects.toThrow("this is UTF-16 text")
  })
})

describe("shards", () => {
  test("llm.c uint16, llm.c uint32 and nanoGPT: the same ids, the last tenth held out", async () => {
    const ids = numbers(0, 1000)
    const wide = ids.map((id) => id + 70_000)
    const path = directory({ "a.bin": shard(ids), "b.bin": shard(wide, { magic: 20240801, version: 7 }), "c.bin": nanoShard(ids) })
    for (const [name, expected] of [
      ["a.bin", ids],
      ["b.bin", wide],
      ["c.bin", ids],
    ] as const) {
      const { train, val } = await openData(options(join(path, name)))
      expect([train.tokens, val!.tokens]).toEqual([900, 100])
      const read = new Int32Array(900)
      train.read(0, read)
      expect([...read]).toEqual(expected.slice(0, 900))
      const held = new Int32Array(50)
      val!.read(50, held)
      expect([...held]).toEqual(expected.slice(950))
      train.close()
    }
  })

  test("several shards are one stream, also across their borders", async () => {
    const path = directory({
      "s_000.bin": shard(numbers(0, 30)),
      "s_001.bin": shard(numbers(30, 37)),
      "s_002.bin": shard(numbers(37, 100)),
    })
    const { train, val } = await openData(options(join(path, "*.bin"), { valFraction: 0.5 }))
    expect([train.tokens, val!.tokens]).toEqual([50, 50])
    for (const at of [0, 25, 29, 31, 36, 40]) {
      const read = new Int32Array(10)
      train.read(at, read)
      expect([...read]).toEqual(numbers(at, at + 10))
    }
    expect(() => train.read(45, new Int32Array(10))).toThrow()
  })

  test("shards named val are held out, unless they are all there is; valData leaves them out of training too", async () => {
    const path = directory({
      "x_train_1.bin": nanoShard(numbers(0, 50)),
      "x_val_0.bin": nanoShard(numbers(50, 70)),
      "own.bin": nanoShard([1, 2, 3]),
    })
    const both = await openData(options(join(path, "x_*.bin")))
    expect([both.train.tokens, both.val!.tokens]).toEqual([50, 20])
    const own = await openData(options(join(path, "x_*.bin"), { valData: join(path, "own.bin") }))
    expect([own.train.tokens, own.val!.tokens]).toEqual([50, 3])
    const alone = await openData(options(join(path, "x_val_0.bin"), { valFraction: 0 }))
    expect([alone.train.tokens, alone.val]).toEqual([20, undefined])
  })

  test("the hash changes with one id, and with the split", async () => {
    const path = directory({ "a.bin": nanoShard([1, 2, 3, 4]), "b.bin": nanoShard([1, 2, 3, 5]) })
    const hash = async (name: string, valFraction: number) => (await openData(options(join(path, name), { valFraction }))).train.hash
    expect(await hash("a.bin", 0)).toBe(await hash("a.bin", 0))
    expect(await hash("a.bin", 0)).not.toBe(await hash("b.bin", 0))
    expect(await hash("a.bin", 0)).not.toBe(await hash("a.bin", 0.4))
  })

  test("damaged or foreign shards are refused by name", async () => {
    const path = directory({
      "cut.bin": shard(numbers(0, 100)).subarray(0, 1100),
      "odd.bin": nanoShard([1, 2]).subarray(0, 3),
      "version.bin": shard([1], { version: 2 }),
      "eval.bin": shard([1], { magic: 20240522 }),
      "magic.bin": shard(numbers(0, 100), { magic: 20240521 }),
      "negative.bin": shard([1], { count: -1 }),
      "large.bin": shard([...numbers(0, 60), 500, 7, 600]),
    })
    const open = (name: string, change: Partial<DataOptions> = {}) => openData(options(join(path, name), change))
    await expect(open("cut.bin")).rejects.toThrow("cut.bin: truncated: the header promises 100 tokens (1224 bytes), the file has 1100")
    await expect(open("odd.bin")).rejects.toThrow("odd.bin: 3 bytes is not a whole number of uint16 tokens")
    await expect(open("version.bin")).rejects.toThrow("version 2, expected 1")
    await expect(open("eval.bin")).rejects.toThrow("an evaluation set of llm.c")
    await expect(open("magic.bin")).rejects.toThrow("magic.bin: damaged: an llm.c header with magic 20240521")
    await expect(open("negative.bin")).rejects.toThrow("truncated")
    await expect(open("large.bin", { vocabSize: 256, valFraction: 0 })).rejects.toThrow(
      "large.bin: token 500 at offset 60, expected ids below 256",
    )
    await expect(open("large.bin", { vocabSize: 601, context: 63, valFraction: 0 })).rejects.toThrow(
      "63 tokens, but one window needs context + 1 = 64",
    )
    await expect(open("large.bin", { maskPrompt: true })).rejects.toThrow("not chat data")
  })
})

describe("readers", () => {
  test("mapped in segments and read by position give the same ids for both widths and any offset", () => {
    const count = 5000
    const narrow = Uint16Array.from({ length: count }, (_, i) => (i * 40503) & 0xffff)
    const wide = Int32Array.from({ length: count }, (_, i) => Math.imul(i, 0x9e3779b1))
    for (const [width, ids] of [
      [2, narrow],
      [4, wide],
    ] as const) {
      const path = join(directory({ x: Buffer.concat([Buffer.alloc(1024), new Uint8Array(ids.buffer)]) }), "x")
      const layout = { width, offset: 1024, length: count }
      const mapped = mappedReader(path, layout, 4096) // several segments, as above 1 GiB
      const positioned = positionedReader(path, layout)
      for (const [at, length] of [
        [0, count],
        [0, 1],
        [count - 1, 1],
        [1500, 1100],
        [511, 3],
      ] as const) {
        const a = new Int32Array(length)
        const b = new Int32Array(length)
        mapped.read(at, a)
        positioned.read(at, b)
        expect([...a]).toEqual([...ids.subarray(at, at + length)])
        expect(b).toEqual(a)
      }
      expect(() => mapped.read(count - 1, new Int32Array(2))).toThrow(RangeError)
      expect(() => positioned.read(-1, new Int32Array(2))).toThrow(RangeError)
      positioned.close()
    }
  })

  test("files of more than 4 GiB", () => {
    const path = join(directory({ x: "" }), "x")
    const length = 2.3e9
    const file = openSync(path, "w")
    ftruncateSync(file, 4096 + 2 * length) // sparse
    const ids = Uint16Array.from({ length: 8 }, (_, i) => 100 + i)
    for (const at of [2 ** 29 - 2052, 2 ** 31 - 2050, length - 8]) writeSync(file, new Uint8Array(ids.buffer), 0, 16, 4096 + 2 * at)
    closeSync(file)
    for (const open of [mappedReader, positionedReader]) {
      const reader = open(path, { width: 2, offset: 4096, length })
      for (const at of [2 ** 29 - 2052, 2 ** 31 - 2050, length - 8]) {
        const read = new Int32Array(8)
        reader.read(at, read)
        expect([...read]).toEqual([...ids])
      }
      reader.close()
    }
  })

  test("a file shortened while it is read is an error that names it", () => {
    const path = join(directory({ x: new Uint8Array(200) }), "x")
    const reader = positionedReader(path, { width: 2, offset: 0, length: 100 })
    writeFileSync(path, new Uint8Array(20))
    expect(() => reader.read(5, new Int32Array(20))).toThrow("became shorter than 50 bytes")
    reader.close()
  })
})

describe("random data", () => {
  test("needs a vocabulary size and nothing else", async () => {
    const { train, val } = await openData(options("random", { vocabSize: 65, context: 1024 }))
    expect(train.tokens).toBeGreaterThan(1e9)
    const read = new Int32Array(1000)
    val!.read(0, read)
    expect(new Set(read).size).toBe(65)
    await expect(openData(options("random"))).rejects.toThrow("not known")
  })
})
