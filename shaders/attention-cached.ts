/** Attention of new positions over paged keys and values, for every device: the copy into the pages, and chunks by tiles. */
import { act, f32, i32, kernel, type ReadBuffer, read, type U32, u32, write } from "../src/spirv.ts"
import { attend, headPlaces } from "./attention.ts"
import { CHUNK, LANES, type Rows, SIDES, TILE, Tiles, unitOf } from "./attention-tile.ts"

export const indices = { pages: read(i32), lengths: read(i32), counts: read(i32) } as const
export const push = { T: u32, H: u32, K: u32, D: u32, scale: f32, pageSize: u32, maxPages: u32 } as const

/** The pages, and the units of a head's row. */
interface Paged {
  readonly pages: ReadBuffer<typeof i32>
  readonly maxPages: U32
  readonly pageSize: U32
  readonly K: U32
  readonly size: U32
}
/** Where position p of sequence b begins in the pages of key head `keyHead`, in units of `size` per row. */
export const cell = ({ pages, maxPages, pageSize, K, size }: Paged, b: U32, keyHead: U32, p: U32): U32 =>
  pages
    .at(b.mul(maxPages).add(p.div(pageSize)))
    .toU32()
    .mul(K)
    .add(keyHead)
    .mul(pageSize)
    .add(p.mod(pageSize))
    .mul(size)

function append(isEdge: boolean) {
  return kernel({
    name: `attention_append${isEdge ? "_edge" : ""}`,
    workgroup: LANES,
    buffers: { qkv: read(act), kPages: write(act), vPages: write(act), ...indices },
    push: { ...push, rows: u32 },
    body(k, { qkv, kPages, vPages, pages, lengths, counts, T, H, K, D, pageSize, maxPages, rows }) {
      const unit = unitOf(isEdge)
      k.for(k.group, rows, k.groups, (r) => {
        const [b, i] = [r.div(T), r.mod(T)]
        const { size, width } = headPlaces(k.u32(0), { H, K, D }, unit)
        k.if(i.lt(counts.at(b).toU32()), () => {
          const position = lengths.at(b).toU32().add(i)
          k.for(k.lane, K.mul(size), LANES, (e) => {
            const to = cell({ pages, maxPages, pageSize, K, size }, b, e.div(size), position).add(e.mod(size))
            for (const [memory, first] of [[kPages, H] as const, [vPages, H.add(K)] as const]) {
              const from = r.mul(width).add(first.mul(size)).add(e)
              if (isEdge) memory.set(to, qkv.at(from))
              else memory.pack(8).set(to, qkv.pack(8).at(from))
            }
          })
        })
      })
    },
  })
}

/**
 * Keys and values of the new positions into their pages. qkv (B·T, (H + 2K)·D), kPages and vPages (P, K, pageSize, D); T, pages, lengths,
 * counts as in the op attention_cached; rows = B·T. Grid: any, a workgroup per row at best. Moves 4·rows·K·D·s bytes.
 */
export const attentionAppends = [append(false), append(true)] as const

function chunk(chunks: number, isEdge: boolean) {
  return kernel({
    name: `attention_cached_${isEdge ? "edge" : chunks * CHUNK}`,
    workgroup: LANES,
    buffers: { qkv: read(act), kPages: read(act), vPages: read(act), ...indices, y: write(act) },
    push,
    body(k, { qkv, kPages, vPages, pages, lengths, counts, y, T, H, K, D, scale, pageSize, maxPages }) {
      const [h, slice, b] = [k.group.mod(H), k.group.div(H), k.groupZ]
      const tiles = new Tiles(k, D, isEdge)
      const places = headPlaces(h, { H, K, D }, unitOf(isEdge))
      const [length, count] = [lengths.at(b).toU32(), counts.at(b).toU32()]
      const from = k.groupsY.sub(k.groupY).sub(1).mul(TILE)
      const position = length.add(from)
      const end = from.lt(count).select(position.add(TILE).min(length.add(count)), 0)
      const cached = (memory: Rows["memory"], block: U32): Rows => ({
        memory,
        start: (r) => cell({ pages, maxPages, pageSize, K, size: places.size }, b, h.mul(K).div(H), block.add(r).min(end.sub(1))),
        has: (r) => block.add(r).lt(end),
      })
      const first = slice.mul(chunks * CHUNK)
      const { outputs } = attend(k, tiles, {
        query: {
          memory: qkv,
          start: (r) => b.mul(T).add(from).add(r).mul(places.width).add(places.query),
          has: (r) => from.add(r).lt(count),
        },
        keys: (block) => cached(kPages, block),
        values: (block) => cached(vPages, block),
        ...{ position, end, scale: scale.mul(Math.LOG2E), first, chunks },
      })
      for (const i of SIDES) {
        const at = from.add(tiles.row(i))
        k.if(at.lt(T), () => {
          const start = b.mul(T).add(at).mul(H).add(h).mul(places.size)
          for (let c = 0; c < chunks; c++) {
            const values = outputs.slice(16 * c + 4 * i, 16 * c + 4 * i + 4).map((value) => at.lt(count).select(value, 0))
            tiles.store(y, start, first.add(c * CHUNK).add(tiles.x.mul(4)), values)
          }
        })
      }
    },
  })
}

/**
 * y (B·T, H·D) of a chunk whose keys and values are in the pages; rows from counts[b] on are 0. The bits are those of attention at the same
 * position. Grid: (H·⌈D/chunk⌉, ⌈T/64⌉, B) as there. 4·D FLOP per query, head and key.
 */
export const attentionChunks = [chunk(1, false), chunk(2, false), chunk(1, true)] as const
