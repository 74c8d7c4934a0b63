/** What the attention kernels share: tiles of 64 rows × 64 keys over 256 lanes, staged through shared memory, and the dropout of their weights. */
import {
  type Body,
  type Bool,
  type Choice,
  type F32,
  f32,
  type ReadBuffer,
  type SharedArray,
  type U32,
  u32,
  vec4,
  type WriteBuffer,
} from "../src/spirv.ts"
import { randomBlockAfter } from "./random.ts"

/** Rows, and columns, of a tile; keys are taken in blocks of so many from position 0 on. */
export const TILE = 64
export const LANES = 256
/** Outputs of a lane along each side of a tile: lane (y, x) has rows 4y + i and columns x + 16j. */
export const SIDE = 4
export const SIDES = [0, 1, 2, 3] as const
/** Columns of a head that are multiplied with weights at a time. */
export const CHUNK = 64

/** Columns of a head staged at a time for a product along them, and vectors from one staged row to the next (odd: other banks). */
const DEPTH = 32
const PITCH = DEPTH / 4 + 1
/** Vectors from one column of weights to the next. */
const WEIGHT_PITCH = TILE / SIDE + 1
/** Rows staged at a time for a product with weights. */
const STRIP = 32

/** Elements of a head come in eights where the head size allows it; sizes and places count these units. */
export const unitOf = (isEdge: boolean): number => (isEdge ? 1 : 8)

/** Rows of one head: row r of the tile starts at unit start(r), r < 64, where it exists. */
export interface Rows {
  readonly memory: ReadBuffer<Choice>
  start(r: U32): U32
  has(r: U32): Bool
}

/** A lane's four rows by four columns (or the four numbers of its rows). */
export type Four<T> = readonly [T, T, T, T]
export const four = <T>(make: (i: 0 | 1 | 2 | 3) => T): Four<T> => [make(0), make(1), make(2), make(3)]
type Sums = readonly { get(): F32; set(value: F32): void }[]

/** Shared memory of a kernel over tiles, and the products it serves. D is the head size in elements. */
export class Tiles {
  /** Two operands of 64 rows × 32; later the weights, transposed: vector y of column c holds rows 4y … 4y + 3. */
  private readonly staged: SharedArray<ReturnType<typeof vec4<"f32">>>
  private readonly strip: SharedArray<ReturnType<typeof vec4<"f32">>>
  readonly y: U32
  readonly x: U32

  constructor(
    private readonly k: Body,
    private readonly D: U32,
    private readonly isEdge: boolean,
  ) {
    this.staged = k.shared("staged", vec4(f32), 2 * TILE * PITCH)
    this.strip = k.shared("strip", vec4(f32), (STRIP * CHUNK) / 4)
    this.y = k.lane.shr(4)
    this.x = k.lane.and(15)
  }

  /** Row of the tile, and its column, that this lane's number i, or j, is. */
  row(i: number): U32 {
    return this.y.mul(SIDE).add(i)
  }
  column(j: number): U32 {
    return this.x.add(16 * j)
  }

  /** Elements d … d + 7 of row r, d a multiple of 8; zeros where there are none. */
  private eight({ memory, start, has }: Rows, r: U32, d: U32): readonly F32[] {
    const isRow = has(r)
    if (!this.isEdge) {
      const isInside = isRow.and(d.lt(this.D))
      const values = memory.pack(8).at(isInside.select(start(r).add(d.shr(3)), 0))
      return values.map((value) => isInside.select(value, 0))
    }
    const first = start(r).add(d)
    return Array.from({ length: 8 }, (_, e) => {
      const isInside = isRow.and(d.add(e).lt(this.D))
      return isInside.select(memory.at(isInside.select(first.add(e), 0)), 0)
    })
  }

  private put(to: SharedArray<ReturnType<typeof vec4<"f32">>>, at: U32, [a, b, c, d, e, f, g, h]: readonly F32[]): void {
    to.set(at, this.k.vector(a!, b!, c!, d!))
    to.set(at.add(1), this.k.vector(e!, f!, g!, h!))
  }

  /** Σ over d of scale·a[r, d]·b[c, d] for this lane's rows r and columns c, each in the order of d. Barriers before and after. */
  dots(a: Rows, b: Rows, scale?: F32): Four<Four<F32>> {
    const { k, staged, y, x } = this
    const sums = four(() => four(() => k.var(f32, 0)))
    const [row, part] = [k.lane.shr(2), k.lane.and(3)]
    k.for(0, this.D, DEPTH, (depth) => {
      const d = depth.add(part.mul(8))
      const at = row.mul(PITCH).add(part.mul(2))
      const [left, right] = [this.eight(a, row, d), this.eight(b, row, d)]
      k.barrier()
      this.put(staged, at, scale === undefined ? left : left.map((value) => value.mul(scale)))
      this.put(staged, at.add(TILE * PITCH), right)
      k.barrier()
      k.for(0, DEPTH / 4, 1, (e) => {
        const rows = four((i) => staged.at(y.mul(SIDE).add(i).mul(PITCH).add(e)))
        const columns = four((j) =>
          staged.at(
            x
              .add(TILE + 16 * j)
              .mul(PITCH)
              .add(e),
          ),
        )
        for (const i of SIDES) for (const j of SIDES) sums[i][j].set(dot(rows[i], columns[j], sums[i][j].get()))
      })
    })
    k.barrier()
    return four((i) => four((j) => sums[i][j].get()))
  }

  /** Keeps the weights of all lanes for `weighted`; a barrier must lie between, and one before where `staged` was in use. */
  putWeights(weights: Four<Four<F32>>): void {
    for (const j of SIDES)
      this.staged.set(
        this.column(j).mul(WEIGHT_PITCH).add(this.y),
        this.k.vector(weights[0][j], weights[1][j], weights[2][j], weights[3][j]),
      )
  }

  /** sums[4i + e] += Σ over columns c of weight[4y + i, c]·rows[c, first + 4x + e], in the order of c. Ends with a barrier. */
  weighted(sums: Sums, rows: Rows, first: U32): void {
    const { k, strip, staged, x, y } = this
    const [row, part] = [k.lane.shr(3), k.lane.and(7)]
    k.for(0, TILE, STRIP, (from) => {
      this.put(strip, row.mul(CHUNK / 4).add(part.mul(2)), this.eight(rows, from.add(row), first.add(part.mul(8))))
      k.barrier()
      k.for(0, STRIP, 1, (c) => {
        const weight = staged.at(from.add(c).mul(WEIGHT_PITCH).add(y))
        const value = strip.at(c.mul(CHUNK / 4).add(x))
        const [weights, values] = [
          [weight.x, weight.y, weight.z, weight.w],
          [value.x, value.y, value.z, value.w],
        ]
        for (const i of SIDES) for (const e of SIDES) sums[4 * i + e]!.set(weights[i]!.fma(values[e]!, sums[4 * i + e]!.get()))
      })
      k.barrier()
    })
  }

  /** Writes four elements from column d on of a row that starts at unit `start`, those that are there. */
  store(to: WriteBuffer<Choice>, start: U32, d: U32, values: readonly F32[]): void {
    const { k, D } = this
    if (!this.isEdge) k.if(d.lt(D), () => to.pack(4).set(start.mul(2).add(d.shr(2)), values))
    else values.forEach((value, e) => k.if(d.add(e).lt(D), () => to.set(start.add(d).add(e), value)))
  }
}

interface Vector {
  readonly x: F32
  readonly y: F32
  readonly z: F32
  readonly w: F32
}
/** sum + a·b, one component after the other. */
const dot = (a: Vector, b: Vector, sum: F32): F32 => a.w.fma(b.w, a.z.fma(b.z, a.y.fma(b.y, a.x.fma(b.x, sum))))

/** Combines the 16 lanes of a row of the tile: neighbours in fours by shuffles, the fours in order through shared memory. */
export class RowSums {
  private readonly slots: SharedArray<ReturnType<typeof vec4<"f32">>>

  constructor(
    private readonly k: Body,
    name: string,
    private readonly combine: "add" | "max",
  ) {
    this.slots = k.shared(name, vec4(f32), LANES / 4)
  }

  /** Gives up to four numbers of this lane; a barrier must lie between this and `total`, and before the next. */
  put(values: readonly F32[]): void {
    const { k, combine } = this
    const joined = k.vector(...(four((i) => values[i] ?? k.f32(0)) as [F32, F32, F32, F32]))
    const pairs = joined[combine](k.subgroupShuffleXor(joined, 1))
    const fours = pairs[combine](k.subgroupShuffleXor(pairs, 2))
    k.if(k.lane.and(3).eq(0), () => this.slots.set(k.lane.shr(2), fours))
  }
  /** What the 16 lanes from 16·row on gave, combined: by default those of this lane. */
  total(row = this.k.lane.shr(4)): Four<F32> {
    const first = row.mul(4)
    let joined = this.slots.at(first)
    for (const quarter of [1, 2, 3]) joined = joined[this.combine](this.slots.at(first.add(quarter)))
    return [joined.x, joined.y, joined.z, joined.w]
  }
}

/** A running softmax over blocks of keys, merged in block order: weights are 2^(score − max). */
export interface Merge {
  readonly max: F32
  readonly sum: F32
  /** Factors of what was summed before and of the block's own sum. */
  readonly old: F32
  readonly own: F32
}

/** The sums over keys so far (max, sum) and those of the next block, merged. `fma` fixes how a device rounds. */
export function merge(max: F32, sum: F32, blockMax: F32, blockSum: F32): Merge {
  const top = max.max(blockMax)
  const [old, own] = [max.sub(top).exp2(), blockMax.sub(top).exp2()]
  return { max: top, sum: sum.fma(old, blockSum.mul(own)), old, own }
}
/** An output so far and that of the next block, merged. */
export const merged = (before: F32, block: F32, { old, own }: Pick<Merge, "old" | "own">): F32 => before.fma(old, block.mul(own))

/** What the dropout of a tile depends on. */
export interface Drop {
  readonly seed: U32
  readonly step: U32
  readonly site: U32
  /** Weights whose 24 random bits are below are dropped, the others multiplied by `factor`. */
  readonly threshold: U32
  readonly factor: F32
}

/** Which weights of a tile of 64 queries × 64 keys dropout keeps: value (query·T + key) of the site, query counted over all heads and samples. */
export class Keep {
  private readonly bits: SharedArray<typeof u32>

  constructor(
    private readonly k: Body,
    private readonly drop: Drop,
  ) {
    this.bits = k.shared("keep", u32, TILE * 4)
  }

  /** Fills the tile of queries from number `query` and keys from `key` on; barriers before the first `factor` and after the last. */
  fill(query: U32, key: U32, T: U32): void {
    const { k, drop } = this
    const [row, quarter] = [k.lane.shr(2), k.lane.and(3)]
    const first = query
      .add(row)
      .toU64()
      .mul(T.toU64())
      .add(key.add(quarter.mul(16)).toU64())
    const shift = first.toU32().and(3)
    const bits = k.var(u32, 0)
    for (let block = 0; block < 5; block++) {
      const source = { seed: drop.seed, stream: drop.site, step: drop.step }
      const words = randomBlockAfter(k, source, first.shr(2), k.u32(block))
      words.forEach((word, i) =>
        bits.update((before) =>
          before.or(
            word
              .shr(8)
              .ge(drop.threshold)
              .select(k.u32(1), 0)
              .shl(4 * block + i),
          ),
        ),
      )
    }
    this.bits.set(k.lane, bits.get().shr(shift))
  }

  /** 0 or the factor of the weight of a query and a key of the tile. */
  factor(query: U32, key: U32): F32 {
    const word = this.bits.at(query.mul(4).add(key.shr(4)))
    return word.shr(key.and(15)).and(1).eq(1).select(this.drop.factor, 0)
  }
}
