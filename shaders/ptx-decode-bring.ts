/** The warp of the decode kernel that brings weights and cached keys and values, as far ahead of the steps that use them as the ring allows. */
import type { U64 } from "../src/ptx.ts"
import {
  addressOf,
  CHUNK,
  eachUnit,
  type Frame,
  HEAD,
  LAYER,
  PAGE,
  PAGE_PLACES,
  pitchOf,
  TILE,
  tilesAtOnce,
  tilesOf,
  visit,
} from "./ptx-decode-frame.ts"

/** Everything that all steps of all layers use, in their order. None of it depends on a step, but for the newest position, which others look after. */
export function bring(f: Frame): void {
  const { k, stack, layer } = f
  const { C, F, layers } = stack
  k.comment("---- the warp that brings")
  const left = k.variable("u32", layers)
  k.while(
    "BRING_LAYER",
    () => k.compare("gt", left, 0),
    () => {
      bringWeights(f, addressOf(f, "qkvW"), 3 * C, C)
      bringPages(f)
      bringWeights(f, addressOf(f, "projW"), C, C)
      bringWeights(f, addressOf(f, "upW"), F, C)
      bringWeights(f, addressOf(f, "downW"), C, F)
      k.add(layer, 8 * LAYER.length, layer)
      k.sub(left, 1, left)
    },
  )
}

/** The next place, when nobody reads it any more. */
function next(f: Frame, bytes: number) {
  const { k, lane, visits } = f
  const place = visit(f, visits)
  k.wait(place.empty, k.xor(place.parity, 1))
  k.when(k.compare("eq", lane, 0), () => k.expect(place.full, bytes))
  k.syncWarp()
  k.add(visits, 1, visits)
  return place
}

/** The tiles of this block, in groups of one per warp: a part of K of each tile in turn. */
function bringWeights(f: Frame, weights: U64, N: number, K: number): void {
  const { k, stack, places, lane, block } = f
  const count = tilesOf(f, N)
  const base = k.variable("u32", 0)
  k.comment(`weights ${N} x ${K}`)
  k.while(
    "BRING_GROUP",
    () => k.compare("lt", base, count),
    () => {
      const end = k.min(k.add(base, tilesAtOnce(places)), count)
      const from = k.variable("u32", 0)
      k.while(
        "BRING_PART",
        () => k.compare("lt", from, K),
        () => {
          const tile = k.variable("u32", base)
          k.while(
            "BRING_TILE",
            () => k.compare("lt", tile, end),
            () => {
              const row = k.add(k.mul(k.mad(tile, stack.blocks, block), TILE), lane)
              const source = k.madWide(row, 2 * K, k.madWide(from, 2, weights))
              const { base: place, full } = next(f, TILE * 2 * CHUNK)
              const to = k.mad(lane, pitchOf(CHUNK), place)
              k.when(k.compare("lt", lane, TILE), () => k.copyBytes({ base: to, bytes: 0 }, source, 2 * CHUNK, full))
              k.add(tile, 1, tile)
            },
          )
          k.add(from, CHUNK, from)
        },
      )
      k.add(base, tilesAtOnce(places), base)
    },
  )
}

/** Of each unit the keys, then the values: a page of one head is contiguous. */
function bringPages(f: Frame): void {
  const { k, stack, lane, pages } = f
  const bytes = 2 * PAGE * HEAD
  k.comment("cached keys and values")
  const [kPages, vPages] = [addressOf(f, "kPages"), addressOf(f, "vPages")]
  eachUnit(f, ({ b, h, part }) => {
    const page = k.register("u32")
    k.load("u32", [page], k.madWide(k.mad(b, stack.maxPages, part), 4, pages))
    const head = k.mad(page, stack.C / HEAD, h)
    for (const memory of [kPages, vPages]) {
      const source = k.madWide(head, bytes, memory)
      for (let part = 0; part < PAGE_PLACES; part++) {
        const { base, full } = next(f, bytes / PAGE_PLACES)
        const from = k.addLong(source, (part * bytes) / PAGE_PLACES)
        k.when(k.compare("eq", lane, 0), () => k.copyBytes({ base, bytes: 0 }, from, bytes / PAGE_PLACES, full))
      }
    }
  })
}
