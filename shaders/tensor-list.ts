/** Lists of tensors in one dispatch: a table of addresses and a table of chunks that workgroups take in turns. */
import { type Body, type F32, f32, kernel, type ReadBuffer, read, type U32, u32, u64, vec2, write } from "../src/spirv.ts"

/** Elements of a chunk. */
export const CHUNK = 8192

/** The buffers of a kernel over lists. chunks (n): number of the tensor, its element where the chunk starts. sizes: elements per tensor. */
export const LIST = { addresses: read(u64), sizes: read(u32), chunks: read(vec2(u32)) }

/** Elements that a lane takes at once: 8 have more bytes under way, 4 of neighbouring lanes fill whole sectors of the cache when they are stored. */
export type PackSize = 1 | 4 | 8

/** A chunk of a tensor. */
export interface Chunk {
  /** Number of the chunk and of its tensor. */
  readonly i: U32
  readonly tensor: U32
  /** Calls body(index, pack) for packs of `size` and for the elements left at the tensor's end (pack 1), spread over the lanes. */
  each(body: (index: U32, pack: PackSize) => void, size?: 4 | 8): void
}

interface Target {
  set(index: U32, value: F32): void
  pack(count: 4 | 8): { set(index: U32, values: readonly F32[]): void }
}
interface Source {
  at(index: U32): F32
  pack(count: 4 | 8): { at(index: U32): readonly F32[] }
}
export function loadPack(from: Source, pack: PackSize, index: U32): readonly F32[] {
  return pack === 1 ? [from.at(index)] : from.pack(pack).at(index)
}
export function storePack(to: Target, pack: PackSize, index: U32, values: readonly F32[]): void {
  if (pack === 1) to.set(index, values[0]!)
  else to.pack(pack).set(index, values)
}

/** Calls body for every chunk that this workgroup takes. isPacked 0: no packs, where tensors are not aligned to them. */
export function eachChunk(
  k: Body,
  chunks: ReadBuffer<ReturnType<typeof vec2<"u32">>>,
  sizes: ReadBuffer<typeof u32>,
  n: U32,
  body: (chunk: Chunk) => void,
  isPacked: U32 = k.u32(1),
): void {
  k.for(k.group, n, k.groups, (i) => {
    const { x: tensor, y: start } = chunks.at(i)
    body({
      i,
      tensor,
      each(inner, size = 8) {
        const end = sizes.at(tensor).sub(start).min(CHUNK).add(start)
        const first = start.div(size)
        const last = isPacked.ne(0).select(end.div(size), first)
        k.for(first.add(k.lane), last, k.workgroup, (index) => inner(index, size))
        k.for(last.mul(size).add(k.lane), end, k.workgroup, (index) => inner(index, 1))
      },
    })
  })
}

/**
 * sums[i] = Σ x² over chunk i. addresses, sizes (tensors), chunks, sums (n) f32. Grid: any. Moves 4 bytes per element.
 */
export const squareSums = kernel({
  name: "square_sums",
  workgroup: 256,
  buffers: { ...LIST, sums: write(f32) },
  push: { n: u32 },
  body(k, { addresses, sizes, chunks, sums, n }) {
    eachChunk(k, chunks, sizes, n, ({ i, tensor, each }) => {
      const x = k.memoryAt("x", addresses.at(tensor), read(f32))
      const sum = k.var(f32, 0)
      each((index, pack) => {
        for (const value of loadPack(x, pack, index)) sum.add(value.mul(value))
      })
      const total = k.workgroupSum(sum.get())
      k.if(k.lane.eq(0), () => sums.set(i, total))
    })
  },
})

/** norm = √(Σ sums), n of them, in an order fixed by n. Grid: 1 workgroup. */
export const normOfSums = kernel({
  name: "norm_of_sums",
  workgroup: 1024,
  buffers: { sums: read(f32), norm: write(f32) },
  push: { n: u32 },
  body(k, { sums, norm, n }) {
    const sum = k.var(f32, 0)
    k.for(k.lane, n, k.workgroup, (i) => sum.add(sums.at(i)))
    const total = k.workgroupSum(sum.get())
    k.if(k.lane.eq(0), () => norm.set(0, total.sqrt()))
  },
})
