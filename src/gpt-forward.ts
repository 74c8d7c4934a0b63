/** The model: tokens (B, T) → hidden states, loss or logits. B batch, T time, R = B·T rows, C channels, H heads, D head size, V vocabulary. */
import type { ModelConfig } from "./config.ts"
import * as op from "./op.ts"
import { tracer } from "./program.ts"
import type { Dtype, Tensor } from "./tensor.ts"

/** f32, or bf16 = bf16 activations and weight copies with an f32 residual stream, statistics and gradients of weights. */
export type Precision = "f32" | "bf16"

/** Dropout of one training step: the mask is a function of (seed, step, position in the global batch), so recomputing it gives the same. */
export interface Dropout {
  readonly seed: Tensor // () i32
  readonly step: Tensor // () i32
  /** Index of this micro-batch's first row in the global batch. */
  readonly row: Tensor // () i32
}

/** Attention over pages of earlier keys and values, for prefill and decode. */
export interface Cache {
  readonly pageSize: number
  readonly maxPages: number
  readonly pageCount: number
  readonly pages: Tensor // (B, maxPages) i32
  readonly lengths: Tensor // (B) i32, tokens already in the cache
  readonly counts: Tensor // (B) i32, valid rows of this chunk
}

/** How one pass runs. */
export interface Pass {
  readonly precision: Precision
  /** Rows per sequence. */
  readonly T: number
  readonly dropout?: Dropout | undefined
  readonly cache?: Cache | undefined
  /** Position of each row (R) i32; row mod T when absent. */
  readonly positions?: Tensor | undefined
  /** Recompute each block in backward instead of keeping its activations. */
  readonly recompute?: boolean | undefined
  /** The bits are those that generation finds, on devices whose fastest attention has others. */
  readonly isInvariant?: boolean | undefined
  /** What products may do for speed, as linear has it. */
  readonly order?: "any" | "layers" | undefined
}

/** Name of the state that holds a parameter: the f32 master, or its bf16 copy where a product reads it. */
export const copyName = (name: string): string => `bf16.${name}`

/** The operand a matrix product reads for parameter `name`. */
function matrix(pass: Pass, name: string, shape: readonly number[]): Tensor {
  return pass.precision === "bf16" ? tracer().state(copyName(name), "bf16", shape) : tracer().state(name, "f32", shape)
}

/** tokens (R) i32 → hidden states (R, C) after the last norm. */
export function gptHidden(c: ModelConfig, tokens: Tensor, pass: Pass): Tensor {
  const t = tracer()
  const { nEmbd: C, nHead, nKvHead, headDim, ffnDim: F } = c
  const act: Dtype = pass.precision
  const vector = (name: string, size: number) => t.state(name, "f32", [size])
  const bias = (name: string, size: number) => (c.bias ? vector(`${name}.bias`, size) : undefined)
  const linear = (x: Tensor, name: string, out: number, from: number, activation: op.Activation = "none") =>
    op.linear({ x, w: matrix(pass, `${name}.weight`, [out, from]), b: bias(name, out) }, { activation, out: act, order: pass.order }).y
  const dropout = (x: Tensor, site: number): Tensor =>
    pass.dropout === undefined || c.dropout === 0 ? x : op.dropout({ x, ...pass.dropout }, { p: c.dropout, site }).y

  const positions = pass.positions
  const wpe = c.position === "learned" ? t.state("wpe.weight", "f32", [c.blockSize, C]) : undefined
  const wte = matrix(pass, "wte.weight", [c.vocabSize, C])
  let stream = dropout(op.embedding({ tokens, wte, wpe, positions }, { T: pass.T }).y, SITES.embedding) // (R, C) f32
  let branch: Tensor | undefined // (R, C), added to the stream by the next norm

  const norm = (name: string): Tensor => {
    const w = vector(`${name}.weight`, C)
    const attrs = { eps: c.normEps, out: act }
    if (c.norm === "rmsnorm") {
      if (branch === undefined) return op.rmsNorm({ x: stream, w }, attrs).y
      const { y, sum } = op.addRmsNorm({ x: stream, r: branch, w }, attrs)
      stream = sum
      return y
    }
    const b = bias(name, C)
    if (branch === undefined) return op.layerNorm({ x: stream, w, b }, attrs).y
    const { y, sum } = op.addLayerNorm({ x: stream, r: branch, w, b }, attrs)
    stream = sum
    return y
  }

  const attend = (x: Tensor, layer: number): Tensor => {
    const h = `h.${layer}.attn`
    const heads = { nHead, nKvHead, headDim }
    let qkv = linear(x, `${h}.qkv`, (nHead + 2 * nKvHead) * headDim, C) // (R, (H + 2K)·D)
    if (c.qkNorm) {
      const [qw, kw] = [vector(`${h}.qNorm.weight`, headDim), vector(`${h}.kNorm.weight`, headDim)]
      qkv = op.qkNorm({ qkv, qw, kw }, { ...heads, eps: c.normEps }).y
    }
    if (c.position === "rope") qkv = op.rope({ qkv, positions }, { ...heads, T: pass.T, theta: c.ropeTheta, scaling: c.ropeScaling }).y
    const scale = 1 / Math.sqrt(headDim)
    if (pass.cache !== undefined) return attendCached(qkv, layer, pass, pass.cache, { ...heads, scale })
    const p = pass.dropout === undefined ? 0 : c.dropout
    const { T, isInvariant } = pass
    return op.attention({ qkv, ...(p > 0 ? pass.dropout : {}) }, { ...heads, T, scale, dropout: p, site: SITES.layer(layer), isInvariant })
      .y
  }

  const block = (layer: number): void => {
    const att = attend(norm(`h.${layer}.attnNorm`), layer) // (R, H·D)
    branch = dropout(linear(att, `h.${layer}.attn.proj`, C, nHead * headDim), SITES.layer(layer) + 1) // (R, C)
    const x = norm(`h.${layer}.mlpNorm`)
    const hidden =
      c.activation === "swiglu"
        ? op.swiglu({ x: linear(x, `h.${layer}.mlp.gateUp`, 2 * F, C) }).y
        : linear(x, `h.${layer}.mlp.up`, F, C, c.activation) // (R, F)
    branch = dropout(linear(hidden, `h.${layer}.mlp.down`, C, F), SITES.layer(layer) + 2) // (R, C)
  }

  for (let layer = 0; layer < c.nLayer; layer++) {
    if (pass.recompute === true) t.recompute(() => block(layer))
    else block(layer)
  }
  return norm("norm")
}

/** Streams of the dropout masks. */
const SITES = { embedding: 1, layer: (layer: number) => 2 + 3 * layer }

const head = (c: ModelConfig, pass: Pass): Tensor => matrix(pass, c.tie ? "wte.weight" : "head.weight", [c.vocabSize, c.nEmbd])

/** Sum of losses over targets ≥ 0 and their count: tokens, targets (R) i32 → loss (), count () f32. */
export function gptLoss(c: ModelConfig, tokens: Tensor, targets: Tensor, pass: Pass): { loss: Tensor; count: Tensor } {
  const x = gptHidden(c, tokens, pass)
  return op.classifier({ x, w: head(c, pass), targets }, c.softCap === undefined ? {} : { softCap: c.softCap })
}

/** Logits (rows, V) f32 of hidden states x (rows, C). */
export function gptLogits(c: ModelConfig, x: Tensor, pass: Pass): Tensor {
  const logits = op.linear({ x, w: head(c, pass) }, { activation: "none", out: "f32", order: pass.order }).y
  return c.softCap === undefined ? logits : op.softCap({ x: logits }, { cap: c.softCap }).y
}

function attendCached(
  qkv: Tensor,
  layer: number,
  pass: Pass,
  { pageSize, pageCount, pages, lengths, counts }: Cache,
  heads: { nHead: number; nKvHead: number; headDim: number; scale: number },
): Tensor {
  const shape = [pageCount, heads.nKvHead, pageSize, heads.headDim]
  const kPages = tracer().state(`cache.${layer}.k`, pass.precision, shape)
  const vPages = tracer().state(`cache.${layer}.v`, pass.precision, shape)
  return op.attentionCached({ qkv, kPages, vPages, pages, lengths, counts }, { ...heads, T: pass.T, pageSize }).y
}

/** Bytes of one token's keys and values over all layers. */
export const cacheBytesPerToken = (c: ModelConfig, precision: Precision): number =>
  2 * c.nLayer * c.nKvHead * c.headDim * (precision === "bf16" ? 2 : 4)
