/** Causal attention on Hopper: two or three warpgroups of 64 queries each share the keys and values that one lane brings. bf16. */
import { type F32, type Predicate, type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, u32, u64, write } from "../src/spirv.ts"
import { bringKeys, type Sizes } from "./ptx-attention-bring.ts"
import { dropoutFactor, queryBits } from "./ptx-attention-dropout.ts"
import {
  asLeft,
  columnAt,
  endTurn,
  keepApart,
  maskDiagonal,
  multiply,
  quadSum,
  type Role,
  range,
  roles,
  rowAt,
  storeRows,
  takeRows,
} from "./ptx-attention-frame.ts"
import { begin, giveBack, type Position, pass, passAll, type Slot, take } from "./ptx-attention-ring.ts"
import {
  ALONG_COLUMNS,
  ALONG_ROWS,
  type AttentionTile,
  partsOf,
  ROWS,
  rowsOf,
  sharedBytesOf,
  slotsOf,
  threadsOf,
  tileName,
} from "./ptx-attention-tile.ts"
import { eachTurn, rowsOfTurn } from "./ptx-attention-turn.ts"

const buffers = { maps: read(u64), turns: read(u64), mask: read(u32), y: write(bf16), lse: write(f32) } as const
const push = { T: u32, H: u32, K: u32, scale: f32, factor: f32 } as const
type PtxAttention = PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>>

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

/** The largest of the lane's own scores of each of its two rows. */
const largest = (k: Ptx, scores: readonly F32[]): readonly F32[] =>
  ([0, 1] as const).map((which) => {
    const own = scores.filter((_, i) => rowAt(i) === which)
    const [even, odd] = [0, 1].map((first) => own.filter((_, i) => i % 2 === first).reduce((a, b) => k.maxFloat(a, b)))
    return k.maxFloat(even!, odd!)
  })

/**
 * Where a row's largest score passes its reference by too much: a new reference, and the sum of weights in its terms. Other rows keep their bits. Returns
 * whether there is one in the warp, and what the rows of the products with the values are then to be multiplied by. `own`: the lane's largest; only where one
 * of them passes do the four lanes of a row ask each other.
 */
function refer(
  k: Ptx,
  { scale2, reference, sums }: Softmax,
  own: readonly F32[],
): { readonly any: Predicate; readonly factors: readonly F32[] } {
  const over = (top: F32, which: number) => k.fma(top, scale2, reference[which]!)
  const [first, second] = own.map((top, which) => k.compare("gt", over(top, which), SLACK))
  const any = k.any(k.either(first!, second!))
  const factors = own.map(() => k.variable("f32", 1))
  k.if(any, () => {
    const tops = own.map((top) => [1, 2].reduce((a, mask) => k.maxFloat(a, k.exchangeFloat(a, mask)), top))
    const excess = tops.map(over)
    const passes = excess.map((one) => k.compare("gt", one, SLACK))
    excess.forEach((one, which) => {
      const factor = k.unary("ex2.approx.ftz.f32", k.subFloat(0, one))
      k.select(passes[which]!, k.subFloat(0, k.mulFloat(tops[which]!, scale2)), reference[which]!, "f32", reference[which]!)
      k.select(passes[which]!, factor, 1, "f32", factors[which]!)
      k.mulFloat(sums[which]!, factors[which]!, sums[which]!)
    })
  })
  return { any, factors }
}

/** What stays in registers from turn to turn and from unit to unit. */
interface State {
  readonly at: Position
  readonly queries: readonly (readonly U32[])[]
  /** Of a unit, and of the next, whose product is under way meanwhile. */
  readonly scores: readonly [readonly F32[], readonly F32[]]
  readonly weights: readonly (readonly U32[])[]
  readonly out: readonly (readonly F32[])[]
  readonly softmax: Softmax
}

/** The next units of the ring are the keys of these scores; the product is not committed yet. */
function score(k: Ptx, { tile, always }: Role, { at, queries }: State, scores: readonly F32[]): readonly Slot[] {
  const keys = range(partsOf(tile)).map(() => take(k, at))
  k.multiplyFence()
  multiply(k, scores, queries, keys, ALONG_COLUMNS, k.not(always), always)
  return keys
}

/** The next units are the values of the weights at hand; the products are not committed yet. */
function weigh(k: Ptx, { tile, always }: Role, { at, weights, out }: State): readonly Slot[] {
  const values = range(partsOf(tile)).map(() => take(k, at))
  k.multiplyFence()
  out.forEach((part, p) => multiply(k, part, weights, [values[p]!], ALONG_ROWS, always, always))
  return values
}

/**
 * Scores of unit j become weights. Meanwhile what was begun is multiplied, the values of the unit before and the next's queries with keys; `release` gives
 * their units back.
 */
function weight(k: Ptx, state: State, scores: readonly F32[], j: U32, T: U32, words: Words | undefined, release: () => void): void {
  const { weights, out, softmax, queries } = state
  const { any, factors } = refer(k, softmax, largest(k, scores))
  const bits = words?.of(j)
  scores.forEach((score, i) => {
    const row = rowAt(i)
    k.unary("ex2.approx.ftz.f32", k.fma(score, softmax.scale2, softmax.reference[row]), score)
    k.addFloat(softmax.sums[row], score, softmax.sums[row])
    if (bits !== undefined) k.mulFloat(score, dropoutFactor(k, bits[row]![columnAt(i) >> 5]!, columnAt(i) & 31, words!.factor), score)
  })
  // The jump keeps the assembler from waiting before all weights are there.
  k.if(any, () => {
    k.multiplyWait(0)
    for (const part of out) part.forEach((value, i) => k.mulFloat(value, factors[rowAt(i)]!, value))
  })
  k.multiplyWait(0)
  keepApart(k, queries, T)
  release()
  asLeft(k, scores, weights)
}

/** All units of a turn that a warpgroup's queries see. */
function units(k: Ptx, role: Role, state: State, count: U32, all: U32, T: U32, words: Words | undefined): void {
  const { tile, isFirstLane } = role
  const { at, scores } = state
  const parts = partsOf(tile)
  const j = k.variable("u32", 0)
  const back = (slots: readonly Slot[]) => {
    for (const slot of slots) giveBack(k, slot, isFirstLane)
  }
  /** Unit j, with its scores in `which`; another follows. */
  const next = (which: 0 | 1, isFirst: boolean) => {
    const slots = [...(isFirst ? [] : weigh(k, role, state)), ...score(k, role, state, scores[1 - which]!)]
    k.multiplyCommit()
    weight(k, state, scores[which], j, T, words, () => back(slots))
    k.add(j, 1, j)
  }
  const copy = (to: readonly F32[], from: readonly F32[]) => to.forEach((one, i) => k.copy(one, from[i]!))
  const keys = score(k, role, state, scores[0])
  k.multiplyCommit()
  k.multiplyWait(0)
  back(keys)
  k.if(
    k.compare("eq", count, 1),
    () => copy(scores[1], scores[0]),
    () => {
      next(0, true)
      k.while(
        "KEYS",
        () => k.compare("lt", k.add(j, 2), count),
        () => {
          next(1, false)
          next(0, false)
        },
      )
      k.if(k.compare("lt", k.add(j, 1), count), () => {
        next(1, false)
        copy(scores[1], scores[0])
      })
    },
  )
  const barriers = k.registers("u32", parts)
  k.if(k.compare("ne", j, 0), () => {
    weigh(k, role, state).forEach((slot, p) => k.copy(barriers[p]!, slot.barriers))
    k.multiplyCommit()
  })
  maskDiagonal(k, role, scores[1], "queries")
  weight(k, state, scores[1], j, T, words, () =>
    k.if(k.compare("ne", j, 0), () => barriers.forEach((one) => giveBack(k, { barriers: one }, isFirstLane))),
  )
  const more = k.compare("lt", count, all)
  k.if(more, () => pass(k, at, parts, isFirstLane))
  const values = weigh(k, role, state)
  k.multiplyCommit()
  k.multiplyWait(0)
  back(values)
  k.if(more, () => passAll(k, at, k.sub(k.mul(k.sub(all, count), 2 * parts), parts), isFirstLane))
}

interface Words {
  readonly of: ReturnType<typeof queryBits>
  readonly factor: F32
}

function consume(k: Ptx, role: Role, { turns, mask, y, lse, T, H, scale, factor }: Given): void {
  const { tile, isFirstLane } = role
  const parts = partsOf(tile)
  const state: State = {
    at: begin(k, 0, slotsOf(tile)),
    queries: range(tile.D / 16).map(() => k.registers("u32", 4)),
    scores: [k.registers("f32", 32), k.registers("f32", 32)],
    weights: range(4).map(() => k.registers("u32", 4)),
    out: range(parts).map(() => k.registers("f32", 32)),
    softmax: {
      scale2: k.mulFloat(scale, Math.LOG2E),
      reference: [k.register("f32"), k.register("f32")],
      sums: [k.register("f32"), k.register("f32")],
    },
  }
  const { at, out, softmax } = state
  eachTurn(k, turns, false, ({ first, h, b }) => {
    const { own, diagonal, rowOf, inside } = rowsOfTurn(k, role, T, first)
    const all = k.shr(k.add(k.min(k.add(first, rowsOf(tile)), T), ROWS - 1), 6)
    for (const one of softmax.reference) k.copy(one, UNSET)
    for (const one of [...softmax.sums, ...out.flat()]) k.copy(one, 0)
    takeRows(k, role, at, [state.queries])
    const words = tile.drops ? { of: queryBits(k, role, { mask, T, H, h, b }, inside), factor } : undefined
    k.if(
      k.compare("lt", own, T),
      () => units(k, role, state, k.add(diagonal, 1), all, T, words),
      () => passAll(k, at, k.mul(all, 2 * parts), isFirstLane),
    )
    const totals = softmax.sums.map((sum) => quadSum(k, sum))
    const rows = ([0, 1] as const).map((which) => ({ at: k.mad(b, T, rowOf(which)), has: k.compare("lt", rowOf(which), T) }))
    const wide = k.mul(H, 2 * tile.D)
    const head = k.addLong(y, k.long(k.mul(h, 2 * tile.D)))
    const inverse = totals.map((total) => k.unary("rcp.approx.ftz.f32", total)) as [F32, F32]
    storeRows(k, role, out, inverse, (which) => ({ address: k.madLong(rows[which]!.at, wide, head), has: rows[which]!.has }))
    rows.forEach(({ at, has }, which) => {
      const value = k.mulFloat(k.subFloat(k.unary("lg2.approx.f32", totals[which]!), softmax.reference[which as 0 | 1]), Math.LN2)
      const address = k.madLong(k.mad(at, H, h), 4, lse)
      k.when(k.both(has, k.compare("eq", role.column, 0)), () => k.store("f32", address, 0, [value]))
    })
    endTurn(k, role)
  })
}

/**
 * y = softmax(scale·q·kᵀ, causal)·v and lse (ln Σ e^score) as in attention.ts, weights rounded to bf16 before they meet v. A row's weights are
 * 2^(score − reference); the reference follows its largest score when that is more than 8 ahead. qkv (B·T, (H + 2K)·D), y (B·T, H·D), lse (B·T, H);
 * mask: dropout's bits as attention_tensor_mask makes them. maps: of qkv as (B, T, columns). turns: 64·groups queries of a head. Grid: columns of turns.
 * 2·B·T·T·H·D FLOP (and the masked part of the last units). The online softmax and its lazy scaling: FlashAttention-2 and -4 (Dao et al.).
 */
export function ptxAttention(tile: AttentionTile): PtxAttention {
  return ptxKernel({
    name: `ptx_attention${tileName(tile)}`,
    about: `attention with heads of ${tile.D}: ${tile.groups} warpgroups of 64 queries each`,
    threads: threadsOf(tile),
    sharedBytes: sharedBytesOf(tile),
    buffers,
    push,
    body(k, given) {
      roles(
        k,
        tile,
        () => bringKeys(k, tile, given, "forward"),
        (role) => consume(k, role, given),
      )
    },
  })
}
