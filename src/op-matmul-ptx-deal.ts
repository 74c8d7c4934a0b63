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

/** What is asked for: c's sizes, k steps, processors, how many tiles along M lie side by side, and whether K may be divided. */
export interface DealSizes {
  readonly M: number
  readonly N: number
  readonly steps: number
  readonly units: number
  readonly group: number
  readonly isDivided: boolean
}

export interface Deal {
  /** Columns of tiles that are narrow. */
  readonly narrow: number
  readonly lists: readonly (readonly Item[])[]
  /** Sums that go from one block to another. */
  readonly parts: number
  /** Until the last block ends. */
  readonly seconds: number
}

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
/** Bounds, not costs: blocks that a tile's K is divided between, and k steps of one of them. */
const MOST_BLOCKS = 3
const SHORTEST = 8
/** Halvings of the interval in which the time of a divided deal lies. */
const HALVINGS = 16

type Tile = Pick<Item, "row" | "column" | "number" | "width">

/** The tiles of columns `from` to `to`, `group` rows of them side by side. */
function raster({ M, group }: DealSizes, columns: readonly Omit<Tile, "row">[]): Tile[] {
  const down = Math.ceil(M / rowsOf(DEALT_TILE))
  const tiles: Tile[] = []
  for (let first = 0; first < down; first += group)
    for (const column of columns)
      for (let i = first; i < Math.min(first + group, down); i++) tiles.push({ ...column, row: i * rowsOf(DEALT_TILE) })
  return tiles
}

/** Wide tiles, then narrow ones. */
function tilesOf(sizes: DealSizes, narrow: number): Tile[] {
  const wide = Math.max(0, Math.ceil((sizes.N - narrow * NARROW_COLUMNS) / COLUMNS))
  const wides = Array.from({ length: wide }, (_, i) => ({ column: i * COLUMNS, number: i, width: WIDTH }))
  const narrows = Array.from({ length: narrow }, (_, i) => ({
    column: wide * COLUMNS + i * NARROW_COLUMNS,
    number: wide + i,
    width: WIDTH - 1,
  }))
  return [...raster(sizes, wides), ...raster(sizes, narrows)]
}

const itemOf = (tile: Tile, firstStep: number, stepCount: number, more: Partial<Item> = {}): Item => ({
  ...{ ...tile, firstStep, stepCount, hands: 0, first: 0, count: 0 },
  ...more,
})

/** Seconds of what is done to a tile. */
function timesOf({ step, end }: DealCosts, { width }: Tile, apart = 1) {
  const share = width / WIDTH
  return { step: step * apart * (width === WIDTH ? 1 : NARROW_STEP), end: end * share, hand: HAND * share, take: TAKE * share }
}

/** Each tile for the block that is free first. */
function whole(tiles: readonly Tile[], { steps, units }: DealSizes, costs: DealCosts): Omit<Deal, "narrow"> {
  const lists: Item[][] = Array.from({ length: Math.min(units, tiles.length) }, () => [])
  const free = lists.map(() => 0)
  for (const tile of tiles) {
    let first = 0
    for (let i = 1; i < free.length; i++) if ((free[i] as number) < (free[first] as number) - 1e-12) first = i
    const { step, end } = timesOf(costs, tile)
    free[first] = (free[first] as number) + steps * step + end
    lists[first]?.push(itemOf(tile, 0, steps))
  }
  return { lists, parts: 0, seconds: Math.max(0, ...free) }
}

/**
 * The k steps of one tile after the other, to blocks that have `room` seconds each; undefined where that is too little. Who begins a tile and does not end
 * it does that first, and so early that who ends it need not wait; who ends what others have begun does that last.
 */
function divided(tiles: readonly Tile[], { steps, units }: DealSizes, costs: DealCosts, room: number): Omit<Deal, "narrow"> | undefined {
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
        const into = begun > 0 ? last : middle
        into.push(itemOf(tile, done, rest, begun > 0 ? { first: parts - begun, count: begun } : {}))
        left -= seconds
        at++
        done = 0
        begun = 0
        continue
      }
      const count = Math.min(Math.floor((Math.min(left, room - take - end) - hand) / step), rest - SHORTEST)
      if (count >= SHORTEST && begun < MOST_BLOCKS - 1) {
        parts++
        first.push(itemOf(tile, done, count, { hands: parts }))
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
function dividedAfter(turns: number, tiles: readonly Tile[], sizes: DealSizes, costs: DealCosts): Omit<Deal, "narrow"> | undefined {
  const { units, steps } = sizes
  const count = turns * units
  if (tiles.slice(0, count).some(({ width }) => width < WIDTH)) return undefined
  const [before, line] = [whole(tiles.slice(0, count), sizes, costs), tiles.slice(count)]
  const least = line.reduce((sum, tile) => sum + steps * timesOf(costs, tile).step, 0) / units
  let [low, high, best] = [least, least + 3 * (steps * costs.step + costs.end + HAND + TAKE), divided(line, sizes, costs, 0)]
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (low + high) / 2
    const found = divided(line, sizes, costs, middle)
    if (found === undefined) low = middle
    else [high, best] = [middle, found]
  }
  if (best === undefined || best.parts === 0) return undefined
  const { lists } = best
  return { ...best, lists: lists.map((list, i) => [...(before.lists[i] ?? []), ...list]), seconds: before.seconds + best.seconds }
}

/**
 * The deals to choose from, with as many narrow columns as leave little of c's last column empty: undivided, and with the fewest, where K may be, divided, as
 * then only their cost counts.
 */
export function* dealsOf(sizes: DealSizes, costs: DealCosts): Generator<Deal> {
  const { N, units } = sizes
  let { isDivided } = sizes
  for (let narrow = 0; narrow * NARROW_COLUMNS < N + NARROW_COLUMNS; narrow++) {
    const columns = narrow * NARROW_COLUMNS + Math.max(0, Math.ceil((N - narrow * NARROW_COLUMNS) / COLUMNS)) * COLUMNS
    if (columns - N >= CHUNK_COLUMNS) continue
    const tiles = tilesOf(sizes, narrow)
    yield { narrow, ...whole(tiles, sizes, costs) }
    if (!isDivided) continue
    const turns = Math.floor(tiles.length / units)
    for (const before of turns > 0 ? [turns, turns - 1] : [turns]) {
      const found = dividedAfter(before, tiles, sizes, costs)
      if (found !== undefined) yield { narrow, ...found }
    }
    isDivided = false
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
