/** The scheduler on a Vulkan device: an answer's bytes do not depend on company, and prompts are scored as evaluation does. */
import { afterAll, expect } from "bun:test"
import { loadModel } from "../src/gpt.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import { createEvaluator } from "../src/train.ts"
import { testWith } from "./require.ts"
import { bytesOf, clean, makeModel, randomRequest, ServeEngine } from "./serve-engine.ts"

afterAll(clean)
const withGpu = testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)
/** Compilation by lavapipe, on a busy machine. */
const SLOWEST_MS = 120_000

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
