/** Products whose tiles are dealt out by lists: every k step of every tile once, parts of sums from block to block, launch after launch. */
import { expect, test } from "bun:test"
import type { Item } from "../shaders/ptx-gemm-deal.ts"
import { DEALT_TILE } from "../shaders/ptx-gemm-list.ts"
import { columnsOf, MOST_ITEMS, rowsOf } from "../shaders/ptx-gemm-tile.ts"
import { ptxWayOf } from "../src/op-matmul-ptx.ts"
import { type Deal, type DealSizes, type DealSort, dealsOf } from "../src/op-matmul-ptx-deal.ts"
import type { Gemm } from "../src/op-matmul-request.ts"
import type { GpuTarget, Scratch } from "../src/program.ts"
import { HOPPER } from "./bf16.ts"
import { type Asked, run } from "./op-matmul-ptx-run.ts"
import type { Timing } from "./ptx-run.ts"

/** A piece of K of a tile for a block; `hands` and what it takes are found from the order. */
type Piece = readonly [block: number, row: number, column: number, width: number, firstStep: number, stepCount: number]

/** Lists by hand: of the pieces of a tile all but the last are handed over, to it or, where sums continue, to the next. */
function byHand(steps: number, pieces: readonly Piece[], continues = false): Deal {
  const lists: Item[][] = []
  let parts = 0
  const begun = new Map<string, number[]>()
  for (const [block, row, column, width, firstStep, stepCount] of pieces) {
    const key = `${row} ${column}`
    const isLast = firstStep + stepCount === steps
    const taken = begun.get(key) ?? []
    const isOn = continues && firstStep > 0
    const first = isOn ? (taken.at(-1) as number) : isLast ? (taken[0] ?? 0) : 0
    if (!isLast) begun.set(key, [...taken, parts++])
    const more = { hands: isLast ? 0 : parts, first, count: isLast && !continues ? taken.length : 0, continues: isOn }
    const place = { row, column, together: 2, number: Math.floor(column / 128), width }
    lists[block] = [...(lists[block] ?? []), { ...place, firstStep, stepCount, ...more }]
  }
  return { sort: continues ? "continued" : "summed", narrow: 0, lists, parts, seconds: 0 }
}

const TIMINGS: readonly Timing[] = ["early", "late", "random"]
/** A tile's K for two blocks, the first of which has another tile's end to do afterwards. */
const inTwo: readonly Piece[] = [
  [0, 0, 0, 3, 0, 2],
  [1, 256, 0, 3, 0, 1],
  [1, 0, 0, 3, 2, 1],
  [2, 256, 0, 3, 1, 2],
]
/** In three, of single k steps; a wide and a narrow column, edges of all sizes, a whole tile before; more blocks than parts. */
const inThree: readonly Piece[] = [
  [0, 0, 0, 3, 0, 4],
  [0, 256, 192, 2, 0, 1],
  [1, 256, 0, 3, 0, 4],
  [1, 256, 192, 2, 1, 1],
  [2, 0, 192, 2, 0, 3],
  [2, 256, 192, 2, 2, 2],
  [3, 0, 192, 2, 3, 1],
]
const TWO = { layout: "nn", size: [512, 192, 96], out: "bf16" } as const
const THREE = { layout: "nt", size: [300, 288, 120], out: "bf16", bias: true } as const
const CASES: readonly Asked[] = [
  ...TIMINGS.map((timing): Asked => ({ ...TWO, timing, times: 2, deal: byHand(3, inTwo) })),
  ...TIMINGS.map((timing): Asked => ({ ...THREE, timing, times: timing === "random" ? 2 : 1, deal: byHand(4, inThree) })),
  // Narrow tiles alone; rows that are not aligned, at the end of b's columns and beyond.
  {
    ...{ layout: "nn", size: [260, 237, 72], out: "bf16", timing: "late" },
    deal: byHand(3, [
      [0, 0, 0, 2, 0, 3],
      [0, 0, 128, 2, 0, 3],
      [0, 256, 0, 2, 0, 2],
      [1, 256, 128, 2, 0, 3],
      [1, 256, 0, 2, 2, 1],
    ]),
  },
]
for (const [i, asked] of CASES.entries())
  test(`by hand, ${i}: ${asked.layout} ${asked.size.join(" × ")} ${asked.timing}`, () => expect(run(asked).error).toBeLessThan(1), 300_000)

/** A product of memory that is never touched. */
const product = (layout: Gemm["layout"], [M, N, K]: readonly [number, number, number], order: Gemm["order"]): Gemm => {
  const memory: Scratch = { kind: "scratch", dtype: "bf16", elements: 1 }
  return { layout, a: memory, b: memory, c: memory, M, N, K, order }
}

test("few turns go by lists; K is divided where that wins, and never where a row's bits may not depend on its company", () => {
  const on = { ...HOPPER, units: 132 }
  const dealOf = (given: Gemm, target: GpuTarget = on) => ptxWayOf(given, target)?.way.deal
  for (const size of [
    [4096, 4096, 4096],
    [8192, 1280, 5120],
  ] as const) {
    expect(dealOf(product("nn", size, "any"))?.parts).toBeGreaterThan(80)
    expect(dealOf(product("nt", size, "forward"))?.sort).not.toBe("summed")
    expect(dealOf(product("nt", size, "forward"), { ...on, trains: true })?.parts).toBeGreaterThan(80)
  }
  expect(dealOf(product("nt", [16384, 1024, 1024], "forward"))).toMatchObject({ narrow: 2, parts: 0 })
  expect(dealOf(product("nn", [16384, 1024, 4096], "any"))).toMatchObject({ narrow: 2, parts: 0 })
  expect(dealOf(product("nn", [8192, 8192, 8192], "any"))).toBeUndefined()
  expect(dealOf(product("nt", [4096, 4096, 4096], "forward"), { ...on, ptx: false })).toBeUndefined()
})

const COSTS = { step: 6e-7, end: 3e-6 }
const ALL: readonly DealSort[] = ["whole", "mixed", "continued", "summed"]
const sizes = (M: number, N: number, steps: number, units: number): DealSizes => ({ M, N, steps, units, group: 8, sorts: ALL })

test("a deal that is found, as it runs", () => {
  const deal = [...dealsOf(sizes(256, 320, 24, 3), { step: 5e-6, end: 1e-6 })].find(({ sort }) => sort === "summed")!
  expect([deal.narrow, deal.parts]).toEqual([1, 2])
  expect(run({ layout: "nn", size: [256, 320, 760], out: "bf16", deal, timing: "late" }).error).toBeLessThan(1)
}, 300_000)

const bitsOf = (asked: Asked) => run({ ...asked, seed: 5 }).c

test("whole tiles: the bits of those that are not dealt out", () => {
  const whole = [...dealsOf(sizes(300, 448, 3, 4), COSTS)].find(({ narrow, sort }) => narrow === 2 && sort === "mixed")!
  const asked: Asked = { layout: "nt", size: [300, 448, 72], out: "bf16", bias: true }
  expect(bitsOf({ ...asked, deal: whole })).toEqual(bitsOf(asked))
}, 300_000)

for (const [name, asked, steps, pieces] of [
  ["two", TWO, 3, inTwo],
  ["three", THREE, 4, inThree],
] as const)
  test(`sums that go on in ${name}: the bits of tiles that are not divided, in every timing, each time`, () => {
    const whole = bitsOf(asked)
    for (const timing of TIMINGS)
      expect(bitsOf({ ...asked, timing, times: timing === "late" ? 2 : 1, deal: byHand(steps, pieces, true) })).toEqual(whole)
  }, 300_000)

test("lists have every k step of every tile once; parts go to later blocks, and are handed over before any is taken", () => {
  const asked = [
    sizes(4096, 4096, 128, 132),
    sizes(16384, 1024, 128, 132),
    sizes(8192, 1280, 160, 132),
    sizes(4096, 1024, 512, 132),
    sizes(1000, 3000, 40, 132),
    sizes(300, 200, 16, 132),
    sizes(2304, 768, 512, 16),
  ]
  for (const one of asked)
    for (const { lists, narrow, parts, sort } of dealsOf(one, COSTS)) {
      const seen = new Map<string, boolean[]>()
      const [handed, taken] = [new Map<number, number>(), new Map<number, number>()]
      lists.forEach((list, block) => {
        let hasTaken = false
        for (const item of list) {
          const steps = seen.get(`${item.row} ${item.column} ${item.width}`) ?? new Array<boolean>(one.steps).fill(false)
          seen.set(`${item.row} ${item.column} ${item.width}`, steps)
          expect(steps.slice(item.firstStep, item.firstStep + item.stepCount).some(Boolean)).toBe(false)
          steps.fill(true, item.firstStep, item.firstStep + item.stepCount)
          if (item.hands > 0) {
            expect(hasTaken).toBe(false)
            handed.set(item.hands - 1, block)
          }
          expect(item.continues).toBe(sort === "continued" && item.firstStep > 0)
          for (let i = 0; i < item.count + Number(item.continues); i++) {
            hasTaken = true
            taken.set(item.first + i, block)
          }
        }
        expect(list.length).toBeLessThan(MOST_ITEMS)
      })
      const wide = Math.max(0, Math.ceil((one.N - 128 * narrow) / columnsOf(DEALT_TILE)))
      expect(seen.size).toBe(Math.ceil(one.M / rowsOf(DEALT_TILE)) * (wide + narrow))
      expect([...seen.values()].flat().every(Boolean)).toBe(true)
      expect([handed.size, taken.size]).toEqual([parts, parts])
      for (const [number, block] of taken) expect(handed.get(number)).toBeLessThan(block)
      expect(lists.length).toBeLessThanOrEqual(one.units)
    }
})
