/** Matrix products of few rows on Hopper: many blocks with small tiles, each with as many bytes under way as shared memory holds. */
import { type F32, type Predicate, type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { bf16, f32, read, u32, u64, write } from "../src/spirv.ts"
import { type FewMemory, storeFew } from "./ptx-few-epilogue.ts"
import { depthOf, type FewTile, fewTileName, placeBytes, placesOf, ROW_BYTES, STEP, warpsOf } from "./ptx-few-tile.ts"

const buffers = (out: typeof f32 | typeof bf16) => ({
  /** Tensor maps of a, then of b; 128 bytes each. */
  maps: read(u64),
  bias: read(f32),
  c: write(out),
})
const push = { M: u32, N: u32, steps: u32, ldc: u32, activation: u32 } as const
export type FewKernel = PtxKernel<ReturnType<typeof buffers>, typeof push, Readonly<Record<never, never>>>

/** Boxes of b, after those that the ring holds, that the L2 cache is asked for. */
const AHEAD = 16

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

interface Frame {
  readonly tile: FewTile
  readonly places: ReturnType<typeof placesOf>
  readonly lane: U32
  readonly M: U32
  readonly N: U32
  readonly steps: U32
  /** The block's first row and column, from its first column to its next tile's. */
  readonly row: U32
  readonly column: U32
  readonly stride: U32
}

/** `body` for every tile of this block, with its first column. */
function eachTile(k: Ptx, { N, column, stride }: Frame, body: (column: U32) => void): void {
  const at = k.variable("u32", column)
  k.while(
    "TILE",
    () => k.compare("lt", at, N),
    () => {
      body(at)
      k.add(at, stride, at)
    },
  )
}

/** A position in the ring: its bytes, 8 per place for the barriers, its parity. */
interface Position {
  readonly memory: U32
  readonly barrier: U32
  readonly parity: U32
}
const position = (k: Ptx, parity: 0 | 1): Position => ({
  memory: k.variable("u32", 0),
  barrier: k.variable("u32", 0),
  parity: k.variable("u32", parity),
})

function advance(k: Ptx, { memory, barrier, parity }: Position, tile: FewTile): void {
  k.add(memory, placeBytes(tile), memory)
  k.add(barrier, 8, barrier)
  const isRound = k.compare("eq", barrier, 8 * depthOf(tile))
  k.when(isRound, () => {
    k.copy(memory, 0)
    k.copy(barrier, 0)
    k.xor(parity, 1, parity)
  })
}

/** One lane brings a factor of all steps of all tiles, without a stop between tiles; `also` is done with every step. */
function bring(k: Ptx, frame: Frame, map: U64, factor: "a" | "b", also: (inAll: U32) => void): void {
  const { tile, places, steps, row } = frame
  const at = position(k, 1)
  const inAll = k.mul(steps, STEP)
  const [rows, from] = factor === "a" ? [tile.rows, 0] : [tile.columns, places.b]
  eachTile(k, frame, (column) => {
    const kx = k.variable("u32", 0)
    k.while(
      "BRING",
      () => k.compare("lt", kx, inAll),
      () => {
        const full = { base: at.barrier, bytes: places.full }
        k.wait({ base: at.barrier, bytes: places.empty }, at.parity)
        k.expect(full, rows * ROW_BYTES)
        k.copyBox({ base: at.memory, bytes: from }, map, full, [kx, factor === "a" ? row : column])
        advance(k, at, tile)
        also(inAll)
        k.add(kx, STEP, kx)
      },
    )
  })
}

/** a by one warp, b by another, whose other lanes first ask the L2 cache for what the ring has no room for. */
function produce(k: Ptx, frame: Frame, maps: U64, isSecond: Predicate): void {
  const { tile, steps, N, lane, column, stride } = frame
  const end = k.label("BROUGHT")
  const mapB = k.addLong(maps, 128)
  k.if(
    isSecond,
    () => {
      k.comment("lane l asks for box l behind the ring's; lane 0 goes on with one for each that it brings")
      k.acquireMap(mapB)
      const step = k.add(lane, depthOf(tile) - 1)
      const isNext = k.compare("ge", step, steps)
      const soon = k.variable("u32", k.select(isNext, k.add(column, stride), column, "u32"))
      k.when(isNext, () => k.sub(step, steps, step))
      const isThere = k.both(k.both(k.compare("lt", step, steps), k.compare("lt", soon, N)), k.compare("le", lane, AHEAD))
      const isFirst = k.compare("eq", lane, 0)
      k.if(k.both(isThere, k.not(isFirst)), () => k.prefetchBox(mapB, [k.shl(step, 6), soon]))
      k.jump(end, isFirst, false)
      const kx = k.variable("u32", (depthOf(tile) + AHEAD) * STEP)
      const all = k.shl(steps, 6)
      k.copy(soon, column)
      for (const _ of range(2)) {
        const isBeyond = k.compare("ge", kx, all)
        k.when(isBeyond, () => {
          k.sub(kx, all, kx)
          k.add(soon, stride, soon)
        })
      }
      bring(k, frame, mapB, "b", (inAll) => {
        const p = k.both(k.compare("lt", soon, N), k.compare("lt", kx, inAll))
        k.when(p, () => k.prefetchBox(mapB, [kx, soon]))
        k.add(kx, STEP, kx)
        const isOver = k.compare("ge", kx, inAll)
        k.when(isOver, () => {
          k.copy(kx, 0)
          k.add(soon, stride, soon)
        })
      })
    },
    () => {
      k.jump(end, k.compare("ne", lane, 0))
      k.acquireMap(maps)
      bring(k, frame, maps, "a", () => {})
    },
  )
  k.place(end)
}

/** A step's factors in registers: a by 16 of K, b by 16 of K and 8 columns. */
interface Fragments {
  readonly a: readonly (readonly U32[])[]
  /** [columns][half of the step]: 32 of K, 4 registers. */
  readonly b: readonly (readonly (readonly U32[])[])[]
  /** The barrier that empties the place they came from. */
  readonly from: U32
}

function consume(k: Ptx, frame: Frame, warp: U32, memory: FewMemory): void {
  const { tile, places, lane, steps } = frame
  const blocks = tile.each / 8
  const strips = tile.rows / 16
  const group = k.div(warp, strips)
  const strip = k.shl(k.sub(warp, k.mul(group, strips)), 4)
  const firstColumn = k.mul(group, tile.each)
  k.comment(
    "ldmatrix: lane l names row l mod 16 of a, 8 of k from 8*(l div 16) on; row l mod 8 of b, 8 of k from 8*(l div 8) on; pieces swizzled",
  )
  const rowA = k.add(strip, k.and(lane, 15))
  const beginA = k.shl(rowA, 7)
  const turnA = k.xor(k.shr(lane, 4), k.and(rowA, 7))
  const atA = range(4).map((i) => k.add(beginA, k.shl(k.xor(turnA, 2 * i), 4)))
  const beginB = k.shl(k.add(firstColumn, k.and(lane, 7)), 7)
  const turnB = k.xor(k.shr(lane, 3), k.and(lane, 7))
  const atB = range(2).map((i) => k.add(beginB, k.shl(k.xor(turnB, 4 * i), 4)))
  const isFirstLane = k.compare("eq", lane, 0)
  const at = position(k, 0)
  const sums: readonly (readonly F32[])[] = range(blocks).map(() => k.registers("f32", 4))
  const sets: readonly Fragments[] = range(2).map(() => ({
    a: range(4).map(() => k.registers("u32", 4)),
    b: range(blocks).map(() => range(2).map(() => k.registers("u32", 4))),
    from: k.register("u32"),
  }))
  const none = k.shr(steps, 31)
  const load = ({ a, b, from }: Fragments): void => {
    k.wait({ base: at.barrier, bytes: places.full }, at.parity)
    atA.forEach((offset, i) => k.loadMatrix(a[i]!, { base: k.add(at.memory, offset), bytes: 0 }, false))
    const bases = atB.map((offset) => k.add(at.memory, offset))
    b.forEach((halves, j) =>
      halves.forEach((to, half) => k.loadMatrix(to, { base: bases[half]!, bytes: places.b + 8 * j * ROW_BYTES }, false)),
    )
    k.copy(from, at.barrier)
    advance(k, at, tile)
  }
  /** The place may be filled again, once all is in registers; this 0 keeps the assembler from arriving earlier. */
  const giveBack = ({ a, b, from }: Fragments, isThere: Predicate): void => {
    const all = [...a, ...b.flat()].map((loaded) => loaded[3]!).reduce((x, y) => k.xor(x, y))
    const base = k.add(from, k.and(all, none))
    k.syncWarp()
    k.when(k.both(isFirstLane, isThere), () => k.arrive({ base, bytes: places.empty }))
  }
  const multiply = ({ a, b }: Fragments, i: number): void =>
    sums.forEach((sum, j) => k.multiplyWarp(sum, a[i]!, b[j]![i >> 1]!.slice(2 * (i & 1), 2 * (i & 1) + 2)))
  eachTile(k, frame, (column) => {
    const store = storeFew(k, { ...frame, row: k.add(frame.row, strip), column: k.add(column, firstColumn) }, blocks, memory)
    for (const sum of sums) for (const one of sum) k.copy(one, 0)
    load(sets[0]!)
    giveBack(sets[0]!, isFirstLane)
    const i = k.variable("u32", 1)
    const [again, done] = [k.label("STEP"), k.label("DONE")]
    k.place(again)
    k.comment("a step's factors are loaded before the step before it is multiplied")
    sets.forEach((now, which) => {
      const next = sets[1 - which]!
      const hasNext = k.compare("lt", i, steps)
      k.if(hasNext, () => load(next))
      multiply(now, 0)
      giveBack(next, hasNext)
      for (const part of [1, 2, 3]) multiply(now, part)
      k.add(i, 1, i)
      k.jump(which === 0 ? done : again, k.compare(which === 0 ? "gt" : "le", i, steps))
    })
    k.place(done)
    store(sums)
  })
}

/**
 * c = epilogue(a·bᵀ) (M, N), a (M, K), b (N, K) bf16, summed in f32 by one product of 16 of K after the other: the bits are those of the other
 * kernels of matrix instructions. Grid: (any, ⌈M / rows⌉). 2·M·N·K FLOP; reads b ⌈M / rows⌉ times, from the L2 cache but for the first.
 * Sources: PTX ISA 8.0 (mma, ldmatrix, cp.async.bulk.tensor, mbarrier).
 */
export function ptxFew(tile: FewTile, out: "f32" | "bf16"): FewKernel {
  const [places, warps] = [placesOf(tile), warpsOf(tile)]
  return ptxKernel({
    name: `ptx_matmul_few_${out}_${fewTileName(tile)}`,
    about: `c = epilogue(a*b), few rows: nt, ${out}, tiles of ${fewTileName(tile)}, ${STEP} of K at a time, ${depthOf(tile)} under way`,
    threads: 32 * (warps + 2),
    sharedBytes: Math.ceil(places.end / 128) * 128,
    buffers: buffers(out === "f32" ? f32 : bf16),
    push,
    body(k, given) {
      const { M, N, steps, maps } = given
      const thread = k.special("%tid.x")
      const warp = k.uniform(k.shr(thread, 5))
      const row = k.mul(k.special("%ctaid.y"), tile.rows)
      const [column, stride] = ["%ctaid.x", "%nctaid.x"].map((name) => k.mul(k.special(name), tile.columns)) as [U32, U32]
      const frame: Frame = { tile, places, lane: k.and(thread, 31), M, N, steps, row, column, stride }
      k.if(k.compare("eq", thread, 0), () => {
        for (const i of range(depthOf(tile))) {
          k.barrierInit(places.full + 8 * i, 2)
          k.barrierInit(places.empty + 8 * i, warps)
        }
        k.fenceBarrierInit()
      })
      k.syncBlock()
      k.if(
        k.compare("ge", warp, warps),
        () => produce(k, frame, maps, k.compare("gt", warp, warps)),
        () => consume(k, frame, warp, { ...given, out }),
      )
      k.emit("ret")
    },
  })
}
