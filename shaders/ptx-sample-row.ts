/** A row of logits, read by one block with enough loads under way to hide the memory's latency. */
import type { F32, U32, U64 } from "../src/ptx.ts"
import type { Block } from "./ptx-sample-block.ts"

export interface Row {
  readonly block: Block
  /** Address of the first; what other blocks have written of the row has been acquired. */
  readonly logits: U64
  readonly classes: number
  /** Only ids below this are chosen. */
  readonly allowed: number
}

/** Logits that a lane of so many threads loads at a time: as many bytes of all threads as hide the latency. */
export const eachOf = (threads: number): number => 8192 / threads
/** Tokens of a slice, which a warp takes at a time: a lane's number i is 32·i + lane. */
export const sliceOf = (threads: number): number => 32 * eachOf(threads)

/** Loads a lane's numbers of a slice; −∞ where there are no tokens. */
export function bring({ block: { k, lane }, logits, allowed }: Row, slice: U32, to: readonly F32[]): void {
  const size = 32 * to.length
  const first = k.mad(slice, size, lane)
  const from = k.madWide(first, 4, logits)
  k.if(
    k.compare("lt", slice, Math.floor(allowed / size)),
    () => to.forEach((one, i) => k.load("f32", [one], from, 128 * i)),
    () => {
      const count = k.select(k.compare("lt", first, allowed), k.shr(k.sub(allowed + 31, first), 5), 0, "u32")
      to.forEach((one, i) => {
        k.copy(one, Number.NEGATIVE_INFINITY)
        k.when(k.compare("gt", count, i), () => k.load("f32", [one], from, 128 * i))
      })
    },
  )
}

/** `use` for every slice of this warp, by rising number: `each` numbers of every lane, while the next are on their way. */
export function eachSlice(row: Row, each: number, use: (slice: U32, logits: readonly F32[]) => void): void {
  const { k, threads, warp } = row.block
  const held = [0, 1].map(() => k.registers("f32", each)) as [F32[], F32[]]
  const step = threads / 32
  const slice = k.variable("u32", warp)
  const isThere = () => k.compare("lt", slice, Math.ceil(row.allowed / (32 * each)))
  const [begin, end] = [k.label("SLICE"), k.label("SLICE_END")]
  bring(row, slice, held[0])
  k.jump(end, isThere(), false)
  k.place(begin)
  held.forEach((logits, i) => {
    bring(row, k.add(slice, step), held[1 - i]!)
    use(slice, logits)
    k.add(slice, step, slice)
    k.jump(i === 0 ? end : begin, isThere(), i === 1)
  })
  k.place(end)
}

/** In a tree: the order is fixed. */
export function joined<T>(values: readonly T[], join: (a: T, b: T) => T): T {
  let list = values
  while (list.length > 1)
    list = Array.from({ length: Math.ceil(list.length / 2) }, (_, i) =>
      list[2 * i + 1] === undefined ? list[2 * i]! : join(list[2 * i]!, list[2 * i + 1]!),
    )
  return list[0]!
}
