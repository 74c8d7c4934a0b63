/** Damaged token shards and caches of tokenised text: refused by name or read as exactly the ids that are in them. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type DataOptions, type Dataset, openData } from "../src/data.ts"
import { trainTokenizer } from "../src/token.ts"
import { damage, type FuzzCounts, refusalOf } from "./file-fuzz.ts"
import { sampleText } from "./support.ts"
import { randomSource } from "./token-fuzz.ts"

const options = (data: string, cacheDir: string, change: Partial<DataOptions> = {}): DataOptions => ({
  data,
  cacheDir,
  valFraction: 0,
  workers: 1,
  seed: 1,
  documentBoundaries: false,
  maskPrompt: false,
  ...change,
})

function idsOf(dataset: Dataset): Int32Array {
  const ids = new Int32Array(dataset.tokens)
  dataset.read(0, ids)
  return ids
}

const HEADER = 1024
const TOKENS = 600

/** Shards of llm.c (uint16, uint32) and of nanoGPT, 600 random ids each. */
function shards(random: (n: number) => number) {
  const form = (name: string, vocabSize: number, header: readonly number[], width: 2 | 4) => {
    const ids = Array.from({ length: TOKENS }, () => random(vocabSize))
    const head = new Int32Array(header.length === 0 ? 0 : HEADER / 4)
    head.set(header)
    const body = width === 2 ? Uint16Array.from(ids) : Uint32Array.from(ids)
    const whole = Buffer.concat([new Uint8Array(head.buffer), new Uint8Array(body.buffer)])
    return { name, vocabSize, whole, width, offset: head.byteLength, ids: Int32Array.from(ids) }
  }
  return [
    form("llmc-gpt2.bin", 50257, [20240520, 1, TOKENS], 2),
    form("llmc-small.bin", 1000, [20240520, 1, TOKENS], 2),
    form("llmc-llama3.bin", 128256, [20240801, 7, TOKENS], 4),
    form("nano.bin", 50257, [], 2),
    form("nano-small.bin", 1000, [], 2),
  ]
}

/**
 * Shards have no checksum: a damage that leaves the form whole gives other ids, undetectably. Then they must be the very ids of the file (a
 * header is never read as ids), and the fingerprint by which a resumed run knows its data must be another one.
 */
export async function fuzzShards(count: number, seed: number, folder: string): Promise<FuzzCounts> {
  const random = randomSource(seed)
  const forms = shards(random)
  let [refused, read] = [0, 0]
  for (let i = 0; i < count; i++) {
    const { name, vocabSize, whole, width, offset, ids } = forms[i % forms.length]!
    const path = join(folder, name)
    const open = async () => (await openData(options(path, folder, { vocabSize, ...(random(2) === 0 ? { context: 8 } : {}) }))).train
    writeFileSync(path, whole)
    const { hash } = await open()
    const bytes = damage(whole, random, [16, HEADER, whole.length][random(3)])
    writeFileSync(path, bytes)
    const fail = (why: string) => new Error(`damage ${i} (seed ${seed}) of ${name}, ${bytes.length} of ${whole.length} bytes: ${why}`)
    const error = await refusalOf(async () => {
      const dataset = await open()
      if (offset > 0 && bytes.length !== whole.length) throw fail(`read as ${dataset.tokens} ids`)
      const body = Uint8Array.from(bytes.subarray(offset)).buffer
      const stored = Int32Array.from(width === 2 ? new Uint16Array(body) : new Uint32Array(body))
      const found = idsOf(dataset)
      dataset.close()
      if (!Buffer.from(found.buffer).equals(Buffer.from(stored.buffer))) throw fail("other ids than the file has")
      if (Buffer.from(found.buffer).equals(Buffer.from(ids.buffer)) !== (dataset.hash === hash)) throw fail("the fingerprint does not tell")
      read++
    })
    if (error === undefined) continue
    if (bytes.equals(whole)) throw fail(`refused whole: ${error.message}`)
    if (!error.message.includes(path)) throw fail(`the error names no file: ${error.message}`)
    refused++
  }
  return { refused, read }
}

/** A cache is checksummed: whatever happened to it, the ids are right, and so is the file afterwards. `refused` were noticed and made again. */
export async function fuzzCaches(count: number, seed: number, folder: string): Promise<FuzzCounts> {
  const random = randomSource(seed)
  const [text, cacheDir] = [sampleText(3000), join(folder, "cache")]
  const path = join(folder, "text.txt")
  mkdirSync(cacheDir, { recursive: true })
  writeFileSync(path, text)
  const tokenizer = trainTokenizer({ kind: "char" }, [text])
  const notes: string[] = []
  const open = async () => {
    const { train } = await openData(options(path, cacheDir, { tokenizer, onNote: (note) => void notes.push(note) }))
    const ids = idsOf(train)
    train.close()
    return Buffer.from(ids.buffer)
  }
  const right = await open()
  const cache = join(cacheDir, readdirSync(cacheDir).find((name) => name.endsWith(".tokens"))!)
  const whole = readFileSync(cache)
  let refused = 0
  for (let i = 0; i < count; i++) {
    const bytes = damage(whole, random)
    writeFileSync(cache, bytes)
    notes.length = 0
    const found = await open()
    const fail = (why: string) => new Error(`damage ${i} (seed ${seed}) of a cache: ${why}`)
    if (!found.equals(right)) throw fail("other ids")
    if (!readFileSync(cache).equals(whole)) throw fail("it was not made again")
    if (bytes.equals(whole) !== (notes.length === 0)) throw fail(`notes: ${notes.join("; ")}`)
    if (notes.length > 0) refused++
  }
  return { refused, read: count - refused }
}
