/** The gradient of Hopper's attention for keys and values: two warpgroups of 64 keys each share the queries and their gradients. bf16. */
import { type F32, type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, u32, u64, write } from "../src/spirv.ts"
import type { Sizes } from "./ptx-attention-bring.ts"
import { dropoutFactor, keyBits } from "./ptx-attention-dropout.ts"
import { asLeft, fragments, keepApart, maskDiagonal, multiply, type Role, range, roles, rowAt, storeRows } from "./ptx-attention-frame.ts"
import { begin, bring, giveBack, type Position, pass, type Slot, take } from "./ptx-attention-ring.ts"
import {
  ALONG_COLUMNS,
  ALONG_ROWS,
  type AttentionTile,
  COLUMNS,
  partsOf,
  ROWS,
  rowsOf,
  SHARED_BYTES,
  threadsOf,
  tileName,
} from "./ptx-attention-tile.ts"

const buffers = { maps: read(u64), qkv: read(bf16), statistics: read(f32), mask: read(u32), dqkv: write(bf16) } as const
const push = { T: u32, H: u32, K: u32, scale: f32, factor: f32 } as const
export type PtxKeys = PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>>

type Given = Sizes & { readonly [N in keyof typeof buffers]: U64 } & Readonly<Record<"scale" | "factor", F32>>

/** The block's key head, which 64 columns of it come out, its sequence and first key; early keys, which most queries see, come first. */
function placeOf(k: Ptx, tile: AttentionTile) {
  const y = k.special("%ctaid.y")
  const parts = partsOf(tile)
  return {
    keyHead: parts === 1 ? y : k.shr(y, 1),
    part: parts === 1 ? undefined : k.and(y, 1),
    b: k.special("%ctaid.z"),
    first: k.mul(k.special("%ctaid.x"), rowsOf(tile)),
  }
}

/** `body` for every query head that reads the key head. */
function eachHead(k: Ptx, { H, K }: Sizes, keyHead: U32, body: (h: U32) => void): void {
  const heads = k.div(H, K)
  const h = k.mul(keyHead, heads)
  const end = k.add(h, heads)
  k.while(
    "HEAD",
    () => k.compare("lt", h, end),
    () => {
      body(h)
      k.add(h, 1, h)
    },
  )
}

/** Positions of a head's statistics. */
const padded = (k: Ptx, T: U32): U32 => k.shl(k.shr(k.add(T, ROWS - 1), 6), 6)

function produce(k: Ptx, tile: AttentionTile, given: Given): void {
  const { maps, statistics, T, H } = given
  const { keyHead, b, first } = placeOf(k, tile)
  const gradients = k.addLong(maps, 128)
  const [at, positions] = [begin(k, 1), padded(k, T)]
  for (const map of [maps, gradients]) k.acquireMap(map)
  eachHead(k, given, keyHead, (h) => {
    const column = k.mul(h, tile.D)
    const own = k.madLong(k.mul(k.mad(b, H, h), positions), 8, statistics)
    const position = k.variable("u32", first)
    k.while(
      "BRING",
      () => k.compare("lt", position, T),
      () => {
        for (const part of range(partsOf(tile)))
          bring(k, at, maps, [k.add(column, COLUMNS * part), position, b], part === 0 ? k.madLong(position, 8, own) : undefined)
        for (const part of range(partsOf(tile))) bring(k, at, gradients, [k.add(column, COLUMNS * part), position, b])
        k.add(position, ROWS, position)
      },
    )
  })
}

interface Sums {
  readonly keys: readonly F32[]
  readonly values: readonly F32[]
}

/** What stays in registers from unit to unit. */
interface State {
  readonly keys: readonly (readonly U32[])[]
  readonly values: readonly (readonly U32[])[]
  readonly scores: readonly F32[]
  readonly slopes: readonly F32[]
  readonly left: readonly (readonly (readonly U32[])[])[]
  readonly sums: Sums
  /** Of a head of 128, whether the block's columns are the second 64. */
  readonly isSecond: ReturnType<Ptx["compare"]> | undefined
}

/** The lane's −lse·log2 e and −δ of the 16 queries whose columns it has. */
function statisticsOf(k: Ptx, { column }: Role, slot: Slot): readonly { readonly log: F32; readonly delta: F32 }[] {
  const base = k.add(slot.statistics, k.shl(column, 3))
  return range(8).flatMap((block) => {
    const all = k.registers("f32", 4)
    k.loadShared(all, { base, bytes: 64 * block })
    return [0, 2].map((i) => ({ log: all[i]!, delta: all[i + 1]! }))
  })
}

/** The unit whose columns the block makes. */
function chosen(k: Ptx, units: readonly Slot[], isSecond: State["isSecond"]): Slot {
  const [first, second] = units
  if (isSecond === undefined || second === undefined) return first!
  const pick = (of: "memory" | "barriers" | "statistics") => k.select(isSecond, second[of], first![of], "u32")
  return { memory: pick("memory"), barriers: first!.barriers, statistics: first!.statistics }
}

function unit(
  k: Ptx,
  role: Role,
  at: Position,
  state: State,
  isDiagonal: ReturnType<Ptx["compare"]>,
  scale2: F32,
  kept: ((i: number) => F32) | undefined,
  T: U32,
): void {
  const { tile, always, isFirstLane } = role
  const { scores, slopes, left, sums, isSecond } = state
  const parts = range(partsOf(tile))
  const queries = parts.map(() => take(k, at))
  k.multiplyFence()
  multiply(k, scores, state.keys, queries, ALONG_COLUMNS, k.not(always), always)
  k.multiplyCommit()
  const gradients = parts.map(() => take(k, at))
  k.multiplyFence()
  multiply(k, slopes, state.values, gradients, ALONG_COLUMNS, k.not(always), always)
  k.multiplyCommit()
  const queryOf = () => {
    const known = statisticsOf(k, role, queries[0]!)
    return (i: number) => known[2 * (i >> 2) + (i & 1)]!
  }
  const before = queryOf()
  k.multiplyWait(1)
  k.if(isDiagonal, () => maskDiagonal(k, role, scores, "keys"))
  scores.forEach((score, i) => {
    k.unary("ex2.approx.ftz.f32", k.fma(score, scale2, before(i).log), score)
  })
  asLeft(k, kept === undefined ? scores : scores.map((weight, i) => k.mulFloat(weight, kept(i))), left[0]!)
  k.multiplyFence()
  multiply(k, sums.values, left[0]!, [chosen(k, gradients, isSecond)], ALONG_ROWS, always, always)
  k.multiplyCommit()
  k.multiplyWait(left.length - 1) // where weights and slopes share registers, the products with the weights too
  const after = queryOf() // loaded again, as registers are short
  slopes.forEach((slope, i) => {
    if (kept === undefined) k.addFloat(slope, after(i).delta, slope)
    else k.fma(slope, kept(i), after(i).delta, slope)
    k.mulFloat(slope, scores[i]!, slope)
  })
  asLeft(k, slopes, left.at(-1)!)
  k.multiplyFence()
  multiply(k, sums.keys, left.at(-1)!, [chosen(k, queries, isSecond)], ALONG_ROWS, always, always)
  k.multiplyCommit()
  k.multiplyWait(0)
  keepApart(k, [...state.keys, ...state.values], T)
  for (const slot of [...queries, ...gradients]) giveBack(k, slot, isFirstLane)
}

function consume(k: Ptx, role: Role, given: Given): void {
  const { qkv, mask, dqkv, T, H, K, scale, factor } = given
  const { tile, warpgroup, row, isFirstLane } = role
  const parts = partsOf(tile)
  const { keyHead, part, b, first } = placeOf(k, tile)
  const own = k.add(first, k.mul(warpgroup, ROWS))
  const width = k.mul(k.add(H, k.shl(K, 1)), 2 * tile.D)
  const rowOf = (which: 0 | 1) => k.add(k.add(own, row), 8 * which)
  const inside = (which: 0 | 1) => k.min(rowOf(which), k.sub(T, 1))
  const keyColumn = k.mul(k.add(H, keyHead), 2 * tile.D)
  const columns = [keyColumn, k.add(keyColumn, k.mul(K, 2 * tile.D))]
  const [keys, values] = columns.map((column) =>
    fragments(k, role, (which) => k.madLong(k.mad(b, T, inside(which)), width, k.addLong(qkv, k.long(column)))),
  )
  const state: State = {
    keys: keys!,
    values: values!,
    scores: k.registers("f32", 32),
    slopes: k.registers("f32", 32),
    left: range(parts === 1 ? 2 : 1).map(() => range(4).map(() => k.registers("u32", 4))),
    sums: { keys: range(32).map(() => k.variable("f32", 0)), values: range(32).map(() => k.variable("f32", 0)) },
    isSecond: part === undefined ? undefined : k.compare("ne", part, 0),
  }
  const scale2 = k.mulFloat(scale, Math.LOG2E)
  const at = begin(k, 0)
  const units = k.shr(k.add(T, ROWS - 1), 6)
  const [begins, diagonal] = [k.shr(first, 6), k.shr(own, 6)]
  eachHead(k, given, keyHead, (h) => {
    const bits = tile.drops ? keyBits(k, role, { mask, T, H, h, b }, own) : undefined
    const i = k.variable("u32", begins)
    k.while(
      "QUERIES",
      () => k.compare("lt", i, units),
      () => {
        k.if(
          k.compare("lt", i, diagonal),
          () => pass(k, at, 2 * parts, isFirstLane),
          () => {
            const words = bits?.(i)
            const kept =
              words === undefined
                ? undefined
                : (place: number) => dropoutFactor(k, words[2 * (place >> 2) + (place & 1)]!, 8 * rowAt(place), factor)
            unit(k, role, at, state, k.compare("eq", i, diagonal), scale2, kept, T)
          },
        )
        k.add(i, 1, i)
      },
    )
  })
  const offset = part === undefined ? 0 : k.mul(part, 2 * COLUMNS)
  const outputs = [
    { sums: state.sums.keys, factor: scale, column: columns[0]! },
    { sums: state.sums.values, factor: k.variable("f32", 1), column: columns[1]! },
  ]
  for (const { sums, factor, column } of outputs)
    storeRows(k, role, [sums], [factor, factor], (which) => ({
      address: k.madLong(k.mad(b, T, rowOf(which)), width, k.addLong(dqkv, k.long(k.add(column, offset)))),
      has: k.compare("lt", rowOf(which), T),
    }))
}

/**
 * dv = pᵀ·dy and dk = scale·(p∘(dp − δ))ᵀ·q, summed over the query heads of a key head, as in attention-backward.ts; p and p∘(dp − δ) are rounded to bf16
 * before they meet dy and q. maps: of qkv, then of dy, as (B, T, columns). statistics: ptx_attention_statistics. Grid: (⌈T / 128⌉, K·D/64, B);
 * a block makes 64 columns of a head, and with D = 128 both blocks of a head find p and dp. 4·B·T·T·H·D FLOP (6 with D = 128).
 */
export function ptxAttentionKeys(tile: AttentionTile): PtxKeys {
  return ptxKernel({
    name: `ptx_attention_keys${tileName(tile)}`,
    about: `gradient of attention for keys and values, heads of ${tile.D}: ${tile.groups} warpgroups of 64 keys each`,
    threads: threadsOf(tile),
    sharedBytes: SHARED_BYTES,
    buffers,
    push,
    body(k, given) {
      roles(
        k,
        tile,
        () => produce(k, tile, given),
        (role) => consume(k, role, given),
      )
    },
  })
}
