/** Matrix products by VK_KHR_cooperative_matrix: tiles in shared memory, fragments of 16 × 16 per subgroup of 32 lanes. */
import {
  type Body,
  bf16,
  choice,
  constant,
  f32,
  type F32,
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
import { activated, slope } from "./matmul-epilogue.ts"

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
}
/** Tiles that kernels are built for, best first. */
export const MATRIX_TILES: readonly MatrixTile[] = [
  { rows: 128, columns: 256, depth: 32, subgroups: [2, 4] },
  { rows: 128, columns: 128, depth: 32, subgroups: [4, 2] },
  { rows: 64, columns: 64, depth: 32, subgroups: [2, 2] },
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
      const { M, N, K, KS, GROUP } = sizes
      const row = k.groupY.mul(GROUP).add(k.group.mod(GROUP)).mul(rows)
      const column = k.group.div(GROUP).mul(columns)
      const factors: Factor[] = [
        { ...left, memory: a, side: M, start: row },
        { ...right, memory: b, side: N, start: column },
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
}
type Sizes = { readonly [N in keyof typeof constants]: U32 }

/** A lane's share of a factor's tile, in registers from the load of a tile until it is stored to shared memory. */
function fetch(k: Body, factor: Factor, depth: number, lanes: number, { K, EDGE }: Sizes) {
  const { memory, isAlongRows, side, start, span, base } = factor
  const perRow = (isAlongRows ? depth : span) / PACK
  const places = range((span * depth) / PACK / lanes).map((turn) => {
    const piece = k.lane.add(turn * lanes)
    return { line: piece.div(perRow), pack: piece.mod(perRow), held: k.var(vec4(u32), 0) }
  })
  return {
    load(from: U32) {
      for (const { line, pack, held } of places) {
        const [outer, inner] = isAlongRows ? [start.add(line), from.add(pack.mul(PACK))] : [start.add(pack.mul(PACK)), from.add(line)]
        const at = (isAlongRows ? outer.mul(K).add(inner) : inner.mul(side).add(outer)).div(PACK)
        const isInside = EDGE.eq(0).or(outer.lt(side).and(inner.lt(K)))
        held.set(isInside.select(memory.as(vec4(u32)).at(isInside.select(at, 0)), 0))
      }
    },
    store(shared: Shared) {
      for (const { line, pack, held } of places) shared.set(line.mul(pitchOf(factor, depth)).add(pack).add(base), held.get())
    },
  }
}

const out = choice("out")

function forward(tile: MatrixTile) {
  const { lanes, run } = product("nt", tile)
  return kernel({
    name: `matmul_matrix_nt_${tileName(tile)}`,
    workgroup: lanes,
    sharedKiB: 48,
    buffers: { a: read(bf16), b: read(bf16), bias: read(f32), c: write(out), pre: write(out) },
    constants: { ...constants, BIAS: constant(u32, 0), PRE: constant(u32, 0), ACTIVATION: constant(u32, 0) },
    body(k, { a, b, bias, c, pre, BIAS, PRE, ACTIVATION, ...sizes }) {
      run(k, a, b, sizes, (row, column, sums) =>
        inside(k, sizes, row, column, () => {
          const values = sums.map((sum) => k.var(f32, sum))
          k.if(BIAS.ne(0), () => bias.pack(QUAD).at(column.div(QUAD)).forEach((b, i) => values[i]!.add(b)))
          const at = row.mul(sizes.N).add(column).div(QUAD)
          k.if(PRE.ne(0), () => pre.pack(QUAD).set(at, values.map((value) => value.get())))
          c.pack(QUAD).set(at, values.map((value) => activated(k, ACTIVATION, value.get())))
        }),
      )
    },
  })
}

function input(tile: MatrixTile) {
  const { lanes, run } = product("nn", tile)
  return kernel({
    name: `matmul_matrix_nn_${tileName(tile)}`,
    workgroup: lanes,
    sharedKiB: 48,
    buffers: { a: read(bf16), b: read(bf16), pre: read(out), c: write(out) },
    constants: { ...constants, ACTIVATION: constant(u32, 0) },
    body(k, { a, b, pre, c, ACTIVATION, ...sizes }) {
      const part = k.groupZ.mul(sizes.M.mul(sizes.N))
      run(k, a, b, sizes, (row, column, sums) =>
        inside(k, sizes, row, column, () => {
          const at = row.mul(sizes.N).add(column)
          const values = sums.map((sum) => k.var(f32, sum))
          k.if(ACTIVATION.ne(0), () => {
            pre.pack(QUAD).at(at.div(QUAD)).forEach((before, i) => values[i]!.update((value) => value.mul(slope(k, ACTIVATION, before))))
          })
          c.pack(QUAD).set(part.add(at).div(QUAD), values.map((value) => value.get()))
        }),
      )
    },
  })
}

function weight(tile: MatrixTile) {
  const { lanes, run } = product("tn", tile)
  return kernel({
    name: `matmul_matrix_tn_${tileName(tile)}`,
    workgroup: lanes,
    sharedKiB: 48,
    buffers: { a: read(bf16), b: read(bf16), c: readWrite(f32) },
    params: { beta: f32 },
    constants,
    body(k, { a, b, c, beta, ...sizes }) {
      const part = k.groupZ.mul(sizes.M.mul(sizes.N))
      run(k, a, b, sizes, (row, column, sums) =>
        inside(k, sizes, row, column, () => {
          const at = part.add(row.mul(sizes.N).add(column)).div(QUAD)
          const values = sums.map((sum) => k.var(f32, sum))
          k.if(beta.ne(0), () => c.pack(QUAD).at(at).forEach((before, i) => values[i]!.add(before.mul(beta))))
          c.pack(QUAD).set(at, values.map((value) => value.get()))
        }),
      )
    },
  })
}

/** Does `body` where (row, column) lies in c. */
function inside(k: Body, { M, N, EDGE }: Sizes, row: U32, column: U32, body: () => void): void {
  k.if(EDGE.eq(0).or(row.lt(M).and(column.lt(N))), body)
}

const perTile = <T>(make: (tile: MatrixTile) => T): readonly T[] => MATRIX_TILES.map(make)

/**
 * Products of bf16 factors, summed in f32, for sizes along rows that are multiples of 8: K, and N and M where they run along rows of a factor
 * or of c. One kernel per tile of MATRIX_TILES, in its order. Grid: (⌈N / columns⌉ · GROUP, ⌈M / rows⌉ / GROUP, splits of K), GROUP a divisor of
 * ⌈M / rows⌉. 2·M·N·K FLOP. Subgroups of 32 lanes. Source: SPV_KHR_cooperative_matrix.
 *
 * forward: c = act(a·bᵀ + bias), pre = what the activation takes; BIAS, PRE: 1 where that is there; ACTIVATION: its number, 0 = none.
 */
export const matrixForward = perTile(forward)
/** c = a·b ⊙ act'(pre). With ACTIVATION 0: c = a·b or, with more than one split of K, its partial sums one after the other. */
export const matrixInput = perTile(input)
/** c = aᵀ·b + beta·c, c not read where beta is 0; or partial sums as above. */
export const matrixWeight = perTile(weight)

export const matrixKernels = [...matrixForward, ...matrixInput, ...matrixWeight]
