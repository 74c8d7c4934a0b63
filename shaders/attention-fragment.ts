/** Causal attention by 16 × 16 matrices per subgroup with the functions of VK_NV_cooperative_matrix2: weights never leave the registers. bf16. */
import {
  type Body,
  bf16,
  type F32,
  type FloatMatrix,
  f32,
  kernel,
  type ReadBuffer,
  read,
  readWrite,
  type SharedArray,
  type U32,
  u32,
  vec4,
  write,
} from "../src/spirv.ts"
import { kept, masks, push } from "./attention-tensor-tile.ts"
import { rounded } from "./matrix-round.ts"

export const SIDE = 16
export const LANES = 32
/** Query rows of a workgroup, keys in shared memory at a time. */
export const FRAGMENT_ROWS = 128
export const KEYS = 64
/** Keys whose scores are in registers at a time, in blocks of 16. */
const WIDE = 2
/** bf16 in 16 bytes. */
export const PACK = 8
/** As in attention-tensor.ts. */
const MOST = 2 ** 64
const LOWEST = -1.7e38

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
export type Shared = SharedArray<ReturnType<typeof vec4<"u32">>>
export type Sum = FloatMatrix<"accumulator">

/** A lane's share of 64 rows of a head, in registers between their load and their way to shared memory. */
export function pieces(k: Body, memory: ReadBuffer<typeof bf16>, size: number, lanes: number, base: number) {
  const perRow = size / PACK
  const held = range((KEYS * perRow) / lanes).map((turn) => {
    const piece = k.lane.add(turn * lanes)
    return { row: piece.div(perRow), pack: piece.mod(perRow), value: k.var(vec4(u32), 0) }
  })
  return {
    /** From element `first`, rows `width` elements apart. */
    load(first: U32, width: U32) {
      for (const { row, pack, value } of held) value.set(memory.as(vec4(u32)).at(first.add(row.mul(width)).div(PACK).add(pack)))
    },
    store(shared: Shared) {
      for (const { row, pack, value } of held)
        shared.set(
          row
            .mul(perRow + 1)
            .add(pack)
            .add(base),
          value.get(),
        )
    },
  }
}

/** Columns that go through shared memory at a time on their way out, and packs from one row of them to the next. */
const CHUNK = 32
const CHUNK_PITCH = CHUNK / 4 + 1
/** Packs of shared memory: two tiles of keys, or the rows that go out. */
export const sharedPacks = (size: number, subgroups: number): number =>
  Math.max(2 * KEYS * (size / PACK + 1), subgroups * SIDE * CHUNK_PITCH)

/** Calls `store` with every row of a subgroup's 16 and four neighbouring columns, number `quad`, from matrices side by side. Barriers before and between. */
export function storeRows(k: Body, tiles: Shared, rows: readonly Sum[], store: (r: U32, quad: U32, values: readonly F32[]) => void): void {
  const mine = k.subgroup.mul(SIDE * CHUNK_PITCH)
  const perChunk = CHUNK / SIDE
  for (let first = 0; first < rows.length; first += perChunk) {
    const chunk = rows.slice(first, first + perChunk)
    k.barrier()
    chunk.forEach((sum, d) => k.storeMatrix(tiles, mine.add(d * (SIDE / 4)), CHUNK_PITCH, "row", sum))
    k.barrier()
    const quads = chunk.length * (SIDE / 4)
    k.for(k.lane.mod(LANES), SIDE * quads, LANES, (piece) => {
      const [r, quad] = [piece.div(quads), piece.mod(quads)]
      const { x, y, z, w } = tiles.at(mine.add(r.mul(CHUNK_PITCH)).add(quad))
      store(
        r,
        quad.add(first * (SIDE / 4)),
        [x, y, z, w].map((word) => word.asF32()),
      )
    })
  }
}

/** Blocks of 16 rows per subgroup: as many as the registers hold. */
const blocksOf = (size: number): number => (size <= 64 ? 2 : 1)

function forward(size: number, drops: boolean) {
  const blocks = blocksOf(size)
  const subgroups = FRAGMENT_ROWS / SIDE / blocks
  const depth = range(size / SIDE)
  const pitch = size / PACK + 1
  return kernel({
    name: `attention_fragment_${size}${drops ? "_dropout" : ""}`,
    workgroup: subgroups * LANES,
    sharedKiB: 48,
    buffers: { qkv: read(bf16), ...masks, y: write(bf16), lse: readWrite(f32) },
    push,
    body(k, { qkv, mask, y, lse, T, H, K, scale, factor }) {
      const [A, B] = [k.matrix(bf16, "a", SIDE, SIDE, "subgroup"), k.matrix(bf16, "b", SIDE, SIDE, "subgroup")]
      const S = k.matrix(f32, "accumulator", SIDE, SIDE, "subgroup")
      const tiles: Shared = k.shared("tiles", vec4(u32), sharedPacks(size, subgroups))
      const [h, b] = [k.group, k.groupZ]
      const q0 = k.groupsY.sub(k.groupY).sub(1).mul(FRAGMENT_ROWS) // late positions, which cost most, first
      const own = q0.add(k.subgroup.mul(blocks * SIDE))
      const width = H.add(K.mul(2)).mul(size)
      const keyHead = H.add(h.mul(K).div(H))
      const first = b.mul(T).mul(width)
      const [queryAt, keyAt, valueAt] = [first.add(h.mul(size)), first.add(keyHead.mul(size)), first.add(keyHead.add(K).mul(size))]
      const row0 = b.mul(T).add(own).mul(H).add(h)
      const scale2 = scale.mul(Math.LOG2E)
      const [high, wide] = [range(blocks), range(WIDE)]

      const queries = high.map((i) =>
        depth.map((d) => k.loadMatrix(A, qkv, queryAt.add(own.add(i * SIDE).mul(width)).add(d * SIDE), width, "row")),
      )
      const hide = (r: U32, c: U32, x: F32, row: U32, column: U32) => row.add(r).ge(column.add(c)).select(x, LOWEST)
      const larger = (a: F32, b: F32): F32 => a.max(b)
      const larger2 = (_r: U32, _c: U32, a: F32, b: F32): F32 => a.max(b)
      const together = (a: F32, b: F32): F32 => a.add(b)
      const exp = (_r: U32, _c: U32, x: F32, scale2: F32) => x.mul(scale2).exp2()
      const keep = kept(mask, { T, factor }, false)
      const drop = (r: U32, c: U32, x: F32, row: U32, column: U32, number: U32) => x.mul(keep(number, row.add(r), column.add(c)))
      const number = b.mul(H).add(h).mul(T)

      /** −reference of the rows, the same along each: at first that of the largest score on the diagonal, which every row sees. */
      const references = high.map((i) => {
        const at = own.add(i * SIDE)
        const diagonal = depth.reduce<Sum>(
          (sum, d) => k.mulAdd(queries[i]![d]!, k.loadMatrix(B, qkv, keyAt.add(at.mul(width)).add(d * SIDE), width, "column"), sum),
          k.fill(S, 0),
        )
        return k.var(S, diagonal.map(hide, at, at).reduce("row", larger).neg())
      })
      const outputs = high.map(() => depth.map(() => k.var(S, 0)))
      const sums = high.map(() => k.var(S, 0))
      const tops = high.map(() => k.var(S, LOWEST))
      const totals = high.map(() => k.var(S, 0))
      const [keys, values] = [pieces(k, qkv, size, subgroups * LANES, 0), pieces(k, qkv, size, subgroups * LANES, KEYS * pitch)]
      const bring = (block: U32) => {
        keys.load(keyAt.add(block.mul(width)), width)
        values.load(valueAt.add(block.mul(width)), width)
      }
      const end = q0.add(FRAGMENT_ROWS)

      /** Scores of the subgroup's rows and 32 keys of the block, then what they are for. */
      const part = (block: U32, half: number, isForMax: boolean) => {
        const places = wide.map((c) => (half * WIDE + c) * SIDE)
        const scores = high.map((i) => wide.map(() => k.var(S, isForMax ? k.fill(S, 0) : references[i]!.get())))
        for (const c of wide)
          for (const d of depth) {
            const key = k.loadMatrix(B, tiles, places[c]! * pitch + (d * SIDE) / PACK, pitch, "column")
            for (const i of high) scores[i]![c]!.update((sum) => k.mulAdd(queries[i]![d]!, key, sum))
          }
        k.if(block.add((half + 1) * WIDE * SIDE).gt(own), () => {
          for (const i of high)
            for (const c of wide) scores[i]![c]!.update((sum) => sum.map(hide, own.add(i * SIDE), block.add(places[c]!)))
        })
        if (isForMax) {
          for (const i of high) for (const c of wide) tops[i]!.update((top) => top.map(larger2, scores[i]![c]!.get()))
          return
        }
        const weights = high.map((i) =>
          wide.map((c) => {
            const weight = scores[i]![c]!.get().map(exp, scale2)
            sums[i]!.update((sum) => sum.add(weight))
            return rounded(drops ? weight.map(drop, own.add(i * SIDE), block.add(places[c]!), number) : weight).convert(A)
          }),
        )
        for (const c of wide)
          for (const d of depth) {
            const value = k.loadMatrix(B, tiles, KEYS * pitch + places[c]! * pitch + (d * SIDE) / PACK, pitch, "row")
            for (const i of high) outputs[i]![d]!.update((sum) => k.mulAdd(weights[i]![c]!, value, sum))
          }
      }
      const sweep = (isForMax: boolean) => {
        bring(k.u32(0))
        k.for(0, end, KEYS, (block) => {
          k.barrier()
          keys.store(tiles)
          values.store(tiles)
          k.barrier()
          k.if(block.add(KEYS).lt(end), () => bring(block.add(KEYS)))
          k.if(block.lt(own.add(blocks * SIDE)), () => {
            for (const half of range(KEYS / SIDE / WIDE)) part(block, half, isForMax)
          })
        })
      }

      k.for(0, 2, 1, (attempt) => {
        k.if(attempt.ne(0), () => {
          sweep(true)
          for (const i of high) {
            references[i]!.set(tops[i]!.get().reduce("row", larger).neg())
            sums[i]!.set(k.fill(S, 0))
            for (const d of depth) outputs[i]![d]!.set(k.fill(S, 0))
          }
        })
        sweep(false)
        k.barrier("buffers") // the sums of the attempt before have been looked at
        for (const i of high) {
          totals[i]!.set(sums[i]!.get().reduce("row", together))
          totals[i]!.get().map(
            (r, c, x, row0) => {
              k.if(c.eq(0), () => lse.set(row0.add(r.mul(H)), x))
              return x
            },
            row0.add(H.mul(i * SIDE)),
          )
        }
        k.barrier("buffers")
        const isFine = lse.at(b.mul(T).add(q0).add(k.lane.mod(FRAGMENT_ROWS)).mul(H).add(h)).lt(MOST)
        k.breakIf(k.workgroupMax(isFine.select(k.u32(0), 1)).eq(0))
      })
      k.barrier("buffers") // the sums have been looked at
      for (const i of high) {
        references[i]!.get().map(
          (r, c, x, total, row0, scale2) => {
            k.if(c.eq(0), () => lse.set(row0.add(r.mul(H)), total.log2().sub(x.mul(scale2)).mul(Math.LN2)))
            return x
          },
          totals[i]!.get(),
          row0.add(H.mul(i * SIDE)),
          scale2,
        )
        const rows = outputs[i]!.map((sum) => sum.get().div(totals[i]!.get()))
        const at = b
          .mul(T)
          .add(own)
          .add(i * SIDE)
        storeRows(k, tiles, rows, (r, quad, values) =>
          y.pack(4).set(
            at
              .add(r)
              .mul(H)
              .add(h)
              .mul(size / 4)
              .add(quad),
            values,
          ),
        )
      }
    },
  })
}

/** Head sizes that there are kernels for. */
export const FRAGMENT_SIZES = [32, 64, 96, 128] as const
const bySize = (drops: boolean) => FRAGMENT_SIZES.map((size) => forward(size, drops))
/**
 * y and lse as in attention-tensor.ts, T a multiple of 128, subgroups of 32; by place in FRAGMENT_SIZES. Each subgroup has 32 (or 16) query rows;
 * keys and values come through shared memory, 64 at a time, the next ones are loaded meanwhile. Grid: (H, T/128, B). 2·B·T·T·H·D FLOP.
 * Source: Dao 2023, arXiv:2307.08691 (work split by rows, weights kept in registers).
 */
export const fragmentAttention = { plain: bySize(false), dropout: bySize(true) }
