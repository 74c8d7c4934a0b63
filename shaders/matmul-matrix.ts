/** Matrix products by VK_KHR_cooperative_matrix: tiles in shared memory, fragments of 16 × 16 per subgroup of 32 lanes. */
import {
  type Body,
  bf16,
  constant,
  type F32,
  f32,
  kernel,
  type ReadBuffer,
  read,
  type SharedArray,
  type U32,
  u32,
  vec4,
} from "../src/spirv.ts"
import { epilogue, finish } from "./matmul-epilogue.ts"

/** Rows, columns and depth of a fragment. */
export const FRAGMENT = 16
const LANES = 32
/** bf16 in 16 bytes: what a lane loads at once; also what each row in shared memory is padded by, so that rows begin in different banks. */
const PACK = 8
/** Quads of f32 (16 bytes) in a row of a fragment. */
const QUADS = FRAGMENT / 4

/** A workgroup's tile of c, how much of K it holds at a time, and its subgroups along M and N. */
export interface MatrixTile {
  readonly rows: number
  readonly columns: number
  readonly depth: number
  readonly subgroups: readonly [number, number]
  /** 1: subgroups wait for each other before and after what they share changes; 2: it changes in one half while they multiply the other. */
  readonly halves: 1 | 2
  /** TFLOP/s of an H200 with many such tiles, by layout; only the ratios matter. */
  readonly rates: Readonly<Record<Layout, number>>
}
const tile = (
  [rows, columns, depth]: readonly [number, number, number],
  subgroups: MatrixTile["subgroups"],
  halves: 1 | 2,
  rates: MatrixTile["rates"],
): MatrixTile => ({ rows, columns, depth, subgroups, halves, rates })
/** Tiles that kernels are built for. */
export const MATRIX_TILES: readonly MatrixTile[] = [
  tile([128, 256, 32], [2, 4], 1, { nt: 277, nn: 300, tn: 330 }),
  tile([128, 128, 32], [2, 2], 2, { nt: 286, nn: 290, tn: 300 }),
  tile([128, 128, 32], [2, 4], 2, { nt: 200, nn: 220, tn: 240 }),
  tile([128, 128, 64], [2, 4], 1, { nt: 244, nn: 250, tn: 260 }),
  tile([128, 256, 16], [2, 4], 2, { nt: 200, nn: 220, tn: 240 }),
  tile([64, 128, 32], [1, 4], 2, { nt: 200, nn: 210, tn: 220 }),
  tile([64, 64, 32], [2, 2], 1, { nt: 162, nn: 165, tn: 200 }),
  tile([32, 64, 64], [1, 4], 2, { nt: 80, nn: 80, tn: 80 }),
  tile([16, 32, 128], [1, 2], 2, { nt: 40, nn: 40, tn: 40 }),
]
/** 128x256x32_256 with its lanes, and _2 where what is shared has two halves. */
export const tileName = ({ rows, columns, depth, subgroups: [up, across], halves }: MatrixTile): string =>
  `${rows}x${columns}x${depth}_${up * across * LANES}${halves === 2 ? "_2" : ""}`

type Layout = "nn" | "nt" | "tn"
type Shared = SharedArray<ReturnType<typeof vec4<"u32">>>

/** One factor: its memory, whether K runs along its rows (contiguous), its other side and where the workgroup's tile begins there. */
interface Factor {
  readonly memory: ReadBuffer<typeof bf16>
  readonly isAlongRows: boolean
  readonly side: U32
  readonly start: U32
  /** Elements from one stored row to the next. */
  readonly stride: U32
  /** Rows or columns of the tile; its first pack in shared memory. */
  readonly span: number
  readonly base: number
}

/** What becomes of a lane's sums. */
interface Use {
  /** Is told rows that come next, those of turns 0, 1, …. */
  begin(rows: readonly U32[]): void
  finish(turn: U32, row: U32, sums: F32[]): void
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
/** Packs from one row of a tile in shared memory to the next. */
const pitchOf = ({ isAlongRows, span }: Pick<Factor, "isAlongRows" | "span">, depth: number) => (isAlongRows ? depth : span) / PACK + 1

function product(layout: Layout, tile: MatrixTile) {
  const { rows, columns, depth, subgroups, halves } = tile
  const [up, across] = subgroups
  const lanes = up * across * LANES
  const [high, wide] = [rows / up / FRAGMENT, columns / across / FRAGMENT]
  const left = { isAlongRows: layout[0] === "n", span: rows, base: 0 }
  const leftPacks = (left.isAlongRows ? rows : depth) * pitchOf(left, depth)
  const right = { isAlongRows: layout[1] === "t", span: columns, base: leftPacks }
  const packs = leftPacks + (right.isAlongRows ? columns : depth) * pitchOf(right, depth)

  // Packs from one row of a subgroup's strip of sums to the next, and of the strip.
  const stripPitch = wide * QUADS + 1
  const strip = FRAGMENT * stripPitch

  return {
    lanes,
    /**
     * Calls `used` with the first of 8 columns of c that are this lane's, then what it returns with rows and their sums there; both may lie
     * outside. `sizes`: M, N, K; KS of K
     * are summed, a multiple of the depth, from KS · z on; GROUP tiles along M lie side by side in the grid; EDGE: 0 where all tiles are whole.
     */
    run(k: Body, a: ReadBuffer<typeof bf16>, b: ReadBuffer<typeof bf16>, sizes: Sizes, used: (column: U32) => Use) {
      const { M, N, KS, GROUP, LDA, LDB } = sizes
      const row = k.groupY.mul(GROUP).add(k.group.mod(GROUP)).mul(rows)
      const column = k.group.div(GROUP).mul(columns)
      const factors: Factor[] = [
        { ...left, memory: a, side: M, start: row, stride: LDA },
        { ...right, memory: b, side: N, start: column, stride: LDB },
      ]
      const shared: Shared = k.shared("tiles", vec4(u32), Math.max(halves * packs, up * across * strip))
      const [A, B, C] = [
        k.matrix(bf16, "a", FRAGMENT, FRAGMENT, "subgroup"),
        k.matrix(bf16, "b", FRAGMENT, FRAGMENT, "subgroup"),
        k.matrix(f32, "accumulator", FRAGMENT, FRAGMENT, "subgroup"),
      ]
      const sums = range(high).map(() => range(wide).map(() => k.var(C, 0)))
      const first = k.groupZ.mul(KS)
      const ahead = factors.map((factor) => fetch(k, factor, depth, lanes, sizes))
      const load = (from: U32) => ahead.forEach((pieces) => pieces.load(from))
      const store = (half: U32 | number, from: U32) => ahead.forEach((pieces) => pieces.store(shared, half, from))
      const [down, over] = [k.subgroup.div(across).mul(high * FRAGMENT), k.subgroup.mod(across).mul(wide * FRAGMENT)]
      const multiply = (half: U32 | number) => {
        for (const step of range(depth / FRAGMENT)) {
          const fragment = (factor: Factor, place: U32, which: number) => {
            const pitch = pitchOf(factor, depth)
            const [outer, inner] = [place.add(which * FRAGMENT), step * FRAGMENT]
            if (factor.isAlongRows)
              return outer
                .mul(pitch)
                .add(factor.base + inner / PACK)
                .add(half)
            return outer
              .div(PACK)
              .add(factor.base + inner * pitch)
              .add(half)
          }
          const turned = (factor: Factor, isLeft: boolean) => (factor.isAlongRows === isLeft ? "row" : "column")
          const [l, r] = factors as [Factor, Factor]
          const as = range(high).map((i) => k.loadMatrix(A, shared, fragment(l, down, i), pitchOf(l, depth), turned(l, true)))
          for (const j of range(wide)) {
            const bs = k.loadMatrix(B, shared, fragment(r, over, j), pitchOf(r, depth), turned(r, false))
            for (const i of range(high)) sums[i]![j]!.update((sum) => k.mulAdd(as[i]!, bs, sum))
          }
        }
      }
      load(first)
      if (halves === 2) {
        store(0, first)
        k.barrier()
      }
      k.for(0, KS, depth, (done) => {
        const hasNext = done.add(depth).lt(KS)
        const next = first.add(done).add(depth)
        const loadNext = () => k.if(hasNext, () => load(next))
        if (halves === 1) {
          k.barrier()
          store(0, first.add(done))
          k.barrier()
          loadNext()
          multiply(0)
        } else {
          const half = done.div(depth).and(1).mul(packs)
          loadNext()
          multiply(half)
          k.if(hasNext, () => store(k.u32(packs).sub(half), next))
          k.barrier()
        }
      })
      // Through shared memory, so that lanes have whole runs of rows: a row of fragments per subgroup at a time.
      const mine = k.subgroup.mul(strip)
      const perRow = (wide * FRAGMENT) / PACK
      const lane = k.lane.mod(LANES)
      const [r, c] = [lane.div(perRow), lane.mod(perRow)]
      const place = mine.add(r.mul(stripPitch)).add(c.mul(2))
      const [top, at] = [row.add(down).add(r), column.add(over).add(c.mul(PACK))]
      const use = used(at)
      const [turns, step] = [(FRAGMENT * perRow) / LANES, LANES / perRow]
      // A loop, so that what happens to the sums stands there once.
      k.for(0, high, 1, (i) => {
        const above = top.add(i.mul(FRAGMENT))
        use.begin(range(turns).map((turn) => above.add(turn * step)))
        k.barrier()
        for (const [which, row] of sums.entries())
          k.if(i.eq(which), () => row.forEach((sum, j) => k.storeMatrix(shared, mine.add(j * QUADS), stripPitch, "row", sum.get())))
        k.barrier()
        k.for(0, turns, 1, (turn) => {
          const below = turn.mul(step)
          const quads = [0, 1].map((quad) => shared.at(place.add(below.mul(stripPitch)).add(quad)))
          const values = quads.flatMap(({ x, y, z, w }) => [x, y, z, w].map((word) => word.asF32()))
          use.finish(turn, above.add(below), values)
        })
      })
    },
  }
}

const constants = {
  M: constant(u32, 4096),
  N: constant(u32, 4096),
  K: constant(u32, 4096),
  KS: constant(u32, 4096),
  GROUP: constant(u32, 1),
  EDGE: constant(u32, 0),
  LDA: constant(u32, 4096),
  LDB: constant(u32, 4096),
}
type Sizes = { readonly [N in keyof typeof constants]: U32 }

/**
 * Another order of every eight rows, for rows of two or four packs: those that eight lanes store at once begin in different banks, one row being a
 * pack longer in shared memory than what it holds.
 */
function spread(line: U32, perRow: number): U32 {
  if (perRow === 4)
    return line
      .and(~7 >>> 0)
      .or(line.and(1).shl(2))
      .or(line.shr(1).and(3)) // 0 4 1 5 2 6 3 7
  if (perRow === 2)
    return line
      .and(~7 >>> 0)
      .or(line.and(3).shl(1))
      .or(line.shr(2).and(1)) // 0 2 4 6 1 3 5 7
  return line
}

/** A lane's share of a factor's tile, in registers from the load of a tile until it is stored to shared memory. */
function fetch(k: Body, factor: Factor, depth: number, lanes: number, { K, EDGE }: Sizes) {
  const { memory, isAlongRows, side, start, stride, span, base } = factor
  const perRow = (isAlongRows ? depth : span) / PACK
  const places = range((span * depth) / PACK / lanes).map((turn) => {
    const piece = k.lane.add(turn * lanes)
    return { line: spread(piece.div(perRow), perRow), pack: piece.mod(perRow), held: k.var(vec4(u32), 0) }
  })
  const placeOf = (line: U32, pack: U32, from: U32) =>
    isAlongRows ? ([start.add(line), from.add(pack.mul(PACK))] as const) : ([start.add(pack.mul(PACK)), from.add(line)] as const)
  const isInside = (outer: U32, inner: U32) => EDGE.eq(0).or(outer.lt(side).and(inner.lt(K)))
  return {
    load(from: U32) {
      for (const { line, pack, held } of places) {
        const [outer, inner] = placeOf(line, pack, from)
        const at = (isAlongRows ? outer.mul(stride).add(inner) : inner.mul(stride).add(outer)).div(PACK)
        held.set(memory.as(vec4(u32)).at(isInside(outer, inner).select(at, 0)))
      }
    },
    /** What lies outside becomes 0 only here: until now nobody has waited for the loads. */
    store(shared: Shared, half: U32 | number, from: U32) {
      for (const { line, pack, held } of places) {
        const [outer, inner] = placeOf(line, pack, from)
        shared.set(line.mul(pitchOf(factor, depth)).add(pack).add(base).add(half), isInside(outer, inner).select(held.get(), 0))
      }
    },
  }
}

function matmul(layout: Layout, tile: MatrixTile) {
  const { lanes, run } = product(layout, tile)
  return kernel({
    name: `matmul_matrix_${layout}_${tileName(tile)}`,
    workgroup: lanes,
    sharedKiB: 48,
    buffers: { a: read(bf16), b: read(bf16), ...epilogue.buffers },
    push: epilogue.push,
    params: epilogue.params,
    constants: { ...constants, ...epilogue.constants },
    body(k, { a, b, ...rest }) {
      const part = k.groupZ.mul(rest.M)
      run(k, a, b, rest, (column) => {
        const biases = range(PACK).map(() => k.var(f32, 0))
        const isWithin = rest.hasBias.ne(0).and(rest.EDGE.eq(0).or(column.lt(rest.N)))
        k.if(isWithin, () => biases.forEach((one, j) => one.set(rest.bias.at(column.add(j)))))
        // Factors are loaded for some rows at once, so that they wait for it only once.
        const held = range((FRAGMENT * tile.columns) / tile.subgroups[1] / PACK / LANES).map(() => range(PACK).map(() => k.var(f32, 0)))
        const placeOf = (row: U32) => part.add(row).mul(rest.ldc).add(column).div(PACK)
        return {
          begin(rows) {
            const load = (row: U32, turn: number) => {
              const values = rest.kept.pack(PACK).at(placeOf(row))
              held[turn]!.forEach((one, j) => one.set(values[j]!))
            }
            k.if(rest.multiplies.ne(0), () => rows.forEach((row, turn) => inside(k, rest, row, column, () => load(row, turn))))
          },
          finish(turn, row, sums) {
            const before = () =>
              range(PACK).map((j) => held.map((of) => of[j]!.get()).reduce((found, value, i) => turn.eq(i).select(value, found)))
            inside(k, rest, row, column, () => finish(k, rest, part.add(row), column, sums, { biases, before }))
          },
        }
      })
    },
  })
}

/** Does `body` where (row, column) lies in c. */
function inside(k: Body, { M, N, EDGE }: Sizes, row: U32, column: U32, body: () => void): void {
  k.if(EDGE.eq(0).or(row.lt(M).and(column.lt(N))), body)
}

/**
 * c = epilogue(a·b) (M, N), bf16 factors, summed in f32. Sizes along rows are multiples of 8: K, N and M where they run along rows of a factor, LDA
 * LDB, N and ldc. With more than one split of K c holds their sums, one after the other, ldc · M elements each. One kernel per tile of
 * MATRIX_TILES, in its order. Grid: (⌈N / columns⌉ · GROUP, ⌈M / rows⌉ / GROUP, splits of K), GROUP a divisor of ⌈M / rows⌉.
 * 2·M·N·K FLOP. Subgroups of 32 lanes. Source: SPV_KHR_cooperative_matrix.
 */
export const matrixMatmuls = {
  nt: MATRIX_TILES.map((tile) => matmul("nt", tile)),
  nn: MATRIX_TILES.map((tile) => matmul("nn", tile)),
  tn: MATRIX_TILES.map((tile) => matmul("tn", tile)),
}
