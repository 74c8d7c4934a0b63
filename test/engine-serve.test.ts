import { afterAll, describe, expect, test } from "bun:test"
import { bytesOf, clean, makeModel, randomRequest, ServeEngine } from "./serve-engine.ts"

afterAll(clean)

const plain = makeModel("plain")
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
