/** Hopper's attention, its instructions run one by one, against the f64 reference: partial units, shared key heads, wide heads, dropout, large scores. */
import { describe, expect, test } from "bun:test"
import { ROOM } from "../shaders/ptx-room.ts"
import { attentionLaunches } from "../src/op-attention-gpu.ts"
import type { GpuTarget, Launch } from "../src/program.ts"
import { MOST_DYNAMIC } from "../src/ptx.ts"
import type { Tensor } from "../src/tensor.ts"
import { simulatedDevice } from "./gpu-simulated.ts"
import { testAttention } from "./op-attention-cases.ts"

const CASES = [
  { B: 1, T: 200, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, about: "two blocks, partial units" },
  { B: 2, T: 130, nHead: 2, nKvHead: 1, headDim: 64, scale: 0.125, dropout: 0.25, about: "shared key heads, two sequences, dropout" },
  { B: 1, T: 70, nHead: 1, nKvHead: 1, headDim: 128, scale: 0.09, about: "wide heads" },
  {
    B: 2,
    T: 130,
    nHead: 2,
    nKvHead: 1,
    headDim: 128,
    scale: 0.09,
    dropout: 0.25,
    about: "wide heads, shared key heads, dropout",
  },
  { B: 1, T: 3, nHead: 2, nKvHead: 1, headDim: 128, scale: 0.09, about: "few rows, wide heads" },
  { B: 1, T: 330, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, about: "many units, blocks with several turns" },
  { B: 1, T: 130, nHead: 1, nKvHead: 1, headDim: 64, scale: 6, about: "scores that pass their references" },
]

for (const room of [MOST_DYNAMIC, ROOM])
  describe(`${room} bytes of shared memory`, () => testAttention(simulatedDevice(32, "nv2", room), CASES, 300_000))

test("it is chosen on Hopper for bf16 and heads of 64 and 128, and not where bits must be those of generation", () => {
  const target: GpuTarget = {
    subgroupSize: 32,
    matrix: "nv2",
    ptx: true,

    hasMatrixFunctions: true,
    units: 132,
    sharedBytes: 49152,
  }
  const names = (headDim: number, dtype: "bf16" | "f32", given: Partial<GpuTarget> & { readonly dropout?: number } = {}) => {
    const tensor = (name: string, columns: number) => ({ id: 0, name, shape: [64, columns], dtype, role: "temp" }) as unknown as Tensor
    const attrs = { nHead: 1, nKvHead: 1, headDim, T: 64, scale: 1, dropout: given.dropout ?? 0, site: 0 }
    const none = { seed: undefined, step: undefined, row: undefined }
    const launches = attentionLaunches({ qkv: tensor("qkv", 3 * headDim), ...none }, { y: tensor("y", headDim), lse: undefined }, attrs, {
      ...target,
      ...given,
    })
    return (launches.flat() as Launch[]).map(({ variant }) => variant).join()
  }
  expect(names(64, "bf16")).toBe("ptx_attention_64_g3")
  expect(names(128, "bf16")).toBe("ptx_attention_128_g2")
  expect(names(64, "bf16", { ptxRoom: ROOM })).toBe("ptx_attention_64_g3_wide")
  expect(names(128, "bf16", { dropout: 0.1 })).toContain("ptx_attention_128_g2_dropout")
  for (const other of [names(96, "bf16"), names(64, "f32"), names(64, "bf16", { ptx: false })]) expect(other).not.toContain("ptx")
})
