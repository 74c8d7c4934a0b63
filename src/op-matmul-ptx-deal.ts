/** Lists of tiles for the blocks of one launch: columns of two widths, so that all blocks end together. */
import { type Item, listWords } from "../shaders/ptx-gemm-deal.ts"
import { DEALT_TILE } from "../shaders/ptx-gemm-list.ts"
import { CHUNK_COLUMNS, columnsOf, MOST_ITEMS, rowsOf } from "../shaders/ptx-gemm-tile.ts"
import { table } from "./op-gpu.ts"
import type { Table } from "./program.ts"

/** Seconds of a tile of full width without its end, what share of them a narrow tile takes, and of the end. */
export interface DealCosts {
  readonly products: number
  readonly narrow: number
  readonly end: number
}

/** What is asked for: c's sizes, processors, and how many tiles along M lie side by side. */
export interface DealSizes {
  readonly M: number
  readonly N: number
  readonly units: number
  readonly group: number
}

export interface Deal {
  /** Columns of tiles that are narrow. */
  readonly narrow: number
  readonly lists: readonly (readonly Item[])[]
  /** Until the last block ends. */
  readonly seconds: number
}

const WIDTH = DEALT_TILE.chunks
const COLUMNS = columnsOf(DEALT_TILE)
const NARROW_COLUMNS = COLUMNS - CHUNK_COLUMNS

/** Tiles of one width: `count` columns of them, `group` rows side by side. */
function raster({ M, group }: DealSizes, count: number, make: (column: number) => Omit<Item, "row">): Item[] {
  const down = Math.ceil(M / rowsOf(DEALT_TILE))
  const tiles: Item[] = []
  for (let first = 0; first < down; first += group)
    for (let column = 0; column < count; column++)
      for (let i = first; i < Math.min(first + group, down); i++) tiles.push({ ...make(column), row: i * rowsOf(DEALT_TILE) })
  return tiles
}

/** The block that is free first. */
function firstOf(free: readonly number[]): number {
  let first = 0
  for (let i = 1; i < free.length; i++) if ((free[i] as number) < (free[first] as number) - 1e-12) first = i
  return first
}

/**
 * The widths for the block that is free first, the wide ones before. Then each block, when it has done one, has the next tile of its next width; a part
 * of the blocks begins with narrow ones, so that whoever reads the same rows does so at about the same time, and they come from memory once.
 */
function dealt(sizes: DealSizes, wide: number, narrow: number, { products, narrow: share, end }: DealCosts): Deal {
  const together = wide + narrow
  const tiles = [
    raster(sizes, wide, (i) => ({ column: i * COLUMNS, width: WIDTH, together, number: i })),
    raster(sizes, narrow, (i) => ({ column: wide * COLUMNS + i * NARROW_COLUMNS, width: WIDTH - 1, together, number: wide + i })),
  ] as const
  const secondsOf = (width: number) => (width === WIDTH ? products + end : products * share + (end * (WIDTH - 1)) / WIDTH)
  const all = tiles.flat()
  const loads = new Array<number>(Math.min(sizes.units, all.length)).fill(0)
  const widths: number[][] = loads.map(() => [])
  for (const { width } of all) {
    const block = firstOf(loads)
    loads[block] = (loads[block] as number) + secondsOf(width)
    widths[block]?.push(width)
  }
  const orders = widths.map((own, block) => [...own.slice(block % own.length), ...own.slice(0, block % own.length)])
  const lists: Item[][] = orders.map(() => [])
  const free = loads.map(() => 0)
  const next = tiles.map((some) => some.values())
  for (let i = all.length; i > 0; i--) {
    const block = firstOf(free)
    const [list, order] = [lists[block] as Item[], orders[block] as number[]]
    const width = order[list.length] as number
    list.push(next[width === WIDTH ? 0 : 1]?.next().value as Item)
    free[block] = list.length === order.length ? Number.POSITIVE_INFINITY : (free[block] as number) + secondsOf(width)
  }
  return { narrow, lists, seconds: Math.max(...loads) }
}

/** The deals to choose from: as many narrow columns as leave little of c's last column empty. */
export function* dealsOf(sizes: DealSizes, costs: DealCosts): Generator<Deal> {
  for (let narrow = 0; narrow * NARROW_COLUMNS < sizes.N + NARROW_COLUMNS; narrow++) {
    const wide = Math.max(0, Math.ceil((sizes.N - narrow * NARROW_COLUMNS) / COLUMNS))
    if (narrow * NARROW_COLUMNS + wide * COLUMNS - sizes.N < CHUNK_COLUMNS) yield dealt(sizes, wide, narrow, costs)
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

/** A launch's lists, which all launches share that are dealt out alike. */
export function dealtValues(deal: Deal): { list: Table; items: number } {
  const known = tables.get(deal)
  if (known !== undefined) return known
  const { items, words } = listWords(deal.lists)
  const made = { list: table("u32", words), items }
  tables.set(deal, made)
  return made
}
