/** The gradient of Hopper's attention for the queries: two or three warpgroups of 64 queries each share the keys and values. bf16. */
import { type F32, type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, u32, u64, write } from "../src/spirv.ts"
import { bringKeys, type Sizes } from "./ptx-attention-bring.ts"
import { dropoutFactor, queryBits } from "./ptx-attention-dropout.ts"
import {
  asLeft,
  columnAt,
  fragments,
  keepApart,
  lateFirst,
  maskDiagonal,
  multiply,
  type Role,
  range,
  roles,
  rowAt,
  storeRows,
} from "./ptx-attention-frame.ts"
import { begin, giveBack, pass, type Slot, take } from "./ptx-attention-ring.ts"
import {
  ALONG_COLUMNS,
  ALONG_ROWS,
  type AttentionTile,
  partsOf,
  ROWS,
  rowsOf,
  SHARED_BYTES,
  SLOTS,
  threadsOf,
  tileName,
} from "./ptx-attention-tile.ts"

const buffers = { maps: read(u64), qkv: read(bf16), dy: read(bf16), statistics: read(f32), mask: read(u32), dqkv: write(bf16) } as const
const push = { T: u32, H: u32, K: u32, scale: f32, factor: f32 } as const
export type PtxQueries = PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>>

type Given = Sizes & { readonly [N in keyof typeof buffers]: U64 } & Readonly<Record<"scale" | "factor", F32>>

function consume(k: Ptx, role: Role, { qkv, dy, statistics, mask, dqkv, T, H, K, scale, factor }: Given): void {
  const { tile, warpgroup, row, isFirstLane, always } = role
  const parts = partsOf(tile)
  const [h, b] = [k.special("%ctaid.y"), k.special("%ctaid.z")]
  const first = lateFirst(k, tile)
  const units = k.shr(k.add(k.min(k.add(first, rowsOf(tile)), T), ROWS - 1), 6)
  const own = k.add(first, k.mul(warpgroup, ROWS))
  const diagonal = k.shr(own, 6)
  const count = k.select(k.compare("lt", own, T), k.add(diagonal, 1), 0, "u32")
  const [width, wide] = [k.mul(k.add(H, k.shl(K, 1)), 2 * tile.D), k.mul(H, 2 * tile.D)]
  const rowOf = (which: 0 | 1) => k.add(k.add(own, row), 8 * which)
  const inside = (which: 0 | 1) => k.min(rowOf(which), k.sub(T, 1))
  const column = k.long(k.mul(h, 2 * tile.D))
  const heads = (memory: U64, rowBytes: U32) => (which: 0 | 1) => k.madLong(k.mad(b, T, inside(which)), rowBytes, k.addLong(memory, column))
  const queries = fragments(k, role, heads(qkv, width))
  const gradients = fragments(k, role, heads(dy, wide))
  const padded = k.shl(k.shr(k.add(T, ROWS - 1), 6), 6)
  const known = ([0, 1] as const).map((which) => {
    const pair = k.registers("f32", 2)
    k.load("f32", pair, k.madLong(k.mad(k.mad(b, H, h), padded, inside(which)), 8, statistics))
    return { log: pair[0]!, delta: pair[1]! }
  })

  const scale2 = k.mulFloat(scale, Math.LOG2E)
  const [scores, slopes] = [k.registers("f32", 32), k.registers("f32", 32)]
  const left = range(4).map(() => k.registers("u32", 4))
  const out = range(parts).map(() => range(32).map(() => k.variable("f32", 0)))
  const bits = tile.drops ? queryBits(k, role, { mask, T, H, h, b }, inside) : undefined

  const at = begin(k, 0)
  const j = k.variable("u32", 0)
  /** Whether keys are given back under the next scores: the ring must have room for those besides. */
  const isLate = 3 * parts <= SLOTS
  /** The keys of the unit before, which the last products still read. */
  const before: Slot[] = range(parts).map(() => ({
    memory: k.variable("u32", 0),
    barriers: k.variable("u32", 0),
    statistics: k.variable("u32", 0),
  }))
  const release = () => before.forEach((slot) => giveBack(k, slot, isFirstLane))
  k.while(
    "KEYS",
    () => k.compare("lt", j, count),
    () => {
      const isNotFirst = k.compare("ne", j, 0)
      const keys = range(parts).map(() => take(k, at))
      k.multiplyFence()
      multiply(k, scores, queries, keys, ALONG_COLUMNS, k.not(always), always)
      k.multiplyCommit()
      k.multiplyWait(1) // the products before these
      if (isLate) k.if(isNotFirst, release)
      const values = range(parts).map(() => take(k, at))
      k.multiplyFence()
      multiply(k, slopes, gradients, values, ALONG_COLUMNS, k.not(always), always)
      k.multiplyCommit()
      k.multiplyWait(1)
      k.if(k.compare("eq", j, diagonal), () => maskDiagonal(k, role, scores, "queries"))
      const words = bits?.(j)
      scores.forEach((score, i) => {
        k.unary("ex2.approx.ftz.f32", k.fma(score, scale2, known[rowAt(i)]!.log), score)
      })
      k.multiplyWait(0)
      keepApart(k, [...queries, ...gradients], T)
      for (const slot of values) giveBack(k, slot, isFirstLane)
      slopes.forEach((slope, i) => {
        const which = rowAt(i)
        const { delta } = known[which]!
        const kept = words === undefined ? undefined : dropoutFactor(k, words[which]![columnAt(i) >> 5]!, columnAt(i) & 31, factor)
        if (kept === undefined) k.addFloat(slope, delta, slope)
        else k.fma(slope, kept, delta, slope)
        k.mulFloat(slope, scores[i]!, slope)
      })
      asLeft(k, slopes, left)
      k.multiplyFence()
      out.forEach((part, p) => multiply(k, part, left, [keys[p]!], ALONG_ROWS, always, always))
      k.multiplyCommit()
      if (isLate) keys.forEach((slot, p) => k.copy(before[p]!.barriers, slot.barriers))
      else {
        k.multiplyWait(0)
        for (const slot of keys) giveBack(k, slot, isFirstLane)
      }
      k.add(j, 1, j)
    },
  )
  k.multiplyWait(0)
  if (isLate) k.if(k.compare("ne", count, 0), release)
  k.while(
    "PASS",
    () => k.compare("lt", j, units),
    () => {
      pass(k, at, 2 * parts, isFirstLane)
      k.add(j, 1, j)
    },
  )
  storeRows(k, role, out, [scale, scale], (which) => ({
    address: k.madLong(k.mad(b, T, rowOf(which)), width, k.addLong(dqkv, column)),
    has: k.compare("lt", rowOf(which), T),
  }))
}

/**
 * dq = scale·(p∘(dp − δ))·k with p = e^(score − lse) and dp = dy·vᵀ, under dropout times its factor, as in attention-backward.ts; p∘(dp − δ) is rounded to
 * bf16 before it meets k. qkv and dqkv (B·T, (H + 2K)·D), dy (B·T, H·D), statistics: ptx_attention_statistics. maps: of qkv as (B, T, columns).
 * Grid: (⌈T / (64·groups)⌉, H, B). 3·B·T·T·H·D FLOP.
 */
export function ptxAttentionQueries(tile: AttentionTile): PtxQueries {
  return ptxKernel({
    name: `ptx_attention_queries${tileName(tile)}`,
    about: `gradient of attention for queries, heads of ${tile.D}: ${tile.groups} warpgroups of 64 queries each`,
    threads: threadsOf(tile),
    sharedBytes: SHARED_BYTES,
    buffers,
    push,
    body(k, given) {
      roles(
        k,
        tile,
        () => bringKeys(k, tile, given),
        (role) => consume(k, role, given),
      )
    },
  })
}
