/** The gradient of Hopper's attention for the queries: two or three warpgroups of 64 queries each share the keys and values. bf16. */
import { type F32, type Ptx, type PtxKernel, ptxKernel, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, u32, u64, write } from "../src/spirv.ts"
import { bringKeys, type Sizes } from "./ptx-attention-bring.ts"
import { queryBits } from "./ptx-attention-dropout.ts"
import { endTurn, quadSum, type Role, range, roles, storeRows, takeRows } from "./ptx-attention-frame.ts"
import { type State, unit } from "./ptx-attention-queries-unit.ts"
import { begin, giveBack, passAll } from "./ptx-attention-ring.ts"
import { type AttentionTile, partsOf, ROWS, rowsOf, sharedBytesOf, slotsOf, threadsOf, tileName } from "./ptx-attention-tile.ts"
import { eachTurn, rowsOfTurn } from "./ptx-attention-turn.ts"

const buffers = {
  ...{ maps: read(u64), turns: read(u64), y: read(bf16), lse: read(f32) },
  ...{ mask: read(u32), statistics: write(f32), dqkv: write(bf16) },
} as const
const push = { T: u32, H: u32, K: u32, scale: f32, factor: f32 } as const
type PtxQueries = PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>>

type Given = Sizes & { readonly [N in keyof typeof buffers]: U64 } & Readonly<Record<"scale" | "factor", F32>>

function consume(k: Ptx, role: Role, { turns, y, lse, statistics, mask, dqkv, T, H, K, scale, factor }: Given): void {
  const { tile, isFirstLane } = role
  const parts = partsOf(tile)
  const steps = range(tile.D / 16)
  const state: State = {
    at: begin(k, 0, slotsOf(tile)),
    queries: steps.map(() => k.registers("u32", 4)),
    gradients: steps.map(() => k.registers("u32", 4)),
    scores: k.registers("f32", 32),
    slopes: k.registers("f32", 32),
    left: range(4).map(() => k.registers("u32", 4)),
    out: range(parts).map(() => k.registers("f32", 32)),
    known: range(2).map(() => ({ log: k.register("f32"), delta: k.register("f32") })),
    scale2: k.mulFloat(scale, Math.LOG2E),
    before: k.registers("u32", parts),
    T,
  }
  const { at, out, known, before } = state
  const width = k.mul(k.add(H, k.shl(K, 1)), 2 * tile.D)
  const padded = k.shl(k.shr(k.add(T, ROWS - 1), 6), 6)
  eachTurn(k, turns, false, ({ first, h, b }) => {
    const { own, diagonal, rowOf, inside } = rowsOfTurn(k, role, T, first)
    const all = k.shr(k.add(k.min(k.add(first, rowsOf(tile)), T), ROWS - 1), 6)
    const count = k.select(k.compare("lt", own, T), k.add(diagonal, 1), 0, "u32")
    for (const one of out.flat()) k.copy(one, 0)
    const rows = ([0, 1] as const).map((which) => k.mad(k.mad(b, T, inside(which)), H, h))
    const logs = rows.map((row) => {
      const log = k.register("f32")
      k.load("f32", [log], k.madLong(row, 4, lse))
      return log
    })
    k.comment("y's rows as dy's will lie in registers")
    const ownColumns = k.addLong(y, k.long(k.shl(role.column, 1)))
    const starts = rows.map((row) => k.madLong(row, 2 * tile.D, ownColumns))
    const pairs = steps.map((step) =>
      range(4).map((i) => {
        const pair = k.register("u32")
        k.load("u32", [pair], starts[i & 1]!, 32 * step + 16 * (i >> 1))
        return pair
      }),
    )
    takeRows(k, role, at, [state.queries, state.gradients])
    for (const which of [0, 1] as const) {
      let sum = k.variable("f32", 0)
      for (const step of steps)
        for (const i of [which, which + 2])
          for (const half of [0, 1] as const)
            sum = k.fma(k.unpackBf16(pairs[step]![i]!, half), k.unpackBf16(state.gradients[step]![i]!, half), sum)
      const isInside = k.compare("lt", rowOf(which), T)
      k.mulFloat(logs[which]!, -Math.LOG2E, known[which]!.log)
      k.negate(quadSum(k, sum), known[which]!.delta)
      const place = k.madLong(k.mad(k.mad(b, H, h), padded, rowOf(which)), 8, statistics)
      const values = [known[which]!.log, known[which]!.delta].map((one) => k.select(isInside, one, 0, "f32"))
      k.when(k.both(k.compare("eq", role.column, 0), k.compare("lt", own, T)), () => k.store("f32", place, 0, values))
    }
    const bits = tile.drops ? queryBits(k, role, { mask, T, H, h, b }, inside) : undefined
    const j = k.variable("u32", 0)
    k.while(
      "KEYS",
      () => k.compare("lt", j, count),
      () => {
        unit(k, role, state, [j, diagonal], bits?.(j), factor)
        k.add(j, 1, j)
      },
    )
    k.multiplyWait(0)
    if (3 * parts <= at.slots) k.if(k.compare("ne", count, 0), () => before.forEach((barriers) => giveBack(k, { barriers }, isFirstLane)))
    passAll(k, at, k.mul(k.sub(all, count), 2 * parts), isFirstLane)
    const base = k.addLong(dqkv, k.long(k.mul(h, 2 * tile.D)))
    storeRows(k, role, out, [scale, scale], (which) => ({
      address: k.madLong(k.mad(b, T, rowOf(which)), width, base),
      has: k.compare("lt", rowOf(which), T),
    }))
    endTurn(k, role)
  })
}

/**
 * dq = scale·(p∘(dp − δ))·k with p = e^(score − lse) and dp = dy·vᵀ, under dropout times its factor, as in attention-backward.ts; p∘(dp − δ) is rounded to
 * bf16 before it meets k. dqkv (B·T, (H + 2K)·D), y, dy (B·T, H·D) and lse (B·T, H). statistics[b, h, t] = (−lse·log₂ e, −δ) with δ = Σ dy·y, zeros for
 * T ≤ t < P = ⌈T/64⌉·64, which the keys' gradient reads. maps: of qkv, then of dy, as (B, T, columns).
 * turns: 64·groups queries of a head. Grid: columns of turns. 3·B·T·T·H·D FLOP.
 */
export function ptxAttentionQueries(tile: AttentionTile): PtxQueries {
  return ptxKernel({
    name: `ptx_attention_queries${tileName(tile)}`,
    about: `gradient of attention for queries, heads of ${tile.D}: ${tile.groups} warpgroups of 64 queries each`,
    threads: threadsOf(tile),
    sharedBytes: sharedBytesOf(tile),
    buffers,
    push,
    body(k, given) {
      roles(
        k,
        tile,
        () => bringKeys(k, tile, given, "backward"),
        (role) => consume(k, role, given),
      )
    },
  })
}
