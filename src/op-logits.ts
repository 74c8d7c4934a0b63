/** Logits between the model and the choice: penalties, biases and forbidden tokens; ln of probabilities and the most likely tokens. */
import * as shaders from "../shaders/logits.ts"
import { nativeKernel } from "./native.ts"
import { defineOp } from "./op-define.ts"
import { groupsForRows, launch, scratch } from "./op-gpu.ts"
import type { View } from "./program.ts"
import { expectShape, lastDim, ShapeError, shapeText } from "./tensor.ts"

/** Rows per processor up to which logprobs leaves room for others beside it. */
const BESIDE = 0.5

const adjustKernel = nativeKernel("logit_adjust", {
  logits: "pointer",
  ids: "pointer",
  scale: "pointer",
  bias: "pointer",
  counts: "pointer",
  mask: "pointer",
  y: "pointer",
  rows: "int",
  classes: "int",
  listed: "int",
})
const logprobsKernel = nativeKernel("logprobs", {
  logits: "pointer",
  targets: "pointer",
  logprob: "pointer",
  topIds: "pointer",
  topLogprobs: "pointer",
  rows: "int",
  classes: "int",
  allowed: "int",
  top: "int",
})

/** Logit of a token that must not be chosen: e^((this − top)/temperature) is 0, and it is finite. */
export const FORBIDDEN = -(2 ** 127)

/** Most alternatives of a position. */
export const TOP_LIMIT = 32

const at = (view: View, i: number): number => view.data[i] as number

export const logitAdjust = defineOp({
  name: "logit_adjust",
  doc: `y (B, V) = logits (B, V), where of row b the tokens t = ids[b, i], i < counts[b], each named once, become z/scale[b, i] where z > 0, else
    z·scale[b, i] (repetition penalty, arXiv:1909.05858; 1 = as it is), plus bias[b, i]; and tokens whose bit is 0 in mask (B, ⌈V/32⌉) i32 (token v: bit v mod 32
    of word ⌊v/32⌋) become −2¹²⁷. ids, scale, bias (B, N). Without mask all are allowed.`,
  inputs: { logits: "state", ids: "index", scale: "state", bias: "state", counts: "index", mask: "index?" },
  outputs: ["y"],
  attrs: {} as Record<never, never>,
  shape({ logits, ids, scale, bias, counts, mask }) {
    const [op, B] = ["logit_adjust", logits.shape[0] ?? 0]
    checkLogits(op, logits)
    const listed = [B, lastDim(ids)]
    for (const [name, t] of Object.entries({ ids, scale, bias })) expectShape(op, name, t, listed, "logits")
    expectShape(op, "counts", counts, [B], "logits")
    if (mask !== undefined) expectShape(op, "mask", mask, [B, Math.ceil(lastDim(logits) / 32)], "logits")
    return { y: logits }
  },
  reference({ logits, ids, scale, bias, counts, mask }, { y }) {
    const [B, V] = logits.shape as readonly [number, number]
    const [N, W] = [lastDim(ids), Math.ceil(V / 32)]
    y.data.set(logits.data)
    for (let b = 0; b < B; b++) {
      for (let i = b * N; i < b * N + at(counts, b); i++) {
        const z = at(logits, b * V + at(ids, i))
        y.data[b * V + at(ids, i)] = (z > 0 ? z / at(scale, i) : z * at(scale, i)) + at(bias, i)
      }
      if (mask === undefined) continue
      for (let v = 0; v < V; v++) if (((at(mask, b * W + (v >> 5)) >>> (v & 31)) & 1) === 0) y.data[b * V + v] = FORBIDDEN
    }
  },
  cpu: ({ logits, ids, scale, bias, counts, mask }, { y }) =>
    adjustKernel({
      logits,
      ids,
      scale,
      bias,
      counts,
      mask,
      y,
      rows: logits.shape[0] as number,
      classes: lastDim(logits),
      listed: lastDim(ids),
    }),
  gpu({ logits, ids, scale, bias, counts, mask }, { y }) {
    const [B, V] = logits.shape as readonly [number, number]
    const numbers = { V, N: lastDim(ids), W: Math.ceil(V / 32), masked: mask === undefined ? 0 : 1 }
    return [
      launch(shaders.logitAdjust, { logits, ids, scale, bias, counts, mask, y, ...numbers }, [Math.ceil(V / shaders.ADJUST_SLICE), B]),
    ]
  },
  cases: [
    {
      inputs: {
        logits: [1, 1],
        ids: { shape: [1, 1], values: [0] },
        scale: { shape: [1, 1], values: [2] },
        bias: { shape: [1, 1], values: [0.5] },
        counts: { shape: [1], values: [1] },
      },
      about: "one class",
    },
    {
      inputs: {
        logits: [3, 70],
        ids: { shape: [3, 4], values: [69, 0, 31, 32, 5, 6, 7, 8, 1, 2, 3, 4] },
        scale: { shape: [3, 4], values: [1.5, 1, 2, 3, 1, 1, 1, 1, 4, 5, 6, 7] },
        bias: [3, 4],
        counts: { shape: [3], values: [4, 2, 0] },
      },
      about: "lists of different lengths",
    },
    {
      inputs: {
        logits: [2, 70],
        ids: { shape: [2, 2], values: [69, 0, 1, 2] },
        scale: { shape: [2, 2], values: [1.5, 1, 2, 3] },
        bias: [2, 2],
        counts: { shape: [2], values: [2, 1] },
        mask: { shape: [2, 3], values: [-1, -1, -1, 5, -(2 ** 31), 33] },
      },
      about: "forbidden tokens",
    },
  ],
})

export const logprobs = defineOp({
  name: "logprobs",
  doc: `logprob (R) = ln softmax(logits[r])[targets[r]] of logits (R, V) f32: (z − max) − ln Σ e^(z − max), rounded once to f32; 0 for target −1, NaN for a target
    ≥ V. topIds, topLogprobs (R, top): the same of the \`top\` largest logits of ids below \`vocabulary\`, the lower id first of equals; id −1 and logprob −2¹²⁷
    where there are not so many. Evaluation, prompts and answers are scored by this op, so that their numbers are the same bits.`,
  inputs: { logits: "state", targets: "index" },
  outputs: ["logprob", "topIds", "topLogprobs"],
  attrs: {} as { readonly top: number; readonly vocabulary?: number },
  shape({ logits, targets }, { top }) {
    checkLogits("logprobs", logits)
    const R = logits.shape[0] ?? 0
    expectShape("logprobs", "targets", targets, [R], "logits")
    if (!(top >= 0 && top <= TOP_LIMIT)) throw new ShapeError(`logprobs: top ${top} is not in 0 … ${TOP_LIMIT}`)
    const logprob = { shape: [R], dtype: "f32" } as const
    if (top === 0) return { logprob }
    return { logprob, topIds: { shape: [R, top], dtype: "i32" }, topLogprobs: { shape: [R, top], dtype: "f32" } }
  },
  reference({ logits, targets }, { logprob, topIds, topLogprobs }, { top, vocabulary }) {
    const [R, V] = logits.shape as readonly [number, number]
    for (let r = 0; r < R; r++) {
      const z = Array.from(logits.data.subarray(r * V, (r + 1) * V))
      const max = Math.max(...z)
      const total = Math.log(z.reduce((sum, value) => sum + Math.exp(value - max), 0))
      const target = at(targets, r)
      if (logprob !== undefined) logprob.data[r] = target < 0 ? 0 : (z[target] ?? Number.NaN) - max - total
      const order = z.map((_, v) => v).slice(0, vocabulary ?? V)
      order.sort((a, b) => (z[b] as number) - (z[a] as number) || a - b)
      for (let i = 0; i < top; i++) {
        const id = order[i]
        if (topIds !== undefined) topIds.data[r * top + i] = id ?? -1
        if (topLogprobs !== undefined) topLogprobs.data[r * top + i] = id === undefined ? FORBIDDEN : (z[id] as number) - max - total
      }
    }
  },
  cpu: ({ logits, targets }, { logprob, topIds, topLogprobs }, { top, vocabulary }) =>
    logprobsKernel({
      logits,
      targets,
      logprob,
      topIds,
      topLogprobs,
      rows: logits.shape[0] as number,
      classes: lastDim(logits),
      allowed: Math.min(lastDim(logits), vocabulary ?? Number.POSITIVE_INFINITY),
      top,
    }),
  gpu({ logits, targets }, outputs, { top, vocabulary }, _, { units }) {
    const [R, V] = logits.shape as readonly [number, number]
    const { logprob, topIds, topLogprobs } = outputs
    const names = ["logprob", "topIds", "topLogprobs"] as const
    const wants = names.reduce((bits, name) => bits | (outputs[name] === undefined ? 0 : shaders.WANTS[name]), 0)
    if (wants === 0) return []
    const numbers = { R, V, allowed: Math.min(V, vocabulary ?? V), top }
    const lanes = Math.min(1024, Math.max(64, Math.ceil(V / 8 / 64) * 64))
    const found = { logits, topIds, topLogprobs, ...numbers }
    if (R > BESIDE * units || logprob === undefined)
      return [launch(shaders.logprobs, { ...found, targets, logprob, stats: undefined, wants }, groupsForRows(R), { lanes })]
    // What does not depend on the targets, which are being chosen, goes beside the choice.
    const stats = scratch("f32", 2 * R)
    const withStats = wants - shaders.WANTS.logprob + shaders.WANTS.stats
    return [
      launch(shaders.logprobs, { ...found, targets: undefined, logprob: undefined, stats, wants: withStats }, groupsForRows(R), { lanes }),
      launch(shaders.logprobOf, { logits, targets, stats, logprob, R, V }, Math.ceil(R / shaders.ROWS)),
    ]
  },
  cases: [
    { inputs: { logits: [1, 1], targets: { shape: [1], values: [0] } }, attrs: { top: 0 }, about: "one class" },
    { inputs: { logits: [5, 97], targets: { shape: [5], values: [0, 96, -1, 40, 33] } }, attrs: { top: 5 }, about: "a row not counted" },
    { inputs: { logits: [2, 3], targets: { shape: [2], values: [2, 0] } }, attrs: { top: 4 }, about: "fewer classes than asked" },
    {
      inputs: { logits: [3, 300], targets: { shape: [3], below: 300 } },
      attrs: { top: 20, vocabulary: 41 },
      about: "fewer tokens than classes",
    },
    {
      inputs: { logits: { shape: [1, 40], values: Array.from({ length: 40 }, (_, v) => v % 3) }, targets: { shape: [1], values: [7] } },
      attrs: { top: 32 },
      about: "equal logits",
    },
    { inputs: { logits: [70, 513], targets: { shape: [70], below: 513 } }, attrs: { top: 1 }, about: "several tasks" },
  ],
})

function checkLogits(op: string, logits: { readonly shape: readonly number[]; readonly dtype: string }): void {
  if (logits.shape.length !== 2 || logits.dtype !== "f32")
    throw new ShapeError(`${op}: logits are ${logits.dtype} ${shapeText(logits.shape)}, not f32 (B, V)`)
}

export const logitOps = [logitAdjust, logprobs]
