import { afterAll, describe, expect, test } from "bun:test"
import { join } from "node:path"
import { type ModelConfig, resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import {
  createGenerator,
  type Generator,
  generateText,
  gptHidden,
  gptLogits,
  initialise,
  loadModel,
  refreshCopies,
  type Sampling,
} from "../src/gpt.ts"
import { plan, type State, trace } from "../src/program.ts"
import { trainTokenizer } from "../src/token.ts"
import { shared } from "./support.ts"

const device = openCpu(2)
afterAll(() => device.close())

const GREEDY: Sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }
const WARM: Sampling = { temperature: 1.3, topK: 30, topP: 0.95, minP: 0.001, repetitionPenalty: 1.1, seed: 7 }
const some = (count: number, seed: number, V: number) => Array.from({ length: count }, (_, i) => (i * i * 31 + seed * 17 + i * 7) % V)

/** Continues a prompt alone in one slot. */
function continueOne(generator: Generator, slot: number, ids: ArrayLike<number>, count: number, sampling: Sampling) {
  let choice: { id: number; logprob: number } = generator.prefill({ slot, ids, sampling, draw: 0 })
  const choices = [{ id: choice.id, logprob: choice.logprob }]
  while (choices.length < count) {
    choice = generator.decode([{ slot, id: choice.id, sampling, draw: choices.length }], 0)[0]!
    choices.push(choice)
  }
  return choices
}

describe("greedy tokens equal those of transformers until the context is full", async () => {
  const rows: Record<string, { prompt: number[]; new: number[]; penalty: number; margin: number }[]> = await Bun.file(
    join(import.meta.dir, "fixtures/generate/greedy.json"),
  ).json()
  for (const [name, cases] of Object.entries(rows)) {
    const dir = name.startsWith("golden/") ? shared(`${name}/model`) : join(import.meta.dir, "fixtures", name)
    const run = dir === undefined ? test.skip : test
    run(`${name}${dir === undefined ? " (no ../shared)" : ""}`, () => {
      expect(cases.length).toBeGreaterThan(3)
      const { model, state } = loadModel(device, dir!, "f32")
      const options = { precision: "f32", slots: 1, length: model.blockSize, vocabulary: model.vocabSize } as const
      const generator = createGenerator(device, state, model, options)
      for (const { prompt, new: wanted, penalty } of cases) {
        const got = continueOne(generator, 0, prompt, wanted.length, { ...GREEDY, repetitionPenalty: penalty })
        expect(got.map(({ id }) => id)).toEqual(wanted)
      }
      generator.free()
      state.free()
    })
  }
})

/** A model with every kind of row longer than one chunk. */
const forms: Record<string, ModelConfig> = {
  gpt2: resolveModel({ vocabSize: 97, blockSize: 400, nLayer: 2, nHead: 4, nEmbd: 64, initStd: 0.3 }),
  llama: resolveModel({
    vocabSize: 97,
    blockSize: 400,
    nLayer: 2,
    nHead: 4,
    nKvHead: 2,
    nEmbd: 64,
    norm: "rmsnorm",
    position: "rope",
    activation: "swiglu",
    qkNorm: true,
    softCap: 20,
    initStd: 0.3,
  }),
}

function randomModel(model: ModelConfig, precision: "f32" | "bf16"): State {
  const state = device.state()
  initialise(device, state, model, 5)
  refreshCopies(device, state, model, precision)
  return state
}

const bits = (values: ArrayLike<number>): number[] => Array.from(new Int32Array(Float32Array.from(values).buffer))

for (const [form, model] of Object.entries(forms)) {
  for (const precision of ["f32", "bf16"] as const) {
    describe(`${form} ${precision}`, () => {
      const state = randomModel(model, precision)
      const make = (slots: number, length: number = model.blockSize, vocabulary: number = model.vocabSize) =>
        createGenerator(device, state, model, { precision, slots, length, vocabulary })
      afterAll(() => state.free())

      test("prefill in chunks, token by token and the training forward give the same logits, bit for bit", () => {
        const ids = some(333, 3, model.vocabSize)
        const run = device.compile(
          plan(
            trace("whole", (t) => {
              const pass = { precision, T: ids.length }
              t.output("logits", gptLogits(model, gptHidden(model, t.input("tokens", "i32", [ids.length]), pass), pass))
            }),
          ),
          state,
        )
        const whole = run
          .submit({ tokens: Int32Array.from(ids) })
          .read("logits")
          .slice()
        const V = model.vocabSize
        const wanted = (position: number) => bits(whole.subarray(position * V, (position + 1) * V))
        const generator = make(1)
        const logits = () => bits(state.read("generate.logits.1") as Float32Array)
        generator.prefill({ slot: 0, ids, sampling: GREEDY, draw: 0 })
        expect(logits()).toEqual(wanted(332))
        for (const first of [1, 30, 257]) {
          expect(generator.prefill({ slot: 0, ids: [96], sampling: GREEDY, draw: 0 }).computed).toBe(1) // nothing is reused
          generator.prefill({ slot: 0, ids: ids.slice(0, first), sampling: GREEDY, draw: 0 })
          expect(logits()).toEqual(wanted(first - 1))
          for (let i = first; i < Math.min(ids.length, first + 40); i++) {
            generator.decode([{ slot: 0, id: ids[i]!, sampling: GREEDY, draw: 0 }], 0)
            expect(logits()).toEqual(wanted(i))
          }
          generator.prefill({ slot: 0, ids, sampling: GREEDY, draw: 0 })
          expect(logits()).toEqual(wanted(332))
        }
        run.free()
        generator.free()
      })

      test("a sequence has the same tokens and bits alone and in a batch, greedy and sampled", () => {
        const prompts = [some(5, 1, 97), some(70, 2, 97), some(1, 3, 97)]
        for (const sampling of [GREEDY, WARM]) {
          const alone = prompts.map((ids) => {
            const generator = make(1)
            const choices = continueOne(generator, 0, ids, 20, sampling)
            generator.free()
            return choices
          })
          const generator = make(4)
          const slots = [2, 0, 3]
          const together = prompts.map((ids, i) => {
            const { id, logprob } = generator.prefill({ slot: slots[i]!, ids, sampling, draw: 0 })
            return [{ id, logprob }]
          })
          for (let draw = 1; draw < 20; draw++) {
            const turns = together.map((row, i) => ({ slot: slots[i]!, id: row.at(-1)!.id, sampling, draw }))
            generator.decode(turns, 0).forEach((choice, i) => {
              together[i]!.push(choice)
            })
          }
          generator.free()
          expect(together).toEqual(alone)
          expect(new Set(together.flat().map(({ id }) => id)).size).toBeGreaterThan(10)
        }
      })
    })
  }
}

describe("generator", () => {
  const model = forms.gpt2!
  const state = randomModel(model, "f32")
  afterAll(() => state.free())
  const make = (vocabulary: number = model.vocabSize) =>
    createGenerator(device, state, model, { precision: "f32", slots: 2, length: 128, vocabulary })

  test("a prompt that begins as the slot does computes the rest only", () => {
    const generator = make()
    const ids = some(100, 9, 97)
    const fresh = generator.prefill({ slot: 1, ids, sampling: GREEDY, draw: 0 })
    expect(fresh.computed).toBe(100)
    expect(generator.prefill({ slot: 1, ids, sampling: GREEDY, draw: 0 })).toEqual({ ...fresh, computed: 1 })
    const other = [...ids.slice(0, 60), (ids[60]! + 1) % 97, ...ids.slice(61, 90)]
    const changed = generator.prefill({ slot: 1, ids: other, sampling: GREEDY, draw: 0 })
    expect(changed.computed).toBe(30)
    expect(generator.prefill({ slot: 0, ids: other, sampling: GREEDY, draw: 0 })).toEqual({ ...changed, computed: 90 })
    expect(generator.held(1)).toBe(90)
    generator.free()
  })

  test("ids that the tokenizer lacks are never chosen", () => {
    const generator = make(13)
    for (const sampling of [GREEDY, { ...WARM, temperature: 50, topK: undefined }]) {
      const ids = continueOne(generator, 0, some(4, 1, 97), 60, sampling).map(({ id }) => id)
      expect(Math.max(...ids)).toBeLessThan(13)
    }
    generator.free()
  })

  test("the seed decides: the same again, another one otherwise", () => {
    const generator = make()
    const run = (seed: number) => continueOne(generator, 0, some(4, 2, 97), 30, { ...WARM, seed }).map(({ id }) => id)
    const first = run(4_000_000_000)
    expect(run(4_000_000_000)).toEqual(first)
    expect(run(1)).not.toEqual(first)
    generator.free()
  })

  test("logprob is that of the model itself, whatever the sampling", () => {
    const generator = make()
    const { id, logprob } = generator.prefill({ slot: 0, ids: some(9, 5, 97), sampling: WARM, draw: 0 })
    const logits = Array.from(state.read("generate.logits.1") as Float32Array)
    const total = Math.log(logits.reduce((sum, z) => sum + Math.exp(z), 0))
    expect(logprob).toBeCloseTo(logits[id]! - total, 5)
    generator.free()
  })

  test("slots longer than the learned positions are refused", () => {
    const { blockSize } = model
    const options = { precision: "f32", slots: 1, length: blockSize + 1, vocabulary: model.vocabSize } as const
    expect(() => createGenerator(device, state, model, options)).toThrow(`${blockSize} learned positions`)
  })

  test("more than a slot holds is refused, and what was allocated goes back", () => {
    const before = state.names()
    const generator = make()
    expect(() => generator.prefill({ slot: 0, ids: some(129, 1, 97), sampling: GREEDY, draw: 0 })).toThrow("129 tokens into a slot of 128")
    generator.prefill({ slot: 0, ids: some(128, 1, 97), sampling: GREEDY, draw: 0 })
    generator.free()
    expect(state.names()).toEqual(before)
  })
})

test("samples during training: end token, window, whole characters", () => {
  const tokenizer = trainTokenizer({ kind: "char" }, ["abcdefghijklmnopqrstuvwxyz äöü.\n"])
  const model = resolveModel({ vocabSize: tokenizer.vocabSize, blockSize: 32, nLayer: 1, nHead: 2, nEmbd: 16, initStd: 0.5 })
  const state = randomModel(model, "f32")
  const sample = (prompt: string, ends: readonly number[] = []) =>
    generateText(device, state, model, tokenizer, prompt, { precision: "f32", maxTokens: 20, sampling: { ...WARM, topK: undefined }, ends })
  const text = sample("der bär ")
  expect([...text]).toHaveLength(20)
  const third = tokenizer.encode([...text][2]!)[0]!
  expect(sample("der bär ", [third])).toBe([...text].slice(0, [...text].indexOf([...text][2]!)).join(""))
  expect(sample("a long prompt that does not fit the window of this model at all")).toHaveLength(20)
  state.free()
})
