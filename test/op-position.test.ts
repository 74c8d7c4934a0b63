/** Known answers of rotary positions, from LlamaRotaryEmbedding and apply_rotary_pos_emb of transformers 5.17, and of embeddings. */
import { expect, test } from "bun:test"
import { embedding, embeddingBackward, rope, ropeFrequencies } from "../src/op.ts"
import { evaluate, expectValues } from "./op-evaluate.ts"

const head = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]

/** The head above at positions 0, 1, 7 with θ = 10,000. */
const rotated: [string, number[], number[]][] = [
  [
    "none",
    [-0.458381534, 0.173875988, 0.366231412, 0.498999774, 0.442872822, 0.771211505, 0.878706217, 1.00049949],
    [-0.316378862, -0.29195267, 0.312881649, 0.492987812, 0.553312242, 0.734686077, 0.899085701, 1.00347543],
  ],
  [
    "linear:2",
    [-0.189943135, 0.21220319, 0.37062031, 0.499499947, 0.608417273, 0.761557519, 0.876864016, 1.00024986],
    [0.102182433, -0.0223301798, 0.344151586, 0.496496946, -0.629133344, 0.790253997, 0.887586415, 1.00174391],
  ],
  [
    "llama3:8:1:4:64",
    [-0.458381534, 0.240197316, 0.373905957, 0.499875009, 0.442872822, 0.753196716, 0.875468075, 1.00006247],
    [-0.316378862, 0.180582091, 0.367329478, 0.499124825, 0.553312242, 0.769668877, 0.878247738, 1.00043714],
  ],
]

for (const [scaling, one, seven] of rotated) {
  test(`rotation with scaling ${scaling}: queries and keys, not values`, () => {
    const qkv = [0, 1, 7].map(() => [...head, ...head, ...head, ...head])
    const { y } = evaluate({ qkv, positions: { ints: [0, 1, 7] } }, ({ qkv, positions }) => ({
      y: rope({ qkv, positions }, { T: 3, nHead: 2, nKvHead: 1, headDim: 8, theta: 10_000, scaling }).y,
    }))
    expectValues(
      y,
      [head, one, seven].flatMap((h) => [...h, ...h, ...h, ...head]),
    )
  })
}

test("Llama 3.1's frequencies", () => {
  const f = ropeFrequencies(128, 500_000, "llama3:8:1:4:8192")
  // pairs 0 and 28 keep their wavelength, 29 to 34 are blended, 35 on are slowed eightfold
  const known: Record<number, number> = {
    0: 1,
    1: 0.814617217,
    28: 0.00321144611,
    29: 0.00216657063,
    30: 0.00137189368,
    31: 0.00085675146,
    32: 0.000524846022,
    33: 0.00031269365,
    34: 0.000178507791,
    35: 9.55621217e-5,
    36: 7.78465546e-5,
    63: 3.06892588e-7,
  }
  for (const [i, want] of Object.entries(known)) expect(Math.abs((f[Number(i)] as number) / want - 1)).toBeLessThan(2e-7)
})

test("far positions: cosines at 100,000 as PyTorch's f32 gives them", () => {
  const ones = Array.from({ length: 64 }, () => 1)
  const qkv = [[...ones, ...ones.map(() => 0), ...Array.from({ length: 256 }, () => 0)]]
  const { y } = evaluate({ qkv, positions: { ints: [100_000] } }, ({ qkv, positions }) => ({
    y: rope({ qkv, positions }, { T: 1, nHead: 1, nKvHead: 1, headDim: 128, theta: 500_000, scaling: "llama3:8:1:4:8192" }).y,
  }))
  const known = { 0: -0.9993608, 2: -0.965515971, 5: -0.679970562, 20: -0.911146343, 31: -0.658369124, 40: -0.959236145, 63: 0.999529123 }
  for (const [i, want] of Object.entries(known)) {
    // PyTorch's powf may differ by an ulp of the frequency, which 100,000 positions make 100,000 times as large
    const f = ropeFrequencies(128, 500_000, "llama3:8:1:4:8192")[Number(i)] as number
    expect(Math.abs((y?.cpu[Number(i)] as number) - want)).toBeLessThan(1e-6 + 100_000 * f * 2 ** -23)
  }
})

test("without positions, rows count up within each sequence; the inverse turns back", () => {
  const qkv = Array.from({ length: 6 }, (_, r) => Array.from({ length: 12 }, (_, c) => Math.sin(1 + r * 12 + c)))
  const attrs = { T: 3, nHead: 1, nKvHead: 1, headDim: 4, theta: 10_000, scaling: "none" }
  const { counted, given, back } = evaluate({ qkv, positions: { ints: [0, 1, 2, 0, 1, 2] } }, ({ qkv, positions }) => {
    const counted = rope({ qkv }, attrs).y
    return { counted, given: rope({ qkv, positions }, attrs).y, back: rope({ qkv: counted }, { ...attrs, inverse: true }).y }
  })
  expect(counted?.cpu).toEqual(given?.cpu as Float64Array)
  expectValues(back, qkv.flat())
})

test("embedding: rows of both tables, and each row's gradient where it came from", () => {
  const wte = [
    [1, 2],
    [3, 4],
    [5, 6],
  ]
  const wpe = [
    [10, 20],
    [30, 40],
    [50, 60],
  ]
  const dy = [
    [1, 2],
    [3, 4],
    [5, 6],
    [7, 8],
  ]
  const got = evaluate(
    { wte, wpe, dy, tokens: { ints: [2, 0, 2, 2] }, positions: { ints: [2, 2, 0, 1] } },
    ({ wte, wpe, dy, tokens, positions }) => ({
      counted: embedding({ tokens, wte, wpe }, { T: 2 }).y,
      given: embedding({ tokens, wte, wpe, positions }, { T: 2 }).y,
      plain: embedding({ tokens, wte }, { T: 2 }).y,
      ...embeddingBackward({ tokens, dy, positions }, { T: 2, vocabSize: 3, wpeRows: 3 }),
    }),
  )
  expectValues(got.counted, [15, 26, 31, 42, 15, 26, 35, 46])
  expectValues(got.given, [55, 66, 51, 62, 15, 26, 35, 46])
  expectValues(got.plain, [5, 6, 1, 2, 5, 6, 5, 6])
  expectValues(got.dwte, [3, 4, 0, 0, 13, 16])
  expectValues(got.dwpe, [5, 6, 7, 8, 4, 6])
})
