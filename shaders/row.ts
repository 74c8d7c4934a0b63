/** Rows of a matrix as lanes work on them: who takes which columns, what stays in registers, sums over a row. */
import { type Body, type F32, type FloatVector, f32, type Index, type U32, type Var } from "../src/spirv.ts"

/** What rows are read from: floats of any type. */
export interface Source {
  at(index: Index): F32
  pack(count: 4): { at(index: Index): readonly F32[] }
}
export interface Target {
  set(index: Index, value: F32): void
  pack(count: 4): { set(index: Index, values: readonly F32[]): void }
}

/**
 * The lanes that share a row, the columns each takes at a time, and how many such packs it keeps in registers; what is beyond them is read again
 * from the cache. Packs of 4: neighbouring lanes' 16 bytes of f32 lie side by side, so that every store fills whole sectors of the cache.
 */
export interface RowLayout {
  readonly lanes: "subgroup" | "workgroup"
  readonly pack: 1 | 4
  readonly held: number
}

/** Lanes of the largest subgroup. */
const MOST_LANES = 64

/** By name: short rows per subgroup, long rows per workgroup, and rows that are not aligned to packs. */
export const ROW_LAYOUTS = {
  short: { lanes: "subgroup", pack: 4, held: 8 },
  long: { lanes: "workgroup", pack: 4, held: 8 },
  uneven: { lanes: "workgroup", pack: 1, held: 4 },
} as const satisfies Record<string, RowLayout>
export type RowLayoutName = keyof typeof ROW_LAYOUTS

const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i)

/** Rows of C columns; C is a specialization constant, so that what does not depend on the lane is decided when the pipeline is made. */
export class Rows {
  /** Packs in a row, lanes that share a row, this lane's number among them. */
  readonly packs: U32
  private readonly share: U32
  private readonly lane: U32

  /** `isSpread`: neighbouring rows go to different workgroups, as is best for few. */
  constructor(
    private readonly k: Body,
    readonly layout: RowLayout,
    readonly C: U32,
    private readonly isSpread = false,
  ) {
    const isShort = layout.lanes === "subgroup"
    this.packs = C.div(layout.pack)
    this.share = isShort ? k.subgroupSize : k.workgroup
    this.lane = isShort ? k.subgroupLane : k.lane
  }

  /** body(r) for the rows this lane takes part in: every so many, so that any grid does them all. */
  each(R: U32, body: (r: U32) => void): void {
    const { k } = this
    k.for(this.firstRow(), R, this.stride(), body)
  }
  /** From a row that this lane takes part in to the next. */
  stride(): U32 {
    const { k } = this
    return this.layout.lanes === "workgroup" ? k.groups : k.groups.mul(k.workgroup.div(k.subgroupSize))
  }
  /** The first of those rows. */
  firstRow(): U32 {
    const { k } = this
    if (this.layout.lanes === "workgroup") return k.group
    return this.isSpread ? k.subgroup.mul(k.groups).add(k.group) : k.group.mul(k.workgroup.div(k.subgroupSize)).add(k.subgroup)
  }

  /** A variable per column that this lane keeps, all 0. */
  zeros(): Var<typeof f32>[][] {
    return count(this.layout.held).map(() => count(this.layout.pack).map(() => this.k.var(f32, 0)))
  }

  /** body(p, i) for the packs p that this lane keeps, i being the place where it keeps them. */
  held(body: (p: U32, i: number) => void): void {
    const { k, packs, share, lane, layout } = this
    for (const i of count(layout.held)) {
      const p = share.mul(i).add(lane)
      // what is known when the pipeline is made, none of the pack or all: a compiler finds it for itself only where lanes are a power of two
      const [hasAny, isFull] = [packs.gt(share.mul(i)), packs.ge(share.mul(i + 1))]
      k.if(isFull.or(hasAny.and(p.lt(packs))), () => body(p, i))
    }
  }

  /** What `load` gives for the packs that this lane keeps, 0 beyond the row. */
  hold(load: (p: U32) => readonly F32[]): Var<typeof f32>[][] {
    const values = this.zeros()
    this.held((p, i) => load(p).forEach((value, j) => values[i]![j]!.set(value)))
    return values
  }

  /** body(p) for the packs of the row that this lane does not keep; short rows have none. */
  rest(body: (p: U32) => void): void {
    if (this.layout.lanes === "workgroup") this.k.for(this.share.mul(this.layout.held).add(this.lane), this.packs, this.share, body)
  }

  /** body(p, values, place) for all packs of the row: those kept, with where they are, then those that `load` reads again. */
  all(
    values: readonly (readonly Var<typeof f32>[])[],
    load: (p: U32) => readonly F32[],
    body: (p: U32, values: readonly F32[], i?: number) => void,
  ): void {
    this.held((p, i) =>
      body(
        p,
        values[i]!.map((value) => value.get()),
        i,
      ),
    )
    this.rest((p) => body(p, load(p)))
  }

  /** Sum over the row in every lane; over a subgroup neighbours first, so that other languages find the same bits. */
  inOrder(own: F32): F32 {
    const { k, layout } = this
    if (layout.lanes === "workgroup") return k.workgroupSum(own)
    const sum = k.var(f32, own)
    for (let mask = 1; mask < MOST_LANES; mask *= 2) k.if(k.subgroupSize.gt(mask), () => sum.add(k.subgroupShuffleXor(sum.get(), mask)))
    return sum.get()
  }
  /** Sum over the row in every lane. */
  sum<V extends F32 | FloatVector<2>>(own: V): V {
    return this.layout.lanes === "subgroup" ? this.k.subgroupAdd(own) : this.k.workgroupSum(own)
  }

  /** True in one lane of a row. */
  isFirst() {
    return this.lane.eq(0)
  }

  /** Pack p of row r. */
  load(from: Source, r: U32 | number, p: U32): readonly F32[] {
    const place = this.place(r, p)
    return this.layout.pack === 4 ? from.pack(4).at(place) : [from.at(place)]
  }
  store(to: Target, r: U32 | number, p: U32, values: readonly F32[]): void {
    const place = this.place(r, p)
    if (this.layout.pack === 4) to.pack(4).set(place, values)
    else to.set(place, values[0]!)
  }
  /** Number of pack p of row r among all packs. */
  place(r: U32 | number, p: U32): U32 {
    return r === 0 ? p : this.packs.mul(r).add(p)
  }
}
