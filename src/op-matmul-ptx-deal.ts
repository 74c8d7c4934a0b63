/** Lists of tiles for the blocks of one launch: columns of two widths in whole turns, and K of the last tiles divided, so that all blocks end together. */
import { FLAG_BYTES, type Item, listWords, partBytes } from "../shaders/ptx-gemm-deal.ts"
import { DEALT_TILE } from "../shaders/ptx-gemm-list.ts"
import { CHUNK_COLUMNS, columnsOf, MOST_ITEMS, rowsOf } from "../shaders/ptx-gemm-tile.ts"
import { scratch, table } from "./op-gpu.ts"
import type { Scratch, Table } from "./program.ts"

/** Seconds of a k step and of the end of a tile of full width. */
export interface DealCosts {
  readonly step: number
  readonly end: number
}

/**
 * Whole tiles, narrow ones after the others ("whole") or among them ("mixed"). The same, but K of the last tiles between two blocks, of which the second
 * goes on from the first's sums, so that the bits stay ("continued"); or between up to three, whose sums are added at the end ("summed").
 */
export type DealSort = "whole" | "mixed" | "continued" | "summed"

/** What is asked for: c's sizes, k steps, processors, how many tiles along M lie side by side, and what there is to choose from. */
export interface DealSizes {
  readonly M: number
  readonly N: number
  readonly steps: number
  readonly units: number
  readonly group: number
  readonly sorts: readonly DealSort[]
}

export interface Deal {
  readonly sort: DealSort
  /** Columns of tiles that are narrow. */
  readonly narrow: number
  readonly lists: readonly (readonly Item[])[]
  /** Sums that go from one block to another. */
  readonly parts: number
  /** Until the last block ends. */
  readonly seconds: number
}

type Dealt = Omit<Deal, "narrow" | "sort">

const WIDTH = DEALT_TILE.chunks
const COLUMNS = columnsOf(DEALT_TILE)
const NARROW_COLUMNS = COLUMNS - CHUNK_COLUMNS
/** What a k step of a narrow tile takes of another's: as many pieces of 4 KiB come from the L2 cache. */
const NARROW_STEP = (4 + WIDTH - 1) / (4 + WIDTH)
/**
 * Estimates, for a tile of full width: seconds to store its sums (30 bytes a cycle, the reference of wgmma kernels), to wait for a flag and add a part
 * (192 KiB at the rate at which factors come), and how much longer a k step takes where blocks are at different places of K.
 */
const HAND = 4e-6
const TAKE = 5e-6
const APART = 1.05
/** What an item has room for. */
const MOST_TOGETHER = 255
/** A tile in parts has nobody at its place. */
const ALONE = { together: 1, number: 0 } as const
/** Bounds, not costs: blocks that a tile's K is divided between, and k steps of one of them. */
const MOST_BLOCKS = 3
const SHORTEST = 8
/** Halvings of the interval in which the time of a divided deal lies. */
const HALVINGS = 16

type Tile = Pick<Item, "row" | "column" | "together" | "number" | "width">

/** The tiles of some columns, `group` rows of them side by side. */
function raster({ M, group }: DealSizes, columns: readonly Omit<Tile, "row">[]): Tile[] {
  const down = Math.ceil(M / rowsOf(DEALT_TILE))
  const tiles: Tile[] = []
  for (let first = 0; first < down; first += group)
    for (const column of columns)
      for (let i = first; i < Math.min(first + group, down); i++) tiles.push({ ...column, row: i * rowsOf(DEALT_TILE) })
  return tiles
}

/** Wide tiles and narrow ones, of which the rows' are done together or one kind after the other. */
function tilesOf(sizes: DealSizes, narrow: number, isMixed: boolean): { wide: Tile[]; narrow: Tile[] } {
  const wide = Math.max(0, Math.ceil((sizes.N - narrow * NARROW_COLUMNS) / COLUMNS))
  const columns = (count: number, from: number, size: number, width: number) =>
    raster(
      sizes,
      Array.from({ length: count }, (_, i) => {
        const [together, number] = isMixed ? [wide + narrow, (width < WIDTH ? wide : 0) + i] : [count, i]
        return { column: from + i * size, together: Math.min(together, MOST_TOGETHER), number, width }
      }),
    )
  return { wide: columns(wide, 0, COLUMNS, WIDTH), narrow: columns(narrow, wide * COLUMNS, NARROW_COLUMNS, WIDTH - 1) }
}

const itemOf = (tile: Tile, firstStep: number, stepCount: number, more: Partial<Item> = {}): Item => ({
  ...{ ...tile, firstStep, stepCount, hands: 0, first: 0, count: 0, continues: false },
  ...more,
})

/** Seconds of what is done to a tile. */
function timesOf({ step, end }: DealCosts, { width }: Pick<Tile, "width">, apart = 1) {
  const share = width / WIDTH
  return { step: step * apart * (width === WIDTH ? 1 : NARROW_STEP), end: end * share, hand: HAND * share, take: TAKE * share }
}

/** The block that is free first. */
function firstOf(free: readonly number[]): number {
  let first = 0
  for (let i = 1; i < free.length; i++) if ((free[i] as number) < (free[first] as number) - 1e-12) first = i
  return first
}

/**
 * Whole tiles: the widths for the block that is free first, the wide ones before. Then each block, when it has done one, has the next tile of its next
 * width; where they are mixed, a part of the blocks begins with narrow ones, so that whoever reads the same rows does so at the same time.
 */
function whole({ wide, narrow }: ReturnType<typeof tilesOf>, { steps, units }: DealSizes, costs: DealCosts, isMixed: boolean): Dealt {
  const blocks = Math.min(units, wide.length + narrow.length)
  const secondsOf = (width: number) => {
    const { step, end } = timesOf(costs, { width })
    return steps * step + end
  }
  const loads = new Array<number>(blocks).fill(0)
  const widths: number[][] = loads.map(() => [])
  for (const { width } of [...wide, ...narrow]) {
    const block = firstOf(loads)
    loads[block] = (loads[block] as number) + secondsOf(width)
    widths[block]?.push(width)
  }
  const orders = widths.map((own, block) => {
    const turn = isMixed ? block % own.length : 0
    return [...own.slice(turn), ...own.slice(0, turn)]
  })
  const lists: Item[][] = orders.map(() => [])
  const free = loads.map(() => 0)
  const next = new Map([
    [WIDTH, wide.values()],
    [WIDTH - 1, narrow.values()],
  ])
  for (let i = wide.length + narrow.length; i > 0; i--) {
    const block = firstOf(free)
    const list = lists[block] as Item[]
    const width = orders[block]?.[list.length] as number
    list.push(itemOf(next.get(width)?.next().value as Tile, 0, steps))
    free[block] = list.length === orders[block]?.length ? Number.POSITIVE_INFINITY : (free[block] as number) + secondsOf(width)
  }
  return { lists, parts: 0, seconds: Math.max(0, ...loads) }
}

/**
 * The k steps of one tile after the other, to blocks that have `room` seconds each; undefined where that is too little. Who begins a tile and does not end
 * it does that first, and so early that who ends it need not wait; who ends what others have begun does that last.
 */
function divided(
  tiles: readonly Tile[],
  { steps, units }: DealSizes,
  costs: DealCosts,
  room: number,
  continues: boolean,
): Dealt | undefined {
  const lists: Item[][] = []
  let [at, done, begun, parts] = [0, 0, 0, 0]
  for (let block = 0; block < units; block++) {
    const [first, middle, last]: [Item[], Item[], Item[]] = [[], [], []]
    let left = room
    for (let tile = tiles[at]; tile !== undefined; tile = tiles[at]) {
      const { step, end, hand, take } = timesOf(costs, tile, APART)
      const rest = steps - done
      const seconds = rest * step + end + begun * take
      if (seconds <= left) {
        const from = { first: parts - begun, count: continues ? 0 : begun, continues, ...ALONE }
        if (begun > 0) last.push(itemOf(tile, done, rest, from))
        else middle.push(itemOf(tile, done, rest))
        left -= seconds
        at++
        done = 0
        begun = 0
        continue
      }
      const until = continues ? left : Math.min(left, room - take - end)
      const count = Math.min(Math.floor((until - hand) / step), rest - SHORTEST)
      const isInTime = !continues || steps * step + hand + take + end <= room
      if (count >= SHORTEST && begun < (continues ? 1 : MOST_BLOCKS - 1) && isInTime) {
        parts++
        first.push(itemOf(tile, done, count, { hands: parts, ...ALONE }))
        done += count
        begun++
      }
      break
    }
    lists.push([...first, ...middle, ...last])
  }
  return at === tiles.length ? { lists, parts, seconds: room } : undefined
}

/** `turns` whole turns of wide tiles, then all others divided. */
function dividedAfter(
  turns: number,
  { wide, narrow }: ReturnType<typeof tilesOf>,
  sizes: DealSizes,
  costs: DealCosts,
  continues: boolean,
): Dealt | undefined {
  const { units, steps } = sizes
  const count = turns * units
  if (wide.length < count) return undefined
  const before = whole({ wide: wide.slice(0, count), narrow: [] }, sizes, costs, false)
  const line = [...wide.slice(count), ...narrow]
  const least = line.reduce((sum, tile) => sum + steps * timesOf(costs, tile).step, 0) / units
  let [low, high] = [least, least + 3 * (steps * costs.step + costs.end + HAND + TAKE)]
  let best: Dealt | undefined
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (low + high) / 2
    const found = divided(line, sizes, costs, middle, continues)
    if (found === undefined) low = middle
    else [high, best] = [middle, found]
  }
  if (best === undefined || best.parts === 0) return undefined
  const { lists } = best
  return { ...best, lists: lists.map((list, i) => [...(before.lists[i] ?? []), ...list]), seconds: before.seconds + best.seconds }
}

/**
 * The deals to choose from, with as many narrow columns as leave little of c's last column empty: of whole tiles, and divided with the fewest of them, as
 * then only their cost counts. What continues needs the time of a whole tile, so that the first of two blocks is done before the second begins.
 */
export function* dealsOf(sizes: DealSizes, costs: DealCosts): Generator<Deal> {
  const { N, units, sorts } = sizes
  let isFirst = true
  for (let narrow = 0; narrow * NARROW_COLUMNS < N + NARROW_COLUMNS; narrow++) {
    const columns = narrow * NARROW_COLUMNS + Math.max(0, Math.ceil((N - narrow * NARROW_COLUMNS) / COLUMNS)) * COLUMNS
    if (columns - N >= CHUNK_COLUMNS) continue
    for (const sort of sorts) {
      const tiles = tilesOf(sizes, narrow, sort === "mixed")
      if (sort === "whole" || sort === "mixed") {
        yield { sort, narrow, ...whole(tiles, sizes, costs, sort === "mixed") }
        continue
      }
      const turns = Math.floor((tiles.wide.length + tiles.narrow.length) / units)
      for (const before of [turns, turns - 1]) {
        const found = isFirst && before >= 0 ? dividedAfter(before, tiles, sizes, costs, sort === "continued") : undefined
        if (found !== undefined) yield { sort, narrow, ...found }
      }
    }
    isFirst = false
  }
}

const known = new Map<string, Deal | undefined>()

/** The fastest of them; undefined where a list would be too long. */
export function bestDeal(sizes: DealSizes, costs: DealCosts): Deal | undefined {
  const key = JSON.stringify([sizes, costs])
  if (!known.has(key)) {
    const fitting = [...dealsOf(sizes, costs)].filter(({ lists }) => lists.every((list) => list.length < MOST_ITEMS))
    known.set(key, fitting.toSorted((a, b) => a.seconds - b.seconds)[0])
  }
  return known.get(key)
}

const tables = new WeakMap<Deal, { readonly list: Table; readonly items: number }>()

/** The memory of a launch that is dealt out: its lists, which all launches share that are dealt out alike, its own parts and their flags. */
export function dealtValues(deal: Deal): { list: Table; items: number; parts: Scratch | undefined; flags: Table | undefined } {
  const { items, words } = listWords(deal.lists)
  const made = tables.get(deal) ?? { list: table("u32", words), items }
  tables.set(deal, made)
  if (deal.parts === 0) return { ...made, parts: undefined, flags: undefined }
  const flags = table("u32", new Array<number>((deal.parts * FLAG_BYTES) / 4).fill(0))
  return { ...made, parts: scratch("f32", (deal.parts * partBytes(DEALT_TILE)) / 4), flags }
}
