/** Matrix product for every device: tiles in shared memory, 4 × 4 outputs per lane. */
import {
  act,
  type Body,
  type Choice,
  choice,
  f32,
  kernel,
  type ReadBuffer,
  read,
  type SharedArray,
  type U32,
  u32,
  write,
} from "../src/spirv.ts"

/** Rows and columns of a tile of c, and how much of K is in shared memory at a time. */
const TILE = 64
const DEPTH = 16
/** Floats from one row of a tile in shared memory to the next: a little more than TILE, so that columns lie in different banks. */
const PITCH = TILE + 4
/** Outputs of a lane along each side; a workgroup is 16 × 16 lanes. */
const SIDE = 4

/** Type of c: that of a and b for activations, f32 for gradients of weights. */
const out = choice("out")

/** An operand: its memory, whether K runs along its rows (contiguous) or along its columns, and how long its other side is. */
interface Operand {
  readonly memory: ReadBuffer<Choice>
  readonly isAlongRows: boolean
  readonly extent: U32
  /** First row (of a) or column (of b) of the workgroup's tile. */
  readonly start: U32
}

/** Brings tile[k][i] of an operand from `depth` on into shared memory; beyond the edges it is 0 when `isEdge`. */
function fetch(
  k: Body,
  tile: SharedArray<typeof f32>,
  { memory, isAlongRows, extent, start }: Operand,
  depth: U32,
  K: U32,
  isEdge: boolean,
): void {
  const [run, place] = isAlongRows ? [k.lane.and(3).mul(4), k.lane.shr(2)] : [k.lane.and(15).mul(4), k.lane.shr(4)]
  const first = isAlongRows ? start.add(place).mul(K).add(depth.add(run)) : depth.add(place).mul(extent).add(start.add(run))
  const packed = isEdge ? [] : memory.pack(4).at(first.shr(2))
  for (let j = 0; j < 4; j++) {
    const [inner, outer] = isAlongRows ? [run.add(j), place] : [place, run.add(j)]
    const isInside = depth.add(inner).lt(K).and(start.add(outer).lt(extent))
    const value = packed[j] ?? isInside.select(memory.at(isInside.select(first.add(j), 0)), 0)
    tile.set(inner.mul(PITCH).add(outer), value)
  }
}

/** "n": the operand is stored as it is multiplied, (M, K) or (K, N); "t": transposed. */
type Layout = "nn" | "nt" | "tn"

function matmul(layout: Layout, isEdge: boolean) {
  return kernel({
    name: `matmul_${layout}${isEdge ? "_edge" : ""}`,
    workgroup: (TILE / SIDE) ** 2,
    buffers: { a: read(act), b: read(act), c: write(out) },
    push: { M: u32, N: u32, K: u32 },
    variants: [
      { act: "f32", out: "f32" },
      { act: "bf16", out: "bf16" },
      { act: "bf16", out: "f32" },
    ],
    body(k, { a, b, c, M, N, K }) {
      const [as, bs] = [k.shared("as", f32, DEPTH * PITCH), k.shared("bs", f32, DEPTH * PITCH)]
      const left = { memory: a, isAlongRows: layout[0] === "n", extent: M, start: k.groupY.mul(TILE) }
      const right = { memory: b, isAlongRows: layout[1] === "t", extent: N, start: k.group.mul(TILE) }
      const [y, x] = [k.lane.shr(4).mul(SIDE), k.lane.and(15).mul(SIDE)]
      const range = Array.from({ length: SIDE }, (_, i) => i)
      const sums = range.map(() => range.map(() => k.var(f32, 0)))
      k.for(0, K, DEPTH, (depth) => {
        fetch(k, as, left, depth, K, isEdge)
        fetch(k, bs, right, depth, K, isEdge)
        k.barrier()
        const step = (d: U32) => {
          const column = range.map((i) => as.at(d.mul(PITCH).add(y.add(i))))
          const row = range.map((j) => bs.at(d.mul(PITCH).add(x.add(j))))
          for (const i of range) for (const j of range) sums[i]![j]!.add(column[i]!.mul(row[j]!))
        }
        k.for(0, DEPTH, 1, step) // no unroll hint: lavapipe then compiles ten times as long, other drivers unroll it anyway
        k.barrier()
      })
      for (const i of range) {
        const [m, n] = [left.start.add(y.add(i)), right.start.add(x)]
        const values = range.map((j) => sums[i]![j]!.get())
        if (isEdge) for (const j of range) k.if(m.lt(M).and(n.add(j).lt(N)), () => c.set(m.mul(N).add(n.add(j)), values[j]!))
        else c.pack(4).set(m.mul(N).add(n).shr(2), values)
      }
    },
  })
}

/**
 * c = a·b (M, N), summed in f32 in the order of K. "nn": a (M, K), b (K, N); "nt": b is stored (N, K), as weights are; "tn": a is stored (K, M).
 * Grid: (⌈N / 64⌉, ⌈M / 64⌉). 2·M·N·K FLOP; reads a ⌈N / 64⌉ times, b ⌈M / 64⌉ times, through the cache.
 * matmul_… wants M and N multiples of 64 and K of 16; matmul_…_edge takes any sizes.
 */
export const matmuls = (["nn", "nt", "tn"] as const).flatMap((layout) => [matmul(layout, false), matmul(layout, true)])
