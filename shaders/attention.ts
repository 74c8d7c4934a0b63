/** Causal attention of whole sequences, forward, for every device. */
import { act, type Body, constant, type F32, f32, i32, kernel, read, type U32, u32, write } from "../src/spirv.ts"
import { CHUNK, type Four, four, Keep, LANES, merge, merged, RowSums, type Rows, SIDES, TILE, Tiles, unitOf } from "./attention-tile.ts"

/** Rows and keys of one tile of queries of one head. */
interface Attend {
  readonly query: Rows
  readonly keys: (block: U32) => Rows
  readonly values: (block: U32) => Rows
  /** Position of the tile's first query. */
  readonly position: U32
  /** Keys there are for the tile. */
  readonly end: U32
  /** Factor of q·k times log2 e. */
  readonly scale: F32
  /** Columns of the head that this workgroup gives: from `first`, `chunks` · 64. */
  readonly first: U32
  readonly chunks: number
  /** Fills and gives the factors of the weights of the block that starts at a key. */
  readonly keep?: { fill(block: U32): void; factors(weights: Four<Four<F32>>): Four<Four<F32>> }
}

/**
 * Outputs (row i, chunk c, element e) at [16c + 4i + e], and lse/ln 2, of the lane's rows. A row sees the keys up to its position, in blocks of
 * 64 from 0 on: each gives (max, sum, Σ weight·v), merged in order. Keys that a row does not see add an exact 0, so its bits depend on its
 * position and the head size only.
 */
export function attend(k: Body, tiles: Tiles, { query, keys, values, position, end, scale, first, chunks, keep }: Attend) {
  const [maxima, sums] = [new RowSums(k, "maxima", "max"), new RowSums(k, "sums", "add")]
  const max = four(() => k.var(f32, Number.NEGATIVE_INFINITY))
  const sum = four(() => k.var(f32, 0))
  const outputs = Array.from({ length: 16 * chunks }, () => k.var(f32, 0))
  k.for(0, end, TILE, (block) => {
    keep?.fill(block)
    const scores = tiles.dots(query, keys(block), scale)
    const sees = four((i) => four((j) => block.add(tiles.column(j)).le(position.add(tiles.row(i)))))
    const seen = four((i) => four((j) => sees[i][j].select(scores[i][j], Number.NEGATIVE_INFINITY)))
    maxima.put(four((i) => seen[i][0].max(seen[i][1]).max(seen[i][2]).max(seen[i][3])))
    k.barrier()
    const top = maxima.total()
    const weights = four((i) => four((j) => sees[i][j].select(scores[i][j].sub(top[i]).exp2(), 0)))
    sums.put(four((i) => weights[i][0].add(weights[i][1]).add(weights[i][2]).add(weights[i][3])))
    tiles.putWeights(keep?.factors(weights) ?? weights)
    k.barrier()
    const total = sums.total()
    const isSeen = four((i) => block.le(position.add(tiles.row(i))))
    const states = four((i) => merge(max[i].get(), sum[i].get(), top[i], total[i]))
    for (const i of SIDES) {
      max[i].set(isSeen[i].select(states[i].max, max[i].get()))
      sum[i].set(isSeen[i].select(states[i].sum, sum[i].get()))
    }
    for (let chunk = 0; chunk < chunks; chunk++) {
      const own = Array.from({ length: 16 }, () => k.var(f32, 0))
      tiles.weighted(own, values(block), first.add(chunk * CHUNK))
      own.forEach((value, n) => {
        const i = (n >> 2) as 0 | 1 | 2 | 3
        const output = outputs[16 * chunk + n]!
        output.set(isSeen[i].select(merged(output.get(), value.get(), states[i]), output.get()))
      })
    }
  })
  const scaled = outputs.map((output, n) => output.get().div(sum[((n >> 2) & 3) as 0 | 1 | 2 | 3].get()))
  return { outputs: scaled, lse: four((i) => max[i].get().add(sum[i].get().log2())) }
}

/** Where the heads of a row of qkv lie, in units of `unit` elements. */
export function headPlaces(h: U32, { H, K, D }: { readonly H: U32; readonly K: U32; readonly D: U32 }, unit: number) {
  const size = D.div(unit)
  const keyHead = H.add(h.mul(K).div(H))
  return { size, width: H.add(K.mul(2)).mul(size), query: h.mul(size), key: keyHead.mul(size), value: keyHead.add(K).mul(size) }
}

/** Push constants and live scalars of the training kernels. */
export const attentionPush = { T: u32, H: u32, K: u32, D: u32, scale: f32, site: u32, threshold: u32, factor: f32 } as const
export const attentionLive = { seed: i32, step: i32, row: i32 } as const

function attention(chunks: number, isEdge: boolean) {
  return kernel({
    name: `attention_${isEdge ? "edge" : chunks * CHUNK}`,
    workgroup: LANES,
    buffers: { qkv: read(act), y: write(act), lse: write(f32) },
    push: { ...attentionPush, hasLse: u32 },
    params: attentionLive,
    constants: { dropout: constant(u32, 0) },
    body(k, { qkv, y, lse, T, H, K, D, scale, site, threshold, factor, hasLse, seed, step, row, dropout }) {
      const [h, slice] = [k.group.mod(H), k.group.div(H)]
      const b = k.groupZ
      const position = k.groupsY.sub(k.groupY).sub(1).mul(TILE) // late positions, which cost most, first
      const tiles = new Tiles(k, D, isEdge)
      const places = headPlaces(h, { H, K, D }, unitOf(isEdge))
      const rows = (from: U32, place: U32): Rows => ({
        memory: qkv,
        start: (r) => b.mul(T).add(from).add(r).mul(places.width).add(place),
        has: (r) => from.add(r).lt(T),
      })
      const keep = new Keep(k, { seed: seed.toU32(), step: step.toU32(), site, threshold, factor })
      const queryNumber = row.toU32().div(T).add(b).mul(H).add(h).mul(T).add(position)
      const first = slice.mul(chunks * CHUNK)
      const { outputs, lse: logs } = attend(k, tiles, {
        query: rows(position, places.query),
        keys: (block) => rows(block, places.key),
        values: (block) => rows(block, places.value),
        position,
        end: position.add(TILE).min(T),
        scale: scale.mul(Math.LOG2E),
        first,
        chunks,
        keep: {
          fill: (block) => k.if(dropout.ne(0), () => keep.fill(queryNumber, block, T)),
          factors(weights) {
            const kept = four((i) => four((j) => k.var(f32, weights[i][j])))
            k.if(dropout.ne(0), () => {
              for (const i of SIDES)
                for (const j of SIDES) kept[i][j].update((weight) => weight.mul(keep.factor(tiles.row(i), tiles.column(j))))
            })
            return four((i) => four((j) => kept[i][j].get()))
          },
        },
      })
      for (const i of SIDES) {
        const at = position.add(tiles.row(i))
        k.if(at.lt(T), () => {
          const place = b.mul(T).add(at).mul(H).add(h)
          for (let chunk = 0; chunk < chunks; chunk++) {
            const d = first.add(chunk * CHUNK).add(tiles.x.mul(4))
            tiles.store(y, place.mul(places.size), d, outputs.slice(16 * chunk + 4 * i, 16 * chunk + 4 * i + 4))
          }
          k.if(hasLse.ne(0).and(slice.eq(0)).and(tiles.x.eq(0)), () => lse.set(place, logs[i].mul(Math.LN2)))
        })
      }
    },
  })
}

/**
 * y[i] = Σ over j ≤ i of keep·softmax(scale·q[i]·k[j])·v[j], lse = ln Σ e^score where hasLse. qkv (B·T, (H + 2K)·D), y (B·T, H·D),
 * lse (B·T, H). Grid: (H·⌈D/chunk⌉, ⌈T/64⌉, B), chunk = 64 or 128 columns per workgroup (attention_edge: 64, any D; the others need 8 | D).
 * 2·B·T·T·H·D FLOP. Source: Dao et al. 2022, arXiv:2205.14135.
 */
export const attentions = [attention(1, false), attention(2, false), attention(1, true)] as const
