/** The kernels that a model's whole step of generation becomes, as ptxas takes them: without spills. */
import { expect } from "bun:test"
import { assemblePtx, findPtxas } from "../build-ptx.ts"
import { ptxBatch } from "../shaders/ptx-batch.ts"
import { type DecodeStack, ptxDecode } from "../shaders/ptx-decode.ts"
import { testWith } from "./require.ts"

const ptxas = findPtxas()
/** gpt2-124m on an H200. */
const stack: Omit<DecodeStack, "rows"> = {
  ...{
    C: 768,
    F: 3072,
    layers: 12,
    activation: "gelu_tanh",
    scale: 0.125,
    eps: 1e-5,
    hasBias: true,
    maxPages: 16,
    blocks: 132,
    embeds: true,
  },
  ...{ classes: 50304, allowed: 50257 },
}

testWith("ptxas", ptxas === undefined ? "ptxas is not in PTXAS or PATH" : undefined)(
  "a step of gpt2-124m in one launch assembles without spills, for few sequences and for many",
  async () => {
    const few = [1, 4].map((rows) => ptxDecode(`few_${rows}`, { ...stack, rows }))
    const many = [16, 64].map((rows) => ptxBatch(`many_${rows}`, { ...stack, rows }))
    const { registers } = await assemblePtx(ptxas as string, [...few, ...many])
    expect(registers).toBeLessThan(256)
  },
  300_000,
)
