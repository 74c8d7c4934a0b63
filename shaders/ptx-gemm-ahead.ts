/** The fourth part of a Hopper matrix product: warps that have the lines of a and b brought to the L2 cache before they are copied. */
import type { Ptx, U32, U64 } from "../src/ptx.ts"
import { eachTile, type Frame, type Place } from "./ptx-gemm-frame.ts"
import { columnsOf, rowsOf, stepOf } from "./ptx-gemm-tile.ts"

/** k steps of a line of 128 bytes. */
const LINE_STEPS = 2
/** Elements of a line. */
const LINE = 64
/** Blocks that share the lines of a's rows, or of b's columns, at most. */
const SHARED = { a: 16, b: 8 } as const
const NAP = 64

/** All k steps of all tiles; each block asks for its share of what several read at the same time. */
export function aheadOf(k: Ptx, f: Frame, map: U64, factor: "a" | "b"): void {
  const { layout, out, tile } = f.gemm
  const { ahead = 0 } = tile
  const isAlongK = factor === "a" ? layout !== "tn" : layout.startsWith("nt")
  const size = factor === "a" ? rowsOf(tile) : columnsOf(tile)
  k.comment("the map's words: address, bytes of a row div 16, K - 1")
  const [base, pitch, deepest] = [k.register("u64"), k.register("u32"), k.register("u32")]
  k.load("u64", [base], map)
  k.load("u32", [pitch], map, 12)
  k.load("u32", [deepest], map, isAlongK ? 32 : 36)
  const bytes = k.shl(pitch, 4)
  const limit = factor === "a" ? f.M : f.N
  const others = factor === "a" ? f.across : k.min(f.down, f.group)
  const together = k.min(others, SHARED[factor])
  // Blocks that have a part of a rest are where no others are.
  const common = out === "bf16" ? together : k.select(k.compare("ge", k.special("%ctaid.x"), f.tiles), 1, together, "u32")
  const asked = k.variable("u32", 0)
  const progress = k.register("u32")
  eachTile(k, f, (place: Place) => {
    const first = factor === "a" ? place.row : place.column
    const { dealt } = place
    const share = dealt !== undefined && factor === "a" ? k.min(dealt.together, SHARED.a) : common
    const [other, each] = factor === "a" ? [place.column, columnsOf(tile)] : [place.row, rowsOf(tile)]
    const number = dealt !== undefined && factor === "a" ? dealt.number : k.div(other, each)
    const width = dealt !== undefined && factor === "b" ? dealt.width : size
    const mine = k.add(k.rem(number, share), k.mul(share, f.lane))
    const stride = k.shl(share, 5)
    const step = k.variable("u32", 0)
    k.while(
      "AHEAD",
      () => k.compare("lt", step, place.stepCount),
      () => {
        const [early, go] = [k.label("EARLY"), k.label("GO")]
        k.place(early)
        k.loadSharedVolatile(progress, f.places.end)
        k.jump(go, k.compare("ge", k.add(progress, ahead), asked))
        k.sleep(NAP)
        k.jump(early)
        k.place(go)
        const kx = k.mul(k.add(place.firstStep, step), stepOf(tile))
        const line = k.variable("u32", mine)
        const again = k.label("LINE")
        const end = k.label("LINES_END")
        k.place(again)
        k.jump(end, k.compare("ge", line, width))
        const [row, column]: readonly [U32, U32] = isAlongK
          ? [k.add(first, line), kx]
          : [k.add(kx, k.and(line, LINE - 1)), k.add(first, k.and(line, -LINE))]
        const at = k.madWide(row, bytes, k.madWide(column, 2, base))
        const hasRow = isAlongK ? k.compare("lt", row, limit) : k.compare("le", row, deepest)
        const has = k.both(hasRow, isAlongK ? k.compare("le", column, deepest) : k.compare("lt", column, limit))
        k.when(has, () => k.prefetch(at))
        k.add(line, stride, line)
        k.jump(again)
        k.place(end)
        k.add(asked, k.min(k.sub(place.stepCount, step), LINE_STEPS), asked) // a tile's last line may be half one, and asked counts as the copies do
        k.add(step, LINE_STEPS, step)
      },
    )
  })
}
