/** Causal attention on Hopper: two or three warpgroups of 64 queries each share the keys and values that one lane brings. bf16. */
import { type F32, type Ptx, type PtxKernel, ptxKernel, type U64 } from "../src/ptx.ts"
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
  quadSum,
  type Role,
  range,
  roles,
  rowAt,
  storeRows,
} from "./ptx-attention-frame.ts"
import { begin, giveBack, type Position, pass, type Slot, take } from "./ptx-attention-ring.ts"
import {
  ALONG_COLUMNS,
  ALONG_ROWS,
  type AttentionTile,
  partsOf,
  ROWS,
  rowsOf,
  SHARED_BYTES,
  threadsOf,
  tileName,
} from "./ptx-attention-tile.ts"

const buffers = { maps: read(u64), qkv: read(bf16), mask: read(u32), y: write(bf16), lse: write(f32) } as const
const push = { T: u32, H: u32, K: u32, scale: f32, factor: f32 } as const
export type PtxAttention = PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>>

/** A weight's exponent may pass that of its row's reference by this much before the row is scaled anew. */
const SLACK = 8
/** Before the first unit: whatever comes passes it. */
const UNSET = 3e38

type Given = Sizes & { readonly [N in keyof typeof buffers]: U64 } & Readonly<Record<"scale" | "factor", F32>>

/** The softmax of the lane's two rows on its way: −reference·scale·log2 e, and this lane's share of the weights' sum. */
interface Softmax {
  readonly scale2: F32
  readonly reference: readonly [F32, F32]
  readonly sums: readonly [F32, F32]
}

/** Where a row's largest score passes its reference by too much: a new reference, and what was summed in its terms. Other rows keep their bits. */
function refer(k: Ptx, { scale2, reference, sums }: Softmax, scores: readonly F32[], out: readonly (readonly F32[])[]): void {
  const tops = ([0, 1] as const).map((which) => {
    const own = scores.filter((_, i) => rowAt(i) === which)
    let top = k.maxFloat(own[0]!, own[1]!)
    for (const score of own.slice(2)) top = k.maxFloat(top, score)
    for (const mask of [1, 2]) top = k.maxFloat(top, k.exchangeFloat(top, mask))
    return top
  })
  const excess = tops.map((top, which) => k.fma(top, scale2, reference[which]!))
  const passes = excess.map((one) => k.compare("gt", one, SLACK))
  const any = k.any(k.either(passes[0]!, passes[1]!))
  k.if(any, () => {
    const factors = excess.map((one, which) => {
      const factor = k.unary("ex2.approx.ftz.f32", k.subFloat(0, one))
      k.select(passes[which]!, k.subFloat(0, k.mulFloat(tops[which]!, scale2)), reference[which]!, "f32", reference[which]!)
      const scaled = k.select(passes[which]!, factor, 1, "f32")
      k.mulFloat(sums[which]!, scaled, sums[which]!)
      return scaled
    })
    for (const part of out) part.forEach((value, i) => k.mulFloat(value, factors[rowAt(i)]!, value))
  })
}

function consume(k: Ptx, role: Role, { qkv, mask, y, lse, T, H, K, scale, factor }: Given): void {
  const { tile, warpgroup, row, isFirstLane, always } = role
  const parts = partsOf(tile)
  const [h, b] = [k.special("%ctaid.y"), k.special("%ctaid.z")]
  const first = lateFirst(k, tile)
  const units = k.shr(k.add(k.min(k.add(first, rowsOf(tile)), T), ROWS - 1), 6)
  const own = k.add(first, k.mul(warpgroup, ROWS))
  const diagonal = k.shr(own, 6)
  const count = k.select(k.compare("lt", own, T), k.add(diagonal, 1), 0, "u32")
  const width = k.mul(k.add(H, k.shl(K, 1)), 2 * tile.D)
  const rowOf = (which: 0 | 1) => k.add(k.add(own, row), 8 * which)
  const inside = (which: 0 | 1) => k.min(rowOf(which), k.sub(T, 1))
  const head = k.addLong(qkv, k.long(k.mul(h, 2 * tile.D)))
  const queries = fragments(k, role, (which) => k.madLong(k.mad(b, T, inside(which)), width, head))

  const scale2 = k.mulFloat(scale, Math.LOG2E)
  const softmax: Softmax = {
    scale2,
    reference: [k.variable("f32", UNSET), k.variable("f32", UNSET)],
    sums: [k.variable("f32", 0), k.variable("f32", 0)],
  }
  const scores = k.registers("f32", 32)
  const weights = range(4).map(() => k.registers("u32", 4))
  const out = range(parts).map(() => range(32).map(() => k.variable("f32", 0)))
  const bits = tile.drops ? queryBits(k, role, { mask, T, H, h, b }, inside) : undefined

  const at: Position = begin(k, 0)
  const j = k.variable("u32", 0)
  /** Barriers of the values of the unit before, which the last products still read. */
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
      k.multiplyWait(0)
      keepApart(k, queries, T)
      for (const slot of keys) giveBack(k, slot, isFirstLane)
      k.if(isNotFirst, release)
      k.if(k.compare("eq", j, diagonal), () => maskDiagonal(k, role, scores, "queries"))
      refer(k, softmax, scores, out)
      const words = bits?.(j)
      scores.forEach((score, i) => {
        const which = rowAt(i)
        k.unary("ex2.approx.ftz.f32", k.fma(score, scale2, softmax.reference[which]), score)
        k.addFloat(softmax.sums[which], score, softmax.sums[which])
        if (words !== undefined) k.mulFloat(score, dropoutFactor(k, words[which]![columnAt(i) >> 5]!, columnAt(i) & 31, factor), score)
      })
      asLeft(k, scores, weights)
      const values = range(parts).map(() => take(k, at))
      k.multiplyFence()
      out.forEach((part, p) => multiply(k, part, weights, [values[p]!], ALONG_ROWS, always, always))
      k.multiplyCommit()
      values.forEach((slot, p) => k.copy(before[p]!.barriers, slot.barriers))
      k.add(j, 1, j)
    },
  )
  k.multiplyWait(0)
  k.if(k.compare("ne", count, 0), release)
  k.while(
    "PASS",
    () => k.compare("lt", j, units),
    () => {
      pass(k, at, 2 * parts, isFirstLane)
      k.add(j, 1, j)
    },
  )

  const totals = softmax.sums.map((sum) => quadSum(k, sum))
  const place = (which: 0 | 1) => ({ row: k.mad(b, T, rowOf(which)), has: k.compare("lt", rowOf(which), T) })
  const wide = k.mul(H, 2 * tile.D)
  const own2 = k.addLong(y, k.long(k.mul(h, 2 * tile.D)))
  const inverse = totals.map((total) => k.unary("rcp.rn.f32", total)) as [F32, F32]
  storeRows(k, role, out, inverse, (which) => {
    const { row: at, has } = place(which)
    return { address: k.madLong(at, wide, own2), has }
  })
  for (const which of [0, 1] as const) {
    const { row: at, has } = place(which)
    const value = k.mulFloat(k.subFloat(k.unary("lg2.approx.f32", totals[which]!), softmax.reference[which]), Math.LN2)
    const address = k.madLong(k.mad(at, H, h), 4, lse)
    k.when(k.both(has, k.compare("eq", role.column, 0)), () => k.store("f32", address, 0, [value]))
  }
}

/**
 * y = softmax(scale·q·kᵀ, causal)·v and lse (ln Σ e^score) as in attention.ts, weights rounded to bf16 before they meet v. A row's weights are
 * 2^(score − reference); the reference follows its largest score when that is more than 8 ahead. qkv (B·T, (H + 2K)·D), y (B·T, H·D), lse (B·T, H);
 * mask: dropout's bits as attention_tensor_mask makes them. maps: of qkv as (B, T, columns). Grid: (⌈T / (64·groups)⌉, H, B).
 * 2·B·T·T·H·D FLOP (and the masked part of the last units). The online softmax and its lazy scaling: FlashAttention-2 and -4 (Dao et al.).
 */
export function ptxAttention(tile: AttentionTile): PtxAttention {
  return ptxKernel({
    name: `ptx_attention${tileName(tile)}`,
    about: `attention with heads of ${tile.D}: ${tile.groups} warpgroups of 64 queries each`,
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
