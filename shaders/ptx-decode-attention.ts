/** Attention in the decode kernel: 64 positions of a head by two warps; the blocks' sums are merged by whoever needs the result. */
import type { F32, Predicate, U32 } from "../src/ptx.ts"
import { sumOfWeights } from "./ptx-attention-sum.ts"
import {
  ALL_WORKERS,
  addressOf,
  awaitAll,
  eachUnit,
  type Frame,
  HEAD,
  PAGE,
  PAGE_PLACES,
  pitchOf,
  syncWorkers,
  unitsAtOnce,
  type Visit,
  visit,
  WORKERS,
  waitFull,
  workOf,
} from "./ptx-decode-frame.ts"

/** Shared memory of a pair: the query, the weights, what its two warps tell each other. */
const QUERY = 0
const WEIGHTS = 4 * HEAD
const TOLD = 8 * HEAD
const NEW_KEY = TOLD + 16
const PAIR_BYTES = 1024
/** Blocks whose sums are read together. */
const TOGETHER = 8
const QUAD = 4
/** Positions of a place. */
const ROWS = PAGE / PAGE_PLACES

const exp2 = ({ k }: Frame, x: F32): F32 => k.unary("ex2.approx.ftz.f32", x)

/** All units of this block: partial outputs, their maxima and sums go to the work memory, the new position into the cache. */
export function attend(f: Frame): void {
  const { k, warp, visits } = f
  k.comment("attention")
  syncWorkers(f) // rows of x lie where the scores go
  eachUnit(f, (unit) => {
    k.if(k.compare("eq", k.rem(unit.number, unitsAtOnce(f.places)), k.shr(warp, 1)), () => attendUnit(f, unit))
    k.add(visits, 2 * PAGE_PLACES, visits)
  })
}

function attendUnit(f: Frame, { b, h, part, length }: { b: U32; h: U32; part: U32; length: U32 }): void {
  const { k, stack, places, warp, lane, work, visits, pages } = f
  const { C, maxPages } = stack
  const heads = C / HEAD
  const at = workOf(stack)
  const own = k.and(f.thread, 63) // key, and column
  const isFirst = k.compare("eq", own, 0)
  const pair = k.shr(warp, 1)
  const shared = k.mad(pair, PAIR_BYTES, places.x)
  const sync = () => syncPair(f, pair)
  // q, k and v of the new position
  const pairOf = k.madWide(k.mad(b, 3 * C, k.mad(h, HEAD, k.and(own, HEAD - 2))), 4, k.addLong(work, at.qkv))
  const [words, tags] = [k.registers("u32", 3), k.registers("u32", 3)]
  awaitAll(f, f.tag, tags, () => words.forEach((word, i) => k.loadVolatile([word, tags[i]!], pairOf, 4 * C * i)))
  const isUpper = k.compare("ne", k.and(own, 1), 0)
  const [q, newKey, newValue] = words.map((word) => k.select(isUpper, k.shr(word, 16), k.and(word, 0xffff), "u32")) as [U32, U32, U32]
  const float = (bits: U32): F32 => k.unpackBf16(bits, 0)
  const factor = Math.fround(Math.fround(stack.scale) * Math.fround(Math.LOG2E))
  k.storeShared({ base: k.mad(own, 4, shared), bytes: QUERY }, [k.mulFloat(float(q), factor)])
  k.storeShared({ base: k.mad(k.shr(own, 1), 4, shared), bytes: NEW_KEY }, [words[1]!])
  const place = k.sub(length, k.mul(part, PAGE)) // of the new position; beyond the block in all but the last
  k.if(k.compare("lt", place, PAGE), () => {
    const page = k.register("u32")
    k.load("u32", [page], k.madWide(k.mad(b, maxPages, part), 4, pages))
    const cell = k.mad(k.mad(k.mad(page, heads, h), PAGE, place), HEAD, own)
    k.store("u16", k.madWide(cell, 2, addressOf(f, "kPages")), 0, [newKey])
    k.store("u16", k.madWide(cell, 2, addressOf(f, "vPages")), 0, [newValue])
  })
  sync()
  const visitOf = (part: number) => visit(f, k.add(visits, part))
  const [keys, values] = [0, PAGE_PLACES].map((first) => Array.from({ length: PAGE_PLACES }, (_, i) => visitOf(first + i))) as [
    Visit[],
    Visit[],
  ]
  for (const place of keys) waitFull(f, place)
  const isNew = k.compare("eq", own, place)
  const sees = k.compare("le", own, place)
  const isLower = k.compare("lt", own, ROWS)
  const cached = k.mad(k.and(own, ROWS - 1), 2 * HEAD, k.select(isLower, keys[0]!.base, keys[1]!.base, "u32"))
  const row = k.select(isNew, k.add(shared, NEW_KEY), cached, "u32")
  const score = k.variable("f32", 0)
  for (let d = 0; d < HEAD; d += 8) {
    const words = k.registers("u32", 4)
    k.loadSharedWords(words, { base: row, bytes: 2 * d })
    words.forEach((word, i) => {
      if (i % 2 === 0) return
      const factors = k.registers("f32", 4)
      k.loadShared(factors, { base: shared, bytes: QUERY + 4 * (d + 2 * (i - 1)) })
      for (const [j, pair] of [words[i - 1]!, word].entries())
        for (const half of [0, 1] as const) k.fma(factors[2 * j + half]!, k.unpackBf16(pair, half), score, score)
    })
  }
  const seen = k.select(sees, score, Number.NEGATIVE_INFINITY, "f32")
  let top = seen
  for (let mask = 1; mask < 32; mask *= 2) top = k.maxFloat(top, k.exchangeFloat(top, mask))
  const told = k.mad(k.and(warp, 1), 4, shared)
  k.storeShared({ base: told, bytes: TOLD }, [top])
  sync()
  k.when(isFirst, () => keys.forEach(({ empty }) => k.arrive(empty)))
  const tops = k.registers("f32", 2)
  k.loadShared(tops, { base: shared, bytes: TOLD })
  top = k.maxFloat(tops[0]!, tops[1]!)
  const weight = k.select(sees, exp2(f, k.subFloat(seen, top)), 0, "f32")
  k.storeShared({ base: k.mad(own, 4, shared), bytes: WEIGHTS }, [weight])
  sync()
  const total = sumOfWeights(k, k.mad(k.and(lane, 15), 4, shared), WEIGHTS)
  for (const place of values) waitFull(f, place)
  const out = k.variable("f32", 0)
  const lines = values.map(({ base }) => k.mad(own, 2, base))
  const fresh = float(newValue)
  for (let j = 0; j < PAGE; j += QUAD) {
    const weights = k.registers("f32", QUAD)
    k.loadShared(weights, { base: shared, bytes: WEIGHTS + 4 * j })
    weights.forEach((factor, i) => {
      const bits = k.register("u32")
      k.loadSharedHalf(bits, { base: lines[Math.floor(j / ROWS)]!, bytes: 2 * HEAD * ((j % ROWS) + i) })
      // what lies behind the newest position is anything, also no number
      const old = k.select(k.compare("gt", place, j + i), float(bits), 0, "f32")
      k.fma(factor, k.select(k.compare("eq", place, j + i), fresh, old, "f32"), out, out)
    })
  }
  const index = k.mad(k.mad(b, maxPages, part), heads, h)
  k.storeVolatile(k.madWide(k.mad(index, HEAD, own), 8, k.addLong(work, at.outputs)), 0, [out, f.tag])
  const statistics = k.madWide(index, 16, k.addLong(work, at.statistics))
  k.when(isFirst, () => k.storeVolatile(statistics, 0, [top, f.tag, total, f.tag]))
  sync()
  k.when(isFirst, () => values.forEach(({ empty }) => k.arrive(empty)))
}

/** A pair's barrier; its number must stand in the text. */
function syncPair({ k }: Frame, pair: U32): void {
  k.emit("bar.sync", k.add(pair, ALL_WORKERS + 1), 64)
}

/** y of all rows to shared memory, in bf16: the blocks' outputs merged in their order. */
export function mergeOutputs(f: Frame, isWanted: Predicate): void {
  const { k, stack, places, thread, work, blocks, tag } = f
  const { C, rows, maxPages } = stack
  const at = workOf(stack)
  k.comment("outputs of attention, merged")
  syncWorkers(f) // scores lie where the outputs go
  for (let first = 0; first < rows * C; first += 32 * WORKERS * QUAD) {
    const item = k.mad(thread, QUAD, first)
    k.if(k.both(isWanted, k.compare("lt", item, rows * C)), () => {
      const [b, column] = [k.div(item, C), k.rem(item, C)]
      const count = blocks.slice(1).reduce((found, value, i) => k.select(k.compare("eq", b, i + 1), value, found, "u32"), blocks[0]!)
      const start = k.mul(b, maxPages)
      const outputs = k.madWide(k.mad(start, C, column), 8, k.addLong(work, at.outputs))
      const statistics = k.madWide(k.mad(start, C / HEAD, k.div(column, HEAD)), 16, k.addLong(work, at.statistics))
      const [max, sum] = [k.variable("f32", Number.NEGATIVE_INFINITY), k.variable("f32", 0)]
      const out = Array.from({ length: QUAD }, () => k.variable("f32", 0))
      const from = k.variable("u32", 0)
      k.while(
        "MERGE",
        () => k.compare("lt", from, count),
        () => {
          const read = Array.from({ length: TOGETHER }, (_, i) => {
            const tags = Array.from({ length: QUAD + 2 }, () => k.variable("u32", tag))
            const zeros = (count: number) => Array.from({ length: count }, () => k.variable("f32", 0))
            return { values: zeros(QUAD), facts: zeros(2), tags, isThere: k.compare("lt", k.add(from, i), count) }
          })
          const all = read.flatMap(({ tags }) => tags)
          awaitAll(f, tag, all, () =>
            read.forEach(({ values, facts, tags, isThere }, i) =>
              k.when(isThere, () => {
                k.loadVolatile([facts[0]!, tags[0]!, facts[1]!, tags[1]!], statistics, (16 * i * C) / HEAD)
                for (const e of [0, 2]) k.loadVolatile([values[e]!, tags[e + 2]!, values[e + 1]!, tags[e + 3]!], outputs, 8 * (i * C + e))
              }),
            ),
          )
          const end = k.label("MERGED")
          for (const { values, facts, isThere } of read) {
            k.jump(end, isThere, false)
            const top = k.maxFloat(max, facts[0]!)
            const [old, own] = [exp2(f, k.subFloat(max, top)), exp2(f, k.subFloat(facts[0]!, top))]
            k.fma(sum, old, k.mulFloat(facts[1]!, own), sum)
            out.forEach((one, e) => k.fma(one, old, k.mulFloat(values[e]!, own), one))
            k.copy(max, top)
          }
          k.place(end)
          k.add(from, TOGETHER, from)
          k.addLong(outputs, 8 * TOGETHER * C, outputs)
          k.addLong(statistics, (16 * TOGETHER * C) / HEAD, statistics)
        },
      )
      const isThere = k.compare("gt", count, 0)
      const share = k.unary("rcp.approx.ftz.f32", sum)
      const [x, y, z, w] = out.map((one) => k.select(isThere, k.mulFloat(one, share), 0, "f32")) as [F32, F32, F32, F32]
      const to = k.mad(b, pitchOf(C), k.mad(column, 2, places.x))
      k.storeShared({ base: to, bytes: 0 }, [k.packBf16(x, y), k.packBf16(z, w)])
    })
  }
}
