/** Matrix products of few rows and very many columns on Hopper: a block keeps all of a in registers, so that nothing but b is read. */
import { type Ptx, type PtxKernel, ptxKernel, type U32, type U64 } from "../src/ptx.ts"
import { f32, read, u32, u64, write } from "../src/spirv.ts"
import { giveBack, PIECE, PIECE_BYTES, Position, type Ring } from "./ptx-attention-cached-frame.ts"
import { keepApart } from "./ptx-attention-frame.ts"
import { type FewMemory, storeFew } from "./ptx-few-epilogue.ts"
import { ROW_BYTES, STEP } from "./ptx-few-tile.ts"

/** Rows of a, which four warps share; columns of a tile, as many as a piece has rows; steps of K, all of which are in registers. */
export const HELD_ROWS = 64
export const HELD_COLUMNS = PIECE
const STEPS = 12
export const HELD_K = STEPS * STEP
const WARPS = HELD_ROWS / 16
const THREADS = 32 * (WARPS + 1)
/** Pieces under way; two hold a step of a. */
const PLACES = 10
const RING: Ring = { count: PLACES, memory: 0, full: PLACES * PIECE_BYTES, empty: PLACES * PIECE_BYTES + 8 * PLACES }
/** Of rows of 128 bytes, swizzled by 128; the next 16 of K. */
const DESCRIPTOR = 0x4000004000010000n
const NEXT_K = 2n

const buffers = {
  /** Tensor maps of a, then of b; 128 bytes each. */
  maps: read(u64),
  bias: read(f32),
  c: write(f32),
}
const push = { M: u32, N: u32, ldc: u32, activation: u32 } as const
export type HeldKernel = PtxKernel<typeof buffers, typeof push, Readonly<Record<never, never>>>

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/** `body` for every tile of this block, with its first column. */
function eachTile(k: Ptx, N: U32, body: (column: U32, next: U32) => void): void {
  const at = k.mul(k.special("%ctaid.x"), HELD_COLUMNS)
  const stride = k.mul(k.special("%nctaid.x"), HELD_COLUMNS)
  k.while(
    "TILE",
    () => k.compare("lt", at, N),
    () => {
      body(at, k.add(at, stride))
      k.add(at, stride, at)
    },
  )
}

/** One lane brings a, then b of all tiles; the L2 cache is asked for what comes a tile later. */
function produce(k: Ptx, maps: U64, N: U32): void {
  k.comment("---- the warp that brings")
  const mapB = k.addLong(maps, 128)
  k.acquireMap(maps)
  k.acquireMap(mapB)
  const places = new Position(k, RING, 1)
  const first = k.mul(k.special("%ctaid.x"), HELD_COLUMNS)
  for (const step of range(STEPS)) k.prefetchBox(mapB, [step * STEP, first])
  for (const step of range(STEPS)) {
    const [first, second] = [places.next(), places.next()]
    k.wait(first.empty, first.parity)
    k.wait(second.empty, second.parity)
    k.expect(first.full, HELD_ROWS * ROW_BYTES)
    k.arrive(second.full)
    k.copyBox({ base: first.memory, bytes: 0 }, maps, first.full, [step * STEP, 0])
  }
  eachTile(k, N, (column, next) => {
    const isNext = k.compare("lt", next, N)
    const kx = k.variable("u32", 0)
    k.while(
      "BRING",
      () => k.compare("lt", kx, HELD_K),
      () => {
        const { memory, full, empty, parity } = places.next()
        k.when(isNext, () => k.prefetchBox(mapB, [kx, next]))
        k.wait(empty, parity)
        k.expect(full, PIECE_BYTES)
        k.copyBox({ base: memory, bytes: 0 }, mapB, full, [kx, column])
        k.add(kx, STEP, kx)
      },
    )
  })
}

function consume(k: Ptx, warp: U32, lane: U32, { M, N, ...memory }: FewMemory & { readonly M: U32; readonly N: U32 }): void {
  k.comment("---- the warps that multiply: lane l names row 16*warp + (l mod 16) of a, 8 of k from 8*(l div 16) on; pieces swizzled")
  const places = new Position(k, RING, 0)
  const none = k.shr(M, 31)
  const row = k.add(k.shl(warp, 4), k.and(lane, 15))
  const turn = k.xor(k.shr(lane, 4), k.and(row, 7))
  const offsets = range(4).map((i) => k.add(k.shl(row, 7), k.shl(k.xor(turn, 2 * i), 4)))
  const left = range(STEPS).map(() => {
    const [first, second] = [places.next(), places.next()]
    k.wait(first.full, first.parity)
    k.wait(second.full, second.parity)
    const words = offsets.map((offset) => {
      const to = k.registers("u32", 4)
      k.loadMatrix(to, { base: k.add(first.memory, offset), bytes: 0 }, false)
      return to
    })
    const last = words.map((one) => one[3]!).reduce((x, y) => k.xor(x, y))
    for (const spot of [first, second]) giveBack({ k, lane, none }, spot, last)
    return words
  })
  const isFirst = k.compare("eq", lane, 0)
  const sums = k.registers("f32", HELD_COLUMNS / 2)
  const never = k.compare("eq", M, 0)
  const always = k.not(never)
  eachTile(k, N, (column) => {
    keepApart(k, left.flat(), M)
    const store = storeFew(k, { lane, M, N, row: k.shl(warp, 4), column }, HELD_COLUMNS / 8, memory)
    let before: ReturnType<Position["next"]> | undefined
    const release = ({ empty }: ReturnType<Position["next"]>) => {
      k.syncWarp()
      k.when(isFirst, () => k.arrive(empty))
    }
    left.forEach((words, step) => {
      const spot = places.next()
      k.wait(spot.full, spot.parity)
      const first = k.addLong(k.long(k.shr(spot.memory, 4)), DESCRIPTOR)
      const descriptors = range(4).map((i) => (i === 0 ? first : k.addLong(first, BigInt(i) * NEXT_K)))
      k.multiplyFence()
      descriptors.forEach((descriptor, i) => k.multiply(sums, words[i]!, descriptor, step + i === 0 ? never : always, false))
      k.multiplyCommit()
      k.multiplyWait(before === undefined ? 0 : 1)
      if (before !== undefined) release(before)
      before = spot
    })
    k.multiplyWait(0)
    release(before!)
    store(range(HELD_COLUMNS / 8).map((j) => sums.slice(4 * j, 4 * j + 4)))
  })
}

/**
 * c = epilogue(a·bᵀ) (M, N) f32, a (M, 768), b (N, 768) bf16, M up to 64, summed in f32 by one product of 16 of K after the other: the bits are those
 * of the other kernels of matrix instructions. Grid: any. 2·M·N·K FLOP; reads a once per block, b once.
 */
export const ptxFewHeld: HeldKernel = ptxKernel({
  name: "ptx_matmul_held_f32_64x32",
  about: `c = epilogue(a*b), few rows, all of K = ${HELD_K} in registers: nt, f32, tiles of ${HELD_ROWS}x${HELD_COLUMNS}, ${PLACES} pieces under way`,
  threads: THREADS,
  sharedBytes: Math.ceil((RING.empty + 8 * PLACES) / 128) * 128,
  buffers,
  push,
  body(k, given) {
    const thread = k.special("%tid.x")
    const warp = k.uniform(k.shr(thread, 5))
    const lane = k.and(thread, 31)
    k.if(k.compare("eq", thread, 0), () => {
      for (const i of range(PLACES)) {
        k.barrierInit(RING.full + 8 * i, 1)
        k.barrierInit(RING.empty + 8 * i, WARPS)
      }
      k.fenceBarrierInit()
    })
    k.syncBlock()
    k.if(
      k.compare("eq", warp, WARPS),
      () => k.if(k.compare("eq", lane, 0), () => produce(k, given.maps, given.N)),
      () => consume(k, warp, lane, { ...given, out: "f32" }),
    )
    k.emit("ret")
  },
})
