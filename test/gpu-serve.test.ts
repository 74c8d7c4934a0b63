/** The scheduler on a Vulkan device: an answer's bytes do not depend on company, and prompts are scored as evaluation does. */
import { afterAll, expect } from "bun:test"
import { loadModel } from "../src/gpt.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import { createEvaluator } from "../src/train.ts"
import { testWith } from "./require.ts"
import { bytesOf, clean, makeModel, PLAIN, randomRequest, ServeEngine } from "./serve-engine.ts"

afterAll(clean)
const withGpu = testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)
/** Compilation by lavapipe, on a busy machine. */
const SLOWEST_MS = 300_000

withGpu(
  "alone, together and with few pages",
  async () => {
    const device = openGpu(0)
    const path = makeModel("gpu", { blockSize: 64 })
    const seeds = [3, 4, 6, 9, 12, 15]
    const run = async (limits: ConstructorParameters<typeof ServeEngine>[0], atOnce: boolean) => {
      const engine = new ServeEngine(limits, device)
      await engine.load(path, { precision: "bf16" })
      const ask = async (seed: number) => {
        const { prompt, maxTokens, ...rest } = randomRequest(seed)
        return bytesOf(await engine.ask({ ...rest, prompt: prompt!.slice(0, 40), maxTokens: Math.min(8, maxTokens!) }))
      }
      const told: string[] = []
      if (atOnce) told.push(...(await Promise.all(seeds.map(ask))))
      else for (const seed of seeds) told.push(await ask(seed))
      await engine.stop()
      return told
    }
    const alone = await run({ slots: 1, prefixCache: false }, false)
    expect(new Set(alone).size).toBe(seeds.length)
    expect(await run({ slots: 8 }, true)).toEqual(alone)
    expect(await run({ slots: 8, cacheBytes: 1 }, true)).toEqual(alone)
  },
  SLOWEST_MS,
)

withGpu(
  "without batch invariance answers are whole too, and the model says that it has none",
  async () => {
    const engine = new ServeEngine({ slots: 4, batchInvariant: false }, openGpu(0))
    const facts = await engine.load(makeModel("free", { blockSize: 64 }), { precision: "bf16" })
    expect(facts.batchInvariant).toBe(false)
    const told = await Promise.all([3, 5, 7].map((id) => engine.ask({ prompt: Int32Array.of(id, 2, 9), maxTokens: 6, ignoreEnd: true })))
    await engine.stop()
    expect(told.map(({ ids, finished }) => [ids.length, finished?.reason])).toEqual([6, 6, 6].map((count) => [count, "length"]))
  },
  SLOWEST_MS,
)

withGpu(
  "steps that the device has before their tokens are known say what others say; ends, cancels and lost pages between them",
  async () => {
    const device = openGpu(0)
    expect(device.ahead).toBeGreaterThan(0)
    const path = makeModel("ahead", { blockSize: 64 })
    const requests = Array.from({ length: 12 }, (_, i) => ({
      prompt: Int32Array.from({ length: 1 + ((i * 7) % 20) }, (_, t) => (i * 31 + t * 17) % 290),
      maxTokens: 3 + ((i * 5) % 17),
      stopIds: i % 3 === 0 ? [5, 9, 40, 77, 130, 211] : [],
      sampling: { ...PLAIN.sampling, seed: i, temperature: i % 4 === 0 ? 0 : 1 },
    }))
    // Alternatives keep a request from being computed ahead.
    const run = async (limits: ConstructorParameters<typeof ServeEngine>[0], topLogprobs: number, cancels: boolean) => {
      const engine = new ServeEngine(limits, device)
      await engine.load(path, { precision: "bf16" })
      const noise = Array.from({ length: cancels ? 4 : 0 }, (_, i) => {
        const asked = engine.ask({ prompt: Int32Array.of(i), maxTokens: 60, ignoreEnd: true }, ({ type }) => {
          if (type === "token") engine.cancel(asked.id)
        })
        return asked
      })
      const told = await Promise.all(requests.map((request) => engine.ask({ ...request, topLogprobs })))
      // Alone, with answers of one token in between, whose choices lie where its own do.
      const short: Promise<unknown>[] = []
      const between = () => cancels && short.push(engine.ask({ prompt: Int32Array.of(1, 2), maxTokens: 1 }))
      told.push(await engine.ask({ maxTokens: 30, ignoreEnd: true, topLogprobs }, ({ type }) => type === "token" && between()))
      await Promise.all(short)
      await Promise.all(noise)
      const { models } = await engine.statistics()
      expect(models[0]!.pagesUsed).toBe(0)
      await engine.stop()
      return told.map(({ ids, logprobs, finished }) => ({ ids, logprobs, reason: finished?.reason }))
    }
    const wanted = await run({ slots: 4 }, 1, false)
    expect(new Set(wanted.map(({ reason }) => reason))).toEqual(new Set(["end", "length"]))
    expect(await run({ slots: 4 }, 0, true)).toEqual(wanted)
    expect(await run({ slots: 4, cacheBytes: 1 }, 0, true)).toEqual(wanted)
  },
  SLOWEST_MS,
)

for (const precision of ["f32", "bf16"] as const) {
  withGpu(
    `a prompt's logprobs are those of evaluation, ${precision}`,
    async () => {
      const device = openGpu(0)
      const path = makeModel(`scored ${precision}`, { blockSize: 64 })
      const prompt = Int32Array.from({ length: 64 }, (_, i) => (i * i * 7 + 3) % 290)
      const { state, model } = loadModel(device, path, precision)
      const evaluator = createEvaluator(device, state, { model, precision, B: 1, T: 63 })
      const wanted = Array.from(evaluator.logprobs(prompt.slice(0, -1), prompt.slice(1)))
      evaluator.free()
      state.free()
      const engine = new ServeEngine({}, device)
      await engine.load(path, { precision })
      const told = await engine.ask({ prompt, maxTokens: 0, promptLogprobs: true })
      await engine.stop()
      expect(told.prompt).toEqual(wanted)
    },
    SLOWEST_MS,
  )
}
