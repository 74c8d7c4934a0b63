/** Parts of the kernels that do attention by KHR matrices: rows on their way to shared memory and out of it, weights as factors, rows' numbers. */
import {
  type Body,
  bf16,
  type F32,
  type FloatMatrix,
  f32,
  type MatrixType,
  type MatrixValue,
  type ReadBuffer,
  read,
  type SharedArray,
  type U32,
  u32,
  vec4,
} from "../src/spirv.ts"

/** Side of a matrix, lanes that hold it, bf16 in 16 bytes. */
export const SIDE = 16
export const LANES = 32
export const PACK = 8
/** What stands for −∞ where ∞ − ∞ must not come up. */
export const LOWEST = -1.7e38

export type Shared = SharedArray<ReturnType<typeof vec4<"u32">>>
export type Numbers = SharedArray<typeof f32>
export type Sum = FloatMatrix<"accumulator">
export type Factor = MatrixValue<"bf16", "a">

/** What all kernels read beside; the mask only under dropout, whose weights that are kept have the factor. */
export const masks = { mask: read(u32) } as const
export const push = { T: u32, H: u32, K: u32, scale: f32, factor: f32 } as const

/** How a workgroup is made up: its subgroups, blocks of 16 own rows in each, rows of the other side in shared memory at a time. */
export interface Shape {
  readonly size: number
  readonly subgroups: number
  readonly blocks: number
  readonly others: number
}
export const ownRows = ({ subgroups, blocks }: Shape): number => subgroups * blocks * SIDE
export const lanesOf = ({ subgroups }: Shape): number => subgroups * LANES
/** Packs from one row in shared memory to the next. */
export const pitchOf = ({ size }: Shape): number => size / PACK + 1

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** Columns that leave through shared memory at a time. */
const chunkOf = ({ size, subgroups }: Shape) => Math.min(size, subgroups > 4 ? 32 : 64)
/** Packs of 4 sums from one of these rows to the next. */
const chunkPitch = (shape: Shape) => chunkOf(shape) / 4 + 1
/** Packs of shared memory for two tiles of others' rows, or one of own rows, or the rows that leave. */
const tilePacks = (shape: Shape): number =>
  Math.max(Math.max(2 * shape.others, ownRows(shape)) * pitchOf(shape), shape.subgroups * SIDE * chunkPitch(shape))

/** 16 × 32 weights in bf16, or 16 × 16 sums: packs from one row to the next, and of them all. */
const SLOT_PITCH = 5
const SLOT = SIDE * SLOT_PITCH

/** Rows of one head of a sequence: where row 0 begins, elements from one to the next, how many there are. */
export interface Rows {
  readonly memory: ReadBuffer<typeof bf16>
  readonly first: U32
  readonly width: U32
  readonly count: U32
}

/** "split": of 32 rows the even ones come first, then the odd ones. */
export type Order = "plain" | "split"
export const splitRow = (row: U32): U32 =>
  row
    .and(~31 >>> 0)
    .add(row.and(1).shl(4))
    .add(row.shr(1).and(15))

/** What every kernel here works with. */
export class Fragments {
  readonly A: MatrixType<"bf16", "a">
  readonly B: MatrixType<"bf16", "b">
  readonly S: MatrixType<"f32", "accumulator">
  readonly tiles: Shared
  readonly pitch: number
  private readonly slots: Shared
  private readonly steps: Numbers
  private readonly counts: Numbers

  constructor(
    readonly k: Body,
    readonly shape: Shape,
    /** Places for weights that each subgroup has. */
    private readonly places: number,
  ) {
    this.A = k.matrix(bf16, "a", SIDE, SIDE, "subgroup")
    this.B = k.matrix(bf16, "b", SIDE, SIDE, "subgroup")
    this.S = k.matrix(f32, "accumulator", SIDE, SIDE, "subgroup")
    this.pitch = pitchOf(shape)
    this.tiles = k.shared("tiles", vec4(u32), tilePacks(shape))
    this.slots = k.shared("slots", vec4(u32), shape.subgroups * places * SLOT)
    this.steps = k.shared("steps", f32, SIDE * SIDE)
    this.counts = k.shared("counts", f32, SIDE)
    k.if(k.lane.lt(SIDE), () => this.counts.set(k.lane, k.lane.toF32()))
    k.for(k.lane, SIDE * SIDE, lanesOf(shape), (i) => this.steps.set(i, i.shr(4).toF32().sub(i.and(15).mul(2).toF32())))
  }

  /** Row − 2·column. */
  get distances(): Sum {
    return this.k.loadMatrix(this.S, this.steps, 0, SIDE, "row")
  }
  /** Each element's own row, or column. */
  get rowNumbers(): Sum {
    return this.along("columns", this.counts, this.k.u32(0))
  }
  get columnNumbers(): Sum {
    return this.along("rows", this.counts, this.k.u32(0))
  }
  /** The same 16 numbers in each column, or in each row. */
  along(side: "columns" | "rows", numbers: Numbers, first: U32): Sum {
    return this.k.loadMatrix(this.S, numbers, first, 0, side === "columns" ? "column" : "row")
  }

  /** A lane's share of a tile of others' rows, in registers between its load and its way to shared memory, where the tile begins at pack `base`. */
  ahead(rows: Pick<Rows, "memory">, base: number, order: Order) {
    const { k, shape, pitch } = this
    const perRow = shape.size / PACK
    const lanes = lanesOf(shape)
    const held = range((shape.others * perRow) / lanes).map((turn) => {
      const piece = k.lane.add(turn * lanes)
      return { row: piece.div(perRow), pack: piece.mod(perRow), value: k.var(vec4(u32), 0) }
    })
    return {
      load: (from: U32, { first, width, count }: Omit<Rows, "memory">) => {
        for (const { row, pack, value } of held) value.set(this.pack({ ...rows, first, width, count }, from.add(row), pack))
      },
      store: () => {
        for (const { row, pack, value } of held)
          this.tiles.set((order === "split" ? splitRow(row) : row).mul(pitch).add(pack).add(base), value.get())
      },
    }
  }

  /** 8 columns of a row; zeros after the last row. */
  private pack({ memory, first, width, count }: Rows, row: U32, pack: U32) {
    const isInside = row.lt(count)
    const at = first.add(row.mul(width)).div(PACK).add(pack)
    return isInside.select(memory.as(vec4(u32)).at(isInside.select(at, 0)), 0)
  }

  /** The workgroup's own rows from `from` on, in shared memory. Barriers before and after. */
  stage(rows: Rows, from: U32): void {
    const { k, shape, pitch, tiles } = this
    const perRow = shape.size / PACK
    k.barrier()
    k.for(k.lane, ownRows(shape) * perRow, lanesOf(shape), (piece) => {
      const [row, pack] = [piece.div(perRow), piece.mod(perRow)]
      tiles.set(row.mul(pitch).add(pack), this.pack(rows, from.add(row), pack))
    })
    k.barrier()
  }
  /** Block i of the subgroup's staged rows as left factors. */
  staged(i: number): Factor[] {
    const { k, shape, pitch } = this
    const row = k.subgroup.mul(shape.blocks).add(i).mul(SIDE)
    return range(shape.size / SIDE).map((d) => k.loadMatrix(this.A, this.tiles, row.mul(pitch).add(d * 2), pitch, "row"))
  }

  /** Starts + own·otherᵀ for blocks of own rows and 16 rows of the tile, `step` apart. */
  scores(own: readonly (readonly Factor[])[], base: number, row: number | U32, step: number, starts: readonly Sum[]): Sum[] {
    const { k, pitch } = this
    const first = typeof row === "number" ? k.u32(row * pitch) : row.mul(pitch)
    let sums = [...starts]
    for (const d of range(this.shape.size / SIDE)) {
      const other = k.loadMatrix(this.B, this.tiles, first.add(base + d * 2), pitch * step, "column")
      sums = sums.map((sum, i) => k.mulAdd(own[i]![d]!, other, sum))
    }
    return sums
  }

  /** sums += weights·others, 32 rows of the tile from `row` on. */
  weigh(weights: readonly (readonly [Factor, Factor])[], base: number, row: number, sums: readonly (readonly Changing[])[]): void {
    const { k, pitch } = this
    for (const half of [0, 1] as const)
      for (const d of range(this.shape.size / SIDE)) {
        const other = k.loadMatrix(this.B, this.tiles, (row + half * SIDE) * pitch + base + d * 2, pitch, "row")
        sums.forEach((own, i) => {
          own[d]!.update((sum) => k.mulAdd(weights[i]![half], other, sum))
        })
      }
  }

  private slot(place: number): U32 {
    return this.k.subgroup.mul(this.places).add(place).mul(SLOT)
  }
  /** Puts 16 × 32 weights, of even and of odd columns, where `weights` finds them after a barrier of the subgroup. */
  putWeights(place: number, even: Sum, odd: Sum): void {
    const { k } = this
    k.storeMatrix(
      this.slots,
      this.slot(place),
      SLOT_PITCH,
      "row",
      even.each((low: F32, high: F32) => low.packBf16(high).asF32(), odd),
    )
  }
  weights(place: number): readonly [Factor, Factor] {
    const load = (half: number) => this.k.loadMatrix(this.A, this.slots, this.slot(place).add(2 * half), SLOT_PITCH, "row")
    return [load(0), load(1)]
  }

  /** What `combine` makes of the 16 numbers of each of the subgroup's rows; `use` gets it in the lane of the row. Barriers before and after. */
  overRows(
    sums: readonly Sum[],
    combine: (a: F32, b: F32) => F32,
    use: (row: U32, total: F32) => void,
    see?: (r: U32, c: number, x: F32) => F32,
  ) {
    const { k, shape } = this
    k.barrier()
    sums.forEach((sum, i) => {
      k.storeMatrix(this.slots, this.slot(i), SLOT_PITCH, "row", sum)
    })
    k.barrier()
    const lane = k.lane.mod(LANES)
    k.if(lane.lt(shape.blocks * SIDE), () => {
      const r = lane.and(SIDE - 1)
      const at = k.subgroup.mul(this.places).add(lane.shr(4)).mul(SLOT).add(r.mul(SLOT_PITCH))
      const values = range(4).flatMap((quad) => {
        const { x, y, z, w } = this.slots.at(at.add(quad))
        return [x, y, z, w].map((word, i) => (see === undefined ? word.asF32() : see(r, 4 * quad + i, word.asF32())))
      })
      use(k.subgroup.mul(shape.blocks * SIDE).add(lane), values.reduce(combine))
    })
    k.barrier()
  }

  /** Calls `store` with every row of the subgroup's 16, eight neighbouring columns, number `pack`, and their sums. */
  leave(sums: readonly Sum[], store: (r: U32, pack: U32, values: readonly F32[]) => void): void {
    const { k, shape, tiles } = this
    const [chunk, pitch] = [chunkOf(shape), chunkPitch(shape)]
    const mine = k.subgroup.mul(SIDE * pitch)
    for (let first = 0; first < sums.length; first += chunk / SIDE) {
      k.barrier()
      sums.slice(first, first + chunk / SIDE).forEach((sum, d) => {
        k.storeMatrix(tiles, mine.add(d * 4), pitch, "row", sum)
      })
      k.barrier()
      const packs = chunk / PACK
      k.for(k.lane.mod(LANES), SIDE * packs, LANES, (piece) => {
        const [r, pack] = [piece.div(packs), piece.mod(packs)]
        const values = [0, 1].flatMap((half) => {
          const { x, y, z, w } = tiles.at(mine.add(r.mul(pitch)).add(pack.mul(2)).add(half))
          return [x, y, z, w].map((word) => word.asF32())
        })
        store(r, pack.add((first * SIDE) / PACK), values)
      })
    }
  }
}

interface Changing {
  get(): Sum
  update(change: (sum: Sum) => Sum): void
}

/** Where the parts of a head lie: elements of qkv and y, and the number of its first position among all heads and sequences. */
export function headPlaces(size: number, { T, H, K }: { readonly T: U32; readonly H: U32; readonly K: U32 }, b: U32, h: U32) {
  const width = H.add(K.mul(2)).mul(size)
  const keyHead = H.add(h.mul(K).div(H))
  const first = b.mul(T).mul(width)
  return {
    width,
    query: first.add(h.mul(size)),
    key: first.add(keyHead.mul(size)),
    value: first.add(keyHead.add(K).mul(size)),
    outputWidth: H.mul(size),
    output: b.mul(T).mul(H).add(h).mul(size),
    /** Of a position in lse and δ. */
    row: (position: U32) => b.mul(T).add(position).mul(H).add(h),
    /** Number of the head's first position, head-major, as dropout's bits are ordered. */
    number: b.mul(H).add(h).mul(T),
  }
}

/** a − b as f32, whichever is larger. */
export const apart = (a: U32, b: U32): F32 => a.toI32().sub(b.toI32()).toF32()
