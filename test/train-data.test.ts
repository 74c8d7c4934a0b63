/** Training on what a pipe, GPT-2's tokenizer or documents bring. */
import { afterAll, expect, test } from "bun:test"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readRecord } from "../src/train.ts"
import { PROGRAM, sampleText } from "./support.ts"

const folder = mkdtempSync(join(tmpdir(), "alpha-train-data-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const text = sampleText(6000)
writeFileSync(join(folder, "text.txt"), text)

const SMALL =
  "--nLayer=1 --nHead=2 --nEmbd=16 --context=16 --batch=4 --sampleInterval=none --device=cpu --threads=1 --schedule=constant --warmupSteps=0".split(
    " ",
  )

/** `alpha train` in the folder, fed by a real pipe: `cat FILE | alpha train …`. */
async function train(input: string | undefined, ...flags: string[]) {
  const command = [...PROGRAM, "train", "--json", ...SMALL, ...flags]
  const pipe = input === undefined ? '"$@"' : `cat ${input} | "$@"`
  const child = Bun.spawn(["sh", "-c", pipe, "sh", ...command], { cwd: folder, stdin: "ignore", stdout: "pipe", stderr: "pipe" })
  const [out, err, code] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text(), child.exited])
  return { code, err, rows: out.trim().split("\n") }
}

const weights = (run: string, step: string) => readFileSync(join(folder, `runs/${run}/checkpoints/step-${step}/model.safetensors`))

test("a run fed by a pipe is resumed without it, bit for bit", async () => {
  const flags = ["--data=-", "--tokenizer=char"]
  expect(await train("text.txt", ...flags, "--run=whole", "--steps=4")).toMatchObject({ code: 0 })
  expect(await train("text.txt", ...flags, "--run=parts", "--steps=2")).toMatchObject({ code: 0 })
  const { config } = readRecord(join(folder, "runs/parts"))
  expect(config.data?.origin).toEqual({ layer: "flag", from: "--data" })
  expect(readFileSync(join(folder, String(config.data?.value)), "utf8")).toBe(text)
  expect(await train(undefined, "--resume=parts", "--steps=4")).toMatchObject({ code: 0 })
  const { config: later } = readRecord(join(folder, "runs/parts"))
  expect([later.tokenizer, later.steps, later.lr?.origin]).toEqual([
    config.tokenizer,
    { value: 4, origin: { layer: "flag", from: "--steps" } },
    { layer: "default", from: "" },
  ])
  expect(weights("parts", "000004").equals(weights("whole", "000004"))).toBe(true)
})

test("held-out text may come from the pipe instead", async () => {
  const flags = ["--data=text.txt", "--valData=-", "--tokenizer=char", "--run=held", "--steps=1"]
  expect(await train("text.txt", ...flags)).toMatchObject({ code: 0 })
  const { config } = readRecord(join(folder, "runs/held"))
  expect(config.data?.value).toBe("text.txt")
  expect(readFileSync(join(folder, String(config.valData?.value)), "utf8")).toBe(text)
})

test("a BPE learns nothing from what is held out; characters are known wherever they stand", async () => {
  writeFileSync(join(folder, "two.txt"), `${text}${"zebra quagga ".repeat(30)}`)
  const vocabulary = (run: string) =>
    Object.keys(JSON.parse(readFileSync(join(folder, `runs/${run}/last/tokenizer.json`), "utf8")).model.vocab)
  const flags = ["--data=two.txt", "--steps=1", "--evalSteps=1"]
  expect(await train(undefined, ...flags, "--vocabSize=300", "--run=bpe")).toMatchObject({ code: 0, err: "" })
  expect(await train(undefined, ...flags, "--tokenizer=char", "--run=char")).toMatchObject({ code: 0, err: "" })
  expect(vocabulary("bpe").filter((token) => token.length > 1 && /[zq]/.test(token))).toEqual([])
  expect(vocabulary("char")).toContain("q")
})

test("a preset's vocabulary is for long texts: a short one gives what it has, also when the run goes on", async () => {
  const sizes = async (...flags: string[]) => {
    const { code, rows } = await train(undefined, ...flags)
    expect(code).toBe(0)
    return rows.flatMap((row) => JSON.parse(row).vocabSize ?? [])
  }
  const flags = ["--preset=novels", "--data=text.txt", "--steps=1", "--evalInterval=none"]
  const [size] = await sizes(...flags, "--run=short")
  expect(size).toBeLessThan(2000)
  expect(await sizes("--resume=short", "--steps=2")).toEqual([size])
  expect(await sizes("--resume=short", "--steps=3")).toEqual([size])
  expect(await train(undefined, ...flags, "--vocabSize=2000", "--run=asked")).toMatchObject({
    code: 2,
    err: expect.stringContaining(`of ${size}`),
  })
})

test("GPT-2's tokenizer on text: 50,257 tokens, kept in the checkpoint", async () => {
  const { code, rows, err } = await train(
    undefined,
    "--data=text.txt",
    "--tokenizer=gpt2",
    "--run=gpt2",
    "--steps=1",
    "--evalInterval=none",
  )
  expect([code, err]).toEqual([0, ""])
  expect(rows.map((row) => JSON.parse(row)).at(-1)).toMatchObject({ type: "summary", steps: 1 })
  const checkpoint = join(folder, "runs/gpt2/last")
  expect(JSON.parse(readFileSync(join(checkpoint, "config.json"), "utf8"))).toMatchObject({ vocab_size: 50257, eos_token_id: 50256 })
  const { model } = JSON.parse(readFileSync(join(checkpoint, "tokenizer.json"), "utf8"))
  expect([Object.keys(model.vocab).length, model.merges.length]).toEqual([50256, 50000])
})
