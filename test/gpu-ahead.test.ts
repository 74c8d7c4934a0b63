/** Steps of generation that a device has before the host knows their tokens, several in one submit: the same tokens as one by one, whatever the host does next. */
import { afterAll, beforeEach, describe, expect, spyOn, test } from "bun:test"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { resolveModel } from "../src/config.ts"
import { openCpu } from "../src/cpu.ts"
import { type GenerateEvent, type GenerateJob, generate } from "../src/engine-generate.ts"
import { createGenerator, initialise, refreshCopies, type Sampling, saveCheckpoint } from "../src/gpt.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import type { Device, Executable } from "../src/program.ts"
import { trainTokenizer } from "../src/token.ts"
import { testWith } from "./require.ts"

const withGpu = testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)
/** Compilation by lavapipe, on a busy machine. */
const SLOWEST_MS = 120_000
const folder = mkdtempSync(join(tmpdir(), "alpha-ahead-"))
/** The clock by which generation decides how many steps a submit holds. */
let clock = 0
const now = spyOn(performance, "now").mockImplementation(() => clock)
beforeEach(() => {
  clock = 0
})
afterAll(() => {
  now.mockRestore()
  rmSync(folder, { recursive: true, force: true })
})

const model = resolveModel({ vocabSize: 97, blockSize: 96, nLayer: 2, nHead: 2, nEmbd: 32, initStd: 0.3 })
const some = (count: number, seed: number) => Array.from({ length: count }, (_, i) => (i * i * 31 + seed * 17 + i * 7) % 97)

/** The device, how many steps each submit of steps ahead held, and how often one token a sequence was computed that the host had to tell. */
function watched(device: Device) {
  const submits: number[] = []
  const told = { count: 0 }
  const compile = (plan: Parameters<Device["compile"]>[0], state: Parameters<Device["compile"]>[1]): Executable => {
    const run = device.compile(plan, state)
    const { submitAll } = run
    if (submitAll === undefined) return run
    const isTold = plan.program.name.endsWith("×1") && plan.program.inputs.has("tokens")
    return {
      ...run,
      submit(inputs, onFinal) {
        if (isTold) told.count++
        return run.submit(inputs, onFinal)
      },
      submitAll(count, inputs, kept) {
        submits.push(count)
        return submitAll(count, inputs, kept)
      },
    }
  }
  return { device: { ...device, compile }, submits, told }
}

/** The CPU as a device that is given work ahead: it runs at once, but keeps what its outputs were. */
function eager(cpu: Device): Device {
  return {
    ...cpu,
    ahead: 3,
    compile(plan, state) {
      const run = cpu.compile(plan, state)
      const submit: Executable["submit"] = (inputs) => {
        const out = run.submit(inputs)
        const kept = new Map([...plan.program.outputs.keys()].map((name) => [name, out.read(name).slice()]))
        return { read: (name) => kept.get(name)! }
      }
      return { ...run, submit, submitAll: (count, inputs) => Array.from({ length: count }, (_, i) => submit(inputs(i))) }
    },
  }
}

/** What three sequences say while they end, join, stop, are full and change their minds; a step takes `ms`. */
function story(device: Device, ms: number) {
  const state = device.state()
  initialise(device, state, model, 5)
  refreshCopies(device, state, model, "f32")
  const generator = createGenerator(device, state, model, { precision: "f32", slots: 4, length: 96, vocabulary: 97 })
  const all: { slot: number; id: number; logprob: number }[] = []
  const ids: number[] = []
  const draws = [0, 0, 0, 0]
  let changes: Partial<Sampling> = {}
  const turn = (slot: number) => {
    const sampling = { temperature: slot, topK: 30, topP: 0.95, minP: 0.001, repetitionPenalty: 1, seed: slot, ...changes }
    return { slot, draw: draws[slot]!, sampling }
  }
  const begin = (slot: number, length: number) => {
    draws[slot] = 0
    ids[slot] = generator.prefill({ ...turn(slot), ids: some(length, slot + length) }).id
  }
  const grow = (slots: readonly number[], count: number, more = count) => {
    for (let i = 1; i <= count; i++) {
      clock += ms
      for (const slot of slots) draws[slot]!++
      const turns = slots.map((slot) => ({ ...turn(slot), id: ids[slot]! }))
      generator.decode(turns, Math.max(0, more - i)).forEach(({ id, logprob }, r) => {
        ids[slots[r]!] = id
        all.push({ slot: slots[r]!, id, logprob })
      })
    }
  }
  for (const slot of [0, 1, 2]) begin(slot, 5 + slot)
  grow([0, 1, 2], 13, 40)
  grow([2, 0], 11, 30) // one has ended, which nobody foresaw
  begin(1, 9) // another takes its place
  grow([2, 1, 0], 7, 30)
  grow([2, 0], 1, 30) // one pauses
  grow([0, 1, 2], 6, 30)
  ids[2] = 3 // not what was chosen
  grow([1, 2], 9, 30)
  changes = { repetitionPenalty: 1.3 } // what the host alone knows
  grow([1, 2], 3)
  changes = { temperature: 0.7 }
  grow([2, 1], 8, 30)
  grow([2], 9, 9) // half of the rows are left
  begin(3, 60)
  for (let i = 0; generator.held(3) < 96; i++) grow([3], 1, 90 - i) // until it is full
  begin(3, 40) // the window begins anew
  grow([3, 0], 5)
  generator.free()
  expect(state.names().some((name) => name.startsWith("generate."))).toBe(false)
  state.free()
  return all
}

describe("whatever the host does next", () => {
  const cpu = openCpu(2)
  const wanted = story(cpu, 1)
  for (const [ms, most] of [
    [50, 1],
    [1, 2],
    [0.6, 3],
    [0.4, 5],
    [0.01, 8],
  ] as const) {
    test(`up to ${most} steps in a submit, of ${ms} ms each`, () => {
      const { device, submits, told } = watched(eager(cpu))
      expect(story(device, ms)).toEqual(wanted)
      expect(Math.max(...submits)).toBe(most)
      // Prompts, changes of mind, the penalty's three steps: everything else was there ahead.
      expect(told.count).toBeLessThan(20)
    })
  }
  test("random steps", () => {
    clock = 5
    const { device, submits } = watched(eager(cpu))
    now.mockImplementation(() => (clock += (clock * 7919) % 1.9))
    expect(story(device, 0.1)).toEqual(wanted)
    now.mockImplementation(() => clock)
    expect(new Set(submits).size).toBeGreaterThan(3)
  })
})

withGpu(
  "on a GPU: the same, and no more memory with time",
  () => {
    const gpu = openGpu(0)
    const wanted = story({ ...gpu, ahead: 0 }, 1)
    const { device, submits, told } = watched(gpu)
    expect(story(device, 0.01)).toEqual(wanted)
    expect(Math.max(...submits)).toBe(8)
    expect(told.count).toBeLessThan(20)
    const state = gpu.state()
    initialise(gpu, state, model, 5)
    refreshCopies(gpu, state, model, "f32")
    const generator = createGenerator(gpu, state, model, { precision: "f32", slots: 1, length: 96, vocabulary: 97 })
    const sampling = { temperature: 1, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 1 }
    const peaks: (number | undefined)[] = []
    for (let round = 0; round < 3; round++) {
      let { id } = generator.prefill({ slot: 0, ids: some(5, round), sampling, draw: 0 })
      for (let draw = 1; draw < 60; draw++) {
        clock += 0.1
        id = generator.decode([{ slot: 0, id, sampling, draw }], 90 - draw)[0]!.id // some of the steps ahead are never asked for
      }
      peaks.push(gpu.peakBytes())
    }
    expect(peaks[0]).toBeGreaterThan(0)
    expect(new Set(peaks).size).toBe(1)
    generator.free()
    state.free()
    gpu.close()
  },
  SLOWEST_MS,
)

withGpu(
  "answers on a GPU end, stop and are interrupted where they do without steps ahead",
  async () => {
    const gpu = openGpu(0)
    const tokenizer = trainTokenizer({ kind: "bpe", vocabSize: 270, special: ["<|end|>"] }, [
      "the ship and the sea and the whale ".repeat(20),
    ])
    const shape = resolveModel({ vocabSize: 290, blockSize: 64, nLayer: 1, nHead: 2, nEmbd: 32, initStd: 0.4 })
    const state = gpu.state()
    initialise(gpu, state, shape, 3)
    saveCheckpoint(folder, {
      model: shape,
      ids: { eos: [...Array(20).keys()].map((i) => 13 * i) }, // every thirteenth token ends an answer
      tokenizerJson: tokenizer.toJson(),
      weights: (weight) => state.read(weight) as Float32Array,
    })
    state.free()
    const base: GenerateJob = {
      ...{ model: folder, precision: "bf16", maxTokens: 40, overflow: "error", batch: 4, keep: false, stop: ["ea", "wh", "q"] },
      prompts: Array.from({ length: 7 }, (_, i) => ({ text: "the ship and the sea".slice(0, 3 + 2 * i) })),
      sampling: { temperature: 1, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 4 },
    }
    const run = async (device: Device, job: Partial<GenerateJob>, stopAfter = Number.POSITIVE_INFINITY) => {
      const events: GenerateEvent[] = []
      let tokens = 0
      const flag = {
        get stopped() {
          return tokens >= stopAfter
        },
      }
      await generate({ ...base, ...job }, device, flag, (event) => {
        clock += 0.05
        if (event.type === "token") tokens++
        events.push(event)
      })
      return events.map((event) => (event.type === "done" ? { ...event, answer: { ...event.answer, prefillMs: 0, decodeMs: 0 } } : event))
    }
    for (const [job, stopAfter] of [
      [{}],
      [{ stop: [], maxTokens: 30, batch: 7 }],
      [{ overflow: "slide", maxTokens: 100, stop: [], batch: 3 }],
      [{ sampling: { ...base.sampling, repetitionPenalty: 1.2 } }],
      [{ stop: [], batch: 7 }, 50],
    ] as [Partial<GenerateJob>, number?][]) {
      const { device, submits } = watched(gpu)
      const events = await run(device, job, stopAfter)
      expect(events).toEqual(await run({ ...gpu, ahead: 0 }, job, stopAfter))
      if (job.sampling === undefined) expect(Math.max(...submits)).toBeGreaterThan(4)
      else expect(submits).toEqual([])
    }
    gpu.close()
  },
  SLOWEST_MS,
)
