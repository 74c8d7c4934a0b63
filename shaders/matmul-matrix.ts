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
/** f32 in 16 bytes, and such quads in a row of a fragment. */
const QUAD = 4
const QUADS = FRAGMENT / QUAD

/** A workgroup's tile of c, how much of K it holds at a time, and its subgroups along M and N. */
export interface MatrixTile {
  readonly rows: number
  readonly columns: number
  readonly depth: number
  readonly subgroups: readonly [number, number]
  /** TFLOP/s of an H200 with many such tiles; only the ratios matter. */
  readonly rate: number
}
/** Tiles that kernels are built for, best first. */
export const MATRIX_TILES: readonly MatrixTile[] = [
  { rows: 128, columns: 256, depth: 32, subgroups: [2, 4], rate: 284 },
  { rows: 128, columns: 128, depth: 32, subgroups: [4, 2], rate: 263 },
  { rows: 64, columns: 64, depth: 32, subgroups: [2, 2], rate: 140 },
]
/** 128x256x32 */
export const tileName = ({ rows, columns, depth }: MatrixTile): string => `${rows}x${columns}x${depth}`

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

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
/** Packs from one row of a tile in shared memory to the next. */
const pitchOf = ({ isAlongRows, span }: Pick<Factor, "isAlongRows" | "span">, depth: number) => (isAlongRows ? depth : span) / PACK + 1

function product(layout: Layout, tile: MatrixTile) {
  const { rows, columns, depth, subgroups } = tile
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
     * Calls `use` with 4 neighbouring sums, the row and the first column of c they belong to; both may lie outside. `sizes`: M, N, K; KS of K
     * are summed, a multiple of the depth, from KS · z on; GROUP tiles along M lie side by side in the grid; EDGE: 0 where all tiles are whole.
     */
    run(k: Body, a: ReadBuffer<typeof bf16>, b: ReadBuffer<typeof bf16>, sizes: Sizes, use: (row: U32, column: U32, sums: F32[]) => void) {
      const { M, N, KS, GROUP, LDA, LDB } = sizes
      const row = k.groupY.mul(GROUP).add(k.group.mod(GROUP)).mul(rows)
      const column = k.group.div(GROUP).mul(columns)
      const factors: Factor[] = [
        { ...left, memory: a, side: M, start: row, stride: LDA },
        { ...right, memory: b, side: N, start: column, stride: LDB },
      ]
      const shared: Shared = k.shared("tiles", vec4(u32), Math.max(packs, up * across * strip))
      const [A, B, C] = [
        k.matrix(bf16, "a", FRAGMENT, FRAGMENT, "subgroup"),
        k.matrix(bf16, "b", FRAGMENT, FRAGMENT, "subgroup"),
        k.matrix(f32, "accumulator", FRAGMENT, FRAGMENT, "subgroup"),
      ]
      const sums = range(high).map(() => range(wide).map(() => k.var(C, 0)))
      const first = k.groupZ.mul(KS)
      const ahead = factors.map((factor) => fetch(k, factor, depth, lanes, sizes))
      for (const pieces of ahead) pieces.load(first)
      const [down, over] = [k.subgroup.div(across).mul(high * FRAGMENT), k.subgroup.mod(across).mul(wide * FRAGMENT)]
      k.for(0, KS, depth, (done) => {
        k.barrier()
        for (const pieces of ahead) pieces.store(shared)
        k.barrier()
        k.if(done.add(depth).lt(KS), () => {
          for (const pieces of ahead) pieces.load(first.add(done).add(depth))
        })
        for (const step of range(depth / FRAGMENT)) {
          const fragment = (factor: Factor, place: U32, which: number) => {
            const pitch = pitchOf(factor, depth)
            const [outer, inner] = [place.add(which * FRAGMENT), step * FRAGMENT]
            if (factor.isAlongRows) return outer.mul(pitch).add(factor.base + inner / PACK)
            return outer.div(PACK).add(factor.base + inner * pitch)
          }
          const turned = (factor: Factor, isLeft: boolean) => (factor.isAlongRows === isLeft ? "row" : "column")
          const [l, r] = factors as [Factor, Factor]
          const as = range(high).map((i) => k.loadMatrix(A, shared, fragment(l, down, i), pitchOf(l, depth), turned(l, true)))
          for (const j of range(wide)) {
            const bs = k.loadMatrix(B, shared, fragment(r, over, j), pitchOf(r, depth), turned(r, false))
            for (const i of range(high)) sums[i]![j]!.update((sum) => k.mulAdd(as[i]!, bs, sum))
          }
        }
      })
      // Through shared memory, so that lanes have whole runs of rows: a row of fragments per subgroup at a time.
      const mine = k.subgroup.mul(strip)
      for (const i of range(high)) {
        k.barrier()
        for (const j of range(wide)) k.storeMatrix(shared, mine.add(j * QUADS), stripPitch, "row", sums[i]![j]!.get())
        k.barrier()
        k.for(k.lane.mod(LANES), FRAGMENT * wide * QUADS, LANES, (piece) => {
          const [r, c] = [piece.div(wide * QUADS), piece.mod(wide * QUADS)]
          const { x, y, z, w } = shared.at(mine.add(r.mul(stripPitch)).add(c))
          const values = [x, y, z, w].map((word) => word.asF32())
          use(row.add(down).add(r.add(i * FRAGMENT)), column.add(over).add(c.mul(QUAD)), values)
        })
      }
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

/** A lane's share of a factor's tile, in registers from the load of a tile until it is stored to shared memory. */
function fetch(k: Body, factor: Factor, depth: number, lanes: number, { K, EDGE }: Sizes) {
  const { memory, isAlongRows, side, start, stride, span, base } = factor
  const perRow = (isAlongRows ? depth : span) / PACK
  const places = range((span * depth) / PACK / lanes).map((turn) => {
    const piece = k.lane.add(turn * lanes)
    return { line: piece.div(perRow), pack: piece.mod(perRow), held: k.var(vec4(u32), 0) }
  })
  return {
    load(from: U32) {
      for (const { line, pack, held } of places) {
        const [outer, inner] = isAlongRows ? [start.add(line), from.add(pack.mul(PACK))] : [start.add(pack.mul(PACK)), from.add(line)]
        const at = (isAlongRows ? outer.mul(stride).add(inner) : inner.mul(stride).add(outer)).div(PACK)
        const isInside = EDGE.eq(0).or(outer.lt(side).and(inner.lt(K)))
        held.set(isInside.select(memory.as(vec4(u32)).at(isInside.select(at, 0)), 0))
      }
    },
    store(shared: Shared) {
      for (const { line, pack, held } of places) shared.set(line.mul(pitchOf(factor, depth)).add(pack).add(base), held.get())
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
      run(k, a, b, rest, (row, column, sums) => inside(k, rest, row, column, () => finish(k, rest, part.add(row), column, sums)))
    },
  })
}

/** Does `body` where (row, column) lies in c. */
function inside(k: Body, { M, N, EDGE }: Sizes, row: U32, column: U32, body: () => void): void {
  k.if(EDGE.eq(0).or(row.lt(M).and(column.lt(N))), body)
}

/**
 * c = epilogue(a·b) (M, N), bf16 factors, summed in f32. Sizes along rows are multiples of 8: K, N and M where they run along rows of a factor, LDA
 * and LDB; N and ldc of 4. With more than one split of K c holds their sums, one after the other, ldc · M elements each. One kernel per tile of
 * MATRIX_TILES, in its order. Grid: (⌈N / columns⌉ · GROUP, ⌈M / rows⌉ / GROUP, splits of K), GROUP a divisor of ⌈M / rows⌉.
 * 2·M·N·K FLOP. Subgroups of 32 lanes. Source: SPV_KHR_cooperative_matrix.
 */
export const matrixMatmuls = {
  nt: MATRIX_TILES.map((tile) => matmul("nt", tile)),
  nn: MATRIX_TILES.map((tile) => matmul("nn", tile)),
  tn: MATRIX_TILES.map((tile) => matmul("tn", tile)),
}
