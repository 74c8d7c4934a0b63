/** 1,000 random requests alone and at 64 at once, 10,000 cancels, 1,000 random JSON schemas: equal bytes, all pages back, no invalid answer. */
import { formatDuration } from "../src/base-term.ts"
import type { Constraint } from "../src/engine-serve-protocol.ts"
import { type Json, randomDocument, violation } from "../test/json-schema.ts"
import { bytesOf, clean, makeModel, PLAIN, randomRequest, ServeEngine, tokenizer } from "../test/serve-engine.ts"

const seed = Number(process.argv[2] ?? 1)
const [REQUESTS, CANCELS, SCHEMAS, TOGETHER] = [1000, 10_000, 1000, 64]
const begun = performance.now()

function report(what: string, from: number): void {
  console.log(`${what} (${formatDuration(performance.now() - from)})`)
}

/** Runs `work` on 0 … count − 1, TOGETHER at a time. */
async function flood<T>(count: number, work: (i: number) => Promise<T>): Promise<T[]> {
  const results: T[] = []
  let next = 0
  const worker = async () => {
    for (let i = next++; i < count; i = next++) results[i] = await work(i)
  }
  await Promise.all(Array.from({ length: TOGETHER }, worker))
  return results
}

async function requests(): Promise<void> {
  const from = performance.now()
  const path = makeModel("plain")
  const one = new ServeEngine({ slots: 1, prefixCache: false })
  await one.load(path)
  const alone: string[] = []
  for (let i = 0; i < REQUESTS; i++) alone.push(bytesOf(await one.ask(randomRequest(seed * 1e6 + i))))
  await one.stop()
  const many = new ServeEngine({ slots: TOGETHER })
  await many.load(path)
  const together = await flood(REQUESTS, (i) => many.ask(randomRequest(seed * 1e6 + i)))
  const differ = together.filter((told, i) => bytesOf(told) !== alone[i]).length
  const { prefixHits } = await many.statistics()
  report(`${REQUESTS} requests alone and at ${TOGETHER}: ${differ} differ, ${prefixHits} prompt tokens found in pages`, from)

  const storm = performance.now()
  const ends = await flood(CANCELS, async (i) => {
    const wait = i % 7
    let seen = 0
    const asked = many.ask(randomRequest(seed * 1e6 + i), () => {
      if (++seen > wait) many.cancel(asked.id)
    })
    return (await asked).failed?.code
  })
  const cancelled = ends.filter((code) => code === "cancelled").length
  const { running, waiting, models } = await many.statistics()
  const again = await flood(REQUESTS, (i) => many.ask(randomRequest(seed * 1e6 + i)))
  const changed = again.filter((told, i) => bytesOf(told) !== alone[i]).length
  await many.stop()
  report(
    `${CANCELS} cycles, ${cancelled} cancelled: ${running} running, ${waiting} waiting, ${models[0]!.pagesUsed} pages held; then ${changed} of ${REQUESTS} differ`,
    storm,
  )
  if (differ + changed + running + waiting + models[0]!.pagesUsed > 0) process.exitCode = 1
}

async function schemas(): Promise<void> {
  const from = performance.now()
  const engine = new ServeEngine({ slots: TOGETHER })
  await engine.load(makeModel("constrained", { blockSize: 512 }))
  let [refused, whole] = [0, 0]
  const wrong = await flood(SCHEMAS, async (i) => {
    const document = randomDocument(seed * 1e6 + i)
    const constraint: Constraint = { type: "json_schema", schema: document }
    const sampling = { ...PLAIN.sampling, temperature: [0, 1, 2][i % 3]!, seed: i }
    const { ids, failed, finished } = await engine.ask({ constraint, maxTokens: 300, sampling })
    if (failed !== undefined) {
      refused++
      return undefined
    }
    if (finished!.reason === "complete") whole++
    const text = tokenizer.decode(ids.filter((id) => tokenizer.tokenBytes(id).length > 0))
    try {
      return violation(JSON.parse(text) as Json, document, document)
    } catch {
      return `not JSON: ${text}`
    }
  })
  await engine.stop()
  const invalid = wrong.filter((one) => one !== undefined)
  report(`${SCHEMAS} random schemas: ${invalid.length} invalid answers, ${refused} refused, ${whole} complete by themselves`, from)
  for (const one of invalid.slice(0, 5)) console.log(`  ${one}`)
  if (invalid.length > 0) process.exitCode = 1
}

await requests()
await schemas()
clean()
console.log(`seed ${seed}: ${formatDuration(performance.now() - begun)}`)
