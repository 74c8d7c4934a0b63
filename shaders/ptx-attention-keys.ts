/** The gradient of Hopper's attention for keys and values: two warpgroups of 64 keys each share the queries and their gradients. bf16. */
import { type F32, type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, u32, u64, write } from "../src/spirv.ts"
import type { Sizes } from "./ptx-attention-bring.ts"
import { keyBits } from "./ptx-attention-dropout.ts"
import { bringRows, endTurn, type Role, range, roles, storeRows, takeRows } from "./ptx-attention-frame.ts"
import { aloneUnit, type State, unitsInTurn } from "./ptx-attention-keys-unit.ts"
import { begin, bring, passAll } from "./ptx-attention-ring.ts"
import { type AttentionTile, COLUMNS, partsOf, ROWS, sharedBytesOf, slotsOf, threadsOf, tileName } from "./ptx-attention-tile.ts"
import { eachTurn, rowsOfTurn, type Turn } from "./ptx-attention-turn.ts"

const buffers = { maps: read(u64), turns: read(u64), statistics: read(f32), mask: read(u32), dqkv: write(bf16) } as const
const push = { T: u32, H: u32, K: u32, scale: f32, factor: f32 } as const
type PtxKeys = PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>>

type Given = Sizes & { readonly [N in keyof typeof buffers]: U64 } & Readonly<Record<"scale" | "factor", F32>>

/** A turn's key head, which 64 columns of it come out, its sequence and first key. */
function placeOf(k: Ptx, tile: AttentionTile, { first, h, b }: Turn) {
  const isWhole = partsOf(tile) === 1
  return { keyHead: isWhole ? h : k.shr(h, 1), part: isWhole ? undefined : k.and(h, 1), b, first }
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
  const { maps, turns, statistics, T, H, K } = given
  const gradients = k.addLong(maps, 128)
  const [at, positions] = [begin(k, 1, slotsOf(tile)), padded(k, T)]
  for (const map of [maps, gradients]) k.acquireMap(map)
  eachTurn(k, turns, true, (turn) => {
    const { keyHead, b, first } = placeOf(k, tile, turn)
    const key = k.mul(k.add(H, keyHead), tile.D)
    bringRows(
      k,
      tile,
      at,
      turn,
      [key, k.add(key, k.mul(K, tile.D))].map((column) => ({ map: maps, column })),
    )
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
  })
}

function consume(k: Ptx, role: Role, given: Given): void {
  const { turns, mask, dqkv, T, H, K, scale, factor } = given
  const { tile, isFirstLane } = role
  const parts = partsOf(tile)
  const steps = range(tile.D / 16)
  /** Wide heads leave too few registers and slots for products of two units at once. */
  const isAlone = parts === 2
  const quads = (count: number) => range(count).map(() => k.registers("u32", 4))
  const keys = quads(steps.length)
  const values = quads(steps.length)
  const at = begin(k, 0, slotsOf(tile))
  const scores = k.registers("f32", 32)
  const slopes = k.registers("f32", 32)
  const left = range(isAlone ? 1 : tile.drops ? 3 : 2).map(() => quads(4))
  const sums = { keys: k.registers("f32", 32), values: k.registers("f32", 32) }
  const scale2 = k.mulFloat(scale, Math.LOG2E)
  const width = k.mul(k.add(H, k.shl(K, 1)), 2 * tile.D)
  const units = k.shr(k.add(T, ROWS - 1), 6)
  eachTurn(k, turns, false, (turn) => {
    const { keyHead, part, b, first } = placeOf(k, tile, turn)
    const { own, diagonal, rowOf } = rowsOfTurn(k, role, T, first)
    for (const one of [...sums.keys, ...sums.values]) k.copy(one, 0)
    const state: State = {
      ...{ at, keys, values, scores, slopes, left, sums, scale2, factor, T },
      isSecond: part === undefined ? undefined : k.compare("ne", part, 0),
    }
    takeRows(k, role, at, [keys, values])
    eachHead(k, given, keyHead, (h) => {
      const bits = tile.drops ? keyBits(k, role, { mask, T, H, h, b }, own) : undefined
      const begins = k.shr(first, 6)
      const seen = k.min(diagonal, units)
      passAll(k, at, k.mul(k.sub(seen, begins), 2 * parts), isFirstLane)
      if (!isAlone) k.if(k.compare("lt", diagonal, units), () => unitsInTurn(k, role, state, [diagonal, units], bits))
      else {
        const i = k.variable("u32", seen)
        k.while(
          "QUERIES",
          () => k.compare("lt", i, units),
          () => {
            aloneUnit(k, role, state, k.compare("eq", i, diagonal), bits && (() => bits(i)))
            k.add(i, 1, i)
          },
        )
      }
    })
    const keyColumn = k.mul(k.add(H, keyHead), 2 * tile.D)
    const offset = part === undefined ? 0 : k.mul(part, 2 * COLUMNS)
    const outputs = [
      { of: sums.keys, by: scale, column: keyColumn },
      { of: sums.values, by: tile.drops ? factor : k.variable("f32", 1), column: k.add(keyColumn, k.mul(K, 2 * tile.D)) },
    ]
    for (const { of, by, column } of outputs)
      storeRows(k, role, [of], [by, by], (which) => ({
        address: k.madLong(k.mad(b, T, rowOf(which)), width, k.addLong(dqkv, k.long(k.add(column, offset)))),
        has: k.compare("lt", rowOf(which), T),
      }))
    endTurn(k, role)
  })
}

/**
 * dv = pᵀ·dy and dk = scale·(p∘(dp − δ))ᵀ·q, summed over the query heads of a key head, as in attention-backward.ts; p and p∘(dp − δ) are rounded to bf16
 * before they meet dy and q. maps: of qkv, then of dy, as (B, T, columns). statistics: of the queries' gradient. turns: 128 keys and
 * 64 columns of a head (numbered as such); with D = 128 both turns of a head find p and dp. Grid: columns of turns. 4·B·T·T·H·D FLOP (6 with D = 128).
 */
export function ptxAttentionKeys(tile: AttentionTile): PtxKeys {
  return ptxKernel({
    name: `ptx_attention_keys${tileName(tile)}`,
    about: `gradient of attention for keys and values, heads of ${tile.D}: ${tile.groups} warpgroups of 64 keys each`,
    threads: threadsOf(tile),
    sharedBytes: sharedBytesOf(tile),
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
