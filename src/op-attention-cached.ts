/** Attention of a chunk of new positions over a paged cache of earlier keys and values: prefill and decode. */
import { nativeKernel } from "./native.ts"
import { attentionCachedLaunches } from "./op-attention-gpu.ts"
import { at, checkHeads, type Heads, headsShape, offsets, sumOver } from "./op-attention-heads.ts"
import { defineOp, typeOf } from "./op-define.ts"
import { expectShape, lastDim, ShapeError } from "./tensor.ts"

export interface AttentionCachedAttrs extends Heads {
  /** Rows per sequence in this chunk. */
  readonly T: number
  /** Factor of q·k, usually 1/√headDim. */
  readonly scale: number
  /** Positions per page. */
  readonly pageSize: number
}

const cachedKernel = nativeKernel("attention_cached", {
  qkv: "pointer",
  kPages: "pointer",
  vPages: "pointer",
  pages: "pointer",
  lengths: "pointer",
  counts: "pointer",
  y: "pointer",
  batch: "int",
  T: "int",
  heads: "int",
  keyHeads: "int",
  D: "int",
  type: "int",
  pageSize: "int",
  maxPages: "int",
  scale: "float",
})

export const attentionCached = defineOp({
  name: "attention_cached",
  doc: `Of each sequence's T rows the first counts[b] are new positions lengths[b], lengths[b] + 1, …: their keys and values go into the cache, then row i is
    y = softmax(scale·q·k)·v over the lengths[b] + i + 1 positions there; later rows give 0. Position p lies in row p mod pageSize of page pages[b, ⌊p/pageSize⌋].
    qkv (B·T, (H + 2K)·D), kPages and vPages (P, K, pageSize, D), pages (B, maxPages), lengths, counts (B), y (B·T, H·D). Bits equal those of attention.`,
  inputs: { qkv: "state", kPages: "state", vPages: "state", pages: "index", lengths: "index", counts: "index" },
  outputs: ["y"],
  attrs: {} as AttentionCachedAttrs,
  act: ["qkv", "kPages", "vPages"],
  writes: ["kPages", "vPages"],
  shape({ qkv, kPages, vPages, pages, lengths, counts }, attrs) {
    const op = "attention_cached"
    checkHeads(op, qkv, attrs, attrs.T)
    const B = lengths.shape[0] ?? 0
    expectShape(op, "qkv", qkv, [B * attrs.T, lastDim(qkv)], `lengths (${B}) and T ${attrs.T}`)
    expectShape(op, "counts", counts, [B], "lengths")
    expectShape(op, "pages", pages, [B, lastDim(pages)], "lengths")
    for (const [name, t] of Object.entries({ kPages, vPages })) {
      expectShape(op, name, t, [kPages.shape[0] ?? 0, attrs.nKvHead, attrs.pageSize, attrs.headDim], "the heads and pageSize")
      if (t.dtype !== qkv.dtype) throw new ShapeError(`${op}: ${name} is ${t.dtype} but qkv is ${qkv.dtype}`)
    }
    return { y: { shape: headsShape(qkv, attrs), dtype: qkv.dtype } }
  },
  reference({ qkv, kPages, vPages, pages, lengths, counts }, { y }, attrs) {
    const { T, nHead, nKvHead, headDim: D, scale, pageSize } = attrs
    const maxPages = lastDim(pages)
    y.data.fill(0)
    for (let b = 0; b < lengths.data.length; b++) {
      const cell = (h: number, position: number, d: number): number => {
        const page = at(pages, b * maxPages + Math.floor(position / pageSize))
        return ((page * nKvHead + Math.floor((h * nKvHead) / nHead)) * pageSize + (position % pageSize)) * D + d
      }
      const [length, count] = [at(lengths, b), at(counts, b)]
      for (let h = 0; h < nHead; h++) {
        const { q, k, v, o } = offsets(attrs, T, b, h)
        for (let i = 0; i < count; i++) {
          for (let d = 0; d < D; d++) {
            kPages.data[cell(h, length + i, d)] = at(qkv, k(i, d))
            vPages.data[cell(h, length + i, d)] = at(qkv, v(i, d))
          }
          const scores = Array.from(
            { length: length + i + 1 },
            (_, j) => scale * sumOver(D, (d) => at(qkv, q(i, d)) * at(kPages, cell(h, j, d))),
          )
          const max = Math.max(...scores)
          const weights = scores.map((s) => Math.exp(s - max))
          const total = weights.reduce((sum, w) => sum + w, 0)
          for (let d = 0; d < D; d++) y.data[o(i, d)] = weights.reduce((sum, w, j) => sum + (w / total) * at(vPages, cell(h, j, d)), 0)
        }
      }
    }
  },
  cpu: ({ qkv, kPages, vPages, pages, lengths, counts }, { y }, { T, nHead, nKvHead, headDim, scale, pageSize }) =>
    cachedKernel({
      qkv,
      kPages,
      vPages,
      pages,
      lengths,
      counts,
      y,
      batch: lengths.shape[0] as number,
      T,
      heads: nHead,
      keyHeads: nKvHead,
      D: headDim,
      type: typeOf(qkv),
      pageSize,
      maxPages: lastDim(pages),
      scale,
    }),
  gpu: (inputs, { y }, attrs, _, target) => attentionCachedLaunches(inputs, y, attrs, target),
  cases: [
    {
      inputs: {
        qkv: [1, 3],
        kPages: [1, 1, 1, 1],
        vPages: [1, 1, 1, 1],
        pages: { shape: [1, 1], values: [0] },
        lengths: { shape: [1], values: [0] },
        counts: { shape: [1], values: [1] },
      },
      attrs: { T: 1, nHead: 1, nKvHead: 1, headDim: 1, scale: 1, pageSize: 1 },
      about: "first token",
    },
    {
      inputs: {
        qkv: [12, 40],
        kPages: [5, 2, 4, 5],
        vPages: [5, 2, 4, 5],
        pages: { shape: [3, 3], values: [4, 1, 0, 2, 0, 0, 3, 0, 0] },
        lengths: { shape: [3], values: [6, 0, 0] },
        counts: { shape: [3], values: [4, 3, 0] },
      },
      attrs: { T: 4, nHead: 4, nKvHead: 2, headDim: 5, scale: 0.5, pageSize: 4 },
      about: "chunks of different lengths, one empty",
    },
    {
      inputs: {
        qkv: [2, 54],
        kPages: [9, 1, 16, 18],
        vPages: [9, 1, 16, 18],
        pages: { shape: [2, 5], values: [8, 7, 6, 5, 4, 3, 2, 1, 0, 0] },
        lengths: { shape: [2], values: [70, 15] },
        counts: { shape: [2], values: [1, 1] },
      },
      attrs: { T: 1, nHead: 1, nKvHead: 1, headDim: 18, scale: 0.3, pageSize: 16 },
      about: "decode, pages in any order",
    },
  ],
})

export const attentionCachedOps = [attentionCached]
