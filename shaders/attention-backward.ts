/** The gradient of causal attention, for every device: δ, then dq, and dk with dv, without atomics. */
import { act, type Body, type Bool, constant, type F32, f32, kernel, read, type U32, u32, write } from "../src/spirv.ts"
import { attentionLive, attentionPush, headPlaces } from "./attention.ts"
import { CHUNK, type Four, four, Keep, LANES, type Rows, SIDES, TILE, Tiles, unitOf } from "./attention-tile.ts"

/** Lanes that sum one row and head of δ, and columns each takes at a time. */
const SUMMING = 4

/**
 * delta[r, h] = Σ over d of dy·y. y, dy (n, D), delta (n) f32, n = rows·heads. Grid: any; ⌈n / 64⌉ gives each four lanes one. Moves 2·n·D·s bytes.
 */
export const attentionDelta = kernel({
  name: "attention_delta",
  workgroup: LANES,
  buffers: { y: read(act), dy: read(act), delta: write(f32) },
  push: { n: u32, D: u32 },
  body(k, { y, dy, delta, n, D }) {
    const part = k.lane.and(SUMMING - 1)
    const perGroup = LANES / SUMMING
    k.for(k.group.mul(perGroup), n, k.groups.mul(perGroup), (first) => {
      const r = first.add(k.lane.shr(2))
      const sum = k.var(f32, 0)
      k.if(r.lt(n), () => {
        k.if(
          D.and(7).eq(0),
          () => {
            k.for(part, D.shr(3), SUMMING, (d) => {
              const at = r.mul(D.shr(3)).add(d)
              const [left, right] = [y.pack(8).at(at), dy.pack(8).at(at)]
              left.forEach((value, e) => sum.set(value.fma(right[e]!, sum.get())))
            })
          },
          () => k.for(part, D, SUMMING, (d) => sum.set(y.at(r.mul(D).add(d)).fma(dy.at(r.mul(D).add(d)), sum.get()))),
        )
      })
      for (const mask of [1, 2]) sum.add(k.subgroupShuffleXor(sum.get(), mask))
      k.if(part.eq(0).and(r.lt(n)), () => delta.set(r, sum.get()))
    })
  },
})

const inputs = { qkv: read(act), dy: read(act), lse: read(f32), delta: read(f32) } as const

/** What both kernels see of a head h of sequence b. */
function head(k: Body, h: U32, b: U32, isEdge: boolean, sizes: { readonly T: U32; readonly H: U32; readonly K: U32; readonly D: U32 }) {
  const { T, H } = sizes
  const places = headPlaces(h, sizes, unitOf(isEdge))
  /** Number of a position's row among all rows and heads: of lse, delta, and, times the head size, of y. */
  const place = (position: U32): U32 => b.mul(T).add(position).mul(H).add(h)
  return {
    places,
    /** The rows of a tile from position `from` on, `width` apart. */
    rows: (memory: Rows["memory"], from: U32, width: U32, column: U32): Rows => ({
      memory,
      start: (r) => b.mul(T).add(from).add(r).mul(width).add(column),
      has: (r) => from.add(r).lt(T),
    }),
    /** lse/ln 2 and δ of a position, or 0. */
    statistics(position: U32, lse: { at(i: U32): F32 }, delta: { at(i: U32): F32 }) {
      const at = position.lt(T).select(place(position), k.u32(0))
      return { lse: lse.at(at).mul(Math.LOG2E), delta: delta.at(at) }
    },
  }
}

/** The weights p and score gradients ds of a tile, element (a, b) where `sees` holds, from q·k and dy·v; `factor` is that of dropout. */
function gradients(
  k: Body,
  scores: Four<Four<F32>>,
  products: Four<Four<F32>>,
  of: (a: 0 | 1 | 2 | 3, b: 0 | 1 | 2 | 3) => { sees: Bool; lse: F32; delta: F32; factor: () => F32 },
  dropout: U32,
): { weights: Four<Four<F32>>; ds: Four<Four<F32>> } {
  const cells = four((a) =>
    four((b) => {
      const { sees, lse, delta, factor } = of(a, b)
      const weight = sees.select(scores[a][b].sub(lse).exp2(), 0)
      const kept = k.var(f32, 1)
      k.if(dropout.ne(0), () => kept.set(factor()))
      return { weight: weight.mul(kept.get()), ds: weight.mul(products[a][b].mul(kept.get()).sub(delta)) }
    }),
  )
  return { weights: four((a) => four((b) => cells[a][b].weight)), ds: four((a) => four((b) => cells[a][b].ds)) }
}

function queries(chunks: number, isEdge: boolean) {
  return kernel({
    name: `attention_backward_q_${isEdge ? "edge" : chunks * CHUNK}`,
    workgroup: LANES,
    buffers: { ...inputs, dqkv: write(act) },
    push: attentionPush,
    params: attentionLive,
    constants: { dropout: constant(u32, 0) },
    body(k, { qkv, dy, lse, delta, dqkv, T, H, K, D, scale, site, threshold, factor, seed, step, row, dropout }) {
      const [h, slice, b] = [k.group.mod(H), k.group.div(H), k.groupZ]
      const position = k.groupsY.sub(k.groupY).sub(1).mul(TILE)
      const tiles = new Tiles(k, D, isEdge)
      const { places, rows, statistics } = head(k, h, b, isEdge, { T, H, K, D })
      const keep = new Keep(k, { seed: seed.toU32(), step: step.toU32(), site, threshold, factor })
      const queryNumber = row.toU32().div(T).add(b).mul(H).add(h).mul(T).add(position)
      const first = slice.mul(chunks * CHUNK)
      const sums = Array.from({ length: 16 * chunks }, () => k.var(f32, 0))
      const own = four((i) => statistics(position.add(tiles.row(i)), lse, delta))
      const scale2 = scale.mul(Math.LOG2E)
      k.for(0, position.add(TILE).min(T), TILE, (block) => {
        k.if(dropout.ne(0), () => keep.fill(queryNumber, block, T))
        const keys = rows(qkv, block, places.width, places.key)
        const scores = tiles.dots(rows(qkv, position, places.width, places.query), keys, scale2)
        const products = tiles.dots(rows(dy, position, H.mul(places.size), places.query), rows(qkv, block, places.width, places.value))
        const { ds } = gradients(
          k,
          scores,
          products,
          (i, j) => ({
            sees: block.add(tiles.column(j)).le(position.add(tiles.row(i))),
            ...own[i],
            factor: () => keep.factor(tiles.row(i), tiles.column(j)),
          }),
          dropout,
        )
        tiles.putWeights(ds)
        for (let chunk = 0; chunk < chunks; chunk++) tiles.weighted(sums.slice(16 * chunk, 16 * chunk + 16), keys, first.add(chunk * CHUNK))
      })
      for (const i of SIDES) {
        const at = position.add(tiles.row(i))
        k.if(at.lt(T), () => {
          for (let chunk = 0; chunk < chunks; chunk++) {
            const values = sums.slice(16 * chunk + 4 * i, 16 * chunk + 4 * i + 4).map((sum) => sum.get().mul(scale))
            const start = b.mul(T).add(at).mul(places.width).add(places.query)
            tiles.store(dqkv, start, first.add(chunk * CHUNK).add(tiles.x.mul(4)), values)
          }
        })
      }
    },
  })
}

function keys(chunks: number, isEdge: boolean) {
  return kernel({
    name: `attention_backward_kv_${isEdge ? "edge" : chunks * CHUNK}`,
    workgroup: LANES,
    buffers: { ...inputs, dqkv: write(act) },
    push: attentionPush,
    params: attentionLive,
    constants: { dropout: constant(u32, 0) },
    body(k, { qkv, dy, lse, delta, dqkv, T, H, K, D, scale, site, threshold, factor, seed, step, row, dropout }) {
      const [keyHead, slice, b] = [k.group.mod(K), k.group.div(K), k.groupZ]
      const position = k.groupY.mul(TILE) // of the first key; early keys, which cost most, first
      const group = H.div(K)
      const tiles = new Tiles(k, D, isEdge)
      const keep = new Keep(k, { seed: seed.toU32(), step: step.toU32(), site, threshold, factor })
      const first = slice.mul(chunks * CHUNK)
      const [dKeys, dValues] = [0, 1].map(() => Array.from({ length: 16 * chunks }, () => k.var(f32, 0)))
      const scale2 = scale.mul(Math.LOG2E)
      k.for(keyHead.mul(group), keyHead.add(1).mul(group), 1, (h) => {
        const { places, rows, statistics } = head(k, h, b, isEdge, { T, H, K, D })
        const sampleNumber = row.toU32().div(T).add(b).mul(H).add(h).mul(T)
        k.for(position, T, TILE, (block) => {
          k.if(dropout.ne(0), () => keep.fill(sampleNumber.add(block), position, T))
          const query = rows(qkv, block, places.width, places.query)
          const gradient = rows(dy, block, H.mul(places.size), places.query)
          const scores = tiles.dots(rows(qkv, position, places.width, places.key), query, scale2)
          const products = tiles.dots(rows(qkv, position, places.width, places.value), gradient)
          const own = four((j) => statistics(block.add(tiles.column(j)), lse, delta))
          const { weights, ds } = gradients(
            k,
            scores,
            products,
            (i, j) => {
              const query = block.add(tiles.column(j))
              return {
                sees: position.add(tiles.row(i)).le(query).and(query.lt(T)),
                ...own[j],
                factor: () => keep.factor(tiles.column(j), tiles.row(i)),
              }
            },
            dropout,
          )
          for (const [sums, tile, source] of [[dValues!, weights, gradient] as const, [dKeys!, ds, query] as const]) {
            tiles.putWeights(tile)
            for (let chunk = 0; chunk < chunks; chunk++)
              tiles.weighted(sums.slice(16 * chunk, 16 * chunk + 16), source, first.add(chunk * CHUNK))
          }
        })
      })
      const { places } = head(k, keyHead.mul(group), b, isEdge, { T, H, K, D })
      for (const i of SIDES) {
        const at = position.add(tiles.row(i))
        k.if(at.lt(T), () => {
          for (let chunk = 0; chunk < chunks; chunk++) {
            const d = first.add(chunk * CHUNK).add(tiles.x.mul(4))
            const start = b.mul(T).add(at).mul(places.width)
            const of = (sums: typeof dKeys) => sums!.slice(16 * chunk + 4 * i, 16 * chunk + 4 * i + 4).map((sum) => sum.get())
            tiles.store(
              dqkv,
              start.add(places.key),
              d,
              of(dKeys).map((value) => value.mul(scale)),
            )
            tiles.store(dqkv, start.add(places.value), d, of(dValues))
          }
        })
      }
    },
  })
}

/**
 * dq[i] = scale·Σ over j ≤ i of ds·k[j], ds = p·(keep·dy[i]·v[j] − δ[i]), p = e^(scale·q·k − lse), into the q columns of dqkv (B·T, (H + 2K)·D).
 * dy (B·T, H·D), lse, delta (B·T, H). Grid: (H·⌈D/chunk⌉, ⌈T/64⌉, B) as in attention. 3·B·T·T·H·D FLOP.
 */
export const attentionBackwardQueries = [queries(1, false), queries(2, false), queries(1, true)] as const

/**
 * dv[j] = Σ over i ≥ j of keep·p·dy[i], dk[j] = scale·Σ ds·q[i], over the query heads of a key head in order, into the k and v columns of dqkv.
 * Grid: (K·⌈D/chunk⌉, ⌈T/64⌉, B). 4·B·T·T·H·D FLOP.
 */
export const attentionBackwardKeys = [keys(1, false), keys(2, false), keys(1, true)] as const
