/** 1,000 damaged checkpoints, models, shards, caches and tokenizer files, 10,000 random strings, 200 kills while saving: errors or the right content. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { formatDuration } from "../src/base-term.ts"
import { fuzzCheckpoints, fuzzModels, killSavers } from "../test/checkpoint-fuzz.ts"
import { fuzzCaches, fuzzShards } from "../test/data-fuzz.ts"
import type { FuzzCounts } from "../test/file-fuzz.ts"
import { byteTokenizers, fuzzBytes, fuzzText, fuzzTokenizerFiles } from "../test/tokenizer-fuzz.ts"

const seed = Number(process.argv[2] ?? 1)
const [FILES, STRINGS, KILLS] = [1000, 10_000, 200]
const folder = mkdtempSync(join(tmpdir(), "alpha-fuzz-"))

async function part(name: string, run: () => Promise<FuzzCounts | undefined> | FuzzCounts | undefined): Promise<void> {
  const begun = performance.now()
  const counts = await run()
  const outcome = counts === undefined ? "all came back" : `${counts.refused} refused, ${counts.read} read right`
  console.log(`${name}: ${outcome} (${formatDuration(performance.now() - begun)})`)
}

const begun = performance.now()
await part(`${FILES} damaged checkpoints of alpha`, () => fuzzCheckpoints(FILES, seed, join(folder, "own")))
await part(`${FILES} damaged directories of transformers`, () => fuzzModels(FILES, seed, folder))
await part(`${FILES} damaged shards of llm.c and nanoGPT`, () => fuzzShards(FILES, seed, folder))
await part(`${FILES} damaged caches of tokenised text (refused: made again)`, () => fuzzCaches(FILES, seed, folder))
await part(`${FILES} damaged tokenizer files`, () => fuzzTokenizerFiles(FILES, seed, join(folder, "tokenizer")))
for (const [name, tokenizer] of byteTokenizers())
  await part(`${STRINGS} random byte strings, ${name}`, () => void fuzzBytes(name, tokenizer, STRINGS, seed))
for (const kind of ["char", "word"] as const) await part(`${STRINGS} random byte strings, ${kind}`, () => fuzzText(kind, STRINGS, seed))
await part(`${KILLS} kills while saving checkpoints`, () => killSavers(KILLS, seed, folder).then(() => undefined))
rmSync(folder, { recursive: true })
console.log(`seed ${seed}: no wrong content, crash or hang in ${formatDuration(performance.now() - begun)}`)
