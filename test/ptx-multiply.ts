/** Matrix products of PTX: those of a warpgroup, summed when they are due, and those of a warp. */
import type { Work } from "./ptx-compile.ts"
import { ALL, LANES, listOf, type Registers } from "./ptx-registers.ts"
import type { Warp } from "./ptx-run.ts"
import type { Value } from "./ptx-text.ts"

/** A row times two columns after each other, added to what is there: no sum waits for the other. */
function addPair(
  sums: Float32Array,
  first: number,
  second: number,
  rows: Float32Array,
  row: number,
  columns: Float32Array,
  column: number,
  isSum: boolean,
): void {
  let one = isSum ? sums[first]! : 0
  let other = isSum ? sums[second]! : 0
  for (let k = 0; k < 16; k++) {
    const x = rows[row + k]!
    one += x * columns[column + k]!
    other += x * columns[column + 16 + k]!
  }
  sums[first] = one
  sums[second] = other
}

/** 16 rows of a product of 64 × N × 16: those of this warp; a is in registers, or by descriptor. */
export function multiply([sum, a, descriptor, adds, , , ...along]: readonly Value[], r: Registers): Work {
  const sums = listOf(sum!).map((one) => r.word(one))
  const left = a!.kind === "list" ? a!.of.map((one) => r.word(one)) : undefined
  const inMemory = left === undefined ? r.long(a!) : 0
  const [place, isAdded] = [r.long(descriptor!), r.word(adds!)]
  const [alongN, alongM = false] = along.toReversed().map((one) => Number((one as { value: bigint }).value) !== 0) as [boolean, boolean?]
  const width = sums.length * 2
  return (b, w) => {
    for (const { load } of w.loads.splice(0)) load()
    const { words, floats } = w
    const [low, high, aLow, aHigh] = [place, place + LANES, inMemory, inMemory + LANES].map((at) => words[at]!) as [
      number,
      number,
      number,
      number,
    ]
    const isSum = words[isAdded] !== 0
    const product = () => {
      const right = b.factor(low, high, width, alongN)
      const rows =
        left === undefined ? b.factor(aLow, aHigh, 64, alongM).subarray(256 * (w.number & 3), 256 * (w.number & 3) + 256) : rowsOf(w, left)
      for (let row = 0; row < 16; row++)
        for (let n = 0; n < width; n += 2) {
          const lane = 4 * (row & 7) + ((n & 7) >> 1)
          const at = 4 * (n >> 3) + 2 * (row >> 3)
          addPair(floats, sums[at]! + lane, sums[at + 1]! + lane, rows, 16 * row, right, 16 * n, isSum)
        }
    }
    const isNow =
      b.launch.timing === "early" || (b.launch.timing === "random" && b.random() < 0.5 && w.products.every((group) => group.length === 0))
    if (isNow) product()
    else w.products.at(-1)!.push(product)
  }
}

const bits = new Uint32Array(256)
const numbers = new Float32Array(bits.buffer)

/** 16 rows of 16 that lie in registers of a warp; good until the next call. */
function rowsOf({ words }: Warp, registers: readonly number[]): Float32Array {
  for (let i = 0; i < 256; i++) {
    const pair = words[registers[((i >> 7) & 1) + 2 * ((i >> 3) & 1)]! + 4 * ((i >> 4) & 7) + ((i & 7) >> 1)]!
    bits[i] = i & 1 ? pair & 0xffff0000 : pair << 16
  }
  return numbers
}

/** A warp's product of 16 × 8, all of K at once. */
export function multiplyWarp([to, a, b, sum]: readonly Value[], r: Registers): Work {
  const places = (list: Value | undefined) => listOf(list!).map((one) => r.word(one))
  const [out, left, columns, before] = [places(to), places(a), places(b), places(sum)]
  const factor = new Uint32Array(128)
  const right = new Float32Array(factor.buffer)
  const totals = new Float64Array(128)
  return (_, w) => {
    for (const { load } of w.loads.splice(0)) load()
    const { words, floats } = w
    const rows = rowsOf(w, left)
    for (let i = 0; i < 128; i++) {
      const pair = words[columns[(i >> 3) & 1]! + 4 * (i >> 4) + ((i & 7) >> 1)]!
      factor[i] = i & 1 ? pair & 0xffff0000 : pair << 16
    }
    // two columns lie in one lane: no sum waits for the other
    for (let i = 0; i < 4; i += 2)
      for (const lane of ALL) {
        const row = 16 * ((lane >> 2) + 4 * i)
        let [one, other] = [floats[before[i]! + lane]!, floats[before[i + 1]! + lane]!]
        for (let k = 0, at = 32 * (lane & 3); k < 16; k++, at++) {
          const x = rows[row + k]!
          one += x * right[at]!
          other += x * right[at + 16]!
        }
        totals[LANES * i + lane] = one
        totals[LANES * (i + 1) + lane] = other
      }
    // sums may lie where the factors did
    for (const [i, at] of out.entries()) for (const lane of ALL) floats[at + lane] = totals[LANES * i + lane]!
  }
}
