/** Attention of one new position per sequence over paged keys and values on Hopper: what is brought runs ahead through all heads of a block. */
import { type PtxKernel, ptxKernel } from "../src/ptx.ts"
import { bf16, f32, read, readWrite, u32, u64, write } from "../src/spirv.ts"
import { bringPages } from "./ptx-attention-cached-bring.ts"
import { type Frame, PLACES } from "./ptx-attention-cached-frame.ts"
import { findScores } from "./ptx-attention-cached-scores.ts"
import { attendValues } from "./ptx-attention-cached-values.ts"

/** Warps 0 and 1 find scores, 2 and 3 sum values, 4 brings. */
const THREADS = 160
const buffers = {
  /** Tensor maps of kPages, then of vPages, by rows of a head: 128 bytes each. */
  maps: read(u64),
  qkv: read(bf16),
  kPages: readWrite(bf16),
  vPages: readWrite(bf16),
  pages: read(u32),
  lengths: read(u32),
  counts: read(u32),
  y: write(bf16),
} as const
const push = { H: u32, items: u32, maxPages: u32, scale: f32 } as const

/**
 * The op attention_cached for T = 1, heads of 64, pages of 64 positions and as many key heads as heads: the new key and value into their page, y (B, H·64),
 * 0 where counts[b] is 0. Blocks of 64 keys are merged in order; the bits are those of attention_decode. items = B·H. Grid: any. Reads 256·keys bytes
 * per head.
 */
export const ptxAttentionCached: PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>> = ptxKernel({
  name: "ptx_attention_cached_64",
  about: "attention of one position per sequence over pages of keys and values; a block does one head of a sequence after the other",
  threads: THREADS,
  sharedBytes: Math.ceil(PLACES.end / 128) * 128,
  buffers,
  push,
  body(k, given) {
    const thread = k.special("%tid.x")
    const warp = k.uniform(k.shr(thread, 5))
    const f: Frame = { ...given, k, thread, lane: k.and(thread, 31), none: k.shr(given.items, 31) }
    k.if(k.compare("eq", thread, 0), () => {
      for (const ring of [PLACES.keys, PLACES.values]) {
        for (let i = 0; i < ring.count; i++) {
          k.barrierInit(ring.full + 8 * i, 1)
          k.barrierInit(ring.empty + 8 * i, 2)
        }
      }
      for (const first of [PLACES.ready, PLACES.taken]) for (const i of [0, 1]) k.barrierInit(first + 8 * i, 2)
      k.fenceBarrierInit()
    })
    k.syncBlock()
    k.if(
      k.compare("lt", warp, 2),
      () => findScores(f, given.scale),
      () =>
        k.if(
          k.compare("lt", warp, 4),
          () => attendValues(f),
          () => bringPages(f, given.maps),
        ),
    )
    k.emit("ret")
  },
})
