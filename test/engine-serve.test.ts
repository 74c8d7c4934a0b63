import { afterAll, describe, expect, test } from "bun:test"
import { randomBits } from "../src/base-random.ts"
import type { ServeRequest } from "../src/engine-serve-protocol.ts"
import { bytesOf, clean, makeModel, ServeEngine } from "./serve-engine.ts"

afterAll(clean)

const plain = makeModel("plain")
const pick = (seed: number, i: number, n: number): number => randomBits(seed, 77, 0, i) % n

/** A request of any kind: the same for the same seed. */
function randomRequest(seed: number): Partial<ServeRequest> {
  const p = (i: number, n: number) => pick(seed, i, n)
  const length = 1 + p(0, 100)
  const shared = p(1, 3) // many begin alike
  return {
    prompt: Int32Array.from({ length }, (_, i) => (i < 60 && shared > 0 ? (i * 7 + shared) % 290 : p(100 + i, 290))),
    maxTokens: p(2, 30),
    sampling: {
      temperature: [0, 0.7, 1, 1.5][p(3, 4)]!,
      topK: [undefined, 5, 40][p(4, 3)],
      topP: [1, 0.9][p(5, 2)]!,
      minP: [0, 0.05][p(6, 2)]!,
      repetitionPenalty: [1, 1, 1.2][p(7, 3)]!,
      frequencyPenalty: [0, 0, 0.5][p(8, 3)]!,
      presencePenalty: [0, 0, 1.5][p(9, 3)]!,
      logitBias: p(10, 3) === 0 ? [[p(11, 290), 3], [290 + p(12, 5), -100]] : [], // biome-ignore format: one line
      seed: p(13, 1e9),
    },
    topLogprobs: [0, 0, 5][p(14, 3)]!,
    promptLogprobs: p(15, 4) === 0,
    kind: p(16, 12) === 0 ? "embed" : "generate",
    stopIds: p(19, 4) === 0 ? Array.from({ length: 20 }, (_, i) => 256 + i) : [],
    client: `client ${p(17, 4)}`,
    constraint: p(18, 6) === 0 ? { type: "regex", pattern: "[a-z ]{3,9}(!|\\?)" } : undefined,
  }
}

describe("an answer's bytes do not depend on company", () => {
  const seeds = Array.from({ length: 120 }, (_, i) => i + 1)
  let alone: string[] = []

  test("alone", async () => {
    const engine = new ServeEngine({ slots: 1, prefixCache: false })
    await engine.load(plain)
    for (const seed of seeds) alone.push(bytesOf(await engine.ask(randomRequest(seed))))
    const { finished, failed } = await engine.statistics()
    await engine.stop()
    expect(new Set(alone).size).toBeGreaterThan(110)
    expect(Object.values(failed).every((count) => count === 0)).toBe(true)
    for (const [reason, count] of Object.entries(finished)) expect(count, reason).toBeGreaterThan(3)
  })

  test.each([
    { name: "64 at once", limits: { slots: 64 } },
    { name: "few slots", limits: { slots: 3 } },
    { name: "few pages, which running requests take from each other", limits: { slots: 16, cacheBytes: 1 } },
  ])("$name", async ({ limits }) => {
    const engine = new ServeEngine(limits)
    await engine.load(plain)
    const answers = await Promise.all(seeds.map((seed) => engine.ask(randomRequest(seed))))
    answers.forEach((told, i) => {
      expect(bytesOf(told)).toBe(alone[i]!)
    })
    const { models, preemptions, prefixHits } = await engine.statistics()
    expect(models[0]!.pagesUsed).toBe(0)
    if (limits.cacheBytes === 1) expect(preemptions).toBeGreaterThan(0)
    else expect(prefixHits).toBeGreaterThan(500)
    await engine.stop()
  })

  test("between cancelled ones", async () => {
    const engine = new ServeEngine({ slots: 8 })
    await engine.load(plain)
    const answers = await Promise.all(
      seeds.map((seed, i) => {
        const doomed = engine.ask(randomRequest(seed + 5000), () => engine.cancel(doomed.id))
        if (i % 3 === 0) engine.cancel(doomed.id)
        return engine.ask(randomRequest(seed))
      }),
    )
    answers.forEach((told, i) => {
      expect(bytesOf(told)).toBe(alone[i]!)
    })
    await engine.drain()
    const { running, waiting, models } = await engine.statistics()
    expect({ running, waiting, used: models[0]!.pagesUsed }).toEqual({ running: 0, waiting: 0, used: 0 })
    await engine.stop()
    alone = []
  })
})
