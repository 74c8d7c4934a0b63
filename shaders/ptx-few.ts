/** Matrix products of few rows on Hopper: many blocks with small tiles, each with as many bytes under way as shared memory holds. */
import { type F32, type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
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

/** Places of the ring, and as many boxes of b again, after which the L2 cache is asked for b. */
const AHEAD = 16

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

interface Frame {
  readonly tile: FewTile
  readonly places: ReturnType<typeof placesOf>
  readonly lane: U32
  readonly M: U32
  readonly N: U32
  readonly steps: U32
  /** Tiles of c down, and all. */
  readonly down: U32
  readonly tiles: U32
}

/** `body` for every tile of this block, with its first row and column. */
function eachTile(k: Ptx, { tile, down, tiles }: Frame, body: (row: U32, column: U32) => void): void {
  const t = k.special("%ctaid.x")
  const stride = k.special("%nctaid.x")
  k.while(
    "TILE",
    () => k.compare("lt", t, tiles),
    () => {
      const across = k.div(t, down)
      body(k.mul(k.sub(t, k.mul(across, down)), tile.rows), k.mul(across, tile.columns))
      k.add(t, stride, t)
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

/** One lane brings all steps of all tiles, without a stop between tiles. */
function bring(k: Ptx, frame: Frame, maps: U64): void {
  const { tile, places, down, tiles, steps } = frame
  const end = k.label("BROUGHT")
  k.jump(end, k.compare("ne", frame.lane, 0))
  const mapB = k.addLong(maps, 128)
  k.acquireMap(maps)
  k.acquireMap(mapB)
  const at = position(k, 1)
  const inAll = k.mul(steps, STEP)
  k.comment("the box of b that the L2 cache is asked for next")
  const [soonTile, soonStep] = boxOf(k, frame, k.variable("u32", depthOf(tile) + AHEAD))
  const soon = k.mul(soonStep, STEP)
  const stride = k.special("%nctaid.x")
  eachTile(k, frame, (row, column) => {
    const kx = k.variable("u32", 0)
    k.while(
      "BRING",
      () => k.compare("lt", kx, inAll),
      () => {
        const full = { base: at.barrier, bytes: places.full }
        k.wait({ base: at.barrier, bytes: places.empty }, at.parity)
        k.expect(full, placeBytes(tile))
        k.copyBox({ base: at.memory, bytes: places.b }, mapB, full, [kx, column])
        k.copyBox({ base: at.memory, bytes: 0 }, maps, full, [kx, row])
        advance(k, at, tile)
        const first = k.mul(k.div(soonTile, down), tile.columns)
        k.when(k.compare("lt", soonTile, tiles), () => k.prefetchBox(mapB, [soon, first]))
        k.add(soon, STEP, soon)
        const isNext = k.compare("ge", soon, inAll)
        k.when(isNext, () => {
          k.copy(soon, 0)
          k.add(soonTile, stride, soonTile)
        })
        k.add(kx, STEP, kx)
      },
    )
  })
  k.place(end)
}

/** Tile and step of this block's box number q. */
function boxOf(k: Ptx, { steps }: Frame, q: U32): readonly [tile: U32, step: U32] {
  const turn = k.div(q, steps)
  return [k.add(k.special("%ctaid.x"), k.mul(turn, k.special("%nctaid.x"))), k.sub(q, k.mul(turn, steps))]
}

/** Boxes of b that the ring has no room for yet: a lane asks for each. */
function fill(k: Ptx, frame: Frame, maps: U64): void {
  const { tile, down, tiles, lane } = frame
  const mapB = k.addLong(maps, 128)
  const [t, step] = boxOf(k, frame, k.add(lane, depthOf(tile)))
  const isThere = k.both(k.compare("lt", lane, AHEAD), k.compare("lt", t, tiles))
  k.if(isThere, () => {
    k.acquireMap(mapB)
    k.prefetchBox(mapB, [k.mul(step, STEP), k.mul(k.div(t, down), tile.columns)])
  })
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
  const none = k.shr(steps, 31)
  const multiply = ({ a, b, from }: Fragments): void => {
    for (const i of range(4)) {
      sums.forEach((sum, j) => k.multiplyWarp(sum, a[i]!, b[j]![i >> 1]!.slice(2 * (i & 1), 2 * (i & 1) + 2)))
      if (i !== 2) continue
      k.comment("the last of the place's loads has come, as its product is there: this 0 keeps the assembler from arriving earlier")
      k.add(from, k.and(k.bits(sums.at(-1)![0]!), none), from)
    }
    k.syncWarp()
    k.when(isFirstLane, () => k.arrive({ base: from, bytes: places.empty }))
  }
  eachTile(k, frame, (row, column) => {
    const store = storeFew(k, { ...frame, row: k.add(row, strip), column: k.add(column, firstColumn) }, blocks, memory)
    for (const sum of sums) for (const one of sum) k.copy(one, 0)
    load(sets[0]!)
    const i = k.variable("u32", 1)
    const [again, done] = [k.label("STEP"), k.label("DONE")]
    k.place(again)
    k.comment("a step's factors are loaded before the step before it is multiplied")
    sets.forEach((now, which) => {
      k.if(k.compare("lt", i, steps), () => load(sets[1 - which]!))
      multiply(now)
      k.add(i, 1, i)
      k.jump(which === 0 ? done : again, k.compare(which === 0 ? "gt" : "le", i, steps))
    })
    k.place(done)
    store(sums)
  })
}

/**
 * c = epilogue(a·bᵀ) (M, N), a (M, K), b (N, K) bf16, summed in f32 by one product of 16 of K after the other: the bits are those of the other
 * kernels of matrix instructions. Grid: as many blocks as there are processors, or tiles. 2·M·N·K FLOP; reads b ⌈M / rows⌉ times, from the
 * L2 cache but for the first. Sources: PTX ISA 8.0 (mma, ldmatrix, cp.async.bulk.tensor, mbarrier).
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
      const down = k.div(k.add(M, tile.rows - 1), tile.rows)
      const tiles = k.mul(down, k.div(k.add(N, tile.columns - 1), tile.columns))
      const frame: Frame = { tile, places, lane: k.and(thread, 31), M, N, steps, down, tiles }
      k.if(k.compare("eq", thread, 0), () => {
        for (const i of range(depthOf(tile))) {
          k.barrierInit(places.full + 8 * i, 1)
          k.barrierInit(places.empty + 8 * i, warps)
        }
        k.fenceBarrierInit()
      })
      k.syncBlock()
      k.if(
        k.compare("ge", warp, warps),
        () =>
          k.if(
            k.compare("eq", warp, warps),
            () => bring(k, frame, maps),
            () => fill(k, frame, maps),
          ),
        () => consume(k, frame, warp, { ...given, out }),
      )
      k.emit("ret")
    },
  })
}
