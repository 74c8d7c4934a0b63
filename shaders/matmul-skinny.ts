/** Products of few rows with a weight matrix by VK_KHR_cooperative_matrix: the weights are read once, with as many bytes under way as fit. */
import { type Body, bf16, constant, f32, kernel, type ReadBuffer, read, type SharedArray, type U32, u32, vec4 } from "../src/spirv.ts"
import { epilogue, finish } from "./matmul-epilogue.ts"

const FRAGMENT = 16
const SUBGROUP = 32
const LANES = 256
/** bf16 in 16 bytes: what a lane loads at once; also what each row in shared memory is padded by, so that rows begin in different banks. */
const PACK = 8
/** Tiles of K whose loads are under way at the same time, and how many of them shared memory holds. */
const AHEAD = 4
const HALVES = 2
/** Fragments of a that are loaded together at most, with those of b. */
const TOGETHER = 8
/** f32 in 16 bytes. */
const QUAD = 4

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
const pitchOf = (depth: number) => depth / PACK + 1
type Shared = SharedArray<ReturnType<typeof vec4<"u32">>>

/** Rows of c and columns of a workgroup, and how much of K it takes at a time. */
export interface SkinnyTile {
  readonly rows: number
  readonly columns: number
  readonly depth: number
}

const constants = {
  M: constant(u32, 16),
  N: constant(u32, 768),
  K: constant(u32, 768),
  LDA: constant(u32, 768),
  LDB: constant(u32, 768),
  /** 1: c is written number by number. */
  NARROW: constant(u32, 0),
}

/** A lane's share of `span` rows of a factor, in registers from the load of a tile until it is stored to shared memory. */
function fetch(k: Body, memory: ReadBuffer<typeof bf16>, start: U32, [side, stride, K]: readonly U32[], [span, depth]: readonly number[]) {
  const perRow = depth! / PACK
  const places = range((span! * perRow) / LANES).map((turn) => {
    const piece = k.lane.add(turn * LANES)
    const [line, pack] = [piece.div(perRow), piece.mod(perRow)]
    // Rows beyond the end are copies of the last, for sums that nobody stores.
    const row = start.add(line).min(side!.sub(1)).mul(stride!).div(PACK)
    return { line, pack, row, held: k.var(vec4(u32), 0) }
  })
  return {
    load(from: U32) {
      for (const { pack, row, held } of places) {
        const inner = from.div(PACK).add(pack)
        const isInside = K!.mod(depth!).eq(0).or(inner.mul(PACK).lt(K!))
        held.set(isInside.select(memory.as(vec4(u32)).at(isInside.select(row.add(inner), 0)), 0))
      }
    },
    store(shared: Shared, base: number) {
      for (const { line, pack, held } of places) shared.set(line.mul(pitchOf(depth!)).add(pack).add(base), held.get())
    },
  }
}

function skinny({ rows, columns, depth }: SkinnyTile) {
  const pitch = pitchOf(depth)
  const half = (rows + columns) * pitch
  const [high, wide] = [rows / FRAGMENT, columns / FRAGMENT]
  // Subgroups with sums, each of one column of fragments and every so many rows of them.
  const busy = Math.min(LANES / SUBGROUP, high * wide)
  const each = (high * wide) / busy
  const together = Math.min(TOGETHER / each, depth / FRAGMENT)
  const sumPitch = columns / QUAD + 1
  return kernel({
    name: `matmul_skinny_${rows}x${columns}x${depth}`,
    workgroup: LANES,
    sharedKiB: 48,
    buffers: { a: read(bf16), b: read(bf16), ...epilogue.buffers },
    push: epilogue.push,
    params: epilogue.params,
    constants: { ...constants, ...epilogue.constants },
    body(k, { a, b, ...rest }) {
      const { M, N, K, LDA, LDB, NARROW } = rest
      const [top, first] = [k.groupY.mul(rows), k.group.mul(columns)]
      const shared: Shared = k.shared("tiles", vec4(u32), Math.max(HALVES * half, rows * sumPitch))
      const [A, B, C] = [
        k.matrix(bf16, "a", FRAGMENT, FRAGMENT, "subgroup"),
        k.matrix(bf16, "b", FRAGMENT, FRAGMENT, "subgroup"),
        k.matrix(f32, "accumulator", FRAGMENT, FRAGMENT, "subgroup"),
      ]
      const sums = range(each).map(() => k.var(C, 0))
      const isBusy = k.subgroup.lt(busy)
      const [over, down] = [k.subgroup.mod(wide).mul(FRAGMENT), k.subgroup.div(wide)]
      const rowOf = (i: number) => down.add(i * (busy / wide)).mul(FRAGMENT)
      const ahead = range(AHEAD).map(() => [
        fetch(k, b, first, [N, LDB, K], [columns, depth]),
        fetch(k, a, top, [M, LDA, K], [rows, depth]),
      ])
      const load = (i: number, from: U32) => k.if(from.lt(K), () => ahead[i]!.forEach((factor) => factor.load(from)))
      const isWhole = K.mod(depth).eq(0) // known when the pipeline is made: then all steps of a tile are straight code
      const multiply = (from: U32, place: number) => {
        for (let step = 0; step < depth / FRAGMENT; step += together) {
          k.if(isWhole.or(from.add(step * FRAGMENT).lt(K)), () => {
            const inner = range(together).map((i) => place + ((step + i) * FRAGMENT) / PACK)
            const bs = inner.map((at) => k.loadMatrix(B, shared, over.mul(pitch).add(at), pitch, "column"))
            const as = sums.map((_, i) =>
              inner.map((at) =>
                k.loadMatrix(
                  A,
                  shared,
                  rowOf(i)
                    .mul(pitch)
                    .add(at + columns * pitch),
                  pitch,
                  "row",
                ),
              ),
            )
            bs.forEach((right, t) => sums.forEach((sum, i) => sum.update((now) => k.mulAdd(as[i]![t]!, right, now))))
          })
        }
      }
      for (const i of range(AHEAD)) load(i, k.u32(i * depth))
      // A lane's columns of c are the same in all its rows: perRow divides the lanes. Their bias comes while K is summed.
      const perRow = columns / QUAD
      const column = first.add(k.lane.mod(perRow).mul(QUAD))
      const biases = range(QUAD).map(() => k.var(f32, 0))
      k.if(rest.hasBias.ne(0), () => biases.forEach((one, j) => one.set(rest.bias.at(column.add(j).min(N.sub(1))))))
      k.for(0, K, AHEAD * depth, (base) => {
        for (const i of range(AHEAD)) {
          const from = base.add(i * depth)
          const place = (i % HALVES) * half
          k.if(from.lt(K), () => {
            ahead[i]![0]!.store(shared, place)
            ahead[i]![1]!.store(shared, place + columns * pitch)
            k.barrier() // all are done with the tile before as well, so the next may go where that was
            load(i, from.add(AHEAD * depth))
            k.if(isBusy, () => multiply(from, place))
          })
        }
      })
      k.barrier()
      k.if(isBusy, () =>
        sums.forEach((sum, i) => k.storeMatrix(shared, rowOf(i).mul(sumPitch).add(over.div(QUAD)), sumPitch, "row", sum.get())),
      )
      k.barrier()
      k.for(k.lane, rows * perRow, LANES, (piece) => {
        const [r, c] = [piece.div(perRow), piece.mod(perRow)]
        const { x, y, z, w } = shared.at(r.mul(sumPitch).add(c))
        const values = [x, y, z, w].map((word) => word.asF32())
        const row = top.add(r)
        k.if(row.lt(M).and(column.lt(N)), () =>
          k.if(
            NARROW.eq(0),
            () => finish(k, rest, row, column, values, { biases }),
            () =>
              values.forEach((value, j) =>
                k.if(column.add(j).lt(N), () => finish(k, rest, row, column.add(j), [value], { biases: [biases[j]!] })),
              ),
          ),
        )
      })
    },
  })
}

/** Most rows that are done while the weights are read once. */
export const SKINNY_ROWS = 64
/** By rows, for narrow matrices and wide ones: a workgroup takes 16 of the columns, or 64. */
export const SKINNY_TILES = [
  { narrow: { rows: 16, columns: 16, depth: 256 }, wide: { rows: 16, columns: 64, depth: 128 } },
  { narrow: { rows: 32, columns: 16, depth: 128 }, wide: { rows: 32, columns: 64, depth: 64 } },
  { narrow: { rows: 64, columns: 16, depth: 128 }, wide: { rows: 64, columns: 64, depth: 64 } },
] as const satisfies readonly Readonly<Record<"narrow" | "wide", SkinnyTile>>[]

/**
 * c = epilogue(a·bᵀ) (M, N), a (M, K), b (N, K) bf16; K is summed in f32 by one matrix instruction after the other, 16 of it each: the bits
 * are those of matmul_matrix and matmul_tensor. K, LDA and LDB are multiples of 8; N and ldc of 4, or NARROW. AHEAD tiles of K are on
 * their way while one is multiplied. Grid: (⌈N / columns⌉, ⌈M / rows⌉). Reads b ⌈M / rows⌉ times: (N·K + M·K)·2 bytes. Subgroups of 32 lanes.
 */
export const matmulSkinny = SKINNY_TILES.map((tiles) => ({
  rows: tiles.narrow.rows,
  narrow: skinny(tiles.narrow),
  wide: skinny(tiles.wide),
}))
