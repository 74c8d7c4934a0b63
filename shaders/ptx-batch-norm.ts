/** The norms of the kernel for many sequences: a block has a row, adds to it what the parts of a product say, and normalises it. */
import type { F32, U32 } from "../src/ptx.ts"
import { addressOf, type Frame, range, workOf } from "./ptx-batch-frame.ts"
import type { LAST, LAYER } from "./ptx-decode-frame.ts"

type Name = (typeof LAYER)[number] | (typeof LAST)[number]

interface Norm {
  readonly w: Name
  readonly b: Name
  /** Layers after this one that w and b are of. */
  readonly layersOn: number
  /** Parts of the product that is added, and its bias. */
  readonly parts: number
  readonly bias?: Name
  /** Loads 4 columns of a row. */
  load(to: readonly F32[], row: U32, column: U32): void
}

/** Loads what does not depend on the row; the norm follows, and gives two packed pairs of 4 columns of a row to `store`. */
export function norm(
  f: Frame,
  { w, b, layersOn, parts, bias, load }: Norm,
): (store: (row: U32, column: U32, words: readonly [U32, U32]) => void) => void {
  const { k, stack, places, thread, warp, lane, block, work } = f
  const { C, rows, hasBias, eps } = stack
  const warps = Math.ceil(C / 128)
  const isOwn = k.compare("lt", thread, C / 4)
  const column = k.shl(thread, 2)
  const four = (name: Name | undefined, on: number): readonly F32[] => {
    const values = range(4).map(() => k.variable("f32", 0))
    if (name === undefined) return values
    const at = k.madWide(column, 4, addressOf(f, name, on))
    k.when(isOwn, () => k.load("f32", values, at))
    return values
  }
  const factors = four(w, layersOn)
  const added = hasBias ? four(b, layersOn) : undefined
  const offset = hasBias && bias !== undefined ? four(bias, 0) : undefined
  const at = workOf(stack)
  const rowBytes = 4 * C
  return (store) => {
    k.comment("---- norm")
    const row = k.variable("u32", block)
    k.while(
      "ROW",
      () => k.compare("lt", row, rows),
      () => {
        const x = range(4).map(() => k.variable("f32", 0))
        const stream = k.madWide(column, 4, k.madWide(row, rowBytes, k.addLong(work, at.stream)))
        const others = k.madWide(column, 4, k.madWide(row, rowBytes, k.addLong(work, at.parts)))
        k.if(isOwn, () => {
          load(x, row, column)
          const found = range(parts).map((i) => {
            const values = k.registers("f32", 4)
            k.loadFar(values, others, i * rows * rowBytes)
            return values
          })
          x.forEach((one, e) => {
            if (found.length === 0) return
            let sum = found.slice(1).reduce((all, part) => k.addFloat(all, part[e]!), found[0]![e]!)
            if (offset !== undefined) sum = k.addFloat(sum, offset[e]!)
            k.addFloat(one, sum, one)
          })
          k.store("f32", stream, 0, x)
        })
        const total = sumOfAll(x, 0)
        const mean = k.mulFloat(total, Math.fround(1 / C))
        const centred = x.map((one) => k.select(isOwn, k.subFloat(one, mean), 0, "f32"))
        const squares = centred.map((one) => k.mulFloat(one, one))
        const variance = k.mulFloat(sumOfAll(squares, 1), Math.fround(1 / C))
        const factor = k.unary("rsqrt.approx.ftz.f32", k.addFloat(variance, eps))
        k.if(isOwn, () => {
          const out = centred.map((one, e) => {
            const scaled = k.mulFloat(one, factor)
            return added === undefined ? k.mulFloat(scaled, factors[e]!) : k.fma(scaled, factors[e]!, added[e]!)
          })
          store(row, column, [k.packBf16(out[0]!, out[1]!), k.packBf16(out[2]!, out[3]!)])
        })
        k.add(row, stack.blocks, row)
      },
    )
  }

  /** The sum over the block; two places, so that one sum may be read while the next is stored. */
  function sumOfAll(values: readonly F32[], place: 0 | 1): F32 {
    let sum = values.slice(1).reduce((all, one) => k.addFloat(all, one), values[0]!)
    for (const mask of [1, 2, 4, 8, 16]) sum = k.addFloat(sum, k.exchangeFloat(sum, mask))
    const to = k.shl(warp, 2)
    const isFirst = k.compare("eq", lane, 0)
    k.when(isFirst, () => k.storeShared({ base: to, bytes: places.sums + 64 * place }, [sum]))
    k.syncBlock()
    const all = range(warps).map((i) => {
      const one = k.register("f32")
      k.loadShared([one], places.sums + 64 * place + 4 * i)
      return one
    })
    return all.slice(1).reduce((a, one) => k.addFloat(a, one), all[0]!)
  }
}
