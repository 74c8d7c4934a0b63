/** The gradient of attention with respect to queries, keys and values. */
import { nativeKernel } from "./native.ts"
import { attentionBackwardLaunches } from "./op-attention-gpu.ts"
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
import { expectShape, rows } from "./tensor.ts"

const backwardKernel = nativeKernel("attention_backward", {
  qkv: "pointer",
  y: "pointer",
  lse: "pointer",
  dy: "pointer",
  seed: "pointer",
  step: "pointer",
  row: "pointer",
  dqkv: "pointer",
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

export const attentionBackward = defineOp({
  name: "attention_backward",
  doc: `dqkv (R, (H + 2K)·D) of attention from dy (R, H·D), with p = e^(scale·q·k − lse) and δ = Σ dy·y per row and head:
    dv[j] = Σ keep·p·dy[i], ds = p·(keep·dy[i]·v[j] − δ[i]), dq[i] = scale·Σ ds·k[j], dk[j] = scale·Σ ds·q[i]. 5·R·T·H·D FLOPs.`,
  inputs: { qkv: "state", y: "state", lse: "state", dy: "state", seed: "scalar?", step: "scalar?", row: "scalar?" },
  outputs: ["dqkv"],
  attrs: {} as AttentionAttrs,
  act: ["qkv", "y", "dy"],
  shape({ qkv, y, lse, dy, ...live }, attrs) {
    checkHeads("attention_backward", qkv, attrs, attrs.T)
    checkCounters("attention_backward", live, attrs)
    for (const [name, t] of Object.entries({ y, dy })) expectShape("attention_backward", name, t, headsShape(qkv, attrs), "qkv")
    expectShape("attention_backward", "lse", lse, [...qkv.shape.slice(0, -1), attrs.nHead], "qkv")
    return { dqkv: qkv }
  },
  reference({ qkv, y, lse, dy, ...live }, { dqkv }, attrs) {
    const { T, nHead, headDim: D, scale } = attrs
    dqkv.data.fill(0)
    const add = (i: number, value: number) => {
      dqkv.data[i] = at(dqkv, i) + value
    }
    eachHead(qkv, attrs, (b, h) => {
      const { q, k, v, o } = offsets(attrs, T, b, h)
      for (let i = 0; i < T; i++) {
        const delta = sumOver(D, (d) => at(dy, o(i, d)) * at(y, o(i, d)))
        for (let j = 0; j <= i; j++) {
          const keep = keepFactor(live, attrs, b, h, i, j)
          const p = Math.exp(scale * sumOver(D, (d) => at(qkv, q(i, d)) * at(qkv, k(j, d))) - at(lse, (b * T + i) * nHead + h))
          const ds = p * (keep * sumOver(D, (d) => at(dy, o(i, d)) * at(qkv, v(j, d))) - delta)
          for (let d = 0; d < D; d++) {
            add(v(j, d), keep * p * at(dy, o(i, d)))
            add(q(i, d), scale * ds * at(qkv, k(j, d)))
            add(k(j, d), scale * ds * at(qkv, q(i, d)))
          }
        }
      }
    })
  },
  flops: ({ qkv }, { T, nHead, headDim }) => 5 * rows(qkv) * (T + 1) * nHead * headDim, // five products over half of T × T
  cpu: ({ qkv, y, lse, dy, seed, step, row }, { dqkv }, attrs) =>
    backwardKernel({ qkv, y, lse, dy, seed, step, row, dqkv, ...attentionSizes(qkv, attrs) }),
  gpu: ({ qkv, y, lse, dy, seed, step, row }, { dqkv }, attrs, _beta, target) =>
    attentionBackwardLaunches({ qkv, y, lse, dy, seed, step, row }, dqkv, attrs, target),
  cases: [
    backwardCase(1, { T: 1, nHead: 1, nKvHead: 1, headDim: 1, scale: 1, ...plain }),
    backwardCase(10, { T: 5, nHead: 3, nKvHead: 1, headDim: 17, scale: 0.2, ...plain }, "one key head"),
    backwardCase(140, { T: 70, nHead: 4, nKvHead: 2, headDim: 8, scale: 0.3, ...plain }, "two blocks of keys"),
    backwardCase(514, { T: 514, nHead: 1, nKvHead: 1, headDim: 4, scale: 0.5, ...plain }, "queries in parts"),
    backwardCase(67, { T: 67, nHead: 2, nKvHead: 1, headDim: 5, scale: 0.3, dropout: 0.3, site: 9 }, "dropout"),
    backwardCase(128, { T: 128, nHead: 1, nKvHead: 1, headDim: 64, scale: 0.125, ...plain }, "whole tiles"),
    backwardCase(128, { T: 128, nHead: 2, nKvHead: 1, headDim: 32, scale: 0.2, dropout: 0.2, site: 2 }, "whole tiles, dropout"),
    backwardCase(66, { T: 66, nHead: 1, nKvHead: 1, headDim: 72, scale: 0.1, ...plain }, "wide heads"),
    backwardCase(3, { T: 3, nHead: 1, nKvHead: 1, headDim: 144, scale: 0.1, ...plain }, "wider heads"),
    backwardCase(6, { T: 3, nHead: 2, nKvHead: 1, headDim: 70, scale: 0.1, ...plain }, "odd wide heads"),
  ],
})

/** A case whose inputs are independent of each other: the formula holds for any y and lse. */
function backwardCase(R: number, attrs: AttentionAttrs, about = "smallest") {
  const { nHead: H, nKvHead: K, headDim: D } = attrs
  const inputs = { qkv: [R, (H + 2 * K) * D], y: [R, H * D], lse: [R, H], dy: [R, H * D], ...(attrs.dropout > 0 ? counters : {}) }
  return { inputs, attrs, about }
}

export const attentionBackwardOps = [attentionBackward]
