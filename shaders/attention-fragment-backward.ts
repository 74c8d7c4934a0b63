/** The gradient of causal attention by 16 × 16 matrices per subgroup: dq, and dk with dv, scores and weights in registers. bf16. */
import { type Body, bf16, type F32, type FloatMatrix, f32, kernel, read, type U32, u32, vec4, write } from "../src/spirv.ts"
import {
  FRAGMENT_ROWS,
  FRAGMENT_SIZES,
  KEYS,
  LANES,
  PACK,
  pieces,
  range,
  type Shared,
  SIDE,
  type Sum,
  sharedPacks,
  storeRows,
} from "./attention-fragment.ts"
import { headPlaces } from "./attention-matrix-tile.ts"
import { PICK_ROWS } from "./attention-tensor-inputs.ts"
import { kept, masks, push, STATISTICS } from "./attention-tensor-tile.ts"
import { rounded } from "./matrix-round.ts"

/** Each subgroup has one block of 16 rows. */
const SUBGROUPS = FRAGMENT_ROWS / SIDE

const shape = {
  workgroup: SUBGROUPS * LANES,
  sharedKiB: 48,
  buffers: { qkv: read(bf16), dy: read(bf16), statistics: read(bf16), picks: read(bf16), ...masks, dqkv: write(bf16) },
  push,
} as const

/** Where the parts of a head lie, its statistics too. */
function placesOf(size: number, sizes: { readonly T: U32; readonly H: U32; readonly K: U32 }, b: U32, h: U32) {
  const places = headPlaces(size, sizes, b, h)
  return { ...places, statistics: places.number.mul(STATISTICS) }
}

/** Tiles of 64 rows of two matrices, one after the other in shared memory: brought, kept, and used until none is left. */
function sweep(
  k: Body,
  tiles: Shared,
  parts: readonly (ReturnType<typeof pieces> & { readonly first: U32; readonly width: U32 })[],
  from: U32 | number,
  end: U32,
  use: (block: U32) => void,
): void {
  const bring = (block: U32) => {
    for (const { load, first, width } of parts) load(first.add(block.mul(width)), width)
  }
  bring(typeof from === "number" ? k.u32(from) : from)
  k.for(from, end, KEYS, (block) => {
    k.barrier()
    for (const { store } of parts) store(tiles)
    k.barrier()
    k.if(block.add(KEYS).lt(end), () => bring(block.add(KEYS)))
    use(block)
  })
}

const exp = (_r: U32, _c: U32, x: F32, scale2: F32) => x.mul(scale2).exp2()

function queries(size: number, drops: boolean) {
  const depth = range(size / SIDE)
  const pitch = size / PACK + 1
  return kernel({
    ...shape,
    name: `attention_fragment_backward_q_${size}${drops ? "_dropout" : ""}`,
    body(k, { qkv, dy, statistics, picks, mask, dqkv, T, H, K, scale, factor }) {
      const [A, B] = [k.matrix(bf16, "a", SIDE, SIDE, "subgroup"), k.matrix(bf16, "b", SIDE, SIDE, "subgroup")]
      const S = k.matrix(f32, "accumulator", SIDE, SIDE, "subgroup")
      const tiles: Shared = k.shared("tiles", vec4(u32), sharedPacks(size, SUBGROUPS))
      const [h, b] = [k.group, k.groupZ]
      const q0 = k.groupsY.sub(k.groupY).sub(1).mul(FRAGMENT_ROWS)
      const own = q0.add(k.subgroup.mul(SIDE))
      const at = placesOf(size, { T, H, K }, b, h)
      const scale2 = scale.mul(Math.LOG2E)
      const query = depth.map((d) => k.loadMatrix(A, qkv, at.query.add(own.mul(at.width)).add(d * SIDE), at.width, "row"))
      const gradient = depth.map((d) => k.loadMatrix(A, dy, at.output.add(own.mul(at.outputWidth)).add(d * SIDE), at.outputWidth, "row"))
      const known = k.loadMatrix(A, statistics, at.statistics.add(own.mul(STATISTICS)), STATISTICS, "row")
      const [logs, deltas] = [0, 1].map((which) =>
        k.mulAdd(known, k.loadMatrix(B, picks, which * PICK_ROWS * STATISTICS, STATISTICS, "column"), k.fill(S, 0)),
      ) as [Sum, Sum]
      const sums = depth.map(() => k.var(S, 0))
      const show = (r: U32, c: U32, x: F32, row: U32, column: U32) => row.add(r).ge(column.add(c)).select(x, 0)
      const keep = kept(mask, { T, factor }, false)
      const slope = (r: U32, c: U32, p: F32, dp: F32, delta: F32, row: U32, column: U32, number: U32) =>
        p.mul(dp.fma(keep(number, row.add(r), column.add(c)), delta))
      const parts = [
        { ...pieces(k, qkv, size, SUBGROUPS * LANES, 0), first: at.key, width: at.width },
        { ...pieces(k, qkv, size, SUBGROUPS * LANES, KEYS * pitch), first: at.value, width: at.width },
      ]
      sweep(k, tiles, parts, 0, q0.add(FRAGMENT_ROWS), (block) => {
        k.if(block.lt(own.add(SIDE)), () => {
          for (let c = 0; c < KEYS; c += SIDE) {
            const turned = (base: number, d: number) => k.loadMatrix(B, tiles, base + c * pitch + (d * SIDE) / PACK, pitch, "column")
            const scores = depth.reduce((sum, d) => k.mulAdd(query[d]!, turned(0, d), sum), logs)
            const weights = k.var(S, scores.map(exp, scale2))
            k.if(block.add(c + SIDE).gt(own), () => weights.update((all) => all.map(show, own, block.add(c))))
            const start = drops ? k.fill(S, 0) : deltas
            const products = depth.reduce((sum, d) => k.mulAdd(gradient[d]!, turned(KEYS * pitch, d), sum), start)
            const p = weights.get()
            const ds = rounded(drops ? p.map(slope, products, deltas, own, block.add(c), at.number) : p.mul(products)).convert(A)
            for (const d of depth) {
              const key = k.loadMatrix(B, tiles, c * pitch + (d * SIDE) / PACK, pitch, "row")
              sums[d]!.update((sum) => k.mulAdd(ds, key, sum))
            }
          }
        })
      })
      const rows = sums.map((sum) => sum.get().scale(scale))
      storeRows(k, tiles, rows, (r, quad, values) => dqkv.pack(4).set(at.query.add(own.add(r).mul(at.width)).div(4).add(quad), values))
    },
  })
}

function keys(size: number, drops: boolean) {
  const depth = range(size / SIDE)
  const pitch = size / PACK + 1
  return kernel({
    ...shape,
    name: `attention_fragment_backward_kv_${size}${drops ? "_dropout" : ""}`,
    body(k, { qkv, dy, statistics, picks, mask, dqkv, T, H, K, scale, factor }) {
      const [A, B] = [k.matrix(bf16, "a", SIDE, SIDE, "subgroup"), k.matrix(bf16, "b", SIDE, SIDE, "subgroup")]
      const S = k.matrix(f32, "accumulator", SIDE, SIDE, "subgroup")
      const tiles: Shared = k.shared("tiles", vec4(u32), sharedPacks(size, SUBGROUPS))
      const [keyHead, b] = [k.group, k.groupZ]
      const k0 = k.groupY.mul(FRAGMENT_ROWS) // early keys, which cost most, first
      const own = k0.add(k.subgroup.mul(SIDE))
      const group = H.div(K)
      const head = keyHead.mul(group)
      const mine = placesOf(size, { T, H, K }, b, head)
      const scale2 = scale.mul(Math.LOG2E)
      const row = own.mul(mine.width)
      const ownKeys = depth.map((d) => k.loadMatrix(A, qkv, mine.key.add(row).add(d * SIDE), mine.width, "row"))
      const ownValues = depth.map((d) => k.loadMatrix(A, qkv, mine.value.add(row).add(d * SIDE), mine.width, "row"))
      const [logs, deltas] = [0, 1].map((which) => k.loadMatrix(A, picks, which * PICK_ROWS * STATISTICS, STATISTICS, "row"))
      const [dKeys, dValues] = [0, 1].map(() => depth.map(() => k.var(S, 0)))
      const show = (r: U32, c: U32, x: F32, key: U32, query: U32) => query.add(c).ge(key.add(r)).select(x, 0)
      const keep = kept(mask, { T, factor }, false)
      const drop = (r: U32, c: U32, x: F32, key: U32, query: U32, number: U32) => x.mul(keep(number, query.add(c), key.add(r)))
      const slope = (r: U32, c: U32, p: F32, dp: F32, delta: F32, key: U32, query: U32, number: U32) =>
        p.mul(dp.fma(keep(number, query.add(c), key.add(r)), delta))
      const held = [0, KEYS * pitch].map((base, i) => pieces(k, i === 0 ? qkv : dy, size, SUBGROUPS * LANES, base))
      k.for(head, head.add(group), 1, (h) => {
        const at = placesOf(size, { T, H, K }, b, h)
        const parts = [
          { ...held[0]!, first: at.query, width: at.width },
          { ...held[1]!, first: at.output, width: at.outputWidth },
        ]
        sweep(k, tiles, parts, k0, T, (block) => {
          k.if(block.add(KEYS).gt(own), () => {
            for (let c = 0; c < KEYS; c += SIDE) {
              const part = (base: number, d: number, layout: "row" | "column") =>
                k.loadMatrix(B, tiles, base + c * pitch + (d * SIDE) / PACK, pitch, layout)
              const known = k.loadMatrix(B, statistics, at.statistics.add(block.add(c).mul(STATISTICS)), STATISTICS, "column")
              const start = (pick: typeof logs): FloatMatrix<"accumulator"> => k.mulAdd(pick!, known, k.fill(S, 0))
              const scores = depth.reduce((sum, d) => k.mulAdd(ownKeys[d]!, part(0, d, "column"), sum), start(logs))
              const weights = k.var(S, scores.map(exp, scale2))
              k.if(block.add(c).lt(own.add(SIDE)), () => weights.update((all) => all.map(show, own, block.add(c))))
              const all = weights.get()
              const p = rounded(drops ? all.map(drop, own, block.add(c), at.number) : all).convert(A)
              for (const d of depth) dValues![d]!.update((sum) => k.mulAdd(p, part(KEYS * pitch, d, "row"), sum))
              const delta = start(deltas)
              const products = depth.reduce(
                (sum, d) => k.mulAdd(ownValues[d]!, part(KEYS * pitch, d, "column"), sum),
                drops ? k.fill(S, 0) : delta,
              )
              const ds = rounded(drops ? all.map(slope, products, delta, own, block.add(c), at.number) : all.mul(products)).convert(A)
              for (const d of depth) dKeys![d]!.update((sum) => k.mulAdd(ds, part(0, d, "row"), sum))
            }
          })
        })
        k.barrier() // the next head's tiles wait for these
      })
      const store = (first: U32, rows: readonly Sum[]) =>
        storeRows(k, tiles, rows, (r, quad, values) => dqkv.pack(4).set(first.add(own.add(r).mul(mine.width)).div(4).add(quad), values))
      store(
        mine.key,
        dKeys!.map((sum) => sum.get().scale(scale)),
      )
      store(
        mine.value,
        dValues!.map((sum) => sum.get()),
      )
    },
  })
}

const kinds = <T>(make: (size: number, drops: boolean) => T) => {
  const bySize = (drops: boolean) => FRAGMENT_SIZES.map((size) => make(size, drops))
  return { plain: bySize(false), dropout: bySize(true) }
}
/**
 * As in attention-tensor-backward.ts, T a multiple of 128, subgroups of 32; by place in FRAGMENT_SIZES. Each subgroup has 16 rows (of queries for
 * dq, of keys for dk and dv), the other side comes through shared memory, 64 rows at a time. Grid: (H, T/128, B) and (K, T/128, B).
 */
export const fragmentBackward = { queries: kinds(queries), keys: kinds(keys) }
