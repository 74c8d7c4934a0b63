/** The end of a Hopper matrix product whose results wait in registers, in bf16, and are stored while the next tile's first products run. */
import type { Ptx, U32 } from "../src/ptx.ts"
import { ptxActivations } from "./ptx-activation.ts"
import type { EpilogueMemory } from "./ptx-gemm-epilogue.ts"
import type { Finish, Frame, Place, PtxActivation, Sums } from "./ptx-gemm-frame.ts"
import { CHUNK_COLUMNS } from "./ptx-gemm-tile.ts"
import { piecesOf } from "./ptx-gemm-whole.ts"
import { quadOf, transposeQuad } from "./ptx-quad.ts"

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)
const ROWS = [0, 1] as const

/** Tasks between asking for factors and using them. */
const LAG = 2
/** Bits behind the point of a k step's share of the tasks. */
const SHARE = 16

/** Whether there is a kernel whose results wait; those of an activation with its slope are rounded before it. */
const mayWait = (finish: Finish): boolean => finish === "none" || finish === "bias" || finish === "factor" || finish.endsWith("_slope")

/**
 * As epilogueOf, for bf16 and N a multiple of 8. The words of a tile: of each 32 columns of a row a lane's 8 values, neighbours where b was permuted, else
 * those of its accumulator, exchanged on the way to memory.
 */
export function laterOf(k: Ptx, frame: Frame, warpgroup: U32, memory: EpilogueMemory) {
  const { layout, tile, finish } = frame.gemm
  const isPermuted = layout === "ntp"
  const activation = finish.endsWith("_slope") ? ptxActivations[finish.slice(0, -"_slope".length) as PtxActivation] : undefined
  const isFactor = finish === "factor"
  const hasBias = finish === "bias" || activation !== undefined
  if (!mayWait(finish) || (hasBias && !isPermuted)) throw new TypeError(`ptx gemm: results of ${finish} cannot wait`)
  const quad = k.and(frame.lane, 3)
  const warpRow = k.add(k.mul(warpgroup, 64 * tile.units), k.shl(frame.warp, 4))
  const row = k.add(warpRow, k.shr(frame.lane, 2))
  const column = k.shl(quad, 3)
  const lanes = quadOf(k, quad)
  const rowBytes = k.mul(memory.ldc, 2)
  const toKept = k.register("u64")
  if (activation !== undefined || isFactor) k.emit("sub.u64", toKept, memory.kept, memory.c)

  const items = range(tile.chunks).flatMap((chunk) =>
    piecesOf(isPermuted).flatMap((piece, half) =>
      range(tile.units).map((unit) => ({ chunk, piece, unit, first: CHUNK_COLUMNS * chunk + 32 * half })),
    ),
  )
  const words = items.map(() => ROWS.map(() => range(4).map(() => k.variable("u32", 0))))
  /** Whose words they are: where this lane stores first, and how many rows and columns there are from there on. */
  const owner = { first: k.variable("u64", 0), rowsLeft: k.variable("u32", 0), columnsLeft: k.variable("u32", 0) }
  const own = (place: Place): void => {
    const [firstRow, firstColumn] = [k.add(place.row, row), k.add(place.column, column)]
    k.emit("mad.lo.u64", owner.first, k.long(firstRow), k.long(rowBytes), k.madWide(firstColumn, 2, memory.c))
    k.sub(frame.M, k.min(firstRow, frame.M), owner.rowsLeft)
    k.sub(frame.N, k.min(firstColumn, frame.N), owner.columnsLeft)
  }
  const whereOf = ({ unit, first }: (typeof items)[number], h: 0 | 1) => {
    const below = 64 * unit + 8 * h
    return {
      address: below === 0 ? owner.first : k.madWide(rowBytes, below, owner.first),
      isThere: k.both(k.compare("gt", owner.rowsLeft, below), k.compare("gt", owner.columnsLeft, first)),
    }
  }

  const store = (i: number, h: 0 | 1): void => {
    const item = items[i]!
    const { address, isThere } = whereOf(item, h)
    const held = words[i]![h]!
    if (activation === undefined) {
      const moved = isPermuted ? held : transposeQuad(k, lanes, held)
      k.when(isThere, () => k.store("u32", address, 2 * item.first, moved))
      return
    }
    const [results, slopes]: [U32[], U32[]] = [[], []]
    for (const pair of held) {
      const [low, high] = [activation.both(k, k.unpackBf16(pair, 0)), activation.both(k, k.unpackBf16(pair, 1))]
      results.push(k.packBf16(low.value, high.value))
      slopes.push(k.packBf16(low.slope, high.slope))
    }
    k.when(isThere, () => k.store("u32", address, 2 * item.first, results))
    const kept = k.addLong(address, toKept)
    k.when(isThere, () => k.store("u32", kept, 2 * item.first, slopes))
  }
  const ask = (i: number): void => {
    for (const h of ROWS) {
      const { address, isThere } = whereOf(items[i]!, h)
      const from = k.addLong(address, toKept)
      k.when(isThere, () => k.load("u32", words[i]![h]!, from, 2 * items[i]!.first, "wide"))
    }
  }
  const arrange = (i: number): void => {
    for (const h of ROWS) transposeQuad(k, lanes, words[i]![h]!).forEach((word, j) => k.copy(words[i]![h]![j]!, word))
  }

  /** What is done under the next tile's products, a share in each k step: the last tile's results, then this one's factors. */
  const stores =
    activation === undefined
      ? items.map((_, i) => () => ROWS.forEach((h) => store(i, h)))
      : items.flatMap((_, i) => ROWS.map((h) => () => store(i, h)))
  const asks = range(isFactor ? items.length + LAG : 0).map((i) => (place: Place) => {
    if (i === 0) own(place)
    if (i < items.length) ask(i)
    if (i >= LAG) arrange(i - LAG)
  })
  const tasks: readonly ((place: Place) => void)[] = [...stores, ...asks]
  /** Tasks of a k step, in 2^-SHARE; and those that are done. */
  const share = k.div(k.add(frame.steps, (tasks.length << SHARE) - 1), frame.steps)
  const done = k.variable("u32", 0)

  /** Goes to the task of a number. */
  const doTask = (i: U32, place: Place | undefined, from: number, to: number): void => {
    if (to - from === 1) {
      tasks[from]!(place as Place)
      return
    }
    const middle = (from + to) >> 1
    k.if(
      k.compare("lt", i, middle),
      () => doTask(i, place, from, middle),
      () => doTask(i, place, middle, to),
    )
  }
  const meanwhile = (i: U32, place: Place): void => {
    const due = k.min(k.shr(k.mul(k.add(i, 1), share), SHARE), tasks.length)
    k.while(
      "TASK",
      () => k.compare("lt", done, due),
      () => {
        doTask(done, place, 0, tasks.length)
        k.add(done, 1, done)
      },
    )
  }

  const begin = (place: Place): void => {
    k.copy(done, 0)
    if (!isFactor) return
    k.comment("each lane asks for a row of factors, which is in the L2 cache when it is read")
    const mine = k.add(k.add(place.row, warpRow), k.add(k.and(frame.lane, 15), k.shl(k.shr(frame.lane, 4), 6)))
    const address = k.register("u64")
    k.emit("mad.lo.u64", address, k.long(mine), k.long(rowBytes), k.madWide(place.column, 2, memory.kept))
    const isRow = k.compare("lt", mine, frame.M)
    const has = tile.units === 1 ? k.both(isRow, k.compare("lt", frame.lane, 16)) : isRow
    for (let first = 0; first < CHUNK_COLUMNS * tile.chunks; first += CHUNK_COLUMNS) {
      const p = k.both(has, k.compare("lt", k.add(place.column, first), frame.N))
      k.when(p, () => k.prefetch(address, 2 * first))
    }
  }

  /** The biases, which are there when the last products are. */
  const biases = new Map(items.map(({ first }) => [first, hasBias ? k.registers("f32", 8) : []]))
  const last = (place: Place): void => {
    if (!hasBias) return
    const left = k.sub(frame.N, k.min(k.add(place.column, column), frame.N))
    const bias = k.madWide(k.add(place.column, column), 4, memory.bias)
    const withBias = k.compare("ne", memory.bias, 0)
    for (const [first, to] of biases) {
      for (const one of to) k.copy(one, 0)
      const p = k.both(withBias, k.compare("gt", left, first))
      for (const half of [0, 4]) k.when(p, () => k.load("f32", to.slice(half, half + 4), bias, 4 * (first + half)))
    }
  }

  const end = (sums: Sums, _: readonly unknown[], place: Place): void => {
    k.comment("---- the sums become words")
    items.forEach(({ chunk, piece, unit, first }, i) => {
      for (const h of ROWS) {
        words[i]![h]!.forEach((word, j) => {
          const [low, high] = ROWS.map((e) => {
            const sum = sums[unit]![chunk]![piece.values[2 * j + e]! + 2 * h]!
            if (hasBias) return k.addFloat(sum, biases.get(first)![2 * j + e]!)
            return isFactor ? k.mulFloat(sum, k.unpackBf16(word, e)) : sum
          })
          k.packBf16(low!, high!, word)
        })
      }
    })
    if (!isFactor) own(place)
    k.syncWarp()
  }

  const flush = (): void => {
    k.comment("---- the last tile's results")
    const i = k.variable("u32", 0)
    k.while(
      "FLUSH",
      () => k.compare("lt", i, stores.length),
      () => {
        doTask(i, undefined, 0, stores.length)
        k.add(i, 1, i)
      },
    )
  }
  return { begin, meanwhile, last, end, flush }
}
