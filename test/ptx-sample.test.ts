/** Sampling in PTX, run on the CPU instruction by instruction: tokens and log-probabilities against f64, and against each other in any company. */
import { expect, test } from "bun:test"
import { canSample, sample, sampleBuffers, sampleBytes } from "../shaders/ptx-sample.ts"
import { ptxKernel } from "../src/ptx.ts"
import { f32, read } from "../src/spirv.ts"
import { uniforms } from "./bf16.ts"
import { checkChoice, type Row } from "./ptx-choice.ts"
import { GlobalMemory } from "./ptx-memory.ts"
import { runPtx } from "./ptx-run.ts"

const MS = 240_000
const random = uniforms(9)

/** A block a row. */
function kernelOf(threads: number, classes: number, allowed: number) {
  return ptxKernel({
    ...{ name: "sample", about: "a token of each row", threads, sharedBytes: sampleBytes(threads) },
    buffers: { logits: read(f32), ...sampleBuffers },
    body(k, given) {
      const row = k.special("%ctaid.x")
      const at = { k, threads, thread: k.special("%tid.x"), shared: 0, classes, allowed }
      sample(at, k.madWide(row, 4 * classes, given.logits), row, given)
      k.emit("ret")
    },
  })
}

function run(rows: readonly Row[], { threads = 256, allowed = rows[0]!.logits.length } = {}) {
  const classes = rows[0]!.logits.length
  const memory = new GlobalMemory()
  const place = (array: Float32Array | Int32Array) => memory.place(new Uint8Array(array.buffer))
  const [token, logprob] = [new Int32Array(rows.length).fill(-1), new Float32Array(rows.length).fill(Number.NaN)]
  const [toldToken, toldLogprob] = [token.slice(), logprob.slice()]
  const floats = (of: (row: Row) => number) => place(Float32Array.from(rows, of))
  const ints = (of: (row: Row) => number) => place(Int32Array.from(rows, of))
  const parameters = {
    logits: place(Float32Array.from(rows.flatMap(({ logits }) => Array.from(logits)))),
    temperature: floats((row) => row.temperature),
    topK: ints((row) => row.topK ?? classes),
    topP: floats((row) => row.topP ?? 1),
    minP: floats((row) => row.minP ?? 0),
    seed: ints((row) => row.seed ?? 11),
    draw: ints((row) => row.draw ?? 3),
    ...{ token: place(token), logprob: place(logprob), toldToken: place(toldToken), toldLogprob: place(toldLogprob) },
  }
  const { text, sharedBytes } = kernelOf(threads, classes, allowed)
  runPtx({ text, threads, blocks: [rows.length, 1, 1], parameters, memory, timing: "random", shared: sharedBytes })
  expect([[...toldToken], [...toldLogprob]]).toEqual([[...token], [...logprob]])
  return rows.map((_, b) => ({ token: token[b]!, logprob: logprob[b]! }))
}

/** How often the token was another one by rounding. */
let edges = 0
function check(rows: readonly Row[], options: { threads?: number; allowed?: number } = {}) {
  const allowed = options.allowed ?? rows[0]!.logits.length
  run(rows, options).forEach(({ token, logprob }, b) => {
    if (checkChoice(rows[b]!, allowed, token, logprob) === "edge") edges++
  })
}

const normal = (count: number, spread: number) =>
  Array.from({ length: count }, () => (spread * (random() + random() + random() + random())) / 1.15)
const SETTINGS: readonly Omit<Row, "logits">[] = [
  { temperature: 0 },
  { temperature: 1 },
  { temperature: 0.7, minP: 0.03 },
  { temperature: 0.8, topK: 40 },
  { temperature: 1, topP: 0.9 },
  { temperature: 2, topK: 3000, topP: 0.97, minP: 0.01 },
  { temperature: 1, topP: 0.99999 },
  { temperature: 1, topP: 0 },
  { temperature: 1.3, topK: 1 },
  { temperature: 0.5, minP: 1 },
  { temperature: 0.9, topK: 300, topP: 0.6 },
  { temperature: 30, topK: 128, minP: 0.9 },
]

for (const [classes, spread, threads, settings] of [
  [1, 1, 256, SETTINGS.slice(0, 5)],
  [33, 2, 256, SETTINGS.slice(3, 7)],
  [129, 0.3, 256, SETTINGS.slice(8)],
  [1024, 3, 512, SETTINGS.slice(2, 5)],
  [5003, 2, 256, SETTINGS],
  [4999, 15, 512, SETTINGS.slice(1, 6)],
  [2500, 0, 256, SETTINGS.slice(3)],
] as const)
  test(
    `${classes} tokens, logits spread by ${spread}, ${threads} threads`,
    () => {
      const rows = settings.map((one, b) => ({ ...one, logits: normal(classes, spread), seed: 5 - b, draw: b }))
      check(rows, { threads })
    },
    MS,
  )

test(
  "fewer tokens than classes, the largest logit among those that may not be chosen",
  () => {
    const rows = SETTINGS.slice(0, 6).map((settings, b) => ({ ...settings, logits: [...normal(1500, 1), ...normal(300, 9)], seed: b }))
    check(rows, { allowed: 1500 })
  },
  MS,
)

test(
  "equal logits: the lowest ids count",
  () => {
    const logits = Array.from({ length: 3000 }, (_, v) => (v * 7) % 5)
    check(SETTINGS.slice(1, 8).map((settings, b) => ({ ...settings, logits, seed: 40 + b })))
    const first = run([0, 1].map((topP) => ({ logits, temperature: topP, topP: 0, topK: 2500 })))
    expect(first.map(({ token }) => token)).toEqual([2, 2])
  },
  MS,
)

test(
  "no numbers and infinite logits",
  () => {
    const [none, minus] = [Number.NaN, Number.NEGATIVE_INFINITY]
    const logits = Array.from({ length: 70 }, (_, v) => (v % 3 === 0 ? none : v % 3 === 1 ? minus : v / 10))
    check(SETTINGS.slice(0, 6).map((settings, b) => ({ ...settings, logits, seed: b })))
    check(SETTINGS.slice(0, 6).map((settings, b) => ({ ...settings, logits: logits.map((z) => (Number.isNaN(z) ? minus : z)), seed: b })))
    const nothing = [none, minus].map((z) => ({ logits: [z, z, z], temperature: 1, topK: 2 }))
    expect(run(nothing).map(({ token }) => token)).toEqual([0, 0])
    const endless = { logits: [1, Number.POSITIVE_INFINITY, 3], temperature: 1 }
    expect(run([endless, { ...endless, topK: 2 }]).map(({ token }) => token)).toEqual([1, 1])
  },
  MS,
)

test(
  "top k below 1 is 1",
  () => {
    const logits = normal(40, 1)
    const tokens = run([-1, 0, 1, -(2 ** 31)].map((topK) => ({ logits, temperature: 9, topK }))).map(({ token }) => token)
    expect(tokens).toEqual(tokens.map(() => logits.indexOf(Math.max(...logits))))
  },
  MS,
)

test(
  "a row's token and log-probability are the same bits alone",
  () => {
    const rows = SETTINGS.slice(1, 6).map((settings) => ({ ...settings, logits: normal(1301, 2) }))
    const together = run(rows)
    expect(rows.map((row) => run([row])[0]!)).toEqual(together)
  },
  MS,
)

test(
  "many draws fall as the probabilities say",
  () => {
    const logits = normal(300, 2)
    check(Array.from({ length: 30 }, (_, draw) => ({ ...SETTINGS[draw % SETTINGS.length]!, logits, draw })))
    expect(edges).toBeLessThan(3)
  },
  MS,
)

test("sizes", () => {
  expect([canSample(256, 50257), canSample(256, 2 ** 18), canSample(256, 2 ** 18 + 1)]).toEqual([true, true, false])
  expect(sampleBytes(512)).toBeLessThan(48 * 1024)
})
