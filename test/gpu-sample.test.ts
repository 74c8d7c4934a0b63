/** Sampling on a Vulkan device against the CPU: a large vocabulary, equal and infinite logits, every cut; a row alone as in a batch. */
import { describe, expect } from "bun:test"
import { fillNormal } from "../src/base-random.ts"
import { openCpu } from "../src/cpu.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import { sample } from "../src/op.ts"
import { type Device, type Executable, plan, trace } from "../src/program.ts"
import { testWith } from "./require.ts"

const [V, B] = [5003, 8]
const found = gpus()
const withGpu = testWith("vulkan", found.length === 0 ? "no usable Vulkan device" : undefined)
const device = found.length === 0 ? undefined : openGpu(0)

function sampler(on: Device, rows: number): Executable {
  const made = plan(
    trace("sample", (t) => {
      const floats = (name: string) => t.input(name, "f32", [rows])
      const ids = (name: string) => t.input(name, "i32", [rows])
      const { token } = sample({
        logits: t.input("logits", "f32", [rows, V]),
        temperature: floats("temperature"),
        topK: ids("topK"),
        topP: floats("topP"),
        minP: floats("minP"),
        seed: ids("seed"),
        draw: ids("draw"),
      })
      t.output("token", token)
    }),
  )
  return on.compile(made, on.state())
}

const plain = { temperature: 1, topK: V, topP: 1, minP: 0 }
type Settings = typeof plain
const SETTINGS: Partial<Settings>[] = [
  { temperature: 0 },
  {},
  { temperature: 0.7, minP: 0.03 },
  { topK: 40 },
  { topP: 0.9 },
  { temperature: 2, topK: 3000, topP: 0.97, minP: 0.01 },
  { topK: V - 1, topP: 0.99999 },
  { topP: 0 },
]

/** Rows `from` … `to` of B rows that share logits' spread; settings differ from row to row. */
function inputsOf(spread: number, from = 0, to = B) {
  const logits = new Float32Array(B * V)
  if (spread > 0) fillNormal(logits, 7, 1, spread)
  const [rows, setting] = [to - from, (b: number) => ({ ...plain, ...SETTINGS[b % SETTINGS.length] })]
  const floats = (name: keyof Settings) => Float32Array.from({ length: rows }, (_, b) => setting(from + b)[name])
  const ids = (of: (row: number) => number) => Int32Array.from({ length: rows }, (_, b) => of(from + b))
  return {
    logits: logits.subarray(from * V, to * V).slice(),
    temperature: floats("temperature"),
    topK: ids((b) => setting(b).topK),
    topP: floats("topP"),
    minP: floats("minP"),
    seed: ids((b) => 5 - b),
    draw: ids((b) => b),
  }
}

describe.each([0, 0.3, 2, 15])("logits spread by %d", (spread) => {
  withGpu(
    "tokens are the CPU's",
    () => {
      const [cpu, gpu] = [sampler(openCpu(2), B), sampler(device as Device, B)]
      const [want, got] = [cpu.submit(inputsOf(spread)), gpu.submit(inputsOf(spread))]
      expect([...got.read("token")]).toEqual([...want.read("token")])
    },
    300_000,
  )

  withGpu("a row alone is the same as in a batch", () => {
    const batch = sampler(device as Device, B).submit(inputsOf(spread))
    const one = sampler(device as Device, 1)
    for (let b = 0; b < B; b++) {
      const alone = one.submit(inputsOf(spread, b, b + 1))
      expect(alone.read("token")[0]).toBe(batch.read("token")[b] as number)
    }
  })
})

withGpu("infinite and missing logits: a token is always chosen", () => {
  const gpu = sampler(device as Device, B)
  for (const [fill, special] of [
    [Number.NEGATIVE_INFINITY, 1],
    [0, Number.POSITIVE_INFINITY],
    [Number.NaN, 1],
  ] as const) {
    const logits = new Float32Array(B * V).fill(fill)
    for (let b = 0; b < B; b++) logits[b * V + 4321] = special
    expect([...gpu.submit({ ...inputsOf(1), logits }).read("token")]).toEqual(Array(B).fill(4321))
  }
  const none = gpu.submit({ ...inputsOf(1), logits: new Float32Array(B * V).fill(Number.NaN) })
  for (const id of none.read("token")) expect(id).toBeWithin(0, V)
})
