import { afterAll, describe, expect, test } from "bun:test"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { sha256 } from "../src/base-file.ts"
import { loadModel } from "../src/gpt.ts"
import { createEvaluator } from "../src/train.ts"
import { bytesOf, clean, device, END, makeModel, PLAIN, ServeEngine } from "./serve-engine.ts"

afterAll(clean)

const plain = makeModel("plain")
const long = makeModel("long", { blockSize: 2048 })
const ids = (length: number, seed = 1) => Int32Array.from({ length }, (_, i) => (i * i * 31 + seed * 17 + i * 7) % 290)
const greedy = { ...PLAIN.sampling, temperature: 0 }

async function withEngine(
  limits: ConstructorParameters<typeof ServeEngine>[0],
  path: string,
  work: (engine: ServeEngine) => Promise<void>,
) {
  const engine = new ServeEngine(limits)
  try {
    await engine.load(path)
    await work(engine)
  } finally {
    await engine.stop()
  }
}

describe("prompts scored", () => {
  test.each(["f32", "bf16"] as const)("as evaluation scores the same tokens, bit for bit (%s)", async (precision) => {
    const prompt = ids(128, 5)
    const loaded = loadModel(device, plain, precision)
    const evaluator = createEvaluator(device, loaded.state, { model: loaded.model, precision, B: 2, T: 127 })
    const both = new Int32Array(2 * 127)
    const targets = new Int32Array(2 * 127)
    both.set(ids(127, 9))
    both.set(prompt.subarray(0, -1), 127)
    targets.set(prompt.subarray(1), 127)
    const wanted = Array.from(evaluator.logprobs(both, targets).subarray(127))
    evaluator.free()
    loaded.state.free()
    const engine = new ServeEngine()
    await engine.load(plain, { precision })
    const asked = { prompt, maxTokens: 1, promptLogprobs: true, topLogprobs: 3, sampling: greedy }
    const [first, again] = await Promise.all([engine.ask(asked), engine.ask({ ...asked, prompt: prompt.slice(0, 100), topLogprobs: 0 })])
    await engine.stop()
    expect(first.prompt).toEqual(wanted)
    expect(again.prompt).toEqual(wanted.slice(0, 99))
    expect(first.ids).toHaveLength(1)
    // The chosen token is the most likely, with the same float; so is every prompt token that is.
    expect(first.top[0]!.ids[0]).toBe(first.ids[0]!)
    expect(first.top[0]!.logprobs[0]).toBe(first.logprobs[0]!)
    first.promptTop.forEach(({ ids: top, logprobs }, i) => {
      const at = top.indexOf(prompt[i + 1]!)
      if (at >= 0) expect(logprobs[at]).toBe(first.prompt[i]!)
      expect(logprobs[0]!).toBeGreaterThanOrEqual(first.prompt[i]!)
    })
  })

  test("an answer's tokens have the same bits when they are a prompt", async () => {
    await withEngine({}, plain, async (engine) => {
      const told = await engine.ask({ prompt: ids(20), maxTokens: 30, ignoreEnd: true, stopIds: [] })
      const whole = Int32Array.from([...ids(20), ...told.ids])
      const echoed = await engine.ask({ prompt: whole, maxTokens: 0, promptLogprobs: true })
      expect(echoed.prompt.slice(19)).toEqual(told.logprobs)
      expect(echoed.ids).toEqual([])
      expect(echoed.finished).toMatchObject({ reason: "length", promptTokens: 50, completionTokens: 0 })
    })
  })
})

describe("answers", () => {
  test("end with an end token, a stop id or at the limit, which the window may set", async () => {
    await withEngine({}, plain, async (engine) => {
      const biased = { ...greedy, logitBias: [[END, 100]] as const }
      const ended = await engine.ask({ sampling: biased })
      expect(ended.ids).toEqual([END])
      expect(ended.finished).toMatchObject({ reason: "end", completionTokens: 1 })
      expect((await engine.ask({ sampling: biased, ignoreEnd: true, maxTokens: 3 })).ids).toEqual([END, END, END])
      expect((await engine.ask({ sampling: biased, ignoreEnd: true, stopIds: [END] })).ids).toEqual([END])
      const full = await engine.ask({ prompt: ids(126), maxTokens: 50, ignoreEnd: true })
      expect(full.finished).toMatchObject({ reason: "length", completionTokens: 3 })
    })
  })

  test("biases and penalties do what they say", async () => {
    await withEngine({}, plain, async (engine) => {
      const favourite = { ...greedy, logitBias: [[7, 50]] as const }
      expect(new Set((await engine.ask({ sampling: favourite, maxTokens: 8 })).ids)).toEqual(new Set([7]))
      const varied = await engine.ask({ sampling: { ...favourite, presencePenalty: 100 }, maxTokens: 8 })
      expect(varied.ids.filter((id) => id === 7)).toHaveLength(1)
      const counted = await engine.ask({ sampling: { ...favourite, frequencyPenalty: 15 }, maxTokens: 8 })
      expect(counted.ids.filter((id) => id === 7).length).toBeWithin(2, 5)
      const banned = await engine.ask({ sampling: { ...PLAIN.sampling, logitBias: [[7, -100]] }, maxTokens: 100, prompt: Int32Array.of(7) })
      expect(banned.ids).not.toContain(7)
      // The logprob is the model's own.
      const free = await engine.ask({ sampling: greedy, maxTokens: 1, topLogprobs: 20 })
      const forced = await engine.ask({ sampling: { ...greedy, logitBias: [[free.top[0]!.ids[4]!, 100]] }, maxTokens: 1 })
      expect(forced.logprobs[0]).toBe(free.top[0]!.logprobs[4]!)
    })
  })

  test("an embedding is the mean of the hidden states, whatever the chunks", async () => {
    await withEngine({}, long, async (engine) => {
      const prompt = ids(1500)
      const [a, b] = await Promise.all([engine.ask({ kind: "embed", prompt }), engine.ask({ kind: "embed", prompt: prompt.slice(0, 1) })])
      const busy = engine.ask({ maxTokens: 200, ignoreEnd: true })
      const again = await engine.ask({ kind: "embed", prompt })
      await busy
      expect(a.embedding).toHaveLength(32)
      expect(bytesOf(again)).toBe(bytesOf(a))
      expect(bytesOf(b)).not.toBe(bytesOf(a))
    })
  })
})

describe("scheduling", () => {
  test("a common beginning is computed once, also by requests that come together", async () => {
    await withEngine({}, long, async (engine) => {
      const prompt = ids(1000)
      const first = await engine.ask({ prompt })
      expect(first.finished!.cachedTokens).toBe(0)
      const second = await engine.ask({ prompt })
      expect(second.finished!.cachedTokens).toBe(992)
      expect(second.ids).toEqual(first.ids)
      const before = (await engine.statistics()).prefillTokens
      const other = ids(1000, 2)
      await Promise.all(Array.from({ length: 6 }, (_, i) => engine.ask({ prompt: other, sampling: { ...PLAIN.sampling, seed: i } })))
      expect((await engine.statistics()).prefillTokens - before).toBeLessThan(1200)
    })
  })

  test("decoding goes on while a long prompt is computed", async () => {
    await withEngine({}, long, async (engine) => {
      const order: string[] = []
      const told = { first: 0 }
      const decoding = engine.ask({ maxTokens: 300, ignoreEnd: true }, (event) => {
        if (event.type === "token" && ++told.first === 5) {
          void engine.ask({ prompt: ids(2000), maxTokens: 1 }, (late) => order.push(late.type))
        }
        if (event.type === "token" && order.includes("started") && !order.includes("token")) order.push("decode")
      })
      await decoding
      await engine.drain()
      expect(order.filter((one) => one === "decode").length).toBeGreaterThan(3)
    })
  })

  test("a client with many requests does not delay one with few", async () => {
    await withEngine({ slots: 2 }, plain, async (engine) => {
      const order: string[] = []
      const ask = (client: string, seed: number) =>
        engine.ask({ client, prompt: ids(30, seed), ignoreEnd: true }).then(() => order.push(client))
      await Promise.all([...Array.from({ length: 20 }, (_, i) => ask("many", i)), ask("few", 100), ask("few", 101)])
      expect(order.lastIndexOf("few")).toBeLessThan(8)
    })
  })

  test("what waits is bounded by requests and tokens, and by its deadline", async () => {
    await withEngine({ slots: 1, queueRequests: 3, queueTokens: 500 }, plain, async (engine) => {
      const all = await Promise.all(Array.from({ length: 8 }, () => engine.ask({ maxTokens: 30, ignoreEnd: true })))
      const full = all.filter(({ failed }) => failed?.code === "queue_full")
      expect(full.length).toBe(4)
      for (const { failed } of full) expect(failed!.retryAfterMs).toBeGreaterThanOrEqual(100)
      const large = await Promise.all(Array.from({ length: 4 }, () => engine.ask({ prompt: ids(100), maxTokens: 28, ignoreEnd: true })))
      expect(large.map(({ failed }) => failed?.code)).toContain("queue_full")
      const [, late] = await Promise.all([engine.ask({ maxTokens: 120, ignoreEnd: true }), engine.ask({ queueMs: 1 })])
      expect(late.failed).toMatchObject({ code: "queue_timeout" })
      expect(late.events.map(({ type }) => type)).toEqual(["queued", "failed"])
    })
  })

  test("a cancelled prompt frees its slot and pages within a step", async () => {
    await withEngine({ slots: 1, prefixCache: false }, long, async (engine) => {
      const doomed = engine.ask({ prompt: ids(2000), maxTokens: 1 }, ({ type }) => {
        if (type === "started") engine.cancel(doomed.id)
      })
      const { failed, events } = await doomed
      expect(failed!.code).toBe("cancelled")
      expect(events.map(({ type }) => type)).toEqual(["queued", "started", "failed"])
      const { prefillTokens, models } = await engine.statistics()
      expect(prefillTokens).toBeLessThan(1100)
      expect(models[0]!.pagesUsed).toBe(0)
      expect((await engine.ask({})).finished).toBeDefined()
    })
  })

  test("wrong requests are refused by name, with nothing started", async () => {
    await withEngine({}, plain, async (engine) => {
      const wrong = async (request: Parameters<ServeEngine["ask"]>[0]) => (await engine.ask(request)).failed
      expect(await wrong({ model: "other" })).toMatchObject({ code: "model", param: "model" })
      expect(await wrong({ prompt: new Int32Array(0) })).toMatchObject({ code: "request", param: "prompt" })
      expect(await wrong({ prompt: ids(129) })).toMatchObject({ code: "request", param: "prompt" })
      expect(await wrong({ prompt: Int32Array.of(320) })).toMatchObject({ message: "prompt: token id 320 is not below vocabSize 320" })
      for (const maxTokens of [-1, 1.5, Number.NaN])
        expect(await wrong({ maxTokens })).toMatchObject({ code: "request", param: "maxTokens" })
      expect(await wrong({ topLogprobs: 21 })).toMatchObject({ param: "topLogprobs" })
      expect(await wrong({ sampling: { ...greedy, temperature: Number.NaN } })).toMatchObject({ param: "sampling.temperature" })
      expect(await wrong({ sampling: { ...greedy, logitBias: [[320, 1]] } })).toMatchObject({ param: "sampling.logitBias" })
      expect(await wrong({ sampling: undefined as never })).toMatchObject({ code: "internal" })
      expect(await wrong({ constraint: { type: "json_schema", schema: { type: "string", not: {} } } })).toMatchObject({
        param: "constraint",
        message: "#: the keyword not is not supported",
      })
    })
  })

  test("drain: what runs finishes, what comes is refused; stop: nothing ends without its last event", async () => {
    const engine = new ServeEngine({ slots: 2 })
    await engine.load(plain)
    const running = Array.from({ length: 5 }, () => engine.ask({ ignoreEnd: true }))
    const drained = engine.drain()
    const late = engine.ask({})
    await drained
    expect((await Promise.all(running)).every(({ finished }) => finished?.reason === "length")).toBe(true)
    expect((await late).failed!.code).toBe("draining")
    await engine.stop()
    const cut = new ServeEngine()
    await cut.load(plain)
    const open = cut.ask({ maxTokens: 100, ignoreEnd: true }, ({ type }) => type === "token" && void cut.stop())
    expect((await open).failed!.code).toBe("draining")
  })
})

describe("models", () => {
  const other = makeModel("other", { seed: 8 })

  test("a fingerprint is what sha256sum prints of the weights", async () => {
    const engine = new ServeEngine()
    const facts = await engine.load(plain)
    await engine.stop()
    expect(facts.fingerprint).toBe(sha256(readFileSync(join(plain, "model.safetensors"))))
    expect(facts).toMatchObject({ blockSize: 128, vocabSize: 320, vocabulary: 300, ends: [END], device: "cpu", pageSize: 16 })
  })

  test("swapped under load: none dropped, none mixed", async () => {
    const references = new Map<string, Map<number, string>>()
    for (const path of [plain, other]) {
      await withEngine({}, path, async (engine) => {
        const told = await Promise.all(Array.from({ length: 40 }, (_, seed) => engine.ask({ sampling: { ...PLAIN.sampling, seed } })))
        references.set(told[0]!.fingerprint!, new Map(told.map((one, seed) => [seed, bytesOf(one)])))
      })
    }
    await withEngine({ slots: 4 }, plain, async (engine) => {
      let started = 0
      const answers = Array.from({ length: 40 }, (_, seed) =>
        engine.ask({ sampling: { ...PLAIN.sampling, seed } }, ({ type }) => {
          if (type === "started" && ++started === 10) void engine.load(other)
        }),
      )
      const told = await Promise.all(answers)
      told.forEach((one, seed) => {
        expect(bytesOf(one)).toBe(references.get(one.fingerprint!)!.get(seed)!)
      })
      expect(new Set(told.map(({ fingerprint }) => fingerprint)).size).toBe(2)
      expect((await engine.statistics()).models).toHaveLength(1)
    })
  })

  test("others go on while a model loads; a swap to one of another size fails what waits", async () => {
    await withEngine({ slots: 1 }, long, async (engine) => {
      let tokens = 0
      const running = engine.ask({ maxTokens: 2000, ignoreEnd: true }, ({ type }) => {
        if (type === "token") tokens++
      })
      const waiting = engine.ask({})
      await engine.statistics()
      const before = tokens
      await engine.load(plain)
      expect(tokens - before).toBeGreaterThan(5)
      engine.cancel(running.id)
      expect((await running).failed!.code).toBe("cancelled")
      expect((await waiting).failed).toMatchObject({ code: "model", message: "the model was replaced by one of another size" })
    })
  })

  test("the model used least recently goes when memory is short, and comes back when asked for", async () => {
    const probe = new ServeEngine()
    const { bytes } = await probe.load(plain)
    await probe.stop()
    const engine = new ServeEngine({ memoryBytes: bytes * 2.5 })
    await engine.load(plain, { key: "a" })
    await engine.load(other, { key: "b" })
    const before = await engine.ask({ model: "a" })
    await engine.load(other, { key: "c" })
    expect(engine.evicted).toEqual(["b"])
    expect((await engine.ask({ model: "b" })).finished).toBeDefined()
    expect(engine.evicted).toEqual(["b", "a"])
    expect(bytesOf(await engine.ask({ model: "a" }))).toBe(bytesOf(before))
    await engine.unload("a")
    expect((await engine.ask({ model: "a" })).failed!.code).toBe("model")
    await expect(engine.load(join(plain, "missing"))).rejects.toThrow("no such directory")
    await engine.stop()
  })

  test("logits that are no numbers fail their request", async () => {
    const broken = makeModel("broken", { poison: true })
    await withEngine({}, broken, async (engine) => {
      expect((await engine.ask({})).failed).toMatchObject({ code: "damaged" })
    })
  })
})
