/** Matrix products of PTX: those of a warpgroup, summed when they are due, and those of a warp. */
import { ALL, type Block, bitsOf, floatOf, listOf, nameOf, read, readLong, type Warp } from "./ptx-run.ts"
import type { Value } from "./ptx-text.ts"

/** 16 rows of a product of 64 × N × 16: those of this warp; a is in registers, or by descriptor. */
export function multiply(b: Block, w: Warp, [sum, a, descriptor, adds, , , ...along]: readonly Value[]): void {
  for (const { load } of w.loads.splice(0)) load()
  const registers = listOf(sum!).map((one) => b.word(w, nameOf(one)))
  const inMemory = a!.kind === "list" ? undefined : readLong(b, w, a!, 0)
  const left = inMemory === undefined ? listOf(a!).map((one) => b.word(w, nameOf(one))) : []
  const place = readLong(b, w, descriptor!, 0)
  const isSum = read(b, w, adds!, 0) !== 0
  const [alongN, alongM = false] = along.toReversed().map((one) => Number((one as { value: bigint }).value) !== 0) as [boolean, boolean?]
  const width = registers.length * 2
  const product = () => {
    const right = b.factor(place, width, alongN)
    const rows = inMemory === undefined ? undefined : b.factor(inMemory, 64, alongM)
    let values = new Float64Array(16)
    for (let row = 0; row < 16; row++) {
      if (rows !== undefined) values = rows.slice(16 * (16 * (w.number & 3) + row)).slice(0, 16)
      for (let k = 0; k < 16 && rows === undefined; k++) {
        const pair = left[(row >> 3) + 2 * (k >> 3)]![4 * (row & 7) + ((k & 7) >> 1)]!
        values[k] = floatOf(k & 1 ? pair & 0xffff0000 : pair << 16)
      }
      for (let n = 0; n < width; n++) {
        const to = registers[4 * (n >> 3) + 2 * (row >> 3) + (n & 1)]!
        const lane = 4 * (row & 7) + ((n & 7) >> 1)
        let total = isSum ? floatOf(to[lane]!) : 0
        for (let k = 0; k < 16; k++) total += values[k]! * right[16 * n + k]!
        to[lane] = bitsOf(total)
      }
    }
  }
  const isNow =
    b.launch.timing === "early" || (b.launch.timing === "random" && b.random() < 0.5 && w.products.every((group) => group.length === 0))
  if (isNow) product()
  else w.products.at(-1)!.push(product)
}

/** A warp's product of 16 × 8, all of K at once. */
export function multiplyWarp(b: Block, w: Warp, [to, a, right, sum]: readonly Value[]): void {
  for (const { load } of w.loads.splice(0)) load()
  const words = (list: Value) => listOf(list).map((one) => Uint32Array.from(ALL, (lane) => read(b, w, one, lane)))
  const [left, columns, before] = [words(a!), words(right!), words(sum!)]
  const half = (pair: number, k: number): number => floatOf(k & 1 ? pair & 0xffff0000 : pair << 16)
  listOf(to!).forEach((register, i) => {
    const out = b.word(w, nameOf(register))
    for (const lane of ALL) {
      const [row, column] = [lane >> 2, 2 * (lane & 3) + (i & 1)]
      let total = floatOf(before[i]![lane]!)
      for (let k = 0; k < 16; k++) {
        const x = left[(i >> 1) + 2 * (k >> 3)]![4 * row + ((k & 7) >> 1)]!
        total += half(x, k) * half(columns[k >> 3]![4 * column + ((k & 7) >> 1)]!, k)
      }
      out[lane] = bitsOf(total)
    }
  })
}
