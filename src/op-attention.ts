/** Causal self-attention of whole sequences, without a (T, T) matrix. */
import { nativeKernel } from "./native.ts"
import { attentionBackward } from "./op-attention-backward.ts"
import { attentionLaunches } from "./op-attention-gpu.ts"
import {
  type AttentionAttrs,
  at,
  attentionSizes,
  checkCounters,
  checkHeads,
  counters,
  eachHead,
  headsShape,
  keepFactor,
  offsets,
  plain,
  sumOver,
} from "./op-attention-heads.ts"
import { defineOp } from "./op-define.ts"
import { rows, type Tensor } from "./tensor.ts"

const forwardKernel = nativeKernel("attention", {
  qkv: "pointer",
  seed: "pointer",
  step: "pointer",
  row: "pointer",
  y: "pointer",
  lse: "pointer",
  batch: "int",
  T: "int",
  heads: "int",
  keyHeads: "int",
  D: "int",
  type: "int",
  scale: "float",
  dropout: "float",
  site: "int",
  threshold: "int",
})

export const attention = defineOp({
  name: "attention",
  doc: `y[i] = Σ over j ≤ i of keep·softmax(scale·q[i]·k[j])·v[j] per sequence and head; keep is 1, or with dropout p: u < p ? 0 : 1/(1 − p),
    u = uniform(seed, site, step, ((sample·H + h)·T + i)·T + j), sample = ⌊row/T⌋ + b. Query head h reads key head ⌊h·K/H⌋.
    qkv (R, (H + 2K)·D), y (R, H·D), lse (R, H) f32 = ln Σ e^score, kept for backward. 2·R·T·H·D FLOPs. Dao et al. 2022, arXiv:2205.14135.`,
  inputs: { qkv: "grad", seed: "scalar?", step: "scalar?", row: "scalar?" },
  outputs: ["y", "lse"],
  attrs: {} as AttentionAttrs,
  act: ["qkv"],
  shape({ qkv, ...live }, attrs) {
    checkHeads("attention", qkv, attrs, attrs.T)
    checkCounters("attention", live, attrs)
    return {
      y: { shape: headsShape(qkv, attrs), dtype: qkv.dtype },
      lse: { shape: [...qkv.shape.slice(0, -1), attrs.nHead], dtype: "f32" },
    }
  },
  reference({ qkv, ...live }, { y, lse }, attrs) {
    const { T, nHead, headDim: D, scale } = attrs
    eachHead(qkv, attrs, (b, h) => {
      const { q, k, v, o } = offsets(attrs, T, b, h)
      for (let i = 0; i < T; i++) {
        const scores = Array.from({ length: i + 1 }, (_, j) => scale * sumOver(D, (d) => at(qkv, q(i, d)) * at(qkv, k(j, d))))
        const max = Math.max(...scores)
        const total = max + Math.log(scores.reduce((sum, s) => sum + Math.exp(s - max), 0))
        if (lse !== undefined) lse.data[(b * T + i) * nHead + h] = total
        const weights = scores.map((s, j) => Math.exp(s - total) * keepFactor(live, attrs, b, h, i, j))
        for (let d = 0; d < D; d++) y.data[o(i, d)] = weights.reduce((sum, p, j) => sum + p * at(qkv, v(j, d)), 0)
      }
    })
  },
  flops: ({ qkv }, { T, nHead, headDim }) => 2 * rows(qkv) * (T + 1) * nHead * headDim, // q·k and p·v over half of T × T
  cpu: ({ qkv, seed, step, row }, { y, lse }, attrs) => forwardKernel({ qkv, seed, step, row, y, lse, ...attentionSizes(qkv, attrs) }),
  gpu: ({ qkv, seed, step, row }, { y, lse }, attrs, _beta, target) =>
    attentionLaunches(
      { qkv, seed, step, row },
      { y, lse },
      attrs,
      attrs.isInvariant === true ? { ...target, matrix: "none", ptx: false } : target,
    ),
  backward: ({ qkv, seed, step, row }, { y, lse }, { y: dy }, attrs) => ({
    qkv: attentionBackward({ qkv, y, lse, dy: dy as Tensor, seed, step, row }, attrs).dqkv,
  }),
  cases: [
    { inputs: { qkv: [1, 3] }, attrs: { T: 1, nHead: 1, nKvHead: 1, headDim: 1, scale: 1, ...plain } },
    { inputs: { qkv: [2, 5, 42] }, attrs: { T: 5, nHead: 2, nKvHead: 2, headDim: 7, scale: 0.4, ...plain }, about: "odd head size" },
    { inputs: { qkv: [6, 80] }, attrs: { T: 3, nHead: 3, nKvHead: 1, headDim: 16, scale: 0.25, ...plain }, about: "one key head" },
    {
      inputs: { qkv: [70, 160] },
      attrs: { T: 70, nHead: 4, nKvHead: 2, headDim: 20, scale: 0.2, ...plain },
      about: "shared key heads, two blocks of keys",
    },
    {
      inputs: { qkv: [270, 12] },
      attrs: { T: 270, nHead: 2, nKvHead: 1, headDim: 3, scale: 2, ...plain },
      about: "several tasks, peaked weights",
    },
    {
      inputs: { qkv: [10, 24], ...counters },
      attrs: { T: 5, nHead: 2, nKvHead: 1, headDim: 6, scale: 0.4, dropout: 0.3, site: 4 },
      about: "dropout",
    },
    {
      inputs: { qkv: [67, 9], ...counters },
      attrs: { T: 67, nHead: 1, nKvHead: 1, headDim: 3, scale: 0.5, dropout: 0.5, site: 9 },
      about: "dropout, two blocks",
    },
    { inputs: { qkv: [128, 192] }, attrs: { T: 128, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, ...plain }, about: "whole tiles" },
    {
      inputs: { qkv: [128, 96], ...counters },
      attrs: { T: 128, nHead: 1, nKvHead: 1, headDim: 32, scale: 0.2, dropout: 0.2, site: 2 },
      about: "whole tiles, dropout",
    },
    { inputs: { qkv: [66, 216] }, attrs: { T: 66, nHead: 1, nKvHead: 1, headDim: 72, scale: 0.1, ...plain }, about: "wide heads" },
    { inputs: { qkv: [3, 432] }, attrs: { T: 3, nHead: 1, nKvHead: 1, headDim: 144, scale: 0.1, ...plain }, about: "wider heads" },
    { inputs: { qkv: [6, 280] }, attrs: { T: 3, nHead: 2, nKvHead: 1, headDim: 70, scale: 0.1, ...plain }, about: "odd wide heads" },
  ],
})

export const attentionOps = [attention]
