/** Products whose tiles are dealt out by lists: every tile once, in two widths, with the bits of those that are not dealt out. */
import { expect, test } from "bun:test"
import { DEALT_TILE, PTX_TILE, WIDE_DEALT } from "../shaders/ptx-gemm-list.ts"
import { columnsOf, MOST_ITEMS, roomOf, rowsOf, tileName } from "../shaders/ptx-gemm-tile.ts"
import { ptxWayOf } from "../src/op-matmul-ptx.ts"
import { type DealSizes, dealsOf } from "../src/op-matmul-ptx-deal.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { Scratch } from "../src/program.ts"
import { HOPPER } from "./bf16.ts"
import { type Asked, run } from "./op-matmul-ptx-run.ts"

const COSTS = { products: 8e-5, narrow: 0.8, end: 3e-6 }
const sizes = (M: number, N: number, units: number): DealSizes => ({ M, N, units, group: 8 })

const DEEP = { tile: WIDE_DEALT } as const
const CASES: readonly (readonly [Asked, DealSizes, narrow: number])[] = [
  // Edges of all kinds; more tiles than blocks, both widths in one block's list.
  [{ layout: "nt", size: [300, 296, 72], out: "bf16", bias: true, timing: "late" }, sizes(300, 296, 3), 1],
  // Narrow tiles alone, one block; the last ends before its second chunk, rows are not aligned.
  [{ layout: "nn", size: [260, 237, 40], out: "bf16", timing: "early" }, sizes(260, 237, 1), 2],
  [{ ...DEEP, layout: "nt", size: [264, 320, 136], out: "bf16", bias: true, timing: "late" }, sizes(264, 320, 2), 1],
  [{ ...DEEP, layout: "nn", size: [130, 248, 136], out: "bf16", timing: "early" }, sizes(130, 248, 1), 2],
]
for (const [asked, given, narrow] of CASES)
  test(`${tileName(asked.tile ?? DEALT_TILE)} ${asked.layout} ${asked.size.join(" × ")}, ${narrow} narrow: right, with the bits of tiles that are not dealt out`, () => {
    const deal = [...dealsOf(given, COSTS)].find((one) => one.narrow === narrow)
    expect(deal).toBeDefined()
    const made = run({ ...asked, seed: 5, ...(deal && { deal }), times: asked.timing === "late" ? 2 : 1 })
    expect(made.error).toBeLessThan(1)
    expect(made.c).toEqual(run({ ...asked, seed: 5, tile: PTX_TILE }).c)
  }, 300_000)

test("lists have every tile once, and nobody has more than fits", () => {
  const asked = [sizes(16384, 1024, 132), sizes(8192, 1280, 132), sizes(1000, 3000, 132), sizes(300, 200, 132), sizes(2304, 768, 16)]
  for (const one of asked) {
    const deals = [...dealsOf(one, COSTS)]
    expect(deals.length).toBeGreaterThan(0)
    for (const { lists, narrow } of deals) {
      const all = lists.flat()
      const wide = Math.max(0, Math.ceil((one.N - 128 * narrow) / columnsOf(DEALT_TILE)))
      expect(all.length).toBe(Math.ceil(one.M / rowsOf(DEALT_TILE)) * (wide + narrow))
      expect(new Set(all.map(({ row, column }) => `${row} ${column}`)).size).toBe(all.length)
      for (const { column, width, number, together } of all) {
        expect(column).toBe(number < wide ? 192 * number : 192 * wide + 128 * (number - wide))
        expect([width, together]).toEqual([number < wide ? 3 : 2, wide + narrow])
      }
      expect(Math.max(...lists.map((list) => list.length))).toBeLessThan(MOST_ITEMS)
      expect(lists.length).toBeLessThanOrEqual(one.units)
    }
  }
})

/** What is taken, by the tile's name; two where they run side by side. */
function taken(layout: Gemm["layout"], M: number, N: number, K: number, room?: number): string {
  const memory: Scratch = { kind: "scratch", dtype: "bf16", elements: 1 }
  const { tile, beside, deal } = ptxWayOf(
    { layout, a: memory, b: memory, c: memory, M, N, K, order: layout === "nt" ? "forward" : "any" },
    { ...HOPPER, units: 132, ...(room && { ptxRoom: room }) },
  )!.way
  return `${tileName(tile)}${deal === undefined ? "" : ` ${deal.narrow}`}${beside === undefined ? "" : ` | ${tileName(beside.tile)}`}`
}

test("the way that was fastest on an H200 is taken", () => {
  const [LISTED, BESIDE, FLAT, NARROW] = ["256x192d_a3b5f6", "256x192_a3b5f6 | 256x128l_a3b5f12", "128x384_a2b7f12", "256x128l_a3b5f12"]
  expect([
    taken("nt", 4096, 4096, 4096),
    taken("nn", 16384, 1024, 3072),
    taken("nt", 16384, 1024, 1024),
    taken("nn", 16384, 1024, 1024), // as fast as a list
    taken("nn", 16384, 1024, 4096),
    taken("nt", 16384, 1024, 4096),
    taken("nn", 8192, 1280, 3840),
    taken("nn", 8192, 1280, 1280),
    taken("nn", 8192, 1280, 5120),
    taken("nt", 8192, 1280, 5120),
  ]).toEqual([BESIDE, `${LISTED} 2`, NARROW, NARROW, `${LISTED} 2`, FLAT, `${LISTED} 4`, `${LISTED} 4`, `${LISTED} 4`, `${LISTED} 4`])
  const deep = (layout: Gemm["layout"], M: number, N: number, K: number) => taken(layout, M, N, K, roomOf(WIDE_DEALT))
  expect([
    deep("nn", 8192, 1280, 5120),
    deep("nt", 8192, 1280, 5120),
    deep("nn", 16384, 1024, 4096),
    deep("nt", 16384, 1024, 1024),
  ]).toEqual(["256x192d_s4 4", "256x192d_s4 4", "128x256l_s4", "128x256l_s4"])
})
